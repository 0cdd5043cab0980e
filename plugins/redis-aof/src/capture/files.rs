//! Capture from a data directory: the files of a multi-part append-only file as an archive, or the single file of Redis 6.2.
//!
//! Files grow and vanish while a server runs: the manifest is read, every file that it names is opened (which pins its length), and
//! the manifest is read again. The last file is cut at a whole command outside a transaction.

use std::ops::RangeInclusive;

use redkeep_sdk::{Attribute, Context, Error, Facts, Host, Progress, Sink, attribute, code, resp};

use super::replication::{ARTIFACT, KIND};
use super::{source_facts, tell};
use crate::archive;
use crate::content::{Content, Tally};
use crate::manifest::{Kind, MAXIMUM_BYTES, Manifest, ManifestFile};
use crate::reader::Reader;

/// Attempts to find the files of one manifest all there.
const ATTEMPTS: u32 = 30;
const ATTEMPT_PAUSE_MS: u32 = 200;
/// A rewrite of a large data set takes minutes; looked at twice a second.
const REWRITE_POLLS: u32 = 7200;
const REWRITE_PAUSE_MS: u32 = 500;
/// Attempts to find files as long as the server says its append-only file is.
const SIZE_ATTEMPTS: u32 = 5;

/// Where the append-only file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// A folder with a manifest.
    MultiPart { folder: String, manifest: String },
    /// One file (Redis 6.2, or a newer server that has not migrated yet).
    Single { path: String },
}

pub(super) fn plan(host: &dyn Host, context: &Context) -> Result<Facts, Error> {
    let mut facts = Facts::new();
    match locate(host, context)? {
        Layout::MultiPart { folder, manifest } => facts.set("layout", format!("{folder}/{manifest}")),
        Layout::Single { path } => facts.set("layout", path),
    };
    Ok(facts)
}

pub(super) fn capture(host: &dyn Host, context: &Context) -> Result<Facts, Error> {
    if context.has_capability("redis") {
        wait_for_rewrite(host)?;
    }
    let mut facts = Facts::new();
    source_facts(context, &mut facts);
    facts.set("source-route", "files");
    match locate(host, context)? {
        Layout::MultiPart { folder, manifest } => {
            // 7.0 and newer do not count the empty base that they make at a first start.
            let lengths = |(opened, _): &(Vec<Opened>, Reader)| {
                let of = |base: bool| {
                    opened.iter().filter(|one| (one.file.kind == Kind::Base) == base).map(|one| one.size).sum::<u64>()
                };
                of(false)..=of(false) + of(true)
            };
            let opened = of_the_server(host, context, || open_all(host, &folder, &manifest), lengths)?;
            capture_multi_part(host, &folder, &manifest, opened, &mut facts)?;
        }
        Layout::Single { path } => {
            let opened = of_the_server(host, context, || open_twice(host, &path), |opened| opened.2..=opened.2)?;
            capture_single(host, &path, opened, &mut facts)?;
        }
    }
    Ok(facts)
}

/// One setting of the server, where there is one that answers.
fn setting(host: &dyn Host, context: &Context, name: &str) -> Option<String> {
    if !context.has_capability("redis") {
        return None;
    }
    let reply = host.redis().command(&[b"CONFIG", b"GET", name.as_bytes()]).ok()?;
    let reply = resp::Reply::parse(&reply).ok()?;
    reply.elements().get(1)?.text().map(str::to_owned)
}

/// Refuses the file of a server that does not write it now. `enabled` is `aof_enabled` of `INFO`, for `CONFIG` is often
/// denied or renamed; what neither tells passes.
fn check_written(appendonly: Option<&str>, enabled: Option<&str>) -> Result<(), Error> {
    let other_way = "use the parameter source=replication, or the method rdb";
    match (appendonly, enabled) {
        (Some("no"), _) => Err(Error::refused(
            "this server runs with appendonly no, so its append-only file, if any, is old",
            format!("{other_way}, or set appendonly yes on the server"),
        )),
        // A replica stops writing while it takes its primary's whole dataset.
        (Some("yes"), Some("0")) => Err(Error::refused(
            "this server runs with appendonly yes but writes no append-only file now (aof_enabled:0 in INFO), so the one in its \
             directory is old",
            format!("wait for its synchronisation with its primary to end, then try again, or {other_way}"),
        )
        .retryable()),
        (_, Some("0")) => Err(Error::refused(
            "this server writes no append-only file (aof_enabled:0 in INFO), so the one in its directory, if any, is old",
            format!("{other_way}, or set appendonly yes on the server"),
        )),
        _ => Ok(()),
    }
}

fn locate(host: &dyn Host, context: &Context) -> Result<Layout, Error> {
    let appendonly = setting(host, context, "appendonly");
    check_written(appendonly.as_deref(), persistence(host, context, "aof_enabled").as_deref())?;
    let folder = setting(host, context, "appenddirname");
    let file = setting(host, context, "appendfilename");
    let file_name = file.as_deref().unwrap_or("appendonly.aof");
    let top = host.files().list_directory("")?;
    let base_name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut manifests = Vec::new();
    let folders = top.iter().filter(|entry| entry.directory).map(|entry| base_name(&entry.path));
    for name in folders.filter(|name| folder.as_ref().is_none_or(|wanted| wanted == name)) {
        // A folder that may not be read is none of ours.
        let Ok(entries) = host.files().list_directory(&name) else { continue };
        for entry in entries.iter().filter(|entry| !entry.directory) {
            let manifest = base_name(&entry.path);
            let wanted = match &file {
                Some(file) => manifest == format!("{file}.manifest"),
                None => manifest.ends_with(".manifest"),
            };
            if wanted {
                manifests.push((name.clone(), manifest));
            }
        }
    }
    if manifests.len() > 1 {
        let default = ("appendonlydir".to_owned(), "appendonly.aof.manifest".to_owned());
        if !manifests.contains(&default) {
            let found: Vec<String> = manifests.iter().map(|(folder, name)| format!("{folder}/{name}")).collect();
            return Err(Error::refused(
                format!("the data directory holds several append-only files: {}", found.join(", ")),
                "name the server too, so that its configuration says which one is in use",
            ));
        }
        manifests = vec![default];
    }
    if let Some((folder, manifest)) = manifests.pop() {
        return Ok(Layout::MultiPart { folder, manifest });
    }
    if top.iter().any(|entry| !entry.directory && base_name(&entry.path) == file_name) {
        return Ok(Layout::Single { path: file_name.to_owned() });
    }
    Err(Error::new(code::NOT_FOUND, "the data directory holds no append-only file")
        .with_help("check that it is the `dir` of a server with appendonly yes, or use the method rdb"))
}

/// A rewrite replaces all files; one that runs is waited for, one that begins later shows in the manifest.
fn wait_for_rewrite(host: &dyn Host) -> Result<(), Error> {
    for poll in 0..REWRITE_POLLS {
        let info = match host.redis().info(Some("persistence")) {
            Ok(info) => info,
            Err(error) if error.is(code::DENIED) => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_set = |key: &str| attribute::find(&info, key).is_some_and(|value| value.trim() == "1");
        // `BGREWRITEAOF` during a save is only scheduled: both flags count (REDIS.md 2).
        if !is_set("aof_rewrite_in_progress") && !is_set("aof_rewrite_scheduled") {
            return Ok(());
        }
        if poll == 0 {
            tell(host, "waiting for the rewrite of the append-only file to end");
        }
        host.sleep_ms(REWRITE_PAUSE_MS)?;
    }
    Err(Error::new(code::TIMEOUT, "the rewrite of the append-only file did not end within an hour").retryable())
}

/// One line of the server's `INFO persistence`, where there is a server that tells.
fn persistence(host: &dyn Host, context: &Context, key: &str) -> Option<String> {
    if !context.has_capability("redis") {
        return None;
    }
    let info = host.redis().info(Some("persistence")).ok()?;
    Some(attribute::find(&info, key)?.trim().to_owned())
}

/// Bytes of the server's append-only file: what it has written, whole files.
fn size_by_server(host: &dyn Host, context: &Context) -> Option<u64> {
    persistence(host, context, "aof_current_size")?.parse().ok()
}

/// Opens files that are those of the server, where one is at hand: the directory may be another's, or one that it has left.
///
/// They are as long as the server says, within what it wrote between a look before and a look after, and within what
/// `lengths` leaves open. A rewrite in between makes them differ, so that is tried again.
fn of_the_server<T>(
    host: &dyn Host,
    context: &Context,
    open: impl Fn() -> Result<T, Error>,
    lengths: impl Fn(&T) -> RangeInclusive<u64>,
) -> Result<T, Error> {
    for _ in 0..SIZE_ATTEMPTS {
        let before = size_by_server(host, context);
        let opened = open()?;
        let Some((before, after)) = before.zip(size_by_server(host, context)) else { return Ok(opened) };
        let lengths = lengths(&opened);
        if before <= *lengths.end() && *lengths.start() <= after {
            return Ok(opened);
        }
        host.sleep_ms(ATTEMPT_PAUSE_MS)?;
        wait_for_rewrite(host)?;
    }
    Err(Error::refused(
        "the append-only file in the data directory is not as long as the server says its own is",
        "check --data-dir against CONFIG GET dir on the server; where it is that directory, the server counts an end that it cut \
         off when it started: run BGREWRITEAOF, then try again",
    ))
}

struct Opened {
    file: ManifestFile,
    reader: Reader,
    size: u64,
}

fn open(host: &dyn Host, path: &str) -> Result<(Reader, u64), Error> {
    let source = host.files().open(path)?;
    let size = source
        .size()
        .ok_or_else(|| Error::new(code::INTERNAL, format!("the host does not know the length of {path}")))?;
    Ok((Reader::new(source), size))
}

/// Opens every file that the manifest names, between two equal readings of the manifest. Last comes the last file once more:
/// it is read twice, to find its end and to copy it.
fn open_all(host: &dyn Host, folder: &str, manifest_name: &str) -> Result<(Vec<Opened>, Reader), Error> {
    let manifest_path = format!("{folder}/{manifest_name}");
    let read = || -> Result<Vec<u8>, Error> {
        Reader::new(host.files().open(&manifest_path)?).all(MAXIMUM_BYTES, &manifest_path)
    };
    let attempt = || -> Result<Option<(Vec<Opened>, Reader)>, Error> {
        let before = read()?;
        let manifest = Manifest::parse(&before)
            .map_err(|error| Error::damaged(format!("failed to read {manifest_path}: {error}")))?;
        let mut opened = Vec::new();
        for file in manifest.loaded() {
            let (reader, size) = open(host, &format!("{folder}/{}", file.name))?;
            opened.push(Opened { file: file.clone(), reader, size });
        }
        let Some(last) = opened.last_mut() else {
            return Err(Error::damaged(format!("{manifest_path} names no file")));
        };
        // The second look may be longer than the first, never shorter: an append-only file grows.
        let (again, _) = open(host, &format!("{folder}/{}", last.file.name))?;
        Ok((read()? == before).then_some((opened, again)))
    };
    for _ in 0..ATTEMPTS {
        match attempt() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // A file went away, or the manifest was just being replaced.
            Err(error) if error.is(code::NOT_FOUND) => {}
            Err(error) => return Err(error),
        }
        host.sleep_ms(ATTEMPT_PAUSE_MS)?;
    }
    Err(Error::new(
        code::SOURCE_IO,
        format!("{manifest_path} changed, or named files that are not there, in {ATTEMPTS} attempts"),
    )
    .retryable()
    .with_help("wait for the rewrite of the append-only file to end, then try again"))
}

/// The last position at which a file may be cut.
fn scan(mut reader: Reader, name: &str, size: u64, host: &dyn Host) -> Result<u64, Error> {
    let mut progress = Progress::new(host, "scan", Some(size));
    let mut content = Content::new(name);
    loop {
        let chunk = reader.chunk(u64::MAX)?;
        if chunk.is_empty() {
            return content.safe_position();
        }
        content.push(chunk)?;
        progress.advance(chunk.len(), content.keys())?;
    }
}

/// Copies the first `size` bytes of a source, all of them understood; they must end at a place where a file may end.
fn copy(
    mut reader: Reader,
    name: &str,
    size: u64,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Content<'static>, Error> {
    let mut content = Content::new(name);
    while content.position() < size {
        let chunk = reader.chunk(size - content.position())?;
        if chunk.is_empty() {
            return Err(Error::new(code::SOURCE_IO, format!("{name} became shorter while it was read")).retryable());
        }
        content.push(chunk)?;
        sink.write(chunk)?;
        progress.advance(chunk.len(), content.keys())?;
    }
    content.finish()?;
    Ok(content)
}

fn capture_multi_part(
    host: &dyn Host,
    folder: &str,
    manifest_name: &str,
    (mut opened, again): (Vec<Opened>, Reader),
    facts: &mut Facts,
) -> Result<(), Error> {
    let files: Vec<ManifestFile> = opened.iter().map(|opened| opened.file.clone()).collect();
    let manifest = Manifest { files }.text();
    if let Some(last) = opened.last_mut() {
        let first_look = std::mem::replace(&mut last.reader, again);
        last.size = scan(first_look, &last.file.name, last.size, host)?;
    }
    let total = opened.iter().map(|opened| opened.size).sum();
    let mut progress = Progress::new(host, "capture", Some(total));
    let modified = host.now_ms() / 1000;
    let mut sink = host.artifacts().create(archive::ARTIFACT, &[Attribute::new("type", archive::KIND)])?;
    let path = |name: &str| format!("{folder}/{name}");
    archive::begin(sink.as_mut(), &path(manifest_name), manifest.len() as u64, modified)?;
    sink.write(manifest.as_bytes())?;
    archive::end(sink.as_mut(), manifest.len() as u64)?;
    let mut tally = Tally::default();
    let mut keys = 0;
    for Opened { file, reader, size } in opened {
        archive::begin(sink.as_mut(), &path(&file.name), size, modified)?;
        let content = copy(reader, &file.name, size, sink.as_mut(), &mut progress)?;
        archive::end(sink.as_mut(), size)?;
        tally.join(content.tally());
        if let (Kind::Base, Some(snapshot)) = (file.kind, content.snapshot()) {
            keys = snapshot.keys();
            snapshot.facts(facts);
        }
    }
    archive::finish(sink.as_mut())?;
    tally.facts(facts);
    progress.tell(keys)?;
    sink.finish(&[])?;
    Ok(())
}

/// The single file twice. A rewrite may replace it in between; then the two begin differently (the preamble holds its time).
fn open_twice(host: &dyn Host, path: &str) -> Result<(Reader, Reader, u64), Error> {
    for _ in 0..ATTEMPTS {
        let (mut first, size) = open(host, path)?;
        let (mut second, second_size) = open(host, path)?;
        let (first_bytes, second_bytes) = (first.peek()?, second.peek()?);
        let common = first_bytes.len().min(second_bytes.len());
        if second_size >= size && first_bytes.get(..common) == second_bytes.get(..common) {
            return Ok((first, second, size));
        }
        host.sleep_ms(ATTEMPT_PAUSE_MS)?;
    }
    Err(Error::new(code::SOURCE_IO, format!("{path} was replaced in each of {ATTEMPTS} attempts")).retryable())
}

fn capture_single(
    host: &dyn Host,
    path: &str,
    (first_look, reader, size): (Reader, Reader, u64),
    facts: &mut Facts,
) -> Result<(), Error> {
    let size = scan(first_look, path, size, host)?;
    let mut progress = Progress::new(host, "capture", Some(size));
    let mut sink = host.artifacts().create(ARTIFACT, &[Attribute::new("type", KIND)])?;
    let content = copy(reader, path, size, sink.as_mut(), &mut progress)?;
    if let Some(snapshot) = content.snapshot() {
        snapshot.facts(facts);
    }
    content.tally().facts(facts);
    progress.tell(content.keys())?;
    sink.finish(&[])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::on(Some("yes"), Some("1"), None)]
    #[case::nothing_known(None, None, None)]
    #[case::only_info(None, Some("1"), None)]
    #[case::only_configuration(Some("yes"), None, None)]
    #[case::off(Some("no"), Some("0"), Some("appendonly no"))]
    #[case::off_by_configuration(Some("no"), None, Some("appendonly no"))]
    #[case::off_and_configuration_not_readable(None, Some("0"), Some("aof_enabled:0"))]
    #[case::a_replica_that_synchronises(Some("yes"), Some("0"), Some("appendonly yes but"))]
    fn a_file_that_its_server_does_not_write_is_refused(
        #[case] appendonly: Option<&str>,
        #[case] enabled: Option<&str>,
        #[case] message: Option<&str>,
    ) {
        let found = check_written(appendonly, enabled).err();
        assert_eq!(found.is_some(), message.is_some(), "{found:?}");
        if let (Some(error), Some(message)) = (found, message) {
            assert!(error.is(code::REFUSED) && error.message.contains(message), "{error:?}");
            assert!(error.detail("help").is_some());
            assert_eq!(error.retryable, appendonly == Some("yes"));
        }
    }
}
