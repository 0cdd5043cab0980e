//! Throw-away servers on restored directories.

use std::path::PathBuf;

use redkeep_core::attribute::find;
use redkeep_core::provider::BootCheck as _;
use redkeep_core::{Class, Classify as _};
use redkeep_redis::LocalBootCheck;
use redkeep_testing::server::{RedisServer, Version};
use rstest::rstest;

use crate::support::{access, resp, snapshot};

fn checker() -> LocalBootCheck {
    // Debian's lies elsewhere than those of `tests/services/redis-servers`.
    let folders: Vec<PathBuf> =
        Version::ALL.iter().map(|version| version.binary().unwrap().parent().unwrap().to_path_buf()).collect();
    LocalBootCheck::new(folders)
}

fn name_and_version(version: Version) -> (&'static str, &'static str) {
    match version {
        Version::Redis62 => ("redis", "6.2.14"),
        Version::Redis70 => ("redis", "7.0.15"),
        Version::Redis82 => ("redis", "8.2.3"),
        Version::Valkey81 => ("valkey", "8.1.8"),
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn loaded_and_expired_keys_are_counted(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let server = RedisServer::start(version).unwrap();
    for key in ["a", "b", "c"] {
        server.command(&["SET", key, "1"]).await.unwrap();
    }
    server.command(&["SET", "short", "1", "PX", "700"]).await.unwrap();
    let mut link = access(&server.url()).await.replicate(true).await.unwrap();
    let rdb = snapshot(&mut *link).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dump.rdb"), &rdb).unwrap();
    let (name, release) = name_and_version(version);
    let found = checker().boot(folder.path(), false, name, release).await.unwrap();
    let get = |key: &str| find(&found, key).unwrap();
    assert!(get("server").starts_with(name), "{found:?}");
    assert_eq!(get("keys"), "3");
    assert_eq!(get("keys-db-0"), "3");
    assert_eq!(get("keys-loaded"), "3");
    if version != Version::Redis62 || get("counted-by") == "log" {
        assert_eq!(get("keys-expired"), "1", "{found:?}");
    }
}

/// A program that says it is a server of 7.0 and ends with these words, on `only`'s directories alone.
fn pretender(folder: &std::path::Path, words: &str, only: &str) -> LocalBootCheck {
    use std::os::unix::fs::PermissionsExt as _;
    let server = checker_of(Version::Redis70);
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in --version) echo 'Redis server v=7.0.99 sha=0'; exit 0;; {only}) ;; *) exec {server} \"$@\";; esac\n\
         while [ \"$1\" != --logfile ]; do shift; done\necho '1:M 1 Jan # {words}' > \"$2\"\nexit 1\n"
    );
    let path = folder.join("redis-server");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    LocalBootCheck::new(vec![folder.to_path_buf()])
}

fn checker_of(version: Version) -> String {
    version.binary().unwrap().display().to_string()
}

#[rstest]
#[case::it_never_starts("Fatal error loading the DB", "*", "BootFailed")]
#[case::it_lacks_a_module(
    "The RDB file contains module data I cannot load: no matching module type",
    "*/data*",
    "BootFailed"
)]
#[case::it_has_no_disk("Error writing: No space left on device", "*/data*", "BootFailed")]
#[case::it_refuses_the_data("Bad file format reading the append only file", "*/data*", "BootRefused")]
#[tokio::test(flavor = "multi_thread")]
async fn only_a_server_that_runs_without_the_data_speaks_against_it(
    #[case] words: &str,
    #[case] only: &str,
    #[case] reason: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let error = pretender(folder.path(), words, only).boot(&data, false, "redis", "7.0.15").await.unwrap_err();
    assert_eq!(error.reason(), reason, "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_says_why_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dump.rdb"), b"REDIS0010\xfa\x09redis-ver").unwrap();
    let error = checker().boot(folder.path(), false, "redis", "7.0.15").await.unwrap_err();
    assert_eq!((error.class, error.reason()), (Class::Damaged, "BootRefused"));
    assert!(error.message.contains("Short read") || error.message.contains("RDB"), "{error}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_append_only_file_finds_no_command_that_reaches_beyond_the_data(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values(&["MODULE", "LOAD", "/no/such/module.so"], &["SLAVEOF", "192.0.2.1", "1"], &["CONFIG", "SET", "port", "0"])]
    forged: &[&str],
) {
    let (name, release) = name_and_version(version);
    let boot = async |commands: &[&[&str]]| {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = commands.iter().flat_map(|command| resp(command)).collect();
        if version == Version::Redis62 {
            std::fs::write(folder.path().join("appendonly.aof"), bytes).unwrap();
        } else {
            let inner = folder.path().join("appendonlydir");
            std::fs::create_dir(&inner).unwrap();
            std::fs::write(inner.join("appendonly.aof.manifest"), "file a.incr.aof seq 1 type i\n").unwrap();
            std::fs::write(inner.join("a.incr.aof"), bytes).unwrap();
        }
        checker().boot(folder.path(), true, name, release).await
    };
    let found = boot(&[&["SET", "a", "1"]]).await.unwrap();
    assert_eq!(find(&found, "keys"), Some("1"));
    let error = boot(&[&["SET", "a", "1"], forged]).await.unwrap_err();
    assert_eq!((error.class, error.reason()), (Class::Damaged, "BootRefused"));
    assert!(error.message.to_lowercase().contains("unknown command"), "{error}");
}

#[tokio::test]
async fn without_a_server_that_reads_it_the_check_says_what_it_needs() {
    let error = checker().boot(&std::env::temp_dir(), false, "valkey", "9.0.0").await.unwrap_err();
    assert_eq!(error.class, Class::NotFound);
    assert!(error.help.unwrap().contains("install"));
}

#[tokio::test]
async fn a_server_that_is_killed_says_nothing_about_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("redis-server");
    std::fs::write(&program, "#!/bin/sh\n[ \"$1\" = --version ] && echo Redis server v=99.0.0 && exit\nkill -9 $$\n")
        .unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let checker = LocalBootCheck::new(vec![folder.path().to_owned()]);
    let error = checker.boot(folder.path(), false, "redis", "99.0.0").await.unwrap_err();
    assert_eq!((error.class, error.reason()), (Class::Failed, "BootKilled"));
}
