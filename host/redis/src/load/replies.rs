//! Counts the replies to a bulk load, sans-IO: what took effect, what failed, what was tolerated.
//!
//! A queued command takes effect only with its `EXEC`, so the count is exact also when a transaction fails.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::resp::{ReplyScanner, RespError};

/// What is kept of a reply that is not an `EXEC`'s: enough for an error's text.
const HEAD: usize = 512;
/// The largest reply of an `EXEC` that is read.
const MAX_EXEC: usize = 64 << 20;

/// A reply that is not one command's success or failure. Keyed by the reply's number on its connection, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// `MULTI`.
    Multi,
    /// `EXEC`.
    Exec,
    /// Counted at another server already (a command sent to every primary).
    Uncounted,
    /// Takes effect, and makes no key: `SELECT`, a function, a step of [rebuilding](super::TEMPORARY) a value.
    Beside,
    /// `RENAME` or `RENAMENX` that gives a [rebuilt value](super::TEMPORARY) its name.
    Naming,
}

/// What became of the commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Took effect.
    pub(crate) applied: u64,
    /// Those among them that made no key.
    pub(crate) beside: u64,
    /// Error replies, tolerated ones among them.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
    /// The first one that is not tolerated.
    pub(crate) fatal: Option<String>,
}

impl Tally {
    /// Adds another connection's.
    pub(crate) fn join(&mut self, other: &Self) {
        self.applied += other.applied;
        self.beside += other.beside;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        if self.fatal.is_none() {
            self.fatal.clone_from(&other.fatal);
        }
    }
}

/// Reads one connection's replies.
#[derive(Debug, Default)]
pub(crate) struct ReplyCounter {
    tolerated: Vec<String>,
    scanner: ReplyScanner,
    head: BytesMut,
    replies: u64,
    in_transaction: bool,
    pub(crate) tally: Tally,
}

impl ReplyCounter {
    /// `tolerated`: error codes that are counted and no reason to stop.
    pub(crate) fn new(tolerated: Vec<String>) -> Self {
        Self { tolerated, ..Self::default() }
    }

    /// Whole replies so far.
    pub(crate) fn replies(&self) -> u64 {
        self.replies
    }

    /// Takes bytes. `specials` in the order of their numbers; those met are removed.
    pub(crate) fn push(&mut self, mut data: &[u8], specials: &mut VecDeque<(u64, Special)>) -> Result<(), RespError> {
        while !data.is_empty() {
            let next_special = specials.front().map_or(u64::MAX, |(number, _)| *number);
            if self.head.is_empty() && !self.in_transaction {
                // Nearly every reply: successes of small commands in a row.
                let mut run = 0;
                while self.replies + run < next_special && data.starts_with(b"+OK\r\n") {
                    data = data.get(5..).unwrap_or_default();
                    run += 1;
                }
                self.replies += run;
                self.tally.applied += run;
                if data.is_empty() {
                    return Ok(());
                }
            }
            let special = specials.front().filter(|(number, _)| *number == self.replies).map(|(_, special)| *special);
            let (taken, ended) = self.scanner.push(data)?;
            let limit = if special == Some(Special::Exec) { MAX_EXEC } else { HEAD };
            let room = limit.saturating_sub(self.head.len()).min(taken);
            self.head.extend_from_slice(data.get(..room).unwrap_or_default());
            data.advance(taken);
            if ended {
                if special.is_some() {
                    specials.pop_front();
                }
                self.replies += 1;
                let reply = self.head.split().freeze();
                self.count(&reply, special)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, reply: &Bytes, special: Option<Special>) -> Result<(), RespError> {
        if special == Some(Special::Naming) && reply.starts_with(b"-ERR no such key") {
            // Its time came before its name: nothing to restore any more, and no fault.
            self.tally.errors += 1;
            return Ok(());
        }
        if reply.first() == Some(&b'-') {
            self.failed(&String::from_utf8_lossy(reply.get(1..).unwrap_or_default()));
            self.in_transaction &= special != Some(Special::Exec);
            return Ok(());
        }
        match special {
            Some(Special::Multi) => self.in_transaction = true,
            Some(Special::Exec) => {
                self.in_transaction = false;
                if reply.starts_with(b"*-1") {
                    self.failed("EXECABORT the transaction was not run");
                    return Ok(());
                }
                self.tally.applied += 2; // MULTI and EXEC themselves.
                self.count_elements(reply)?;
            }
            // The key was made meanwhile and stays: as RESTORE would have said it.
            Some(Special::Naming) if reply.starts_with(b":0") => {
                self.failed("BUSYKEY Target key name already exists.");
            }
            None | Some(Special::Naming) if !self.in_transaction => self.tally.applied += 1,
            Some(Special::Beside) if !self.in_transaction => {
                self.tally.applied += 1;
                self.tally.beside += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// The replies inside an `EXEC`'s, of which there may be millions: looked at one by one, none kept.
    fn count_elements(&mut self, reply: &[u8]) -> Result<(), RespError> {
        let header = memchr::memchr(b'\n', reply).map_or(reply.len(), |end| end + 1);
        let mut rest = reply.get(header..).unwrap_or_default();
        let mut scanner = ReplyScanner::default();
        while !rest.is_empty() {
            let (length, ended) = scanner.push(rest)?;
            if !ended {
                return Err(RespError(format!("the reply of a transaction is longer than {MAX_EXEC} bytes")));
            }
            match rest.get(..length).unwrap_or_default() {
                [b'-', text @ ..] => self.failed(&String::from_utf8_lossy(text)),
                _ => self.tally.applied += 1,
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn failed(&mut self, text: &str) {
        let text = text.trim_end();
        self.tally.errors += 1;
        if self.tally.first_error.is_none() {
            self.tally.first_error = Some(text.to_owned());
        }
        let code = text.split(' ').next().unwrap_or_default();
        if self.tally.fatal.is_none() && !self.tolerated.iter().any(|tolerated| tolerated == code) {
            self.tally.fatal = Some(text.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn replies_are_counted_at_any_chunking(chunk in 1_usize..40) {
            let wire = "+OK\r\n:1\r\n-BUSYKEY taken\r\n+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n-WRONGTYPE no\r\n+OK\r\n\
                        +OK\r\n-ERR unknown\r\n-EXECABORT discarded\r\n+OK\r\n$3\r\nabc\r\n";
            let mut specials: VecDeque<_> = [
                (4, Special::Multi), (7, Special::Exec), (9, Special::Multi), (11, Special::Exec), (12, Special::Uncounted),
            ].into();
            let mut counter = ReplyCounter::new(vec!["BUSYKEY".to_owned()]);
            for piece in wire.as_bytes().chunks(chunk) {
                counter.push(piece, &mut specials).unwrap();
            }
            prop_assert_eq!(counter.replies(), 14);
            prop_assert_eq!(counter.tally, Tally {
                // +OK :1 +OK, then MULTI, one of two, EXEC, then +OK, then the last.
                applied: 8,
                beside: 0,
                errors: 4,
                first_error: Some("BUSYKEY taken".to_owned()),
                fatal: Some("WRONGTYPE no".to_owned()),
            });
        }
    }

    fn naming(wire: &str, tolerated: &str) -> Tally {
        let mut counter = ReplyCounter::new(vec![tolerated.to_owned()]);
        counter.push(wire.as_bytes(), &mut [(1, Special::Naming)].into()).unwrap();
        counter.tally
    }

    #[test]
    fn a_rebuilt_value_that_found_its_name_taken_is_a_busy_key_and_one_that_expired_no_fault() {
        let taken = naming("+OK\r\n:0\r\n:1\r\n", "x");
        assert_eq!((taken.applied, taken.errors), (2, 1));
        assert!(taken.fatal.unwrap().starts_with("BUSYKEY"));
        let kept = naming("+OK\r\n:0\r\n:1\r\n", "BUSYKEY");
        assert_eq!((kept.applied, kept.errors, kept.fatal), (2, 1, None));
        for named in ["+OK\r\n:1\r\n:0\r\n", "+OK\r\n+OK\r\n:0\r\n"] {
            assert_eq!(naming(named, "x"), Tally { applied: 3, ..Tally::default() });
        }
        let expired = naming("+OK\r\n-ERR no such key\r\n:0\r\n", "x");
        assert_eq!((expired.applied, expired.errors, expired.fatal), (2, 1, None));
        assert!(naming("+OK\r\n-OOM command not allowed\r\n", "x").fatal.is_some());
    }

    #[test]
    fn what_makes_no_key_is_told_apart_only_where_it_took_effect() {
        let mut specials = [(0, Special::Beside), (2, Special::Beside), (3, Special::Naming)].into();
        let mut counter = ReplyCounter::new(Vec::new());
        counter.push(b"+OK\r\n+OK\r\n-ERR no\r\n+OK\r\n+OK\r\n", &mut specials).unwrap();
        assert_eq!((counter.tally.applied, counter.tally.beside, counter.tally.errors), (4, 1, 1));
    }

    #[test]
    fn a_transaction_of_many_commands_is_counted() {
        let wire = ["+OK\r\n".to_owned(), "*300001\r\n".to_owned(), "+OK\r\n".repeat(300_000), "-ERR x\r\n".to_owned()];
        let mut counter = ReplyCounter::new(Vec::new());
        counter.push(wire.concat().as_bytes(), &mut [(0, Special::Multi), (1, Special::Exec)].into()).unwrap();
        assert_eq!((counter.tally.applied, counter.tally.errors), (300_002, 1));
    }
}
