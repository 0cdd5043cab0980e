//! RESP2, sans-IO: commands out, replies in, at any chunking, with bounds on everything that a length could ask for.
//!
//! Format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. RESP3 is never asked for.

use bytes::{Bytes, BytesMut};

/// Deepest nesting of arrays in a reply that is read.
const MAX_DEPTH: usize = 32;
/// Most values of a reply that is taken apart; `COMMAND` of Redis 8.2 has 11 000.
const MAX_VALUES: usize = 200_000;
/// Longest header line (`*3`, `$12`, `:42`); an integer of 64 bits needs 21 bytes.
const MAX_HEADER: usize = 32;

/// What the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RespError(pub(crate) String);

/// A reply, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+`.
    Simple(Bytes),
    /// `-`, without the sign.
    Error(Bytes),
    /// `:`.
    Integer(i64),
    /// `$`; `None`: null.
    Bulk(Option<Bytes>),
    /// `*`; null arrays are empty.
    Array(Vec<Value>),
}

impl Value {
    /// The text of a simple or bulk string.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(bytes) | Self::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            _ => &[],
        }
    }
}

/// Appends a command.
pub fn encode_command<A: AsRef<[u8]>>(arguments: &[A], out: &mut BytesMut) {
    push_header(out, b'*', arguments.len());
    for argument in arguments {
        push_bulk(out, argument.as_ref());
    }
}

/// Appends one bulk string.
pub(crate) fn push_bulk(out: &mut BytesMut, bytes: &[u8]) {
    push_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends `*N\r\n` or `$N\r\n`.
pub(crate) fn push_header(out: &mut BytesMut, sign: u8, number: usize) {
    out.extend_from_slice(&[sign]);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A decimal number as RESP writes it.
pub(crate) fn parse_number(digits: &[u8]) -> Option<i64> {
    // The hot path of every parser here: short, unsigned.
    if !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit) {
        return Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')));
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[derive(Debug)]
enum Part {
    /// The first byte of a value.
    Sign,
    /// A header line of `*`, `$` or `:`.
    Header(u8),
    /// The text of `+` or `-`.
    Text,
    /// So many bytes of a bulk string, its line end included.
    Bulk(u64),
}

/// Finds where a reply ends without keeping it.
#[derive(Debug)]
pub struct ReplyScanner {
    part: Part,
    header: Vec<u8>,
    open: Vec<u64>,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self { part: Part::Sign, header: Vec::new(), open: Vec::new() }
    }
}

impl ReplyScanner {
    /// Takes bytes; returns how many of them belong to the reply, and whether it ends with them.
    ///
    /// # Errors
    /// What is not RESP2.
    pub fn push(&mut self, data: &[u8]) -> Result<(usize, bool), RespError> {
        let mut position = 0;
        while let Some(rest) = data.get(position..).filter(|rest| !rest.is_empty()) {
            match self.part {
                Part::Sign => {
                    self.header.clear();
                    let sign = rest.first().copied().unwrap_or_default();
                    self.part = match sign {
                        b'*' | b'$' | b':' => Part::Header(sign),
                        b'+' | b'-' => Part::Text,
                        other => return Err(RespError(format!("byte 0x{other:02x} where a reply should begin"))),
                    };
                    position += 1;
                }
                Part::Text => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        position += end + 1;
                        if self.value_ended() {
                            return Ok((position, true));
                        }
                    }
                    None => return Ok((data.len(), false)),
                },
                Part::Header(sign) => {
                    let end = memchr::memchr(b'\n', rest);
                    self.header.extend_from_slice(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default());
                    if self.header.len() > MAX_HEADER {
                        return Err(RespError("a length longer than 32 digits".to_owned()));
                    }
                    let Some(end) = end else { return Ok((data.len(), false)) };
                    position += end + 1;
                    let number = self.header.strip_suffix(b"\r").and_then(parse_number);
                    let number = number.ok_or_else(|| RespError("a length that is no number".to_owned()))?;
                    let ended = match (sign, number) {
                        (b':', _) | (b'$' | b'*', -1) | (b'*', 0) => self.value_ended(),
                        (b'$', 0..) => {
                            self.part = Part::Bulk(number.unsigned_abs() + 2);
                            false
                        }
                        (b'*', 1..) => {
                            if self.open.len() >= MAX_DEPTH {
                                return Err(RespError("arrays nested deeper than 32".to_owned()));
                            }
                            self.open.push(number.unsigned_abs());
                            self.part = Part::Sign;
                            false
                        }
                        _ => return Err(RespError("a negative length".to_owned())),
                    };
                    if ended {
                        return Ok((position, true));
                    }
                }
                Part::Bulk(remaining) => {
                    let taken = usize::try_from(remaining).unwrap_or(usize::MAX).min(rest.len());
                    position += taken;
                    let remaining = remaining - taken as u64;
                    if remaining > 0 {
                        self.part = Part::Bulk(remaining);
                    } else if self.value_ended() {
                        return Ok((position, true));
                    }
                }
            }
        }
        Ok((position, false))
    }

    /// Closes a value and every array that it completes; whether the whole reply is complete.
    fn value_ended(&mut self) -> bool {
        self.part = Part::Sign;
        while let Some(remaining) = self.open.last_mut() {
            *remaining -= 1;
            if *remaining > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// Takes a whole reply apart, without copying strings.
///
/// # Errors
/// What is not RESP2, or not whole, or more than 200 000 values.
pub fn parse(reply: &Bytes) -> Result<Value, RespError> {
    let (mut position, mut budget) = (0, MAX_VALUES);
    let value = parse_value(reply, &mut position, 0, &mut budget)?;
    if position == reply.len() { Ok(value) } else { Err(RespError("bytes after the reply".to_owned())) }
}

fn parse_value(reply: &Bytes, position: &mut usize, depth: usize, budget: &mut usize) -> Result<Value, RespError> {
    *budget = budget.checked_sub(1).ok_or_else(|| RespError(format!("more than {MAX_VALUES} values in a reply")))?;
    let cut_short = || RespError("a reply cut short".to_owned());
    let rest = reply.get(*position..).ok_or_else(cut_short)?;
    let end = memchr::memchr(b'\n', rest).ok_or_else(cut_short)?;
    let sign = rest.first().copied().ok_or_else(cut_short)?;
    let line_end = if end > 0 && rest.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
    let line = *position + 1..*position + line_end.max(1);
    *position += end + 1;
    let text = reply.slice(line);
    let number = || parse_number(&text).ok_or_else(|| RespError("a length that is no number".to_owned()));
    Ok(match sign {
        b'+' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Integer(number()?),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Value::Bulk(None),
            Ok(length) => {
                let end = position.checked_add(length).filter(|end| end + 2 <= reply.len()).ok_or_else(cut_short)?;
                let bulk = reply.slice(*position..end);
                *position = end + 2;
                Value::Bulk(Some(bulk))
            }
        },
        b'*' => {
            if depth >= MAX_DEPTH {
                return Err(RespError("arrays nested deeper than 32".to_owned()));
            }
            let count = number()?.max(0);
            let mut elements = Vec::new();
            for _ in 0..count {
                elements.push(parse_value(reply, position, depth + 1, budget)?);
            }
            Value::Array(elements)
        }
        other => return Err(RespError(format!("byte 0x{other:02x} where a reply should begin"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Simple(text) => out.extend([b"+", text.as_ref(), b"\r\n"].concat()),
            Value::Error(text) => out.extend([b"-", text.as_ref(), b"\r\n"].concat()),
            Value::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Value::Bulk(None) => out.extend(b"$-1\r\n"),
            Value::Bulk(Some(bytes)) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend_from_slice(bytes);
                out.extend(b"\r\n");
            }
            Value::Array(elements) => {
                out.extend(format!("*{}\r\n", elements.len()).bytes());
                for element in elements {
                    encode(element, out);
                }
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            proptest::collection::vec(b' '..b'z', 0..20).prop_map(|text| Value::Simple(text.into())),
            proptest::collection::vec(b' '..b'z', 0..20).prop_map(|text| Value::Error(text.into())),
            any::<i64>().prop_map(Value::Integer),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50))
                .prop_map(|bytes| Value::Bulk(bytes.map(Bytes::from))),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| proptest::collection::vec(inner, 0..6).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn replies_are_found_and_read_at_any_chunking(
            replies in proptest::collection::vec(values(), 1..6),
            chunk in 1_usize..70,
        ) {
            let mut wire = Vec::new();
            for reply in &replies {
                encode(reply, &mut wire);
            }
            let (mut found, mut held, mut scanner) = (Vec::new(), Vec::new(), ReplyScanner::default());
            for mut piece in wire.chunks(chunk) {
                while !piece.is_empty() {
                    let (taken, ended) = scanner.push(piece).unwrap();
                    held.extend_from_slice(&piece[..taken]);
                    piece = &piece[taken..];
                    if ended {
                        found.push(parse(&std::mem::take(&mut held).into()).unwrap());
                    }
                }
            }
            prop_assert!(held.is_empty());
            prop_assert_eq!(found, replies);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ReplyScanner::default().push(&bytes);
            let _ = parse(&bytes.into());
        }
    }

    #[test]
    fn hostile_lengths_are_errors_or_wait_for_bytes_without_taking_memory() {
        for bad in [
            "$-2\r\n",
            "*-2\r\n",
            "$x\r\n",
            "$99999999999999999999\r\n",
            "!\r\n",
            "$1111111111111111111111111111111111\r\n",
        ] {
            assert!(ReplyScanner::default().push(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(ReplyScanner::default().push(&b"*1\r\n".repeat(100)).is_err());
        assert_eq!(ReplyScanner::default().push(b"*9223372036854775807\r\n"), Ok((22, false)));
        assert!(parse(&Bytes::from_static(b"*9223372036854775807\r\n:1\r\n")).is_err());
        assert!(parse(&Bytes::from_static(b"$9223372036854775807\r\n")).is_err());
        let many = |count: usize| Bytes::from([format!("*{count}\r\n").into_bytes(), b":1\r\n".repeat(count)].concat());
        assert!(parse(&many(MAX_VALUES - 1)).is_ok());
        assert_eq!(parse(&many(MAX_VALUES)).unwrap_err().0, "more than 200000 values in a reply");
    }
}
