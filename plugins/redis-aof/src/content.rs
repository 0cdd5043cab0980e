//! What one append-only file holds: perhaps an RDB preamble, then commands. Every byte that is captured, verified, inspected or
//! restored passes through here, so that nothing is stored or placed that was not understood.

use std::collections::BTreeMap;

use redkeep_sdk::{Error, Facts};

use crate::clock;
use crate::scanner::{Event, Scanner, annotation_time_ms};
use crate::snapshot::{Snapshot, Wanted};

/// More distinct command names than any server has are counted together.
const MAXIMUM_NAMES: usize = 1024;
/// Under this name.
const OTHER_NAMES: &str = "(other)";
/// How an RDB file begins, by server (Valkey 9 writes the second).
const MAGICS: [&[u8]; 2] = [b"REDIS", b"VALKEY"];

/// Commands that no server writes to an append-only file. A server that loads one runs any of them: these load code, reach
/// other hosts, write files or stop it.
const FORBIDDEN: [&str; 18] = [
    "MODULE",
    "SLAVEOF",
    "REPLICAOF",
    "DEBUG",
    "CONFIG",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "SHUTDOWN",
    "MIGRATE",
    "CLUSTER",
    "ACL",
    "FAILOVER",
    "PSYNC",
    "SYNC",
    "MONITOR",
    "LATENCY",
    "CLIENT",
];

/// What the command parts of one or several files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Whole commands, `SELECT`, `MULTI` and `EXEC` among them.
    pub(crate) commands: u64,
    /// Commands by their name in upper case.
    pub(crate) by_name: BTreeMap<String, u64>,
    /// `#` lines.
    pub(crate) annotations: u64,
    /// Times of the first and the last `#TS:` line, milliseconds since the epoch.
    pub(crate) times_ms: Option<(u64, u64)>,
}

impl Tally {
    /// Counts what ended; an error for a [forbidden](FORBIDDEN) command.
    fn count(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Command { name, start, .. } => {
                self.commands += 1;
                self.count_name(name).map_err(|name| {
                    format!("a command that no server writes to an append-only file: {name} at byte {start}")
                })?;
            }
            Event::Annotation { text, .. } => {
                self.annotations += 1;
                if let Some(time) = annotation_time_ms(text) {
                    let first = self.times_ms.map_or(time, |(first, _)| first);
                    self.times_ms = Some((first, time));
                }
            }
        }
        Ok(())
    }

    fn count_name(&mut self, name: &[u8]) -> Result<(), String> {
        // Looked up as written first: a stream uses one spelling, and a look-up allocates nothing.
        if let Some(count) = std::str::from_utf8(name).ok().and_then(|name| self.by_name.get_mut(name)) {
            *count += 1;
            return Ok(());
        }
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        if FORBIDDEN.contains(&name.as_str()) {
            return Err(name);
        }
        let known = self.by_name.contains_key(&name) || self.by_name.len() < MAXIMUM_NAMES;
        *self.by_name.entry(if known { name } else { OTHER_NAMES.to_owned() }).or_default() += 1;
        Ok(())
    }

    /// Adds what another file holds, which follows this one.
    pub(crate) fn join(&mut self, other: &Self) {
        self.commands += other.commands;
        self.annotations += other.annotations;
        for (name, count) in &other.by_name {
            *self.by_name.entry(name.clone()).or_default() += count;
        }
        self.times_ms = match (self.times_ms, other.times_ms) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (mine, theirs) => mine.or(theirs),
        };
    }

    /// `commands`, and the times where annotations tell them.
    pub(crate) fn facts(&self, facts: &mut Facts) {
        facts.set("commands", self.commands);
        if let Some((first, last)) = self.times_ms {
            facts.set("first-time", clock::rfc3339(first)).set("last-time", clock::rfc3339(last));
        }
    }
}

enum Stage<'run> {
    /// Too few bytes to know what begins here.
    Start,
    Snapshot(Box<Snapshot<'run>>),
    Commands,
}

/// The reader of one file. Push chunks in order, then [`Content::finish`].
pub(crate) struct Content<'run> {
    /// For messages.
    name: String,
    wanted: Wanted<'run>,
    stage: Stage<'run>,
    start: Vec<u8>,
    snapshot: Option<Box<Snapshot<'run>>>,
    scanner: Scanner,
    tally: Tally,
    position: u64,
    preamble_end: u64,
}

impl<'run> Content<'run> {
    /// `name` is the file's name for messages.
    pub(crate) fn new(name: &str) -> Self {
        Self::wanting(name, Wanted::Facts)
    }

    /// The same, with more of the snapshot than its facts.
    pub(crate) fn wanting(name: &str, wanted: Wanted<'run>) -> Self {
        Self {
            name: name.to_owned(),
            wanted,
            stage: Stage::Start,
            start: Vec::new(),
            snapshot: None,
            scanner: Scanner::default(),
            tally: Tally::default(),
            position: 0,
            preamble_end: 0,
        }
    }

    /// Whether the words of commands are wanted, by [`Scanner::words`].
    pub(crate) fn keeping_words(mut self, wanted: bool) -> Self {
        self.scanner = self.scanner.keeping_words(wanted);
        self
    }

    /// Takes the next bytes.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.push_observed(chunk, |_, _| {})
    }

    /// Takes the next bytes, and shows every command and annotation that ended in them.
    pub(crate) fn push_observed(
        &mut self,
        chunk: &[u8],
        mut observe: impl FnMut(&Scanner, &Event<'_>),
    ) -> Result<(), Error> {
        let mut rest = chunk;
        while !rest.is_empty() {
            match &mut self.stage {
                Stage::Start => {
                    // One byte decides: an RDB magic begins with a letter, commands with `*` or `#`.
                    let begins_snapshot = matches!(rest.first(), Some(b'R' | b'V'));
                    self.stage = if begins_snapshot {
                        Stage::Snapshot(Box::new(Snapshot::new(std::mem::take(&mut self.wanted))))
                    } else {
                        Stage::Commands
                    };
                }
                Stage::Snapshot(snapshot) => {
                    if self.start.len() < 6 {
                        self.start.extend(rest.iter().take(6 - self.start.len()));
                        let known = MAGICS
                            .iter()
                            .any(|magic| self.start.starts_with(magic) || magic.starts_with(self.start.as_slice()));
                        if !known {
                            return Err(fault(&self.name, "neither an RDB preamble nor a command at byte 0"));
                        }
                    }
                    let used =
                        snapshot.push(rest).map_err(|error| error.during(&format!("failed to read {}", self.name)))?;
                    self.position += used as u64;
                    rest = rest.get(used..).unwrap_or_default();
                    if snapshot.is_ended() {
                        self.preamble_end = self.position;
                        let wanted = self.scanner.words().is_some();
                        self.scanner = Scanner::starting_at(self.position).keeping_words(wanted);
                        if let Stage::Snapshot(snapshot) = std::mem::replace(&mut self.stage, Stage::Commands) {
                            self.snapshot = Some(snapshot);
                        }
                    }
                }
                Stage::Commands => {
                    let tally = &mut self.tally;
                    let mut counted = Ok(());
                    self.scanner
                        .push(rest, |scanner, event| {
                            if counted.is_ok() {
                                counted = tally.count(&event);
                                observe(scanner, &event);
                            }
                        })
                        .map_err(|error| fault(&self.name, &error.to_string()))?;
                    counted.map_err(|problem| fault(&self.name, &problem))?;
                    self.position += rest.len() as u64;
                    rest = &[];
                }
            }
        }
        Ok(())
    }

    /// The file ended: an error inside the preamble, a command or a transaction.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        match &self.stage {
            Stage::Start => Ok(()),
            Stage::Snapshot(_) => {
                Err(fault(&self.name, &format!("the end inside the RDB preamble at byte {}", self.position)))
            }
            Stage::Commands => self.scanner.finish().map_err(|error| fault(&self.name, &error.to_string())),
        }
    }

    /// Bytes pushed.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the next byte begins or goes on with commands (an empty file too).
    pub(crate) fn is_in_commands(&self) -> bool {
        !matches!(self.stage, Stage::Snapshot(_))
    }

    /// Whether the file may end here.
    pub(crate) fn is_at_safe_position(&self) -> bool {
        matches!(self.stage, Stage::Commands) && self.scanner.is_at_safe_position()
    }

    /// The last position at which the file may end; an error inside the preamble.
    pub(crate) fn safe_position(&self) -> Result<u64, Error> {
        match self.stage {
            Stage::Snapshot(_) => self.finish().map(|()| 0),
            Stage::Start => Ok(0),
            Stage::Commands => Ok(self.scanner.safe_position()),
        }
    }

    /// Where the annotation began that has not ended yet.
    pub(crate) fn open_annotation(&self) -> Option<u64> {
        self.scanner.open_annotation()
    }

    /// Where the preamble ends; 0 where there is none.
    pub(crate) fn preamble_end(&self) -> u64 {
        self.preamble_end
    }

    /// The preamble, once it was read whole.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot<'run>> {
        self.snapshot.as_deref()
    }

    /// The preamble, taken.
    pub(crate) fn into_snapshot(self) -> Option<Snapshot<'run>> {
        self.snapshot.map(|snapshot| *snapshot)
    }

    /// What the commands were.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Keys of the preamble so far, for progress.
    pub(crate) fn keys(&self) -> u64 {
        match &self.stage {
            Stage::Snapshot(snapshot) => snapshot.keys(),
            _ => self.snapshot.as_ref().map_or(0, |snapshot| snapshot.keys()),
        }
    }
}

fn fault(name: &str, problem: &str) -> Error {
    Error::damaged(format!("failed to read {name}: {problem}"))
}
