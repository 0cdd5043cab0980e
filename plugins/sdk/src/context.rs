//! The run's context, read by name.

use crate::attribute::{Attribute, find};
use crate::error::{Error, code};
use crate::host::Host;

/// What this run is about (`control.context` of the contract).
///
/// ```
/// use redkeep_sdk::{Context, testing::FakeHost};
///
/// let host = FakeHost::with_context("restore", &[("target", "directory"), ("appendonly", "yes")]);
/// let context = Context::of(&host);
/// assert_eq!((context.run(), context.target(), context.flag("appendonly")), ("restore", "directory", Some(true)));
/// assert_eq!(context.get_or("dbfilename", "dump.rdb"), "dump.rdb");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Context(Vec<Attribute>);

impl Context {
    /// The context of the run.
    pub fn of(host: &dyn Host) -> Self {
        Self(host.context())
    }

    /// A value, where the context has it and it is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        find(&self.0, key).filter(|value| !value.is_empty())
    }

    /// A value, or what stands for it.
    pub fn get_or<'text>(&'text self, key: &str, default: &'text str) -> &'text str {
        self.get(key).unwrap_or(default)
    }

    /// A value that a run of this kind always has; "internal" where the host left it out.
    pub fn require(&self, key: &str) -> Result<&str, Error> {
        self.get(key).ok_or_else(|| Error::new(code::INTERNAL, format!("the host's context lacks `{key}`")))
    }

    /// A number; "internal" where the text is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                Error::new(code::INTERNAL, format!("the host's context has `{key}` = `{text}`, which is no number"))
            })
        };
        self.get(key).map(parse).transpose()
    }

    /// Whether a truth is told, and which.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some("yes") => Some(true),
            Some("no") => Some(false),
            _ => None,
        }
    }

    /// The kind of run: `capture`, `restore`, `verify` or `inspect`.
    pub fn run(&self) -> &str {
        self.get_or("run", "")
    }

    /// Where a restore writes to: `directory`, `server` or `cluster`.
    pub fn target(&self) -> &str {
        self.get_or("target", "")
    }

    /// Whether a capability (`redis`, `files`, `socket`) is granted and at hand.
    pub fn has_capability(&self, capability: &str) -> bool {
        self.get_or("capabilities", "").split_ascii_whitespace().any(|known| known == capability)
    }
}

impl From<Vec<Attribute>> for Context {
    fn from(attributes: Vec<Attribute>) -> Self {
        Self(attributes)
    }
}
