//! The parser of whole files: records become calls of a [`Visitor`], values pass as the bytes they are.

use super::RdbError;
use super::carry::Carry;
use super::crc64::Crc64;
use super::format::{self, Header, ValueType};
use super::machine::{Fault, Machine, Step};
use super::role::{Listener, Role};
use crate::Error;

/// Bytes of a key that are held, 1 MiB; [`Entry::key_length`] tells of a longer one. Names and values of AUX fields
/// too.
pub const MAX_HELD_KEY: usize = 1 << 20;
/// Bytes of a function library's code that are held, 16 MiB.
pub const MAX_HELD_LIBRARY: usize = 16 << 20;

/// A key and what stands before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'bytes> {
    /// The key, cut after [`MAX_HELD_KEY`] bytes; empty where the visitor does not want keys.
    pub key: &'bytes [u8],
    /// The key's whole length in bytes; 0 where the visitor does not want keys.
    pub key_length: u64,
    /// Type of its value.
    pub kind: ValueType,
    /// The database it lies in.
    pub database: u64,
    /// When it expires, milliseconds since the epoch.
    pub expires_at: Option<u64>,
    /// Seconds since it was used last (eviction by LRU).
    pub idle: Option<u64>,
    /// How often it is used, logarithmic (eviction by LFU).
    pub frequency: Option<u8>,
}

/// What the checksum at the end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC64, and it held.
    Crc64,
    /// Eight zero bytes (`rdbchecksum no`), or a file from before there were any.
    Unchecked,
}

impl Checksum {
    /// The fact `checksum`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc64 => "crc64",
            Self::Unchecked => "unchecked",
        }
    }
}

/// Told what a file holds, in its order. An error stops the parser and comes out of [`Parser::push`].
pub trait Visitor {
    /// Whether [`Entry::key`] is wanted: without it no key is decoded.
    fn wants_keys(&self) -> bool {
        true
    }
    /// Whether [`Visitor::value`] is wanted.
    fn wants_values(&self) -> bool {
        false
    }
    /// The magic and the version.
    fn header(&mut self, _header: Header) -> Result<(), Error> {
        Ok(())
    }
    /// A field about the file, such as `redis-ver`.
    fn aux(&mut self, _name: &[u8], _value: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    /// The keys that follow lie in this database.
    fn database(&mut self, _number: u64) -> Result<(), Error> {
        Ok(())
    }
    /// A function library: its code, cut after [`MAX_HELD_LIBRARY`] bytes, and the code's length.
    fn library(&mut self, _code: &[u8], _length: u64) -> Result<(), Error> {
        Ok(())
    }
    /// The value of the key before is this module's.
    fn module(&mut self, _id: u64) -> Result<(), Error> {
        Ok(())
    }
    /// This module's data outside keys, e.g. the definitions of indexes.
    fn module_aux(&mut self, _id: u64) -> Result<(), Error> {
        Ok(())
    }
    /// A key; its value follows.
    fn key(&mut self, _entry: &Entry<'_>) -> Result<(), Error> {
        Ok(())
    }
    /// Bytes of the value as they lie in the file, which is also how `DUMP` has them.
    fn value(&mut self, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    /// The value is whole: so many bytes in the file.
    fn value_end(&mut self, _length: u64) -> Result<(), Error> {
        Ok(())
    }
    /// The file is whole.
    fn end(&mut self, _checksum: Checksum) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes a file in any chunks: [`Parser::push`] or [`Parser::push_all`] each, then [`Parser::finish`].
pub struct Parser {
    machine: Machine,
    carry: Carry,
    /// Offset of the next chunk's first byte.
    offset: u64,
    /// `None` once it was compared, or where it was before.
    digest: Option<Crc64>,
    /// Length so far of the value that is being read.
    value: Option<u64>,
    records: Records,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

/// What the records before a key said.
#[derive(Default)]
struct Records {
    held: Vec<u8>,
    held_length: u64,
    aux_name: Vec<u8>,
    database: u64,
    expires_at: Option<u64>,
    idle: Option<u64>,
    frequency: Option<u8>,
}

impl Parser {
    /// A parser at the start of a file.
    pub fn new() -> Self {
        Self {
            machine: Machine::file(),
            carry: Carry::default(),
            offset: 0,
            digest: Some(format::checksum()),
            value: None,
            records: Records::default(),
        }
    }

    /// A parser that leaves the checksum at the end alone, which takes half of the time: for bytes whose checksum held when they were
    /// captured, and whose SHA-256 is now what it was then (the host's promise of `artifacts.open`).
    pub fn of_proven_bytes() -> Self {
        Self { digest: None, ..Self::new() }
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the file is whole, its checksum included.
    pub fn is_done(&self) -> bool {
        self.machine.is_done()
    }

    /// Takes bytes and returns how many: fewer than there are only where the RDB ends inside them (an append-only
    /// file's commands may follow).
    ///
    /// # Errors
    /// "damaged" with the detail `offset`, "not-supported" for a newer format, or the visitor's own. The parser is of
    /// no use after one.
    pub fn push<V: Visitor>(&mut self, chunk: &[u8], visitor: &mut V) -> Result<usize, Error> {
        if self.machine.is_done() {
            return Ok(0);
        }
        let mut at = 0;
        // Where in this chunk the checksum and the current value go on.
        let mut value_from = 0;
        loop {
            let carried = self.carry.len() as u64;
            let mut listener = FileListener { visitor, records: &mut self.records };
            let step = match self.carry.step(&mut self.machine, &chunk[at..], &mut listener) {
                Ok(step) => step,
                Err(Fault::Listener(error)) => return Err(error),
                Err(Fault::Input(error)) => {
                    return Err(RdbError { offset: self.offset + at as u64 - carried, ..error }.into());
                }
            };
            match step {
                Step::Used(used) => at += used,
                Step::ValueBegins => {
                    self.value = Some(0);
                    value_from = at;
                }
                Step::ValueEnded => {
                    let length = self.value.take().unwrap_or(0) + (at - value_from) as u64;
                    if visitor.wants_values() && at > value_from {
                        visitor.value(&chunk[value_from..at])?;
                    }
                    visitor.value_end(length)?;
                }
                Step::End => {
                    at += 1;
                    if let Some(digest) = &mut self.digest {
                        digest.update(&chunk[..at]);
                    }
                }
                Step::Checksum { found, used } => {
                    // Proven bytes: the checksum is what it says.
                    let computed = self.digest.take().map_or(found, |digest| Some(digest.finalize()));
                    at += used;
                    self.offset += at as u64;
                    let checksum = match found {
                        None | Some(0) => Checksum::Unchecked,
                        found if found == computed => Checksum::Crc64,
                        Some(_) => {
                            return Err(RdbError::new(self.offset - 8, "a checksum that does not hold").into());
                        }
                    };
                    visitor.end(checksum)?;
                    return Ok(at);
                }
                Step::More => break,
            }
        }
        if let Some(length) = &mut self.value {
            *length += (chunk.len() - value_from) as u64;
            if visitor.wants_values() && chunk.len() > value_from {
                visitor.value(&chunk[value_from..])?;
            }
        }
        if !self.machine.expects_checksum()
            && let Some(digest) = &mut self.digest
        {
            digest.update(chunk);
        }
        self.offset += chunk.len() as u64;
        Ok(chunk.len())
    }

    /// The same for a file in which nothing may follow: more bytes (e.g. the 40-byte mark of a diskless transfer) are
    /// an error.
    pub fn push_all<V: Visitor>(&mut self, chunk: &[u8], visitor: &mut V) -> Result<(), Error> {
        let used = self.push(chunk, visitor)?;
        if used < chunk.len() {
            return Err(RdbError::new(self.offset, "bytes after the end").into());
        }
        Ok(())
    }

    /// The end of the input.
    ///
    /// # Errors
    /// "damaged" where the file is not whole.
    pub fn finish(&self) -> Result<(), Error> {
        if self.is_done() {
            return Ok(());
        }
        Err(RdbError::new(self.offset, "a file cut short: the input ends").into())
    }
}

struct FileListener<'parser, V> {
    visitor: &'parser mut V,
    records: &'parser mut Records,
}

impl<V: Visitor> Listener for FileListener<'_, V> {
    #[inline]
    fn wants(&self, role: Role) -> bool {
        match role {
            Role::Key => self.visitor.wants_keys(),
            Role::AuxName | Role::AuxValue | Role::Library => true,
            _ => false,
        }
    }

    fn skims(&self) -> bool {
        true
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        self.visitor.header(header)
    }

    fn number(&mut self, role: Role, number: u64) -> Result<(), Error> {
        match role {
            Role::Database => {
                self.records.database = number;
                self.visitor.database(number)
            }
            Role::Idle => {
                self.records.idle = Some(number);
                Ok(())
            }
            Role::ModuleId => self.visitor.module(number),
            Role::ModuleAuxId => self.visitor.module_aux(number),
            _ => Ok(()),
        }
    }

    fn fixed(&mut self, role: Role, bytes: &[u8]) -> Result<(), Error> {
        let number = || bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        match role {
            Role::ExpireSeconds => self.records.expires_at = Some(number().saturating_mul(1000)),
            Role::ExpireMilliseconds => self.records.expires_at = Some(number()),
            Role::Frequency => self.records.frequency = bytes.first().copied(),
            _ => {}
        }
        Ok(())
    }

    fn text_begin(&mut self, _role: Role, length: u64) -> Result<(), Error> {
        self.records.held.clear();
        self.records.held_length = length;
        Ok(())
    }

    fn text(&mut self, role: Role, bytes: &[u8]) -> Result<(), Error> {
        let limit = if role == Role::Library { MAX_HELD_LIBRARY } else { MAX_HELD_KEY };
        let room = limit - self.records.held.len();
        self.records.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    fn text_end(&mut self, role: Role) -> Result<(), Error> {
        let records = &mut *self.records;
        match role {
            Role::AuxName => std::mem::swap(&mut records.aux_name, &mut records.held),
            Role::AuxValue => self.visitor.aux(&records.aux_name, &records.held)?,
            Role::Library => self.visitor.library(&records.held, records.held_length)?,
            _ => {}
        }
        Ok(())
    }

    fn begin_value(&mut self, kind: ValueType) -> Result<(), Error> {
        let records = &mut *self.records;
        let wanted = self.visitor.wants_keys();
        let entry = Entry {
            key: if wanted { &records.held } else { &[] },
            key_length: if wanted { records.held_length } else { 0 },
            kind,
            database: records.database,
            expires_at: records.expires_at.take(),
            idle: records.idle.take(),
            frequency: records.frequency.take(),
        };
        self.visitor.key(&entry)
    }
}
