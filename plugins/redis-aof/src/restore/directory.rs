//! Lays a backup out in a data directory, so that the server loads it: multi-part for 7.0 and newer, one file for 6.2.
//!
//! Measured on all servers (REDIS.md 1): a manifest without a final newline is refused, a file under another name is silently not
//! loaded, and with `appendonly no` no append-only file is loaded at all.

use redkeep_sdk::rdb::restore::tell_modules;
use redkeep_sdk::{Context, Error, Facts, Host, Level, Sink};

use super::cut::End;
use super::trim::Trim;
use crate::manifest::{Kind, Manifest, ManifestFile};
use crate::scanner::{Event, Scanner};
use crate::snapshot::Wanted;
use crate::stored::{self, Form, Passing, Visitor};
use crate::target;

/// How to lay out, decided before anything is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// A folder with a manifest; else one file.
    multi_part: bool,
    folder: String,
    file: String,
    appendonly_is_unknown: bool,
}

impl Layout {
    /// Refuses a server that would not load the file.
    pub(super) fn decide<'facts>(
        context: &Context,
        fact: &impl Fn(&str) -> Option<&'facts str>,
        form: &Form,
    ) -> Result<Self, Error> {
        if context.flag("appendonly") == Some(false) {
            return Err(Error::refused(
                "a server with appendonly no does not load an append-only file",
                "restore with --appendonly yes and start the server so, or restore into a running server with --target, or use a \
                 backup of the method rdb",
            ));
        }
        let version = context.get("server-version").or(fact("server-version"));
        target::check_snapshot(context.get("server-name").or(fact("server-name")), version, fact("rdb-version"))?;
        let multi_part = target::major_version(version).is_none_or(|major| major >= 7);
        if !multi_part && matches!(form, Form::Archive { .. }) {
            return Err(Error::refused(
                "this backup is a multi-part append-only file, which Redis 6.2 and older do not read",
                "restore for Redis 7.0 or newer, or make the backup by replication from a server of the target's version",
            ));
        }
        Ok(Self {
            multi_part,
            folder: context.get_or("appenddirname", "appendonlydir").to_owned(),
            file: context.get_or("appendfilename", "appendonly.aof").to_owned(),
            appendonly_is_unknown: context.flag("appendonly").is_none(),
        })
    }

    /// For the user.
    pub(super) fn describe(&self, form: &Form) -> String {
        match (self.multi_part, form) {
            (false, _) => self.file.clone(),
            (true, Form::Stream { .. }) => format!("{}/{}.manifest, base and commands", self.folder, self.file),
            (true, Form::Archive { .. }) => format!("{}/{}.manifest and its files", self.folder, self.file),
        }
    }
}

pub(super) fn restore(host: &dyn Host, form: &Form, layout: &Layout, end: Option<&End>) -> Result<Facts, Error> {
    if layout.appendonly_is_unknown {
        host.log(
            Level::Warn,
            "the server must run with appendonly yes: with no it starts empty, or with an older dump",
            &[],
        );
    }
    let mut placement = Placement {
        host,
        layout,
        trim: Trim::new(!layout.multi_part),
        archive: Vec::new(),
        manifest: Manifest::default(),
        sink: None,
        open: None,
    };
    let end = end.map(|end| end.place);
    let walked = stored::walk_up_to(host, form, "restore", &mut placement, Wanted::Facts, end)?;
    walked.check_end()?;
    placement.close()?;
    let mut facts = Facts::new();
    facts.set("layout", layout.describe(form)).set("commands", placement.trim.commands());
    if layout.multi_part {
        let text = placement.manifest.text();
        let mut sink = host.files().create(&format!("{}/{}.manifest", layout.folder, layout.file))?;
        sink.write(text.as_bytes())?;
        sink.finish(&[])?;
    }
    if let Some(snapshot) = walked.first.as_ref().and_then(|content| content.snapshot()) {
        facts.set("keys-restored", snapshot.keys());
        tell_modules(host, &host.artifacts().facts()?, Some(snapshot.dataset()));
    }
    Ok(facts)
}

/// Which file of the target the next bytes go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    index: usize,
    after_snapshot: bool,
}

struct Placement<'run> {
    host: &'run dyn Host,
    layout: &'run Layout,
    trim: Trim,
    /// The files of an archive, in the order of loading; empty for a stream.
    archive: Vec<ManifestFile>,
    /// What was placed so far.
    manifest: Manifest,
    sink: Option<Box<dyn Sink>>,
    open: Option<Part>,
}

impl Placement<'_> {
    fn close(&mut self) -> Result<(), Error> {
        if let Some(sink) = self.sink.take() {
            sink.finish(&[])?;
        }
        Ok(())
    }

    /// Begins the file for a part; `snapshot`: its first byte is an RDB file's.
    fn begin(&mut self, part: Part, snapshot: bool) -> Result<(), Error> {
        self.close()?;
        self.open = Some(part);
        if !self.layout.multi_part {
            self.sink = Some(self.host.files().create(&self.layout.file)?);
            return Ok(());
        }
        let (kind, sequence) = match self.archive.get(part.index) {
            Some(file) => (file.kind, file.sequence),
            None if part.after_snapshot => (Kind::Increment, 1),
            None => (Kind::Base, 1),
        };
        let name = match kind {
            Kind::Base if snapshot => format!("{}.{sequence}.base.rdb", self.layout.file),
            Kind::Base => format!("{}.{sequence}.base.aof", self.layout.file),
            _ => format!("{}.{sequence}.incr.aof", self.layout.file),
        };
        self.sink = Some(self.host.files().create(&format!("{}/{name}", self.layout.folder))?);
        self.manifest.files.push(ManifestFile { name, sequence, kind });
        Ok(())
    }

    fn write(&mut self, part: Part, snapshot: bool, bytes: &[u8]) -> Result<(), Error> {
        if self.open != Some(part) {
            self.begin(part, snapshot)?;
        }
        match &mut self.sink {
            Some(sink) if !bytes.is_empty() => sink.write(bytes),
            _ => Ok(()),
        }
    }
}

impl Visitor for Placement<'_> {
    fn manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.archive = manifest.loaded().cloned().collect();
        Ok(())
    }

    fn event(&mut self, _index: usize, _scanner: &Scanner, event: &Event<'_>) {
        self.trim.event(event);
    }

    fn chunk(&mut self, passing: &Passing<'_>, bytes: &[u8]) -> Result<(), Error> {
        let pieces = self.trim.pieces(passing, bytes);
        // A stream's snapshot and its commands become two files; a file of an archive stays one.
        let splits = self.layout.multi_part && passing.file.is_none();
        let preamble_end = if passing.content.is_in_commands() { passing.content.preamble_end() } else { u64::MAX };
        for (position, piece) in pieces {
            let index = passing.index;
            let before = usize::try_from(preamble_end.saturating_sub(position)).unwrap_or(usize::MAX).min(piece.len());
            if !splits || preamble_end == 0 {
                self.write(Part { index, after_snapshot: false }, preamble_end > 0, piece)?;
                continue;
            }
            let (snapshot, commands) = piece.split_at(before);
            if !snapshot.is_empty() {
                self.write(Part { index, after_snapshot: false }, true, snapshot)?;
            }
            if !commands.is_empty() {
                self.write(Part { index, after_snapshot: true }, false, commands)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, passing: &Passing<'_>) -> Result<(), Error> {
        // An empty increment is a file too: the manifest names it.
        if passing.content.position() == 0 {
            self.write(Part { index: passing.index, after_snapshot: false }, false, &[])?;
        }
        Ok(())
    }
}
