//! What the target says of its commands (`COMMAND`): which ones write, and where their first key stands.

use std::collections::HashMap;

use crate::connection::{Connection, Node};
use crate::error::AccessError;
use crate::resp::Value;

/// What a load may do with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommandFacts {
    /// Place of the first key among the arguments, the name being 0; 0: no key.
    pub(crate) first_key: usize,
}

/// The commands that may pass, by lower-case name.
#[derive(Debug, Default)]
pub(crate) struct CommandTable(HashMap<Vec<u8>, CommandFacts>);

/// Commands that pass although the server does not flag them as writes, each with the place of its first key. All of them
/// stand in append-only files and replication streams: `PFCOUNT` where it brought a cached count up to date, `SCRIPT` up
/// to 6.2, `XGROUP` always (from 7.0 on only its subcommands have flags).
const ALSO: [(&str, usize); 7] =
    [("select", 0), ("multi", 0), ("exec", 0), ("function", 0), ("xgroup", 2), ("pfcount", 1), ("script", 0)];

impl CommandTable {
    /// Asks the server.
    pub(crate) async fn read(connection: &mut Connection, node: &Node) -> Result<Self, AccessError> {
        Ok(Self::from_reply(&connection.call_named("COMMAND", &[node.name_of("COMMAND")]).await?))
    }

    fn from_reply(reply: &Value) -> Self {
        let mut table: HashMap<_, _> = reply
            .elements()
            .iter()
            .filter_map(|entry| match entry.elements() {
                [name, _arity, flags, Value::Integer(first_key), ..] => {
                    let writes = flags.elements().iter().any(|flag| flag.text().as_deref() == Some("write"));
                    let facts = CommandFacts { first_key: usize::try_from(*first_key).unwrap_or(0) };
                    writes.then_some((name.text()?.to_ascii_lowercase().into_bytes(), facts))
                }
                _ => None,
            })
            .collect();
        for (name, first_key) in ALSO {
            table.insert(name.as_bytes().to_vec(), CommandFacts { first_key });
        }
        Self(table)
    }

    /// Whether a command may pass.
    pub(crate) fn get(&self, name: &[u8]) -> Option<CommandFacts> {
        let mut lower = [0_u8; 40];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.0.get(&*lower).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn only_writes_and_the_few_others_pass() {
        let reply = Bytes::from_static(
            b"*3\r\n*6\r\n$3\r\nSet\r\n:-3\r\n*2\r\n+write\r\n+denyoom\r\n:1\r\n:1\r\n:1\r\n\
              *6\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n\
              *6\r\n$6\r\nxgroup\r\n:-2\r\n*0\r\n:0\r\n:0\r\n:0\r\n",
        );
        let table = CommandTable::from_reply(&crate::resp::parse(&reply).unwrap());
        assert_eq!(table.get(b"sEt"), Some(CommandFacts { first_key: 1 }));
        assert_eq!(table.get(b"XGROUP").map(|facts| facts.first_key), Some(2));
        assert_eq!(table.get(b"get"), None);
        assert_eq!(table.get(b"shutdown"), None);
        assert_eq!(table.get(&[b'x'; 1000]), None);
        assert_eq!(table.get(b"PFCOUNT").map(|facts| facts.first_key), Some(1));
        assert_eq!(table.get(b"script").map(|facts| facts.first_key), Some(0));
        assert!(table.get(b"FUNCTION").is_some() && table.get(b"multi").is_some());
    }
}
