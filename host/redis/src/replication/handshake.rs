//! The words before a replication link carries data, sans-IO: lines in, requests out.
//!
//! What is announced is measured, not guessed (REDIS.md 2): `ip-address redkeep_backup` with `listening-port 65536` keeps
//! Sentinel from ever listing us; `capa eof psync2` and nothing else keeps every version on the classical way.

use bytes::{Bytes, BytesMut};

use crate::error::AccessError;
use crate::resp::encode_command;

/// Longest reply line.
const MAX_LINE: usize = 4 << 10;

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A snapshot and, unless `snapshot_only`, what follows it.
    Full {
        /// The server may drop the link after the RDB.
        snapshot_only: bool,
    },
    /// What follows `offset` of the history `id`.
    Resume {
        /// Replication id.
        id: String,
        /// The last offset that is already known.
        offset: u64,
    },
}

/// What the server agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Replication id.
    pub id: String,
    /// Offset at which the data begins.
    pub offset: u64,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this, then feed what comes.
    Send(Bytes),
    /// Feed more.
    Receive,
    /// Agreed; the bytes are what follows the agreement already.
    Agreed(Agreement, Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ping,
    Identity,
    Capabilities,
    SnapshotOnly,
    Psync,
}

impl Word {
    const fn command(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Psync => "PSYNC",
            _ => "REPLCONF",
        }
    }
}

/// The conversation.
pub struct Handshake {
    request: Request,
    address: String,
    words: std::vec::IntoIter<Word>,
    asked: Option<Word>,
    buffer: BytesMut,
    names: [Bytes; 3],
}

impl Handshake {
    /// Begins. `name_of` gives the name under which the server knows a command.
    pub fn new(request: Request, address: &str, name_of: impl Fn(&str) -> Bytes) -> Self {
        let mut words = vec![Word::Ping, Word::Identity, Word::Capabilities];
        if matches!(request, Request::Full { snapshot_only: true }) {
            words.push(Word::SnapshotOnly);
        }
        words.push(Word::Psync);
        Self {
            request,
            address: address.to_owned(),
            words: words.into_iter(),
            asked: None,
            buffer: BytesMut::new(),
            names: [name_of("PING"), name_of("REPLCONF"), name_of("PSYNC")],
        }
    }

    /// Takes bytes of the server.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// What to do next.
    ///
    /// # Errors
    /// The server refuses, or is no Redis.
    pub fn step(&mut self) -> Result<Step, AccessError> {
        let Some(asked) = self.asked else { return Ok(self.ask()) };
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer) else {
                if self.buffer.len() > MAX_LINE {
                    return Err(self.protocol("a reply line longer than 4 KiB"));
                }
                return Ok(Step::Receive);
            };
            let line = self.buffer.split_to(end + 1);
            let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
            if line.is_empty() {
                continue; // A keep-alive newline while the server waits or forks.
            }
            return self.answered(asked, &line);
        }
    }

    fn ask(&mut self) -> Step {
        let Some(word) = self.words.next() else { return Step::Receive };
        self.asked = Some(word);
        let [ping, replconf, psync] = self.names.clone();
        let text = Bytes::from_static;
        let arguments: Vec<Bytes> = match word {
            Word::Ping => vec![ping],
            Word::Identity => {
                vec![replconf, text(b"ip-address"), text(b"redkeep_backup"), text(b"listening-port"), text(b"65536")]
            }
            Word::Capabilities => vec![replconf, text(b"capa"), text(b"eof"), text(b"capa"), text(b"psync2")],
            Word::SnapshotOnly => vec![replconf, text(b"rdb-only"), text(b"1")],
            Word::Psync => match &self.request {
                Request::Full { .. } => vec![psync, text(b"?"), text(b"-1")],
                Request::Resume { id, offset } => {
                    vec![psync, id.clone().into(), offset.saturating_add(1).to_string().into()]
                }
            },
        };
        let mut request = BytesMut::new();
        encode_command(&arguments, &mut request);
        Step::Send(request.freeze())
    }

    fn answered(&mut self, word: Word, line: &str) -> Result<Step, AccessError> {
        if let Some(text) = line.strip_prefix('-') {
            return Err(AccessError::from_reply(&self.address, word.command(), text));
        }
        if word == Word::Psync && line.starts_with('$') {
            // The server looks at the name itself: under any other it takes PSYNC for the old SYNC (replication.c).
            return Err(AccessError::Refused {
                reason: "PsyncRenamed",
                why: format!(
                    "failed to replicate {}: it took PSYNC for the old SYNC, for it was renamed there",
                    self.address
                ),
                help: "remove `rename-command PSYNC` from its configuration, or back up its data directory (--param \
                       source=files)"
                    .to_owned(),
            });
        }
        let Some(text) = line.strip_prefix('+') else {
            return Err(self.protocol(&format!("`{}` in answer to {}", line.escape_debug(), word.command())));
        };
        if word != Word::Psync {
            return Ok(self.ask());
        }
        let mut parts = text.split_ascii_whitespace();
        let agreement = match (parts.next(), &self.request) {
            (Some("FULLRESYNC"), Request::Full { .. }) => {
                let (id, offset) = (parts.next(), parts.next().and_then(|digits| digits.parse().ok()));
                let (Some(id), Some(offset)) = (id, offset) else {
                    return Err(self.protocol("FULLRESYNC without id and offset"));
                };
                Agreement { id: id.to_owned(), offset }
            }
            (Some("CONTINUE"), Request::Resume { id, offset }) => {
                Agreement { id: parts.next().map_or_else(|| id.clone(), str::to_owned), offset: *offset }
            }
            (Some("FULLRESYNC"), Request::Resume { offset, .. }) => {
                return Err(AccessError::NotInBacklog { address: self.address.clone(), offset: *offset });
            }
            _ => return Err(self.protocol(&format!("`{}` in answer to PSYNC", text.escape_debug()))),
        };
        Ok(Step::Agreed(agreement, self.buffer.split().freeze()))
    }

    fn protocol(&self, why: &str) -> AccessError {
        AccessError::NotRedis { address: self.address.clone(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(request: Request, answers: &[&str], chunk: usize) -> Result<(Vec<String>, Agreement, Bytes), AccessError> {
        let mut handshake = Handshake::new(request, "h:1", |name| Bytes::copy_from_slice(name.as_bytes()));
        let (mut sent, mut answers) = (Vec::new(), answers.iter());
        let mut incoming: std::collections::VecDeque<Vec<u8>> = std::collections::VecDeque::new();
        loop {
            match handshake.step()? {
                Step::Send(bytes) => {
                    sent.push(String::from_utf8_lossy(&bytes).replace("\r\n", " "));
                    let answer = answers.next().unwrap();
                    incoming.extend(answer.as_bytes().chunks(chunk).map(<[u8]>::to_vec));
                }
                Step::Receive => handshake.push(&incoming.pop_front().expect("the server has more to say")),
                Step::Agreed(agreement, rest) => {
                    let later: Vec<u8> = incoming.into_iter().flatten().collect();
                    return Ok((sent, agreement, [&rest[..], &later].concat().into()));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_full_resync_is_agreed_at_any_chunking(chunk in 1_usize..80, newlines in 0_usize..5) {
            let psync = format!("{}+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 42\r\n$3\r\nabc", "\n".repeat(newlines));
            let request = Request::Full { snapshot_only: true };
            let (sent, agreement, rest) =
                run(request, &["+PONG\r\n", "+OK\r\n", "+OK\r\n", "+OK\r\n", &psync], chunk).unwrap();
            prop_assert_eq!(agreement.offset, 42);
            prop_assert_eq!(agreement.id.len(), 40);
            prop_assert_eq!(&rest[..], b"$3\r\nabc");
            prop_assert_eq!(sent.len(), 5);
            prop_assert_eq!(&sent[1], "*5 $8 REPLCONF $10 ip-address $14 redkeep_backup $14 listening-port $5 65536 ");
            prop_assert_eq!(&sent[3], "*3 $8 REPLCONF $8 rdb-only $1 1 ");
            prop_assert_eq!(&sent[4], "*3 $5 PSYNC $1 ? $2 -1 ");
        }
    }

    #[test]
    fn resuming_asks_for_the_next_byte() {
        let request = Request::Resume { id: "abc".to_owned(), offset: 99 };
        let ok = ["+PONG\r\n", "+OK\r\n", "+OK\r\n", "+CONTINUE\r\n"];
        let (sent, agreement, _) = run(request.clone(), &ok, 100).unwrap();
        assert_eq!(sent[3], "*3 $5 PSYNC $3 abc $3 100 ");
        assert_eq!(agreement, Agreement { id: "abc".to_owned(), offset: 99 });
        let new_id = ["+PONG\r\n", "+OK\r\n", "+OK\r\n", "+CONTINUE def\r\n"];
        assert_eq!(run(request.clone(), &new_id, 100).unwrap().1.id, "def");
        let gone = ["+PONG\r\n", "+OK\r\n", "+OK\r\n", "+FULLRESYNC def 5\r\n"];
        assert!(matches!(run(request, &gone, 100), Err(AccessError::NotInBacklog { .. })));
    }

    #[test]
    fn refusals_are_told_apart() {
        let full = || Request::Full { snapshot_only: false };
        let at = |answers: &[&str]| run(full(), answers, 10).unwrap_err();
        assert!(matches!(at(&["-NOAUTH Authentication required.\r\n"]), AccessError::Login { .. }));
        assert!(matches!(at(&["-LOADING Redis is loading\r\n"]), AccessError::Loading { .. }));
        let denied = at(&["+PONG\r\n", "-NOPERM User b has no permissions to run the 'replconf' command\r\n"]);
        assert!(denied.help().unwrap().contains("`+replconf`"));
        let alone = at(&["+PONG\r\n", "+OK\r\n", "+OK\r\n", "-NOMASTERLINK Can't SYNC while not connected\r\n"]);
        assert!(matches!(alone, AccessError::NoPrimaryLink { .. }));
        let renamed = at(&["+PONG\r\n", "+OK\r\n", "+OK\r\n", "$EOF:0123\r\n"]);
        assert!(matches!(renamed, AccessError::Refused { reason: "PsyncRenamed", .. }));
        assert!(matches!(at(&["HTTP/1.1 400 Bad Request\r\n"]), AccessError::NotRedis { .. }));
        assert!(matches!(at(&["+PONG\r\n", "+OK\r\n", "+OK\r\n", "+FULLRESYNC x\r\n"]), AccessError::NotRedis { .. }));
    }
}
