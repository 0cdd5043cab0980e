//! A big value put back by type in chunks: under a temporary key, renamed when it is whole
//! and has its expiry.

use super::element::Element;
use super::entry_ids::EntryIds;
use super::format::ValueType;
use super::output::Output;
use super::value::ValueDecoder;
use crate::{Error, code, resp};

/// Arguments gathered for one command: so many bytes or so many arguments, whichever comes first.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_ARGUMENTS: usize = 1024;
/// Bytes of a string in one APPEND.
const STRING_PIECE: usize = 1 << 20;

/// Turns an expiry of the file into that of the target.
pub(crate) type Expiry<'call> = &'call dyn Fn(u64) -> Option<u64>;

pub(crate) struct Rebuild {
    decoder: ValueDecoder,
    writer: Writer,
}

struct Writer {
    key: Vec<u8>,
    command: &'static [u8],
    arguments: Vec<u8>,
    count: usize,
    /// Commands for after the batch: expiries of its fields.
    after: Vec<u8>,
    started: bool,
    entries: bool,
    /// A stream's entries, and the highest id that was ever deleted from among them, where the stream says so.
    entry_ids: EntryIds,
    deleted_up_to: Option<(u64, u64)>,
    /// Fields with an expiry up to here are gone, milliseconds since the epoch.
    gone_until: u64,
    /// Whether such a field was left out.
    left_out: bool,
}

impl Rebuild {
    /// A value of this type under a temporary key in the slot of `key`, without the fields whose expiry is `gone_until` or
    /// earlier.
    pub(crate) fn new(kind: ValueType, key: &[u8], gone_until: u64, output: &mut Output) -> Result<Self, Error> {
        let command: &'static [u8] = match kind.name() {
            "list" => b"RPUSH",
            "set" => b"SADD",
            "zset" => b"ZADD",
            "hash" => b"HSET",
            _ => b"APPEND",
        };
        let key = temporary_key(key);
        // What an interrupted run left there.
        output.command(&[b"DEL", &key])?;
        let writer = Writer {
            key,
            command,
            arguments: Vec::new(),
            count: 0,
            after: Vec::new(),
            started: false,
            entries: false,
            entry_ids: EntryIds::default(),
            deleted_up_to: None,
            gone_until,
            left_out: false,
        };
        Ok(Self { decoder: ValueDecoder::new(kind)?, writer })
    }

    pub(crate) fn push(&mut self, bytes: &[u8], output: &mut Output, expiry: Expiry<'_>) -> Result<(), Error> {
        let writer = &mut self.writer;
        self.decoder.push(bytes, &mut |element| writer.write(element, output, expiry))
    }

    /// Whether nothing of a whole hash is left, so that there is no key to finish.
    pub(crate) fn is_gone(&self) -> bool {
        self.writer.left_out && !self.writer.started
    }

    /// The value cannot be rebuilt after all: what there is of it goes.
    pub(crate) fn abandon(self, output: &mut Output) -> Result<(), Error> {
        output.command(&[b"DEL", &self.writer.key])
    }

    /// The value is whole: gives it its name. `replace`: whatever has that name already.
    pub(crate) fn finish(
        mut self,
        key: &[u8],
        expires_at: Option<u64>,
        replace: bool,
        output: &mut Output,
        expiry: Expiry<'_>,
    ) -> Result<(), Error> {
        let writer = &mut self.writer;
        self.decoder.finish(&mut |element| writer.write(element, output, expiry))?;
        if !writer.started && writer.command == b"APPEND" && writer.count == 0 && !writer.entries {
            // An empty string.
            output.command(&[b"SET", &writer.key, b""])?;
        }
        writer.flush(output)?;
        if let Some(expires_at) = expires_at {
            // Before the name, which a client may give to a key of its own at any time. If its time comes first, the host
            // takes the failed renaming for what it is.
            output.command(&[b"PEXPIREAT", &writer.key, expires_at.to_string().as_bytes()])?;
        }
        if replace {
            output.command(&[b"RENAME", &writer.key, key])?;
        } else {
            // Somebody may have made the key meanwhile: theirs stays, and the host counts ours as refused.
            output.command(&[b"RENAMENX", &writer.key, key])?;
            output.command(&[b"DEL", &writer.key])?;
        }
        Ok(())
    }
}

fn id_text((milliseconds, sequence): (u64, u64)) -> String {
    format!("{milliseconds}-{sequence}")
}

impl Writer {
    fn write(&mut self, element: Element<'_>, output: &mut Output, expiry: Expiry<'_>) -> Result<(), Error> {
        match element {
            Element::Text(bytes) => {
                // The first APPEND makes the key.
                for piece in bytes.chunks(STRING_PIECE) {
                    self.started = true;
                    let buffer = output.buffer();
                    resp::push_header(buffer, 3);
                    resp::push_argument(buffer, b"APPEND");
                    resp::push_argument(buffer, &self.key);
                    resp::push_length(buffer, piece.len() as u64);
                    output.bytes(piece)?;
                    output.bytes(b"\r\n")?;
                    output.end_command()?;
                }
                Ok(())
            }
            Element::Member(member) => self.gather(&[member], output),
            Element::Scored { member, score } => self.gather(&[format!("{score:e}").as_bytes(), member], output),
            // The server would remove it at once, and with the last one the key that is to be renamed.
            Element::Field { expires_at: Some(expires_at), .. } if expires_at <= self.gone_until => {
                self.left_out = true;
                Ok(())
            }
            Element::Field { field, value, expires_at } => {
                if let Some(expires_at) = expires_at.and_then(expiry) {
                    let time = expires_at.to_string();
                    resp::command(
                        &mut self.after,
                        &[b"HPEXPIREAT", &self.key, time.as_bytes(), b"FIELDS", b"1", field],
                    );
                }
                self.gather(&[field, value], output)
            }
            Element::Entry { id, fields } => {
                self.entries = true;
                self.entry_ids.push(id);
                let buffer = output.buffer();
                resp::push_header(buffer, 3 + fields.len());
                resp::push_argument(buffer, b"XADD");
                resp::push_argument(buffer, &self.key);
                resp::push_argument(buffer, id_text(id).as_bytes());
                for field in fields {
                    resp::push_length(output.buffer(), field.len() as u64);
                    output.bytes(&field)?;
                    output.bytes(b"\r\n")?;
                }
                output.end_command()
            }
            Element::Stream { length: _, last, history } => {
                let last_text = id_text(last);
                self.deleted_up_to = history.map(|(deleted, _)| deleted);
                if !self.entries {
                    // A stream without entries: one that is deleted again makes it.
                    let id = id_text(last.max((0, 1)));
                    output.command(&[b"XADD", &self.key, id.as_bytes(), b"x", b"x"])?;
                    output.command(&[b"XDEL", &self.key, id.as_bytes()])?;
                    self.entries = true;
                }
                match history {
                    Some((deleted, added)) => output.command(&[
                        b"XSETID",
                        &self.key,
                        last_text.as_bytes(),
                        b"ENTRIESADDED",
                        added.to_string().as_bytes(),
                        b"MAXDELETEDID",
                        id_text(deleted).as_bytes(),
                    ]),
                    None => output.command(&[b"XSETID", &self.key, last_text.as_bytes()]),
                }
            }
            Element::Group { name, last, read } => {
                let last = id_text(last);
                let head: [&[u8]; 5] = [b"XGROUP", b"CREATE", &self.key, name, last.as_bytes()];
                match read {
                    Some(read) => output.command(&[&head[..], &[b"ENTRIESREAD", read.to_string().as_bytes()]].concat()),
                    None => output.command(&head),
                }
            }
            Element::Consumer { group, name } => {
                output.command(&[b"XGROUP", b"CREATECONSUMER", &self.key, group, name])
            }
            // Trimmed away or deleted before it was acknowledged: XCLAIM would leave it out without a word, RESTORE keeps it.
            Element::Pending { id, .. } if !self.surely_has(id) => Err(Error::new(
                code::NOT_SUPPORTED,
                "a pending entry whose stream entry is gone cannot be made by a command",
            )
            .with_help("restore into a data directory instead")),
            Element::Pending { group, consumer, id, delivered_at, deliveries } => output.command(&[
                b"XCLAIM",
                &self.key,
                group,
                consumer,
                b"0",
                id_text(id).as_bytes(),
                b"TIME",
                delivered_at.to_string().as_bytes(),
                b"RETRYCOUNT",
                deliveries.to_string().as_bytes(),
                b"FORCE",
                b"JUSTID",
            ]),
        }
    }

    /// Whether the stream has this entry. Where that is not known, the stream goes whole rather than lose something.
    fn surely_has(&self, id: (u64, u64)) -> bool {
        match self.entry_ids.contains(id) {
            Some(has) => has,
            // Behind all those that are held: nothing was deleted there, if the stream knows what was (7.0 and on).
            None => self.deleted_up_to.is_some_and(|deleted| id > deleted),
        }
    }

    fn gather(&mut self, arguments: &[&[u8]], output: &mut Output) -> Result<(), Error> {
        self.started = true;
        if arguments.iter().map(|argument| argument.len()).sum::<usize>() > BATCH_BYTES {
            // A large element passes on its own, without another copy of it here.
            self.flush_batch(output)?;
            let buffer = output.buffer();
            resp::push_header(buffer, 2 + arguments.len());
            resp::push_argument(buffer, self.command);
            resp::push_argument(buffer, &self.key);
            for argument in arguments {
                resp::push_length(output.buffer(), argument.len() as u64);
                output.bytes(argument)?;
                output.bytes(b"\r\n")?;
            }
            output.end_command()?;
            return self.flush(output);
        }
        for argument in arguments {
            resp::push_argument(&mut self.arguments, argument);
        }
        self.count += arguments.len();
        if self.arguments.len() >= BATCH_BYTES || self.count >= BATCH_ARGUMENTS { self.flush(output) } else { Ok(()) }
    }

    fn flush(&mut self, output: &mut Output) -> Result<(), Error> {
        self.flush_batch(output)?;
        output.bytes(&self.after)?;
        self.after.clear();
        Ok(())
    }

    fn flush_batch(&mut self, output: &mut Output) -> Result<(), Error> {
        if self.count > 0 {
            let buffer = output.buffer();
            resp::push_header(buffer, 2 + self.count);
            resp::push_argument(buffer, self.command);
            resp::push_argument(buffer, &self.key);
            output.bytes(&self.arguments)?;
            output.end_command()?;
            self.arguments.clear();
            self.count = 0;
        }
        Ok(())
    }
}

/// A name in the same cluster slot, whatever the key is: its hash tag is a number that hashes to the slot. The host knows how
/// it begins (`host/redis/src/load/mod.rs`).
fn temporary_key(key: &[u8]) -> Vec<u8> {
    let slot = slot(key);
    // Some hundred thousand numbers reach every one of the 16384 slots many times over.
    let tag = (0..1_000_000_u32).map(|number| number.to_string()).find(|tag| crc16(tag.as_bytes()) % 16_384 == slot);
    format!("redkeep-restore:{{{}}}", tag.unwrap_or_default()).into_bytes()
}

/// The cluster slot of a key: of what stands in its first braces, where they hold something.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let inside = &key[open + 1..];
        let close = inside.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        Some(&inside[..close])
    });
    crc16(tag.unwrap_or(key)) % 16_384
}

/// CRC16 XMODEM, as in the cluster specification.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut crc, byte| {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_key_lies_in_the_keys_slot() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for key in [&b"foo"[..], b"{user1000}.following", b"foo{}{bar}", b"foo{{bar}}zap", b"a}b", b"", b"\xff{"] {
            assert_eq!(slot(&temporary_key(key)), slot(key), "{key:?}");
        }
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }
}
