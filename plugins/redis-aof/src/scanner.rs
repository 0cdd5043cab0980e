//! Finds command boundaries in the command part of an append-only file, whatever the chunks are.
//!
//! Nothing is held but a command's name, and the starts of its first words where they are wanted: arguments are skipped by their
//! length, so a value of any size costs no memory.
//! Follows `loadSingleAppendOnlyFile` of Redis, but takes only what a server writes: `*N`, `$N`, CR LF, and `#` lines.

use std::fmt;

use crate::words::Words;

/// More bytes of a command's name are not kept. The longest name of Redis 8.2 has 20.
const NAME_CAPACITY: usize = 64;
/// `AOF_ANNOTATION_LINE_MAX_LEN` of Redis.
const ANNOTATION_CAPACITY: usize = 1024;
/// Arguments of one command; the server keeps the count in an `int`.
const MAXIMUM_ARGUMENTS: u64 = i32::MAX as u64;
/// One argument; a string of more than 1 TiB exists nowhere, a damaged length soon does.
const MAXIMUM_ARGUMENT_BYTES: u64 = 1 << 40;

/// What is wrong with the stream, and where (bytes from the start of the command part).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanError {
    /// Where the bytes stop making sense.
    pub(crate) position: u64,
    /// What was found, e.g. `expected "*", found 0x0a`.
    pub(crate) problem: String,
}

impl fmt::Display for ScanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at byte {}", self.problem, self.position)
    }
}

impl std::error::Error for ScanError {}

/// One whole unit of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// A command ended at `end`.
    Command {
        /// Its name as written, at most 64 bytes of it.
        name: &'a [u8],
        /// Position of its first byte.
        start: u64,
        /// Position after its last byte.
        end: u64,
    },
    /// A line `#…`, without `#` and line end. `TS:<unix seconds>` where `aof-timestamp-enabled` is on.
    Annotation {
        /// What follows the `#`.
        text: &'a [u8],
        /// Position of the `#`.
        start: u64,
        /// Position after the line end.
        end: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between commands.
    Boundary,
    /// Digits of `*N`; the flag says that CR was seen.
    ArgumentCount { value: u64, digits: u8, carriage_return: bool },
    /// The `$` of an argument.
    ArgumentStart,
    /// Digits of `$N`.
    ArgumentLength { value: u64, digits: u8, carriage_return: bool },
    /// Bytes of an argument.
    Argument { left: u64 },
    /// CR LF after an argument.
    ArgumentEnd { carriage_return: bool },
    /// After `#`.
    Annotation,
}

/// The scanner. Push chunks in order, then ask [`Scanner::finish`].
#[derive(Clone, Debug)]
pub(crate) struct Scanner {
    state: State,
    position: u64,
    command_start: u64,
    arguments_left: u64,
    first_argument: bool,
    name: Vec<u8>,
    words: Option<Words>,
    annotation: Vec<u8>,
    in_transaction: bool,
    safe_position: u64,
    transaction_start: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::starting_at(0)
    }
}

impl Scanner {
    /// A scanner whose first byte lies at `position` of the whole file (after an RDB preamble).
    pub(crate) fn starting_at(position: u64) -> Self {
        Self {
            state: State::Boundary,
            position,
            command_start: position,
            arguments_left: 0,
            first_argument: false,
            name: Vec::with_capacity(NAME_CAPACITY),
            words: None,
            annotation: Vec::new(),
            in_transaction: false,
            safe_position: position,
            transaction_start: position,
        }
    }

    /// Whether the words behind a command's name are wanted.
    pub(crate) fn keeping_words(mut self, wanted: bool) -> Self {
        self.words = wanted.then(Words::default);
        self
    }

    /// The words of the command that ended last, where they are wanted.
    pub(crate) fn words(&self) -> Option<&Words> {
        self.words.as_ref()
    }

    /// The last position at which the stream may end: after a whole command or annotation, outside a transaction.
    pub(crate) fn safe_position(&self) -> u64 {
        self.safe_position
    }

    /// Where the annotation began that has not ended yet.
    pub(crate) fn open_annotation(&self) -> Option<u64> {
        (self.state == State::Annotation).then_some(self.command_start)
    }

    /// Whether the stream may end here.
    pub(crate) fn is_at_safe_position(&self) -> bool {
        self.safe_position == self.position
    }

    /// Takes the next bytes, and hands every unit that ended in them to `visit`.
    pub(crate) fn push(&mut self, chunk: &[u8], mut visit: impl FnMut(&Self, Event<'_>)) -> Result<(), ScanError> {
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            match self.state {
                State::Argument { left } => {
                    let available = u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    let taken = left.min(available);
                    let taken_bytes = usize::try_from(taken).unwrap_or(rest.len());
                    let (bytes, remaining) = rest.split_at(taken_bytes);
                    if self.first_argument {
                        let room = NAME_CAPACITY - self.name.len();
                        self.name.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                    } else if let Some(words) = &mut self.words {
                        words.extend(bytes);
                    }
                    self.position += taken;
                    rest = remaining;
                    self.state = if taken == left {
                        State::ArgumentEnd { carriage_return: false }
                    } else {
                        State::Argument { left: left - taken }
                    };
                    continue;
                }
                State::Boundary => {
                    self.command_start = self.position;
                    match byte {
                        b'*' => {
                            self.state = State::ArgumentCount { value: 0, digits: 0, carriage_return: false };
                        }
                        b'#' => {
                            self.annotation.clear();
                            self.state = State::Annotation;
                        }
                        other => return Err(self.unexpected("the start of a command", other)),
                    }
                }
                State::ArgumentCount { value, digits, carriage_return } => {
                    if let Some(count) = self.number(byte, value, digits, carriage_return, MAXIMUM_ARGUMENTS)? {
                        if count == 0 {
                            return Err(self.error(self.command_start, "a command without arguments".to_owned()));
                        }
                        self.arguments_left = count;
                        self.first_argument = true;
                        self.name.clear();
                        self.words.iter_mut().for_each(Words::clear);
                        self.state = State::ArgumentStart;
                    }
                }
                State::ArgumentStart => {
                    if byte != b'$' {
                        return Err(self.unexpected("\"$\"", byte));
                    }
                    self.state = State::ArgumentLength { value: 0, digits: 0, carriage_return: false };
                }
                State::ArgumentLength { value, digits, carriage_return } => {
                    if let Some(length) = self.number(byte, value, digits, carriage_return, MAXIMUM_ARGUMENT_BYTES)? {
                        self.state = if length == 0 {
                            State::ArgumentEnd { carriage_return: false }
                        } else {
                            State::Argument { left: length }
                        };
                    }
                }
                State::ArgumentEnd { carriage_return: false } => {
                    if byte != b'\r' {
                        return Err(self.unexpected("the end of an argument", byte));
                    }
                    self.state = State::ArgumentEnd { carriage_return: true };
                }
                State::ArgumentEnd { carriage_return: true } => {
                    if byte != b'\n' {
                        return Err(self.unexpected("the end of an argument", byte));
                    }
                    self.position += 1;
                    rest = after;
                    if !std::mem::take(&mut self.first_argument) {
                        self.words.iter_mut().for_each(Words::end_word);
                    }
                    self.arguments_left -= 1;
                    if self.arguments_left == 0 {
                        self.end_command()?;
                        visit(self, Event::Command { name: &self.name, start: self.command_start, end: self.position });
                    } else {
                        self.state = State::ArgumentStart;
                    }
                    continue;
                }
                State::Annotation => {
                    if byte == b'\n' {
                        self.position += 1;
                        rest = after;
                        self.state = State::Boundary;
                        if !self.in_transaction {
                            self.safe_position = self.position;
                        }
                        let text = self.annotation.strip_suffix(b"\r").unwrap_or(&self.annotation);
                        visit(self, Event::Annotation { text, start: self.command_start, end: self.position });
                        continue;
                    }
                    if self.annotation.len() == ANNOTATION_CAPACITY {
                        return Err(self.error(self.command_start, "an annotation without an end".to_owned()));
                    }
                    self.annotation.push(byte);
                }
            }
            self.position += 1;
            rest = after;
        }
        Ok(())
    }

    /// The stream ended here: an error in the middle of a command or of a transaction.
    pub(crate) fn finish(&self) -> Result<(), ScanError> {
        if self.state != State::Boundary {
            return Err(self.error(
                self.position,
                format!("the end inside the command that starts at byte {}", self.command_start),
            ));
        }
        if self.in_transaction {
            return Err(self.error(
                self.position,
                format!("the end inside the transaction that starts at byte {}", self.transaction_start),
            ));
        }
        Ok(())
    }

    fn end_command(&mut self) -> Result<(), ScanError> {
        self.state = State::Boundary;
        if self.name.eq_ignore_ascii_case(b"MULTI") {
            if self.in_transaction {
                return Err(self.error(self.command_start, "MULTI inside a transaction".to_owned()));
            }
            self.in_transaction = true;
            self.transaction_start = self.command_start;
        } else if self.in_transaction && self.name.eq_ignore_ascii_case(b"EXEC") {
            self.in_transaction = false;
        }
        if !self.in_transaction {
            self.safe_position = self.position;
        }
        Ok(())
    }

    /// One byte of `N CR LF`; the number when it is whole.
    fn number(
        &mut self,
        byte: u8,
        value: u64,
        digits: u8,
        carriage_return: bool,
        maximum: u64,
    ) -> Result<Option<u64>, ScanError> {
        let (value, digits, carriage_return) = match byte {
            b'\n' if carriage_return => return Ok(Some(value)),
            b'\r' if digits > 0 && !carriage_return => (value, digits, true),
            b'0'..=b'9' if !carriage_return && digits < 20 => {
                let next = value
                    .checked_mul(10)
                    .and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
                    .filter(|&number| number <= maximum)
                    .ok_or_else(|| self.error(self.position, format!("a length above {maximum}")))?;
                (next, digits + 1, false)
            }
            other => return Err(self.unexpected("a length", other)),
        };
        self.state = match self.state {
            State::ArgumentCount { .. } => State::ArgumentCount { value, digits, carriage_return },
            _ => State::ArgumentLength { value, digits, carriage_return },
        };
        Ok(None)
    }

    fn unexpected(&self, wanted: &str, found: u8) -> ScanError {
        self.error(self.position, format!("expected {wanted}, found 0x{found:02x}"))
    }

    #[expect(clippy::unused_self, reason = "reads as the scanner's own error at each place of use")]
    fn error(&self, position: u64, problem: String) -> ScanError {
        ScanError { position, problem }
    }
}

/// The time of an annotation `TS:<unix seconds>`, in milliseconds; `None` for other annotations.
pub(crate) fn annotation_time_ms(text: &[u8]) -> Option<u64> {
    let seconds = std::str::from_utf8(text.strip_prefix(b"TS:")?).ok()?;
    seconds.trim_end().parse::<u64>().ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn command(arguments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    type Seen = Vec<(Vec<u8>, u64, u64)>;

    fn scan(bytes: &[u8], chunk: usize) -> Result<(Seen, u64), ScanError> {
        let mut scanner = Scanner::default();
        let mut seen = Vec::new();
        for part in bytes.chunks(chunk) {
            scanner.push(part, |_, event| match event {
                Event::Command { name, start, end } => seen.push((name.to_vec(), start, end)),
                Event::Annotation { text, start, end } => seen.push(([b"#", text].concat(), start, end)),
            })?;
        }
        let safe = scanner.safe_position();
        scanner.finish()?;
        Ok((seen, safe))
    }

    #[rstest]
    #[case::garbage(b"hello", "expected the start of a command, found 0x68", 0)]
    #[case::bare_newline(b"*1\r\n$4\r\nPING\r\n\r\n", "expected the start of a command, found 0x0d", 14)]
    #[case::no_arguments(b"*0\r\n", "a command without arguments", 0)]
    #[case::negative(b"*-1\r\n", "expected a length, found 0x2d", 1)]
    #[case::no_digits(b"*\r\n", "expected a length, found 0x0d", 1)]
    #[case::huge_count(b"*9223372036854775808\r\n", "a length above 2147483647", 10)]
    #[case::huge_length(b"*1\r\n$9223372036854775808\r\n", "a length above 1099511627776", 17)]
    #[case::overflow(b"*1\r\n$99999999999999999999999\r\n", "a length above 1099511627776", 17)]
    #[case::not_a_bulk(b"*1\r\n:4\r\n", "expected \"$\", found 0x3a", 4)]
    #[case::wrong_length(b"*1\r\n$3\r\nPING\r\n", "expected the end of an argument, found 0x47", 11)]
    #[case::nested(b"*1\r\n$5\r\nMULTI\r\n*1\r\n$5\r\nmulti\r\n", "MULTI inside a transaction", 15)]
    #[case::cut(b"*1\r\n$4\r\nPIN", "the end inside the command that starts at byte 0", 11)]
    #[case::open_transaction(b"*1\r\n$5\r\nMULTI\r\n", "the end inside the transaction that starts at byte 0", 15)]
    #[case::annotation_cut(b"#TS:12", "the end inside the command that starts at byte 0", 6)]
    fn what_a_server_does_not_write_is_an_error_with_its_position(
        #[case] bytes: &[u8],
        #[case] problem: &str,
        #[case] position: u64,
    ) {
        for chunk in [1, 3, 4096] {
            let error = scan(bytes, chunk).unwrap_err();
            assert_eq!((error.problem.as_str(), error.position), (problem, position), "chunks of {chunk}");
        }
    }

    #[test]
    fn an_annotation_that_never_ends_is_not_held() {
        let bytes = [b"#".as_slice(), &[b'x'; 5000]].concat();
        assert_eq!(scan(&bytes, 700).unwrap_err().problem, "an annotation without an end");
    }

    #[test]
    fn a_name_of_any_length_is_kept_only_in_part() {
        let name = vec![b'n'; 100_000];
        let (seen, _) = scan(&command(&[&name, b"x"]), 977).unwrap();
        assert_eq!(seen[0].0.len(), NAME_CAPACITY);
    }

    #[test]
    fn the_safe_position_stays_before_an_open_transaction() {
        let set = command(&[b"SET", b"a", b"1"]);
        let multi = command(&[b"multi"]);
        let mut scanner = Scanner::starting_at(100);
        scanner.push(&set, |_, _| {}).unwrap();
        scanner.push(&multi, |_, _| {}).unwrap();
        scanner.push(&set, |_, _| {}).unwrap();
        assert_eq!(scanner.safe_position(), 100 + set.len() as u64);
        assert!(!scanner.is_at_safe_position());
        scanner.push(&command(&[b"exec"]), |_, _| {}).unwrap();
        assert!(scanner.is_at_safe_position());
        scanner.finish().unwrap();
    }

    #[test]
    fn timestamps_are_read_from_annotations_and_nothing_else() {
        assert_eq!(annotation_time_ms(b"TS:1700000000"), Some(1_700_000_000_000));
        assert_eq!(annotation_time_ms(b"TS:abc"), None);
        assert_eq!(annotation_time_ms(b"hello"), None);
        assert_eq!(annotation_time_ms(b"TS:99999999999999999999"), None);
    }

    proptest! {
        #[test]
        fn boundaries_are_the_same_for_any_chunking(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..5), 0..12),
            chunk in 1_usize..70,
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for arguments in &commands {
                let start = bytes.len() as u64;
                let mut arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                if arguments[0].eq_ignore_ascii_case(b"MULTI") {
                    arguments[0] = b"SET";
                }
                bytes.extend(command(&arguments));
                expected.push((arguments[0].to_vec(), start, bytes.len() as u64));
                let start = bytes.len() as u64;
                bytes.extend_from_slice(b"#TS:1\r\n");
                expected.push((b"#TS:1".to_vec(), start, bytes.len() as u64));
            }
            let (seen, safe) = scan(&bytes, chunk).unwrap();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(safe, bytes.len() as u64);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1_usize..20) {
            let _ = scan(&bytes, chunk);
        }

        #[test]
        fn a_stream_cut_anywhere_inside_is_an_error(cut in 1_usize..31) {
            let bytes = command(&[b"SET", b"key", b"value"]);
            prop_assume!(cut < bytes.len());
            prop_assert!(scan(&bytes[..cut], 7).is_err());
        }
    }
}
