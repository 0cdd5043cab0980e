//! Attributes: the open vocabulary that plugin and host exchange (see `wit/v0.1/plugin.wit`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A key and its value. Keys are unique in a list. Numbers in decimal, times in RFC 3339, truth as `yes` or `no`,
/// bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attribute {
    /// What is said.
    pub key: String,
    /// What is said of it.
    pub value: String,
}

impl Attribute {
    /// An attribute from anything that prints.
    pub fn new(key: impl Into<String>, value: impl ToString) -> Self {
        Self { key: key.into(), value: value.to_string() }
    }
}

/// The value of `key`, if the list has it.
pub fn find<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.key == key).map(|attribute| attribute.value.as_str())
}

/// The list as a map; of a key given twice the later value wins.
pub fn to_map(attributes: &[Attribute]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), attribute.value.clone())).collect()
}

/// `base` with `later` over it: of a key in both the later value wins.
pub fn merge(base: &[Attribute], later: &[Attribute]) -> Vec<Attribute> {
    let mut merged = base.to_vec();
    for attribute in later {
        match merged.iter_mut().find(|known| known.key == attribute.key) {
            Some(known) => known.value.clone_from(&attribute.value),
            None => merged.push(attribute.clone()),
        }
    }
    merged
}
