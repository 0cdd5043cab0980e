//! Values that are neither small enough to be held nor can be rebuilt: modules' and those with one huge element. They go in one
//! `RESTORE` each, streamed, for which their length must be known ahead: the first pass over the file learns it, a second sends them.

use std::collections::BTreeMap;

use super::format;
use crate::host::Host;
use crate::rdb::Crc64;
use crate::resp::Reply;
use crate::{Error, code};

/// What a server takes in one argument where it does not say otherwise.
const DEFAULT_LIMIT: u64 = 512 << 20;
/// Type, version and checksum around a value.
const AROUND: u64 = 1 + 2 + 8;

/// The values left for the second pass, by their place among the file's keys.
#[derive(Default)]
pub(super) struct Whole {
    lengths: BTreeMap<u64, u64>,
    /// `proto-max-bulk-len` of the target, once asked.
    limit: Option<u64>,
}

impl Whole {
    /// Remembers a value; `key` is for the error where the target would not take it.
    pub(super) fn postpone(&mut self, host: &dyn Host, place: u64, length: u64, key: &str) -> Result<(), Error> {
        let limit = match self.limit {
            Some(limit) => limit,
            None => *self.limit.insert(limit_of(host)),
        };
        if length.saturating_add(AROUND) > limit {
            let message = format!(
                "failed to restore key {key}: its value of {length} bytes must be sent whole, and the target takes {limit} bytes at most"
            );
            return Err(Error::new(code::NOT_SUPPORTED, message).with_help(
                "raise proto-max-bulk-len of the target (CONFIG SET proto-max-bulk-len), or restore into a data directory",
            ));
        }
        self.lengths.insert(place, length);
        Ok(())
    }

    /// The length of the payload of the key at this place, where it is one of these.
    pub(super) fn payload(&self, place: u64) -> Option<u64> {
        Some(self.lengths.get(&place)? + AROUND)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

/// `CONFIG` is often denied; then the target itself refuses what is too long.
fn limit_of(host: &dyn Host) -> u64 {
    let reply = host.redis().command(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]);
    let stated = reply.ok().and_then(|reply| {
        let reply = Reply::parse(&reply).ok()?;
        reply.elements().get(1)?.text()?.parse().ok()
    });
    stated.unwrap_or(DEFAULT_LIMIT)
}

/// The value of a key that is sent whole, as it passes.
pub(super) struct Streamed {
    digest: Crc64,
    /// Bytes of the value that the command still announces.
    left: u64,
}

impl Streamed {
    /// Begins with the type; `payload`: what was announced.
    pub(super) fn begin(kind: u8, payload: u64) -> Self {
        let mut digest = format::checksum();
        digest.update(&[kind]);
        Self { digest, left: payload.saturating_sub(AROUND) }
    }

    /// The next bytes of the value.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(changed)?;
        self.digest.update(bytes);
        Ok(())
    }

    /// What follows the value: version and checksum.
    pub(super) fn end(mut self, version: u16) -> Result<[u8; 10], Error> {
        if self.left > 0 {
            return Err(changed());
        }
        let mut end = [0; 10];
        let (head, tail) = end.split_at_mut(2);
        head.copy_from_slice(&version.to_le_bytes());
        self.digest.update(head);
        tail.copy_from_slice(&self.digest.finalize().to_le_bytes());
        Ok(end)
    }
}

/// The host checks every byte of both passes, so this is a defect.
fn changed() -> Error {
    Error::new(code::INTERNAL, "the second pass over the backup is not the first")
}
