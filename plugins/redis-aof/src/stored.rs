//! What this backup holds, and reading it: verify, inspect and restore all walk through the artifacts here.

use redkeep_sdk::{Error, Host, Progress, code};

use crate::archive::{self, ArchiveReader};
use crate::capture;
use crate::content::{Content, Tally};
use crate::manifest::{MAXIMUM_BYTES, Manifest, ManifestFile};
use crate::marks::{self, Marks};
use crate::reader::Reader;
use crate::scanner::{Event, Scanner};
use crate::snapshot::Wanted;

/// The form in which a backup was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One stream, with marks where it came by replication.
    Stream {
        /// The artifact's name.
        name: String,
        /// Its bytes.
        size: u64,
        /// The artifact of the marks.
        marks: Option<String>,
    },
    /// Several files in a tar archive.
    Archive {
        /// The artifact's name.
        name: String,
        /// Its bytes.
        size: u64,
    },
}

/// Finds the artifacts by their types.
pub(crate) fn form(host: &dyn Host) -> Result<Form, Error> {
    let artifacts = host.artifacts().list()?;
    let find = |kind: &str| artifacts.iter().find(|artifact| artifact.kind() == kind);
    if let Some(stream) = find(capture::STREAM_KIND) {
        let marks = find(marks::KIND).map(|artifact| artifact.name.clone());
        return Ok(Form::Stream { name: stream.name.clone(), size: stream.size, marks });
    }
    if let Some(archive) = find(archive::KIND) {
        return Ok(Form::Archive { name: archive.name.clone(), size: archive.size });
    }
    Err(Error::new(code::NOT_FOUND, "this backup holds no artifact of type aof or aof-archive")
        .with_help("use the plugin of the method that made the backup"))
}

/// Reads the marks.
pub(crate) fn read_marks(host: &dyn Host, name: &str) -> Result<Marks, Error> {
    let bytes = Reader::new(host.artifacts().open(name)?).all(marks::MAXIMUM_BYTES, name)?;
    Marks::from_json(&bytes)
}

/// A place in the files of a backup, in the order of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// 0 for the base or the only file.
    pub(crate) index: usize,
    /// Bytes of that file before it.
    pub(crate) position: u64,
}

/// One file of a backup on its way through: its place in the order of loading, and what of it has passed.
pub(crate) struct Passing<'a> {
    /// 0 for the base or the only file.
    pub(crate) index: usize,
    /// As the manifest has it; none for a stream.
    pub(crate) file: Option<&'a ManifestFile>,
    /// The state after the chunk.
    pub(crate) content: &'a Content<'a>,
}

/// Whoever looks on.
pub(crate) trait Visitor {
    /// Which files an archive holds; before the first byte of them.
    fn manifest(&mut self, _manifest: &Manifest) -> Result<(), Error> {
        Ok(())
    }
    /// Whether `event` looks at [`Scanner::words`].
    fn wants_words(&self) -> bool {
        false
    }
    /// A command or annotation of file `index` that ended in the chunk which `chunk` tells next.
    fn event(&mut self, _index: usize, _scanner: &Scanner, _event: &Event<'_>) {}
    /// The next bytes of a file, understood already.
    fn chunk(&mut self, _passing: &Passing<'_>, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    /// Whether nothing more of any file is wanted. What is wrong behind the event that decided it does not matter.
    fn has_enough(&self) -> bool {
        false
    }
    /// A file has passed whole.
    fn end(&mut self, _passing: &Passing<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// What a whole walk has seen.
pub(crate) struct Walked<'run> {
    /// The first file, with the snapshot where there is one.
    pub(crate) first: Option<Content<'run>>,
    /// The commands of all files that passed whole.
    pub(crate) tally: Tally,
    /// Whether the files may end where the walk did.
    ended_well: bool,
}

impl Walked<'_> {
    /// An error where the end that was asked for lies inside a command, or is none of the files.
    pub(crate) fn check_end(&self) -> Result<(), Error> {
        if self.ended_well {
            return Ok(());
        }
        Err(Error::damaged("the backup says that it can be cut at a place where no command ends"))
    }
}

/// Reads the artifact from beginning to end, or as far as the visitor wants.
pub(crate) fn walk(
    host: &dyn Host,
    form: &Form,
    phase: &'static str,
    visitor: &mut dyn Visitor,
) -> Result<Walked<'static>, Error> {
    walk_up_to(host, form, phase, visitor, Wanted::Facts, None)
}

/// The same up to a place, behind which nothing is looked at, and with more of the snapshot than its facts.
pub(crate) fn walk_up_to<'run>(
    host: &dyn Host,
    form: &Form,
    phase: &'static str,
    visitor: &mut dyn Visitor,
    wanted: Wanted<'run>,
    end: Option<Place>,
) -> Result<Walked<'run>, Error> {
    let (name, size) = match form {
        Form::Stream { name, size, .. } | Form::Archive { name, size } => (name, *size),
    };
    let reader = Reader::new(host.artifacts().open(name)?);
    let mut walk = Walk {
        progress: Progress::new(host, phase, Some(size)),
        visitor,
        wanted,
        end,
        walked: Walked { first: None, tally: Tally::default(), ended_well: end.is_none() },
    };
    match form {
        Form::Stream { .. } => walk.stream(reader, name)?,
        Form::Archive { .. } => walk.archive(reader)?,
    }
    let keys = walk.walked.first.as_ref().map_or(0, Content::keys);
    walk.progress.tell(keys)?;
    Ok(walk.walked)
}

struct Walk<'host, 'visitor, 'run> {
    progress: Progress<'host>,
    visitor: &'visitor mut dyn Visitor,
    wanted: Wanted<'run>,
    end: Option<Place>,
    walked: Walked<'run>,
}

impl<'run> Walk<'_, '_, 'run> {
    fn stream(&mut self, mut reader: Reader, name: &str) -> Result<(), Error> {
        let mut content = self.content(name);
        loop {
            let chunk = reader.chunk(u64::MAX)?;
            if chunk.is_empty() {
                break;
            }
            if !self.pass(0, None, &mut content, chunk)? {
                self.walked.first = Some(content);
                return Ok(());
            }
        }
        self.end_file(0, None, content)
    }

    fn archive(&mut self, reader: Reader) -> Result<(), Error> {
        let mut archive = ArchiveReader::new(reader);
        let Some(first) = archive.next_entry()?.filter(|entry| entry.name.ends_with(".manifest")) else {
            return Err(Error::damaged(format!("{} does not begin with a manifest", archive::ARTIFACT)));
        };
        let text = archive.whole(&first, MAXIMUM_BYTES)?;
        let manifest = Manifest::parse(&text)
            .map_err(|error| Error::damaged(format!("failed to read {}: {error}", first.name)))?;
        self.visitor.manifest(&manifest)?;
        for (index, file) in manifest.loaded().enumerate() {
            let entry = archive.next_entry()?;
            if entry.as_ref().is_none_or(|entry| entry.name != file.name) {
                let found = entry.map_or_else(|| "the end".to_owned(), |entry| entry.name);
                let name = &file.name;
                return Err(Error::damaged(format!("expected {name} in {}, found {found}", archive::ARTIFACT)));
            }
            let mut content = self.content(&file.name);
            loop {
                let chunk = archive.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                if !self.pass(index, Some(file), &mut content, chunk)? {
                    self.walked.first.get_or_insert(content);
                    return Ok(());
                }
            }
            self.end_file(index, Some(file), content)?;
        }
        match archive.next_entry()? {
            None => Ok(()),
            Some(extra) => Err(Error::damaged(format!(
                "{} holds {}, which its manifest does not name",
                archive::ARTIFACT,
                extra.name
            ))),
        }
    }

    /// The reader of the next file; only the first can begin with a snapshot, of which more is wanted.
    fn content(&mut self, name: &str) -> Content<'run> {
        Content::wanting(name, std::mem::take(&mut self.wanted)).keeping_words(self.visitor.wants_words())
    }

    fn pass(
        &mut self,
        index: usize,
        file: Option<&ManifestFile>,
        content: &mut Content<'run>,
        chunk: &[u8],
    ) -> Result<bool, Error> {
        let end = self.end.filter(|end| end.index == index).map(|end| end.position);
        let left = end.map_or(u64::MAX, |end| end.saturating_sub(content.position()));
        let chunk = usize::try_from(left).ok().and_then(|left| chunk.get(..left)).unwrap_or(chunk);
        let visitor = &mut *self.visitor;
        let pushed = content.push_observed(chunk, |scanner, event| visitor.event(index, scanner, event));
        if visitor.has_enough() {
            return Ok(false);
        }
        pushed?;
        self.progress.advance(chunk.len(), content.keys())?;
        visitor.chunk(&Passing { index, file, content }, chunk)?;
        if end != Some(content.position()) {
            return Ok(!visitor.has_enough());
        }
        // A file behind the first may be left out whole.
        self.walked.ended_well = content.is_at_safe_position() || (index > 0 && content.position() == 0);
        Ok(false)
    }

    fn end_file(&mut self, index: usize, file: Option<&ManifestFile>, content: Content<'run>) -> Result<(), Error> {
        content.finish()?;
        self.walked.tally.join(content.tally());
        self.visitor.end(&Passing { index, file, content: &content })?;
        if index == 0 {
            self.walked.first = Some(content);
        }
        Ok(())
    }
}
