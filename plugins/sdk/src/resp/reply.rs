//! Replies (RESP2), read whole: the host bounds them at 1 MiB for one command.

use super::RespError;

/// How deep arrays may nest in a reply.
const MAX_DEPTH: usize = 16;

/// One reply of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR …`, in a pipeline.
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3`; none is the null reply.
    Bulk(Option<Vec<u8>>),
    /// `*2`; a null array is empty.
    Array(Vec<Reply>),
}

impl Reply {
    /// Reads one reply that takes up all the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, RespError> {
        let (reply, used) = Self::parse_first(bytes)?;
        if used == bytes.len() { Ok(reply) } else { Err(fail(used, "bytes after the reply")) }
    }

    /// Reads the first reply and returns how many bytes it took.
    pub fn parse_first(bytes: &[u8]) -> Result<(Self, usize), RespError> {
        let mut at = 0;
        let reply = parse_at(bytes, &mut at, 0)?;
        Ok((reply, at))
    }

    /// The text of a bulk or simple reply, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(Some(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number of an integer reply, or of a text that is one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            other => other.text()?.parse().ok(),
        }
    }

    /// The elements of an array, else none.
    pub fn elements(&self) -> &[Reply] {
        match self {
            Self::Array(elements) => elements,
            _ => &[],
        }
    }
}

fn fail(offset: usize, reason: &str) -> RespError {
    RespError { offset: offset as u64, reason: reason.to_owned() }
}

fn parse_at(bytes: &[u8], at: &mut usize, depth: usize) -> Result<Reply, RespError> {
    let start = *at;
    if depth > MAX_DEPTH {
        return Err(fail(start, "a reply nested too deep"));
    }
    let rest = bytes.get(start..).unwrap_or_default();
    let line_length =
        rest.windows(2).position(|pair| pair == b"\r\n").ok_or_else(|| fail(start, "a reply cut short"))?;
    let (mark, line) = rest[..line_length].split_first().ok_or_else(|| fail(start, "an empty reply"))?;
    *at = start + line_length + 2;
    let text = || String::from_utf8_lossy(line).into_owned();
    let number = || {
        std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.parse::<i64>().ok())
            .ok_or_else(|| fail(start + 1, "no number where one must be"))
    };
    match mark {
        b'+' => Ok(Reply::Simple(text())),
        b'-' => Ok(Reply::Error(text())),
        b':' => Ok(Reply::Integer(number()?)),
        b'$' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Bulk(None)) };
            let end = at.checked_add(length).filter(|end| bytes.get(*end..*end + 2) == Some(b"\r\n"));
            let end = end.ok_or_else(|| fail(start, "a bulk reply cut short"))?;
            let bulk = bytes[*at..end].to_vec();
            *at = end + 2;
            Ok(Reply::Bulk(Some(bulk)))
        }
        b'*' => {
            // Elements are pushed one by one: a hostile count allocates nothing.
            let mut elements = Vec::new();
            for _ in 0..number()?.max(0) {
                elements.push(parse_at(bytes, at, depth + 1)?);
            }
            Ok(Reply::Array(elements))
        }
        _ => Err(fail(start, "an unknown kind of reply")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_kind_are_read() {
        let bytes = b"*5\r\n+OK\r\n-ERR no\r\n:-7\r\n$2\r\n\r\n\r\n$-1\r\n";
        let expected = vec![
            Reply::Simple("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-7),
            Reply::Bulk(Some(b"\r\n".to_vec())),
            Reply::Bulk(None),
        ];
        assert_eq!(Reply::parse(bytes), Ok(Reply::Array(expected)));
    }

    #[test]
    fn hostile_replies_are_errors_and_allocate_nothing() {
        for bytes in [
            &b"$9223372036854775807\r\nx\r\n"[..],
            b"*9223372036854775807\r\n",
            b"",
            b"+OK",
            b"?\r\n",
            b":x\r\n",
            b"+a\r\n+b\r\n",
            b"\r\n",
        ] {
            assert!(Reply::parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(Reply::parse(&b"*1\r\n".repeat(1000)).is_err());
    }
}
