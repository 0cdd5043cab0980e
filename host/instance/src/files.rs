//! What Redis would load from its data directory, looked at before it starts: where it finds nothing in the form that its
//! configuration names, it starts empty without a word, and its next save overwrites what was there in the other form.

use std::fs::{DirEntry, File, Metadata};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::InstanceError;
use crate::program::Program;
use crate::redis_conf::is_allowed;

/// The directive that decides which files are loaded.
pub(crate) const APPEND_ONLY: &str = "appendonly";

/// Says which files are written, as far as this program saw to it: `on`, `off`, or `leaving` and the RDB file of then. Without it
/// they are somebody else's, and Redis' own rule holds.
const NOTE: &str = ".redkeep-append-only";

/// Whether the append-only file is what is written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appending {
    /// It is, since Redis was started with it or has written it whole.
    On,
    /// Nothing is appended any more: it is as long as the RDB file is still this one.
    Leaving(Option<Saved>),
    /// It is not, since an RDB file was written after the last of it; but Redis may be told to write it whole at any time.
    Off,
}

/// An RDB file, as far as it tells it from the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    written: SystemTime,
    inode: u64,
}

/// How Redis has to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// As its directives say.
    AsTold,
    /// With `appendonly no`, though the directives say yes: there is an RDB file and no append-only file, or an older one. Redis
    /// writes it when it is told `appendonly yes` after loading.
    RdbFirst,
    /// With `appendonly yes`, though the directives say no: the append-only file is what was written last. After loading Redis is
    /// told `appendonly no`, and writes an RDB file.
    AofFirst,
}

impl Load {
    /// The value that `appendonly` has for the start, where the directives say another.
    pub(crate) fn appends(self) -> Option<&'static str> {
        match self {
            Self::AsTold => None,
            Self::RdbFirst => Some("no"),
            Self::AofFirst => Some("yes"),
        }
    }

    /// What is to be noted before the start.
    pub(crate) fn appending(self, directives: &[(String, String)]) -> Appending {
        match self {
            Self::AsTold if appends(directives) => Appending::On,
            Self::AofFirst => Appending::On,
            Self::AsTold | Self::RdbFirst => Appending::Off,
        }
    }
}

/// Looks at the files.
///
/// # Errors
/// When the server cannot read the only data that is there.
pub(crate) fn look(data: &Path, directives: &[(String, String)], program: &Program) -> Result<Load, InstanceError> {
    let file = value(directives, "appendfilename", "appendonly.aof");
    let folder = data.join(value(directives, "appenddirname", "appendonlydir"));
    let rdb = saved(data, directives)?;
    // 6.2 makes it, empty, when it begins to write the first one, and would load that nothing.
    let old_aof = written(&data.join(&file))?;
    if !program.knows_manifests()
        && rdb.is_none()
        && old_aof.is_none()
        && let Some(manifest) = any_manifest(&folder)?
    {
        return Err(InstanceError::NewerFiles {
            manifest,
            server: program.server.clone(),
            version: program.version.clone(),
        });
    }
    let manifest = written(&folder.join(format!("{file}.manifest")))?.filter(|_| program.knows_manifests());
    let aof = manifest.or(old_aof);
    let is_aof_last = match (aof, noted(data)?) {
        (None, _) => false,
        (Some(_), Some(Appending::On)) => true,
        (Some(_), Some(Appending::Leaving(before))) if rdb == before => true,
        // Written whole since Redis was told to append again. `BGREWRITEAOF` writes one under `no` too.
        (Some(aof), Some(Appending::Leaving(_) | Appending::Off)) => {
            rdb.is_none_or(|rdb| appends(directives) && rdb.written < aof)
        }
        (Some(_), None) => rdb.is_none() || appends(directives),
    };
    Ok(match appends(directives) {
        true if rdb.is_some() && !is_aof_last => Load::RdbFirst,
        false if is_aof_last => Load::AofFirst,
        true | false => Load::AsTold,
    })
}

/// The RDB file, if it holds something.
pub(crate) fn saved(data: &Path, directives: &[(String, String)]) -> Result<Option<Saved>, InstanceError> {
    let path = data.join(value(directives, "dbfilename", "dump.rdb"));
    let file = found(&path)?.filter(|file| file.len() > 0);
    file.map(|file| Ok(Saved { written: modified(&path, &file)?, inode: file.ino() })).transpose()
}

/// Notes it for the next start, if it is not noted yet.
pub(crate) fn note(data: &Path, appending: Appending) -> Result<(), InstanceError> {
    if noted(data)? == Some(appending) {
        return Ok(());
    }
    let (path, fresh) = (data.join(NOTE), data.join(format!("{NOTE}.new")));
    let written = || {
        let mut file = File::create(&fresh)?;
        writeln!(file, "{}", appending.text())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        File::open(data)?.sync_all()
    };
    written().map_err(|source| InstanceError::Write { path: path.clone(), source })
}

/// What is noted.
pub(crate) fn noted(data: &Path) -> Result<Option<Appending>, InstanceError> {
    let path = data.join(NOTE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Appending::parse(&text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
        Err(source) => Err(InstanceError::Read { path, source }),
    }
}

impl Appending {
    fn text(self) -> String {
        match self {
            Self::On => "on".to_owned(),
            Self::Off => "off".to_owned(),
            Self::Leaving(None) => "leaving".to_owned(),
            Self::Leaving(Some(rdb)) => {
                let since = rdb.written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                format!("leaving {} {} {}", since.as_secs(), since.subsec_nanos(), rdb.inode)
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["on"] => Some(Self::On),
            ["off"] => Some(Self::Off),
            ["leaving"] => Some(Self::Leaving(None)),
            ["leaving", seconds, nanos, inode] => {
                let since = Duration::new(seconds.parse().ok()?, nanos.parse().ok()?);
                let written = SystemTime::UNIX_EPOCH.checked_add(since)?;
                Some(Self::Leaving(Some(Saved { written, inode: inode.parse().ok()? })))
            }
            _ => None,
        }
    }
}

fn appends(directives: &[(String, String)]) -> bool {
    value(directives, APPEND_ONLY, "no").eq_ignore_ascii_case("yes")
}

/// The last line counts.
fn value(directives: &[(String, String)], name: &str, default: &str) -> String {
    let mut lines = directives.iter().rev().filter(|(key, _)| is_allowed(key));
    lines.find(|(key, _)| key == name).map_or(default, |(_, value)| value.as_str()).to_owned()
}

fn modified(path: &Path, file: &Metadata) -> Result<SystemTime, InstanceError> {
    file.modified().map_err(|source| InstanceError::Read { path: path.to_path_buf(), source })
}

/// When a file was written last, if it holds something.
fn written(path: &Path) -> Result<Option<SystemTime>, InstanceError> {
    found(path)?.filter(|file| file.len() > 0).map(|file| modified(path, &file)).transpose()
}

/// A file. What cannot be looked at is not taken for missing.
fn found(path: &Path) -> Result<Option<Metadata>, InstanceError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_file().then_some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(InstanceError::Read { path: path.to_path_buf(), source }),
    }
}

fn any_manifest(folder: &Path) -> Result<Option<PathBuf>, InstanceError> {
    let mut paths = entries(folder)?.into_iter().map(|entry| entry.path());
    Ok(paths.find(|path| path.extension().is_some_and(|extension| extension == "manifest")))
}

/// What is in a folder, if there is one.
fn entries(folder: &Path) -> Result<Vec<DirEntry>, InstanceError> {
    let failed = |source| InstanceError::Read { path: folder.to_path_buf(), source };
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect::<Result<_, _>>().map_err(failed),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_conf::directives;
    use rstest::rstest;

    fn looked(files: &[(&str, &str)], conf: &str, server: &str, version: &str) -> Result<Load, InstanceError> {
        let data = tempfile::tempdir().unwrap();
        for (nth, (name, text)) in files.iter().enumerate() {
            let path = data.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            // Each is a second younger than the one before.
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(nth).unwrap());
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
        let program = Program { path: "/x".into(), server: server.to_owned(), version: version.to_owned() };
        look(data.path(), &directives(conf), &program)
    }

    const RDB: (&str, &str) = ("dump.rdb", "REDIS");
    const OLD: (&str, &str) = ("appendonly.aof", "*1");
    const NEW: (&str, &str) = ("appendonlydir/appendonly.aof.manifest", "file");
    const ON: (&str, &str) = (NOTE, "on\n");
    const OFF: (&str, &str) = (NOTE, "off\n");
    const YES: &str = "AppendOnly Yes";

    #[rstest]
    #[case::rdb_alone(&[RDB], YES, Load::RdbFirst)]
    #[case::quoted(&[RDB], "appendonly \"yes\"", Load::RdbFirst)]
    #[case::told_no(&[RDB], "", Load::AsTold)]
    #[case::the_last_line_counts(&[RDB], "appendonly yes\nappendonly no", Load::AsTold)]
    #[case::nothing(&[], YES, Load::AsTold)]
    #[case::empty_rdb(&[("dump.rdb", "")], YES, Load::AsTold)]
    #[case::old_aof(&[RDB, OLD], YES, Load::AsTold)]
    #[case::empty_old_aof(&[RDB, ("appendonly.aof", "")], YES, Load::RdbFirst)]
    #[case::no_more(&[OLD], "", Load::AofFirst)]
    #[case::no_more_since(&[OLD], "appendonly yes\nappendonly no", Load::AofFirst)]
    #[case::somebody_elses_under_no(&[RDB, OLD], "", Load::AsTold)]
    #[case::somebody_elses_under_yes(&[OLD, RDB], YES, Load::AsTold)]
    #[case::on(&[ON, OLD, RDB], "", Load::AofFirst)]
    #[case::on_and_wanted(&[ON, OLD, RDB], YES, Load::AsTold)]
    #[case::on_without_a_file(&[ON, RDB], YES, Load::RdbFirst)]
    #[case::on_without_a_file_under_no(&[ON, RDB], "", Load::AsTold)]
    #[case::off(&[OFF, OLD, RDB], "", Load::AsTold)]
    #[case::off_and_wanted_again(&[OFF, OLD, RDB], YES, Load::RdbFirst)]
    #[case::off_and_written_whole_since_by_hand(&[OFF, RDB, OLD], "", Load::AsTold)]
    #[case::leaving_alone(&[(NOTE, "leaving\n"), OLD], "", Load::AofFirst)]
    #[case::leaving_and_saved(&[(NOTE, "leaving\n"), OLD, RDB], "", Load::AsTold)]
    #[case::leaving_saved_and_wanted_again(&[(NOTE, "leaving\n"), OLD, RDB], YES, Load::RdbFirst)]
    #[case::leaving_and_saved_anew(&[(NOTE, "leaving 7 0 7\n"), OLD, RDB], "", Load::AsTold)]
    #[case::leaving_saved_and_written_whole(&[(NOTE, "leaving\n"), RDB, OLD], YES, Load::AsTold)]
    #[case::leaving_and_lost(&[(NOTE, "leaving 7 0 7\n"), OLD], "", Load::AofFirst)]
    #[case::off_and_written_whole_since_and_wanted(&[OFF, RDB, OLD], YES, Load::AsTold)]
    #[case::off_alone(&[OFF, OLD], "", Load::AofFirst)]
    #[case::torn_note(&[(NOTE, ""), RDB, OLD], "", Load::AsTold)]
    #[case::no_more_and_empty(&[("appendonly.aof", "")], "", Load::AsTold)]
    #[case::no_more_and_another(&[OLD], "appendfilename a.aof", Load::AsTold)]
    #[case::named_rdb(&[("d.rdb", "REDIS")], "appendonly yes\nDBFilename 'd.rdb'", Load::RdbFirst)]
    #[case::another_rdb(&[RDB], "appendonly yes\ndbfilename d.rdb", Load::AsTold)]
    #[case::named_aof(&[RDB, ("a.aof", "*1")], "appendonly yes\nappendfilename a.aof", Load::AsTold)]
    #[case::another_aof(&[RDB, OLD], "appendonly yes\nappendfilename a.aof", Load::RdbFirst)]
    #[case::dir_is_ours(&[RDB], "appendonly yes\ndir /elsewhere", Load::RdbFirst)]
    fn the_rdb_is_loaded_first_where_there_is_nothing_else(
        #[case] files: &[(&str, &str)],
        #[case] conf: &str,
        #[case] expected: Load,
        #[values(("redis", "6.2.14"), ("redis", "7.0.15"), ("redis", "8.2.3"), ("valkey", "8.1.8"))] program: (
            &str,
            &str,
        ),
    ) {
        assert_eq!(looked(files, conf, program.0, program.1).unwrap(), expected);
    }

    #[rstest]
    #[case(&[RDB, NEW], YES, Load::AsTold)]
    #[case(&[RDB, ("appendonlydir/.keep", "")], YES, Load::RdbFirst)]
    #[case(&[RDB, NEW], "appendonly yes\nappenddirname d", Load::RdbFirst)]
    #[case(&[RDB, ("d/a.manifest", "file")], "appendonly yes\nappenddirname d\nappendfilename a", Load::AsTold)]
    #[case(&[NEW], "", Load::AofFirst)]
    #[case(&[NEW, RDB], "", Load::AsTold)]
    #[case(&[ON, NEW, RDB], "", Load::AofFirst)]
    #[case(&[ON, NEW, RDB], YES, Load::AsTold)]
    #[case(&[OFF, NEW, RDB, ("appendonlydir/temp-appendonly.aof.incr", "*1")], "", Load::AsTold)]
    #[case(&[OFF, NEW, RDB, ("appendonlydir/temp-appendonly.aof.incr", "*1")], YES, Load::RdbFirst)]
    #[case(&[OFF, RDB, NEW], YES, Load::AsTold)]
    #[case(&[NEW], "appenddirname d", Load::AsTold)]
    fn a_manifest_counts_where_it_is_known(
        #[case] files: &[(&str, &str)],
        #[case] conf: &str,
        #[case] expected: Load,
        #[values(("redis", "7.0.15"), ("redis", "8.2.3"), ("valkey", "7.2.5"))] program: (&str, &str),
    ) {
        assert_eq!(looked(files, conf, program.0, program.1).unwrap(), expected);
    }

    #[rstest]
    #[case(&[], "", Appending::Off)]
    #[case(&[], YES, Appending::On)]
    #[case(&[RDB], YES, Appending::Off)]
    #[case(&[OLD], "", Appending::On)]
    #[case(&[OFF, OLD, RDB], "", Appending::Off)]
    fn what_is_noted_before_the_start(#[case] files: &[(&str, &str)], #[case] conf: &str, #[case] expected: Appending) {
        let load = looked(files, conf, "redis", "7.2.5").unwrap();
        assert_eq!(load.appending(&directives(conf)), expected);
        let data = tempfile::tempdir().unwrap();
        assert_eq!(noted(data.path()).unwrap(), None);
        note(data.path(), expected).unwrap();
        assert_eq!(noted(data.path()).unwrap(), Some(expected));
    }

    #[test]
    fn what_was_appended_is_the_last_as_long_as_the_rdb_file_is_the_same() {
        let data = tempfile::tempdir().unwrap();
        let program = Program { path: "/x".into(), server: "redis".to_owned(), version: "6.2.14".to_owned() };
        let look = || look(data.path(), &directives(""), &program).unwrap();
        std::fs::write(data.path().join("dump.rdb"), "REDIS").unwrap();
        std::fs::write(data.path().join("appendonly.aof"), "*1").unwrap();
        let before = saved(data.path(), &[]).unwrap();
        for appending in [Appending::Leaving(before), Appending::Leaving(None), Appending::On] {
            note(data.path(), appending).unwrap();
            assert_eq!(noted(data.path()).unwrap(), Some(appending));
        }
        note(data.path(), Appending::Leaving(before)).unwrap();
        assert_eq!(look(), Load::AofFirst);
        // As Redis does it: another file takes its place.
        std::fs::write(data.path().join("temp.rdb"), "REDIS").unwrap();
        std::fs::rename(data.path().join("temp.rdb"), data.path().join("dump.rdb")).unwrap();
        assert_eq!(look(), Load::AsTold);
    }

    #[rstest]
    #[case(&[RDB, NEW], YES, Ok(Load::RdbFirst))]
    #[case(&[OLD, NEW], YES, Ok(Load::AsTold))]
    #[case(&[NEW], YES, Err(7))]
    #[case(&[NEW], "", Err(7))]
    #[case(&[("appendonlydir/other.manifest", "file")], YES, Err(7))]
    #[case(&[("appendonlydir/.keep", "")], YES, Ok(Load::AsTold))]
    fn to_a_server_that_knows_no_manifest_it_is_no_file(
        #[case] files: &[(&str, &str)],
        #[case] conf: &str,
        #[case] expected: Result<Load, u8>,
    ) {
        assert_eq!(looked(files, conf, "redis", "6.2.14").map_err(|error| error.exit_code()), expected);
    }
}
