//! Attributes (the contract's key and value pairs) and facts (what a method reports).

/// A key and its value. Numbers in decimal, times in RFC 3339, truth as `yes` or `no`, bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Unique in a list.
    pub key: String,
    /// Its text.
    pub value: String,
}

impl Attribute {
    /// An attribute; the value in its textual form.
    pub fn new(key: &str, value: impl ToString) -> Self {
        Self { key: key.to_owned(), value: value.to_string() }
    }
}

/// The value of `key`, where the list has it.
pub fn find<'list>(attributes: &'list [Attribute], key: &str) -> Option<&'list str> {
    attributes.iter().find(|attribute| attribute.key == key).map(|attribute| attribute.value.as_str())
}

/// What `plan`, `capture`, `restore` and `verify` return, e.g. `facts.set("keys", 7)`. Keys stay unique: the later value wins, in the earlier place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(Vec<Attribute>);

impl Facts {
    /// No facts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one fact.
    pub fn set(&mut self, key: &str, value: impl ToString) -> &mut Self {
        let value = value.to_string();
        match self.0.iter_mut().find(|attribute| attribute.key == key) {
            Some(attribute) => attribute.value = value,
            None => self.0.push(Attribute { key: key.to_owned(), value }),
        }
        self
    }

    /// Sets one fact where there is a value.
    pub fn set_some(&mut self, key: &str, value: Option<impl ToString>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// The value of a fact.
    pub fn get(&self, key: &str) -> Option<&str> {
        find(&self.0, key)
    }

    /// Joins other facts to these; theirs win.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Attribute>) -> &mut Self {
        for Attribute { key, value } in others {
            self.set(&key, value);
        }
        self
    }

    /// The facts as a list.
    pub fn as_slice(&self) -> &[Attribute] {
        &self.0
    }

    /// The facts as a list, taken.
    pub fn into_vec(self) -> Vec<Attribute> {
        self.0
    }
}

impl IntoIterator for Facts {
    type Item = Attribute;
    type IntoIter = std::vec::IntoIter<Attribute>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Vec<Attribute>> for Facts {
    fn from(attributes: Vec<Attribute>) -> Self {
        let mut facts = Self::new();
        facts.extend(attributes);
        facts
    }
}
