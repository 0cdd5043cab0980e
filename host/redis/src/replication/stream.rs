//! The command stream after the snapshot, sans-IO: passes commands on as they came, counts offsets exactly, drops what
//! is no data (`PING`, `REPLCONF`, `PUBLISH`, `SPUBLISH`, `CLUSTER`) and ends only between commands and outside transactions.
//!
//! Runs of commands are passed on as slices of the input; a command longer than 1 MiB streams through unheld.

use bytes::{Bytes, BytesMut};

use super::absolute;
use crate::command_scanner::{CommandScanner, HOLD, LargeCommand, Scan};
use crate::resp::{RespError, encode_command};

/// The most bytes of one step.
const RUN: usize = 256 << 10;

/// What a step gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commands, or a piece of a large one; never empty.
    Data(Bytes),
    /// More bytes of the link are needed.
    Need,
    /// The end that was asked for: between commands, outside a transaction.
    Boundary,
}

/// Where to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// At the first boundary at or after this offset.
    pub until: Option<u64>,
    /// At the first boundary.
    pub now: bool,
}

enum Fate {
    Pass,
    Drop,
    Rewrite(Bytes),
}

struct Large {
    command: LargeCommand,
    drop: bool,
}

/// Decodes one link's commands.
pub struct CommandStream {
    buffer: BytesMut,
    scanner: CommandScanner,
    large: Option<Large>,
    offset: u64,
    in_transaction: bool,
    acknowledgements_asked: u64,
    now_ms: u64,
    follow_up: Option<Bytes>,
}

impl CommandStream {
    /// A stream whose first byte has the offset `offset + 1`.
    pub fn new(offset: u64) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanner: CommandScanner::default(),
            large: None,
            offset,
            in_transaction: false,
            acknowledgements_asked: 0,
            now_ms: 0,
            follow_up: None,
        }
    }

    /// The offset after the last command given out or dropped.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How often the server asked for an acknowledgement.
    pub fn acknowledgements_asked(&self) -> u64 {
        self.acknowledgements_asked
    }

    /// Takes bytes of the link, and when they arrived (milliseconds since the epoch).
    pub fn push(&mut self, data: Bytes, now_ms: u64) {
        self.now_ms = now_ms;
        if self.buffer.is_empty() {
            // Alone, its memory can be taken over without copying.
            self.buffer = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        } else {
            self.buffer.extend_from_slice(&data);
        }
    }

    /// The next piece.
    ///
    /// # Errors
    /// What is not a stream of commands, or a large command whose relative time cannot be put right.
    pub fn step(&mut self, end: End) -> Result<Step, RespError> {
        loop {
            if let Some(bytes) = self.follow_up.take() {
                return Ok(Step::Data(bytes));
            }
            let step = if self.large.is_some() { self.large_step()? } else { self.run(end)? };
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    /// A piece of the large command under way; `None`: go on.
    fn large_step(&mut self) -> Result<Option<Step>, RespError> {
        let Some(large) = &mut self.large else { return Ok(None) };
        if self.buffer.is_empty() {
            return Ok(Some(Step::Need));
        }
        let window = self.buffer.get(..self.buffer.len().min(RUN)).unwrap_or_default();
        let (taken, ended) = large.command.push(window)?;
        let piece = self.buffer.split_to(taken).freeze();
        let drop = large.drop;
        if ended && let Some(large) = self.large.take() {
            self.offset += large.command.length();
            if !drop {
                self.follow_up = self.put_right(&large.command)?;
            }
        }
        Ok(if drop { None } else { Some(Step::Data(piece)) })
    }

    /// A run of whole commands; `None`: go on.
    fn run(&mut self, end: End) -> Result<Option<Step>, RespError> {
        let mut position = 0;
        let stop = loop {
            if position >= RUN {
                break Step::Need;
            }
            if !self.in_transaction && (end.now || end.until.is_some_and(|until| self.offset >= until)) {
                break Step::Boundary;
            }
            let rest = self.buffer.get(position..).unwrap_or_default();
            if rest.first() == Some(&b'\n') {
                // A keep-alive, written past the backlog: it has no place in the offset.
                if position == 0 {
                    let _ = self.buffer.split_to(1);
                    continue;
                }
                break Step::Need;
            }
            match self.scanner.scan(rest)? {
                Scan::Incomplete if position == 0 && rest.len() >= HOLD => {
                    let name = self.scanner.argument(rest, 0);
                    let name = name.ok_or_else(|| RespError("a command name longer than 1 MiB".to_owned()))?;
                    self.large = Some(Large { command: LargeCommand::new(), drop: is_dropped(name) });
                    return Ok(None);
                }
                Scan::Incomplete => break Step::Need,
                Scan::Complete(length) => match self.fate(position) {
                    Fate::Pass => {
                        position += length;
                        self.offset += length as u64;
                    }
                    _ if position > 0 => break Step::Need,
                    fate => {
                        let _ = self.buffer.split_to(length);
                        self.offset += length as u64;
                        if let Fate::Rewrite(bytes) = fate {
                            return Ok(Some(Step::Data(bytes)));
                        }
                    }
                },
            }
        };
        Ok(Some(if position > 0 { Step::Data(self.buffer.split_to(position).freeze()) } else { stop }))
    }

    /// What becomes of the command just scanned at `position`.
    fn fate(&mut self, position: usize) -> Fate {
        let rest = self.buffer.get(position..).unwrap_or_default();
        let name = self.scanner.argument(rest, 0).unwrap_or_default();
        if is_dropped(name) {
            if position == 0 && name.eq_ignore_ascii_case(b"REPLCONF") {
                self.acknowledgements_asked += 1;
            }
            return Fate::Drop;
        }
        if absolute::may_be_relative(name)
            && let Some(arguments) = self.scanner.arguments(rest)
            && let Some(command) = absolute::rewrite(&arguments, self.now_ms)
        {
            let mut bytes = BytesMut::new();
            encode_command(&command, &mut bytes);
            return Fate::Rewrite(bytes.freeze());
        }
        if name.eq_ignore_ascii_case(b"MULTI") {
            self.in_transaction = true;
        } else if name.eq_ignore_ascii_case(b"EXEC") || name.eq_ignore_ascii_case(b"DISCARD") {
            self.in_transaction = false;
        }
        Fate::Pass
    }

    /// A command after a large one that carried a relative time.
    fn put_right(&self, command: &LargeCommand) -> Result<Option<Bytes>, RespError> {
        let time = absolute::time_of_large(|index| command.kept(index), command.arguments_seen(), self.now_ms);
        let Some(time) = time else { return Ok(None) };
        let key = command.kept(1).ok_or_else(|| RespError("a key longer than 1 MiB with a time to live".to_owned()))?;
        let mut bytes = BytesMut::new();
        encode_command(&[b"PEXPIREAT", key, time.to_string().as_bytes()], &mut bytes);
        Ok(Some(bytes.freeze()))
    }
}

fn is_dropped(name: &[u8]) -> bool {
    // `CLUSTER SETSLOT` goes from a Valkey primary to its replicas while slots move, and into no append-only file.
    [b"PING".as_slice(), b"REPLCONF", b"PUBLISH", b"SPUBLISH", b"CLUSTER"]
        .iter()
        .any(|dropped| name.eq_ignore_ascii_case(dropped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(commands: &[&str]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for command in commands {
            encode_command(&command.split(' ').collect::<Vec<_>>(), &mut out);
        }
        out.to_vec()
    }

    /// Everything up to the end, fed in chunks.
    fn read(stream: &mut CommandStream, bytes: &[u8], chunk: usize, end: End) -> (Vec<u8>, bool) {
        let (mut out, mut chunks) = (Vec::new(), bytes.chunks(chunk));
        loop {
            match stream.step(end).unwrap() {
                Step::Data(data) => {
                    assert!(!data.is_empty());
                    out.extend_from_slice(&data);
                }
                Step::Need => match chunks.next() {
                    Some(piece) => stream.push(Bytes::copy_from_slice(piece), 1000),
                    None => return (out, false),
                },
                Step::Boundary => {
                    // What was not fed yet belongs to the next call.
                    for piece in chunks {
                        stream.push(Bytes::copy_from_slice(piece), 1000);
                    }
                    return (out, true);
                }
            }
        }
    }

    const MIXED: [&str; 18] = [
        "ping",
        "SELECT 3",
        "SET a 1",
        "MULTI",
        "SET b 2 PX 500",
        "PUBLISH c hello",
        "EXPIRE a 5",
        "EXEC",
        "PING",
        "REPLCONF GETACK *",
        "LPUSH l x y z",
        "SPUBLISH c hello",
        "multi",
        "DEL a",
        "exec",
        "PiNg",
        "SET a 2",
        "CLUSTER SETSLOT 7 STABLE",
    ];
    const MIXED_KEPT: [&str; 13] = [
        "SELECT 3",
        "SET a 1",
        "MULTI",
        "SET b 2 PXAT 1500",
        "PEXPIREAT a 6000",
        "EXEC",
        "LPUSH l x y z",
        "multi",
        "DEL a",
        "exec",
        "SET a 2",
        "",
        "",
    ];

    fn kept() -> Vec<u8> {
        wire(&MIXED_KEPT.into_iter().filter(|command| !command.is_empty()).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn what_is_no_data_is_dropped_and_all_bytes_are_counted(chunk in 1_usize..200) {
            let bytes = wire(&MIXED);
            let mut stream = CommandStream::new(1000);
            let (out, ended) = read(&mut stream, &bytes, chunk, End::default());
            prop_assert!(!ended);
            prop_assert_eq!(out, kept());
            prop_assert_eq!(stream.offset(), 1000 + bytes.len() as u64);
            prop_assert_eq!(stream.acknowledgements_asked(), 1);
        }

        #[test]
        fn an_end_lies_between_commands_and_outside_transactions(chunk in 1_usize..200, cut in 0_usize..400) {
            let bytes = wire(&MIXED);
            let mut stream = CommandStream::new(0);
            let until = cut as u64;
            let (first, ended) = read(&mut stream, &bytes, chunk, End { until: Some(until), now: false });
            prop_assert_eq!(ended, until <= bytes.len() as u64);
            if ended {
                prop_assert!(stream.offset() >= until);
                let count = |name: &str| String::from_utf8_lossy(&first).to_ascii_uppercase().matches(name).count();
                prop_assert_eq!(count("MULTI"), count("EXEC"));
                // Not later than needed: the boundary is the first one.
                let mut boundaries = vec![0];
                let (mut position, mut open) = (0, false);
                for command in MIXED {
                    position += wire(&[command]).len() as u64;
                    open = command.eq_ignore_ascii_case("multi") || (open && !command.eq_ignore_ascii_case("exec"));
                    if !open { boundaries.push(position); }
                }
                let wanted = boundaries.into_iter().find(|boundary| *boundary >= until).unwrap();
                prop_assert_eq!(stream.offset(), wanted);
            }
            let (second, _) = read(&mut stream, &[], 1, End::default());
            prop_assert_eq!([first, second].concat(), kept());
        }

        #[test]
        fn a_large_command_streams_through_at_any_chunking(chunk in 10_000_usize..600_000, px in any::<bool>()) {
            let value = "v".repeat(HOLD + 70_000);
            let set = if px { format!("SET k {value} PX 10") } else { format!("SET k {value} PXAT 10") };
            let bytes = wire(&["SET a 1", &set, &format!("PUBLISH c {value}"), "PING", "SET b 2"]);
            let mut stream = CommandStream::new(0);
            let (out, _) = read(&mut stream, &bytes, chunk, End::default());
            let mut wanted = wire(&["SET a 1", &set]);
            if px { wanted.extend(wire(&["PEXPIREAT k 1010"])); }
            wanted.extend(wire(&["SET b 2"]));
            // A chunk may bring the whole of it before it is found too large: then it is rewritten as small ones are.
            let whole = wire(&["SET a 1", &set.replace("PX 10", "PXAT 1010"), "SET b 2"]);
            prop_assert!(out == wanted || (px && out == whole));
            prop_assert_eq!(stream.offset(), bytes.len() as u64);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut stream = CommandStream::new(0);
            stream.push(bytes.into(), 0);
            while let Ok(Step::Data(_)) = stream.step(End::default()) {}
        }
    }

    #[test]
    fn the_end_of_time_comes_without_traffic_but_not_inside_a_transaction() {
        let now = End { until: None, now: true };
        let mut stream = CommandStream::new(5);
        assert_eq!(stream.step(now), Ok(Step::Boundary));
        stream.push(wire(&["MULTI", "SET a 1"]).into(), 0);
        // A cut that is due is due before the transaction begins...
        assert_eq!(stream.step(now), Ok(Step::Boundary));
        // ...and once it has been given out, only after it.
        assert!(matches!(stream.step(End::default()), Ok(Step::Data(_))));
        assert_eq!(stream.step(now), Ok(Step::Need));
        stream.push(wire(&["EXEC", "SET b 2"]).into(), 0);
        assert_eq!(stream.step(now), Ok(Step::Data(wire(&["EXEC"]).into())));
        assert_eq!(stream.step(now), Ok(Step::Boundary));
    }

    #[test]
    fn keep_alive_newlines_are_dropped_and_not_counted() {
        let mut stream = CommandStream::new(0);
        let bytes = [b"\n\n".as_slice(), &wire(&["SET a 1"]), b"\n", &wire(&["SET b 2"])].concat();
        let (out, _) = read(&mut stream, &bytes, 7, End::default());
        assert_eq!(out, wire(&["SET a 1", "SET b 2"]));
        assert_eq!(stream.offset(), out.len() as u64);
    }
}
