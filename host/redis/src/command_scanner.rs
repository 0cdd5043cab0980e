//! Finds commands in a stream of RESP: whole ones in one pass over their headers, larger ones while they pass through.
//!
//! Strict on purpose: what the server would read differently than we do is an error here, so nothing can be smuggled.

use std::ops::Range;

use crate::resp::{RespError, parse_number};

/// A command is held whole up to this many bytes; a longer one streams through.
pub(crate) const HOLD: usize = 1 << 20;
/// Arguments of a whole command whose places are remembered.
const REMEMBERED: usize = 64;
/// Longest header line.
const MAX_HEADER: usize = 32;
/// Arguments at the end of a large command that are kept only when they are this short: options, never values.
const SHORT: usize = 32;

/// What stands at the beginning of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// A command of so many bytes.
    Complete(usize),
    /// The beginning of one.
    Incomplete,
}

/// Scans commands that lie whole in memory.
#[derive(Debug, Default)]
pub(crate) struct CommandScanner {
    arguments: Vec<Range<usize>>,
    count: usize,
}

impl CommandScanner {
    /// Looks at the command at the beginning of `data`.
    pub(crate) fn scan(&mut self, data: &[u8]) -> Result<Scan, RespError> {
        self.arguments.clear();
        self.count = 0;
        let mut position = 0;
        let Some(count) = header(data, &mut position, b'*')? else { return Ok(Scan::Incomplete) };
        if count == 0 {
            return Err(RespError("a command without a name".to_owned()));
        }
        self.count = usize::try_from(count).unwrap_or(usize::MAX);
        for _ in 0..count {
            let Some(length) = header(data, &mut position, b'$')? else { return Ok(Scan::Incomplete) };
            let end = usize::try_from(length).ok().and_then(|length| position.checked_add(length));
            let Some(end) = end.filter(|end| end.saturating_add(2) <= data.len()) else { return Ok(Scan::Incomplete) };
            if self.arguments.len() < REMEMBERED {
                self.arguments.push(position..end);
            }
            position = end + 2;
        }
        Ok(Scan::Complete(position))
    }

    /// The arguments found by the last scan, also of an incomplete command.
    pub(crate) fn argument<'a>(&self, data: &'a [u8], index: usize) -> Option<&'a [u8]> {
        data.get(self.arguments.get(index)?.clone())
    }

    /// Where an argument's bytes end, its line end included.
    pub(crate) fn argument_end(&self, index: usize) -> Option<usize> {
        self.arguments.get(index).map(|range| range.end + 2)
    }

    /// All arguments, when there are not too many to be remembered.
    pub(crate) fn arguments<'a>(&self, data: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        if self.arguments.len() != self.count {
            return None;
        }
        self.arguments.iter().map(|range| data.get(range.clone())).collect()
    }

    /// How many arguments the command has, its name included.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// Reads `*N\r\n` or `$N\r\n` at `position`; `None` when it is not whole.
#[inline]
fn header(data: &[u8], position: &mut usize, sign: u8) -> Result<Option<u64>, RespError> {
    let rest = data.get(*position..).unwrap_or_default();
    let Some(first) = rest.first() else { return Ok(None) };
    if *first != sign {
        return Err(RespError(format!("byte 0x{first:02x} where `{}` should stand", char::from(sign))));
    }
    // Nearly all lengths have one to four digits: a plain loop is faster than a search.
    let mut number: u64 = 0;
    for (index, byte) in rest.iter().enumerate().skip(1) {
        match byte {
            b'0'..=b'9' if index < 19 => number = number * 10 + u64::from(byte - b'0'),
            b'\r' if index > 1 => {
                return match rest.get(index + 1) {
                    None => Ok(None),
                    Some(b'\n') => {
                        *position += index + 2;
                        Ok(Some(number))
                    }
                    Some(_) => Err(RespError("a length without its line end".to_owned())),
                };
            }
            _ => return Err(RespError("a length that is no number".to_owned())),
        }
    }
    Ok(None)
}

/// Follows a command too large to be held.
#[derive(Debug)]
pub(crate) struct LargeCommand {
    header: Vec<u8>,
    /// `None`: the count of arguments has not been read.
    arguments_left: Option<u64>,
    /// Bytes left of the present argument, its line end included.
    bulk_left: Option<u64>,
    index: usize,
    keeping: Option<Vec<u8>>,
    /// Arguments kept: the first three unless very long, and short ones after them.
    kept: Vec<(usize, Vec<u8>)>,
    length: u64,
}

impl LargeCommand {
    pub(crate) fn new() -> Self {
        Self {
            header: Vec::new(),
            arguments_left: None,
            bulk_left: None,
            index: 0,
            keeping: None,
            kept: Vec::new(),
            length: 0,
        }
    }

    /// Takes bytes; returns how many belong to the command, and whether it ends with them.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(usize, bool), RespError> {
        let mut position = 0;
        while let Some(rest) = data.get(position..).filter(|rest| !rest.is_empty()) {
            if let Some(left) = self.bulk_left {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                if let (Some(keeping), Some(bytes)) = (&mut self.keeping, rest.get(..taken)) {
                    keeping.extend_from_slice(bytes);
                }
                position += taken;
                self.length += taken as u64;
                self.bulk_left = Some(left - taken as u64).filter(|left| *left > 0);
                if self.bulk_left.is_none() {
                    if let Some(mut bytes) = self.keeping.take() {
                        bytes.truncate(bytes.len().saturating_sub(2));
                        self.kept.push((self.index, bytes));
                    }
                    self.index += 1;
                    self.arguments_left = self.arguments_left.map(|left| left - 1);
                    if self.arguments_left == Some(0) {
                        return Ok((position, true));
                    }
                }
                continue;
            }
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            self.header.extend_from_slice(rest.get(..end).unwrap_or_default());
            position += end;
            self.length += end as u64;
            if self.header.len() > MAX_HEADER {
                return Err(RespError("a length longer than 32 digits".to_owned()));
            }
            if !self.header.ends_with(b"\n") {
                break;
            }
            let sign = if self.arguments_left.is_none() { b'*' } else { b'$' };
            let digits = self.header.strip_prefix(&[sign]).and_then(|line| line.strip_suffix(b"\r\n"));
            let number = digits.and_then(parse_number).and_then(|number| u64::try_from(number).ok());
            let number = number.ok_or_else(|| RespError("a length that is no number".to_owned()))?;
            self.header.clear();
            if sign == b'*' {
                self.arguments_left = Some(number);
            } else {
                self.bulk_left = Some(number.saturating_add(2));
                let limit = if self.index < 3 { HOLD } else { SHORT };
                let keep = number <= limit as u64 && self.kept.len() < REMEMBERED;
                self.keeping = keep.then(Vec::new);
            }
        }
        Ok((position, false))
    }

    /// An argument, if it was kept.
    pub(crate) fn kept(&self, index: usize) -> Option<&[u8]> {
        self.kept.iter().find(|(known, _)| *known == index).map(|(_, bytes)| bytes.as_slice())
    }

    /// Bytes seen of it.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Arguments ended so far.
    pub(crate) fn arguments_seen(&self) -> usize {
        self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn commands() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8)
    }

    proptest! {
        #[test]
        fn both_scanners_agree_at_any_chunking(command in commands(), tail in any::<u8>(), chunk in 1_usize..50) {
            let mut wire = BytesMut::new();
            encode_command(&command, &mut wire);
            let length = wire.len();
            wire.extend_from_slice(&[tail]);
            let mut scanner = CommandScanner::default();
            prop_assert_eq!(scanner.scan(&wire).unwrap(), Scan::Complete(length));
            prop_assert_eq!(scanner.arguments(&wire).unwrap(), command.iter().map(Vec::as_slice).collect::<Vec<_>>());
            for cut in 0..length {
                prop_assert_eq!(scanner.scan(&wire[..cut]).unwrap(), Scan::Incomplete);
            }
            let mut large = LargeCommand::new();
            let mut total = 0;
            for piece in wire.chunks(chunk) {
                let (taken, ended) = large.push(piece).unwrap();
                total += taken;
                if ended { break; }
            }
            prop_assert_eq!(total, length);
            prop_assert_eq!(large.length(), length as u64);
            for (index, argument) in command.iter().enumerate() {
                let expected = (index < 3 || argument.len() <= SHORT).then_some(argument.as_slice());
                prop_assert_eq!(large.kept(index), expected);
            }
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = CommandScanner::default().scan(&bytes);
            let _ = LargeCommand::new().push(&bytes);
        }
    }

    #[test]
    fn what_a_server_would_read_differently_is_refused() {
        for bad in [
            "PING\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*1\r\n*1\r\n",
            "*1\r\n$-1\r\n",
            "*1\rX",
            "*1\r\n:1\r\n",
            "*x\r\n",
            "*\r\n",
        ] {
            assert!(CommandScanner::default().scan(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(CommandScanner::default().scan(b"*9223372036854775807\r\n").ok(), None);
        assert_eq!(CommandScanner::default().scan(b"*1\r\n$999999999999999999\r\n"), Ok(Scan::Incomplete));
    }
}
