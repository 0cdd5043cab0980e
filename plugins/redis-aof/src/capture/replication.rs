//! Capture by replication: the snapshot, the database that the stream begins in, and the commands up to the cut.
//!
//! The cut is the highest of three offsets: the snapshot's, the primary's at the start of the run (a replica may lag), and the
//! server's when the snapshot has passed, so that the backup is as fresh as its end. REDIS.md 2 and 4 hold the conditions.

use redkeep_sdk::{
    Artifact, Attribute, CHUNK, Context, Error, Facts, Host, Progress, Replication, Sink, Source, code, resp,
};

use super::borders::{Borders, Place};
use super::{source_facts, tell};
use crate::clock;
use crate::content::Content;
use crate::marks::{self, Mark, Marks};
use crate::parameters::Parameters;
use crate::snapshot::Snapshot;

/// The artifact.
pub(crate) const ARTIFACT: &str = "appendonly.aof";
/// Its type.
pub(crate) const KIND: &str = "aof";
/// The stream is read in steps, each of which ends in a mark: about one a second.
const STEP_MS: u32 = 1000;
/// Steps below the cut without a single byte, PINGs included (a primary sends one every 10 s), after which the link counts as dead.
const STALLED_STEPS: u32 = 60;

/// What a snapshot that the server wrote to its disk first leaves behind.
const DISK_BASED_SYNC: &str = "the server wrote its own dump.rdb for this backup (disk-based sync): with appendonly no it \
                               loads that at its next start; set repl-diskless-sync yes";

struct Capture<'host> {
    host: &'host dyn Host,
    link: Box<dyn Replication>,
    sink: Box<dyn Sink>,
    content: Content<'static>,
    marks: Marks,
    progress: Progress<'host>,
}

pub(super) fn capture(host: &dyn Host, context: &Context, parameters: &Parameters) -> Result<Facts, Error> {
    let mut link = host.redis().replicate(false)?;
    let started_ms = host.now_ms();
    let start_offset = link.start_offset();
    let replication_id = link.id();
    let mut snapshot = link.snapshot()?;
    // A length ahead is known only of a file (`$<len>`).
    if snapshot.size().is_some() {
        host.warn(DISK_BASED_SYNC);
    }
    let sink = host.artifacts().create(ARTIFACT, &[Attribute::new("type", KIND)])?;
    let first = Mark { time_ms: started_ms, offset: start_offset, position: 0 };
    let mut capture = Capture {
        host,
        link,
        sink,
        content: Content::new("the replication stream"),
        marks: Marks::starting_with(first),
        progress: Progress::new(host, "capture", None),
    };
    capture.copy(snapshot.as_mut())?;
    drop(snapshot);
    if capture.content.snapshot().is_none() {
        return Err(Error::new(code::SOURCE_IO, "the server's snapshot ended before its end mark").retryable());
    }
    capture.write_select()?;
    capture.marks = Marks::starting_with(Mark { position: capture.content.position(), ..first });

    let current = host.replication_offset();
    let cut = [context.number("primary-offset")?, current, Some(start_offset)]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(start_offset);
    tell(host, &format!("snapshot of offset {start_offset} read, following the stream to offset {cut}"));
    capture.follow_to(cut)?;
    capture.follow_for(parameters.window_ms)?;
    capture.finish(context, &replication_id, start_offset)
}

impl Capture<'_> {
    /// Copies a source to its end, every byte through the parser.
    fn copy(&mut self, source: &mut dyn Source) -> Result<(), Error> {
        loop {
            let chunk = source.read(CHUNK)?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.take(&chunk)?;
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.content.push(chunk)?;
        self.sink.write(chunk)?;
        self.progress.advance(chunk.len(), self.content.keys())
    }

    /// A replica's stream begins without `SELECT`; the snapshot says in which database.
    fn write_select(&mut self) -> Result<(), Error> {
        let database = self.content.snapshot().map_or(0, Snapshot::stream_database);
        let mut select = Vec::new();
        resp::command(&mut select, &[b"SELECT", database.to_string().as_bytes()]);
        self.content.push(&select)?;
        self.sink.write(&select)
    }

    /// One step of the stream, and its marks. Returns whether anything moved.
    fn step(&mut self, until: Option<u64>, within_ms: u32) -> Result<bool, Error> {
        let before = self.place();
        let mut borders = Borders::new(before);
        let mut commands = self.link.commands(until, Some(within_ms))?;
        loop {
            let chunk = commands.read(CHUNK)?;
            if chunk.is_empty() {
                break;
            }
            self.take(&chunk)?;
            borders.read(self.place(), self.content.is_at_safe_position());
        }
        drop(commands);
        if !self.content.is_at_safe_position() {
            return Err(Error::new(
                code::INTERNAL,
                "the host ended the command stream inside a command or a transaction",
            ));
        }
        let mark = self.mark();
        for border in borders.finish(self.place()) {
            self.marks.push(Mark { time_ms: mark.time_ms, offset: border.offset, position: border.position });
        }
        self.marks.push(mark);
        Ok(mark.position > before.position || mark.offset > before.offset)
    }

    fn place(&self) -> Place {
        Place { offset: self.link.offset(), position: self.content.position() }
    }

    fn mark(&self) -> Mark {
        // The clock may jump back; the stream does not.
        Mark { time_ms: self.host.now_ms(), offset: self.link.offset(), position: self.content.position() }
    }

    fn follow_to(&mut self, cut: u64) -> Result<(), Error> {
        let mut stalled = 0;
        while self.link.offset() < cut {
            if self.step(Some(cut), STEP_MS)? {
                stalled = 0;
                continue;
            }
            stalled += 1;
            if stalled == STALLED_STEPS {
                let reached = self.link.offset();
                return Err(Error::new(
                    code::TIMEOUT,
                    format!("the replication stream stands still at offset {reached}, the primary was at {cut} when this run began"),
                )
                .retryable()
                .with_help("check the link of this replica to its primary, or back up the primary"));
            }
        }
        Ok(())
    }

    fn follow_for(&mut self, window_ms: u64) -> Result<(), Error> {
        // The steps are counted, not the clock: it may jump.
        let mut left = window_ms;
        while left > 0 {
            let step = u32::try_from(left).unwrap_or(u32::MAX).min(STEP_MS);
            self.step(None, step)?;
            left -= u64::from(step);
        }
        Ok(())
    }

    fn finish(mut self, context: &Context, replication_id: &str, start_offset: u64) -> Result<Facts, Error> {
        let last = self.mark();
        self.marks.push_last(last);
        self.content.finish()?;
        self.progress.tell(self.content.keys())?;
        let mut facts = Facts::new();
        source_facts(context, &mut facts);
        facts.set("source-route", "replication");
        facts.set("replication-id", replication_id).set("replication-offset", start_offset);
        if let Some(snapshot) = self.content.snapshot() {
            snapshot.facts(&mut facts);
        }
        facts.set("commands", self.content.tally().commands);
        marks_facts(&self.marks, &mut facts);
        drop(self.link);
        self.sink.finish(&[])?;
        write_marks(self.host, &self.marks)?;
        Ok(facts)
    }
}

/// First and last point, as `capture` and `verify` report them.
pub(crate) fn marks_facts(marks: &Marks, facts: &mut Facts) {
    let (first, last) = (marks.first(), marks.last());
    facts.set("first-offset", first.offset).set("last-offset", last.offset);
    facts.set("first-time", clock::rfc3339(first.time_ms)).set("last-time", clock::rfc3339(last.time_ms));
}

fn write_marks(host: &dyn Host, marks: &Marks) -> Result<Artifact, Error> {
    let mut sink = host.artifacts().create(marks::ARTIFACT, &[Attribute::new("type", marks::KIND)])?;
    for chunk in marks.to_json()?.chunks(CHUNK as usize) {
        sink.write(chunk)?;
    }
    sink.finish(&[])
}
