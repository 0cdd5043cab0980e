//! Finds the boundaries of commands in a stream that comes in any chunks, holding no more than a command's first bytes.

use super::RespError;

/// More arguments than this in one command are damage: Redis itself takes at most 1024 * 1024 from clients and
/// `i32::MAX` in an AOF.
pub const MAX_COMMAND_ARGUMENTS: u64 = i32::MAX as u64;
/// Redis' hardest limit for one string, in bytes.
const MAX_BULK: u64 = 1 << 42;
/// Bytes kept of each of the first arguments; longer ones are cut.
const KEPT: usize = 256;
/// How many arguments are kept.
const KEPT_ARGUMENTS: usize = 3;
/// Longest line that starts an element; an annotation may be as long as Redis writes them.
const MAX_LINE: usize = 1024;

/// What the scanner found.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned<'bytes> {
    /// A whole command.
    Command {
        /// Offset of its first byte in the stream.
        start: u64,
        /// Offset behind its last byte.
        end: u64,
        /// Its name in upper case, cut after 256 bytes.
        name: &'bytes [u8],
        /// What follows the name: the first two arguments, each cut after 256 bytes.
        arguments: &'bytes [Vec<u8>],
        /// How many arguments it has, its name included.
        count: u64,
    },
    /// A line `#…` of an append-only file, without its `#` and line end.
    Annotation {
        /// Offset of the `#`.
        start: u64,
        /// Offset behind the line end.
        end: u64,
        /// What stands there, e.g. `TS:1700000000`.
        text: &'bytes [u8],
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A line is being collected: at a boundary, or the length of an argument.
    Line,
    /// This much of an argument is missing.
    Bulk(u64),
    /// The `\r\n` behind an argument; how many of its bytes are missing.
    Tail(u8),
}

/// The scanner: [`CommandScanner::push`] every chunk, then [`CommandScanner::finish`].
#[derive(Debug)]
pub struct CommandScanner {
    state: State,
    line: Vec<u8>,
    offset: u64,
    start: u64,
    missing: u64,
    count: u64,
    kept: Vec<Vec<u8>>,
}

impl CommandScanner {
    /// A scanner for a stream whose first byte has this offset.
    pub fn new(offset: u64) -> Self {
        Self { state: State::Line, line: Vec::new(), offset, start: offset, missing: 0, count: 0, kept: Vec::new() }
    }

    /// Offset behind the last whole command.
    pub fn boundary(&self) -> u64 {
        self.start
    }

    /// Whether the stream may end here.
    pub fn at_boundary(&self) -> bool {
        self.start == self.offset
    }

    /// Takes the next bytes and hands each command that ends in them to `found`.
    pub fn push<E: From<RespError>>(
        &mut self,
        mut chunk: &[u8],
        mut found: impl FnMut(Scanned<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !chunk.is_empty() {
            match self.state {
                State::Bulk(missing) => {
                    let taken = usize::try_from(missing).map_or(chunk.len(), |missing| missing.min(chunk.len()));
                    let (bytes, rest) = chunk.split_at(taken);
                    self.keep(bytes);
                    self.offset += taken as u64;
                    let missing = missing - taken as u64;
                    self.state = if missing == 0 { State::Tail(2) } else { State::Bulk(missing) };
                    chunk = rest;
                }
                State::Tail(missing) => {
                    if chunk[0] != [b'\n', b'\r'][usize::from(missing) - 1] {
                        return Err(self.fail("an argument that does not end where its length says").into());
                    }
                    self.offset += 1;
                    chunk = &chunk[1..];
                    self.state = if missing == 2 { State::Tail(1) } else { State::Line };
                    if missing == 1 && self.missing == 0 {
                        self.end_command(&mut found)?;
                    }
                }
                State::Line => {
                    let end = chunk.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
                    let taken = end.map_or(chunk.len().min(MAX_LINE), |end| end + 1);
                    if self.line.len() + taken > MAX_LINE {
                        return Err(self.fail("a line that is too long").into());
                    }
                    self.line.extend_from_slice(&chunk[..taken]);
                    self.offset += taken as u64;
                    chunk = &chunk[taken..];
                    // A line that cannot be one is an error where it starts, not when it ends.
                    let expected: &[u8] = if self.missing > 0 { b"$" } else { b"*#" };
                    if !expected.contains(&self.line[0]) {
                        return Err(self.line_fault("no command or argument where one must start").into());
                    }
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.end_line(&line, &mut found)?;
                        self.line = line;
                        self.line.clear();
                    }
                }
            }
        }
        Ok(())
    }

    /// The end of the stream: an error inside a command.
    pub fn finish(&self) -> Result<(), RespError> {
        if self.at_boundary() {
            return Ok(());
        }
        Err(RespError {
            offset: self.offset,
            reason: format!("the stream ends inside the command that starts at byte {}", self.start),
        })
    }

    fn fail(&self, reason: &str) -> RespError {
        RespError { offset: self.offset, reason: reason.to_owned() }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.count - self.missing <= KEPT_ARGUMENTS as u64
            && let Some(argument) = self.kept.last_mut()
        {
            let room = KEPT - argument.len().min(KEPT);
            argument.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// An error at the start of the line that is being read.
    fn line_fault(&self, reason: &str) -> RespError {
        RespError { offset: self.offset - self.line.len() as u64, reason: reason.to_owned() }
    }

    fn end_line<E: From<RespError>>(
        &mut self,
        line: &[u8],
        found: &mut impl FnMut(Scanned<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let fault = |reason: &str| RespError { offset: self.offset - line.len() as u64, reason: reason.to_owned() };
        if line[0] == b'#' {
            let start = std::mem::replace(&mut self.start, self.offset);
            let text = line[1..].trim_ascii_end();
            return found(Scanned::Annotation { start, end: self.offset, text });
        }
        let number = line[1..].strip_suffix(b"\r\n").and_then(parse_number);
        if self.missing == 0 {
            let count = number.filter(|count| (1..=MAX_COMMAND_ARGUMENTS).contains(count));
            self.count = count.ok_or_else(|| fault("a command whose count of arguments is none"))?;
            self.missing = self.count;
            self.kept.clear();
        } else {
            let length = number.filter(|length| *length <= MAX_BULK);
            let length = length.ok_or_else(|| fault("an argument whose length is none"))?;
            self.missing -= 1;
            if self.kept.len() < KEPT_ARGUMENTS {
                self.kept.push(Vec::new());
            }
            self.state = if length == 0 { State::Tail(2) } else { State::Bulk(length) };
        }
        Ok(())
    }

    fn end_command<E: From<RespError>>(
        &mut self,
        found: &mut impl FnMut(Scanned<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = std::mem::replace(&mut self.start, self.offset);
        let Some((name, arguments)) = self.kept.split_first_mut() else { return Ok(()) };
        name.make_ascii_uppercase();
        found(Scanned::Command { start, end: self.offset, name, arguments, count: self.count })
    }
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::command;

    type Found = (String, u64, u64, u64);

    fn scan(stream: &[u8], chunk: usize) -> Result<Vec<Found>, RespError> {
        let mut found = Vec::new();
        let mut scanner = CommandScanner::new(0);
        for chunk in stream.chunks(chunk.max(1)) {
            scanner.push::<RespError>(chunk, |scanned| {
                found.push(match scanned {
                    Scanned::Command { start, end, name, count, .. } => {
                        (String::from_utf8_lossy(name).into_owned(), start, end, count)
                    }
                    Scanned::Annotation { start, end, text } => {
                        (format!("#{}", String::from_utf8_lossy(text)), start, end, 0)
                    }
                });
                Ok(())
            })?;
        }
        scanner.finish()?;
        Ok(found)
    }

    #[test]
    fn commands_and_annotations_are_found_with_their_places() {
        let stream = b"#TS:17\r\n*1\r\n$5\r\nmulti\r\n*3\r\n$3\r\nset\r\n$0\r\n\r\n$2\r\n\r\n\r\n";
        let expected: Vec<Found> =
            vec![("#TS:17".into(), 0, 8, 0), ("MULTI".into(), 8, 23, 1), ("SET".into(), 23, 50, 3)];
        for chunk in 1..=stream.len() {
            assert_eq!(scan(stream, chunk), Ok(expected.clone()), "chunks of {chunk}");
        }
    }

    #[test]
    fn a_stream_cut_inside_a_command_is_an_error() {
        let mut stream = Vec::new();
        command(&mut stream, &[b"SET", b"key", b"value"]);
        for end in 1..stream.len() {
            assert!(scan(&stream[..end], 7).is_err(), "cut at {end}");
        }
        assert_eq!(scan(&stream, 7).map(|found| found.len()), Ok(1));
    }

    #[test]
    fn hostile_streams_are_errors_with_their_offset() {
        for (stream, offset) in [
            (&b"*1\r\n$9223372036854775808\r\n"[..], 4),
            (b"*9223372036854775807\r\n", 0),
            (b"*0\r\n", 0),
            (b"*-1\r\n", 0),
            (b"\n", 0),
            (b"*1\r\n$1\r\nab", 9),
            (b"*1\r\n*1\r\n", 4),
            (b"PING\r\n", 0),
        ] {
            for chunk in 1..=stream.len() {
                let error = scan(stream, chunk).expect_err("hostile");
                assert_eq!(error.offset, offset, "{:?}", String::from_utf8_lossy(stream));
            }
        }
        assert!(scan(&[b'*'; 5000], 100).is_err());
    }

    proptest! {
        #[test]
        fn any_chunking_finds_the_same_commands(
            commands in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..5), 0..8),
            chunk in 1_usize..64,
        ) {
            let mut stream = Vec::new();
            let mut ends = Vec::new();
            for arguments in &commands {
                let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                command(&mut stream, &arguments);
                ends.push(stream.len() as u64);
            }
            let found = scan(&stream, chunk).expect("whole commands");
            prop_assert_eq!(found.iter().map(|found| found.2).collect::<Vec<_>>(), ends);
        }
    }
}
