//! What Redis would load from its data directory, looked at before it starts: where it finds nothing in the form that its
//! configuration names, it starts empty without a word, and its next save overwrites what was there in the other form.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::InstanceError;
use crate::program::Program;
use crate::redis_conf::is_allowed;

/// The directive that decides which files are loaded.
pub(crate) const APPEND_ONLY: &str = "appendonly";

/// How Redis has to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// As its directives say.
    AsTold,
    /// With `appendonly no`, though the directives say yes: there is an RDB file and no append-only file, which Redis
    /// writes when it is told `appendonly yes` after loading.
    RdbFirst,
}

/// Looks at the files.
///
/// # Errors
/// When the server cannot read the only data that is there.
pub(crate) fn look(data: &Path, directives: &[(String, String)], program: &Program) -> Result<Load, InstanceError> {
    let value = |name: &str, default: &'static str| {
        let mut lines = directives.iter().rev().filter(|(key, _)| is_allowed(key));
        lines.find(|(key, _)| key == name).map_or(default, |(_, value)| value.as_str()).to_owned()
    };
    let file = value("appendfilename", "appendonly.aof");
    let folder = data.join(value("appenddirname", "appendonlydir"));
    let has_rdb = holds_something(&data.join(value("dbfilename", "dump.rdb")))?;
    // 6.2 makes it, empty, when it begins to write the first one, and would load that nothing.
    let has_old_aof = holds_something(&data.join(&file))?;
    if !program.knows_manifests() {
        if !has_rdb
            && !has_old_aof
            && let Some(manifest) = any_manifest(&folder)?
        {
            return Err(InstanceError::NewerFiles {
                manifest,
                server: program.server.clone(),
                version: program.version.clone(),
            });
        }
    } else if size(&folder.join(format!("{file}.manifest")))?.is_some() {
        return Ok(Load::AsTold);
    }
    let appends = value(APPEND_ONLY, "no").eq_ignore_ascii_case("yes");
    Ok(if appends && has_rdb && !has_old_aof { Load::RdbFirst } else { Load::AsTold })
}

fn holds_something(path: &Path) -> Result<bool, InstanceError> {
    Ok(size(path)?.is_some_and(|size| size > 0))
}

/// A file's size. What cannot be looked at is not taken for missing.
fn size(path: &Path) -> Result<Option<u64>, InstanceError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_file().then_some(found.len())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(InstanceError::Read { path: path.to_path_buf(), source }),
    }
}

fn any_manifest(folder: &Path) -> Result<Option<PathBuf>, InstanceError> {
    let failed = |source| InstanceError::Read { path: folder.to_path_buf(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "manifest") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_conf::directives;
    use rstest::rstest;

    fn looked(files: &[(&str, &str)], conf: &str, server: &str, version: &str) -> Result<Load, InstanceError> {
        let data = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = data.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let program = Program { path: "/x".into(), server: server.to_owned(), version: version.to_owned() };
        look(data.path(), &directives(conf), &program)
    }

    const RDB: (&str, &str) = ("dump.rdb", "REDIS");
    const OLD: (&str, &str) = ("appendonly.aof", "*1");
    const NEW: (&str, &str) = ("appendonlydir/appendonly.aof.manifest", "file");
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
    #[case(&[NEW], "", Load::AsTold)]
    fn a_manifest_counts_where_it_is_known(
        #[case] files: &[(&str, &str)],
        #[case] conf: &str,
        #[case] expected: Load,
        #[values(("redis", "7.0.15"), ("redis", "8.2.3"), ("valkey", "7.2.5"))] program: (&str, &str),
    ) {
        assert_eq!(looked(files, conf, program.0, program.1).unwrap(), expected);
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
