//! Beside a task: the program starts throw-away servers for whoever asks by the socket.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use redkeep_core::attribute::find;
use redkeep_core::provider::BootCheck as _;
use redkeep_core::{Class, Classify as _};
use redkeep_redis::RemoteBootCheck;
use redkeep_testing::server::{RedisServer, Version};

use crate::rig::PROGRAM;

struct Beside(Child);

impl Beside {
    /// With this folder as its image's `PATH`.
    fn start(folder: &Path, path: &Path) -> Self {
        let child = Command::new(PROGRAM).arg("boot").arg(folder).env("PATH", path).stderr(Stdio::null()).spawn();
        Self(child.unwrap())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder that holds the server of a version, and nothing else, under the name that images give it.
fn image(version: Version) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(version.binary().unwrap(), folder.path().join("redis-server")).unwrap();
    folder
}

async fn saved(version: Version) -> Vec<u8> {
    let server = RedisServer::start(version).unwrap();
    for key in ["a", "b", "c"] {
        server.command(&["SET", key, "1"]).await.unwrap();
    }
    server.command(&["SAVE"]).await.unwrap();
    std::fs::read(server.dir().join("dump.rdb")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_started_one_after_the_other_and_say_what_they_loaded() {
    let (shared, image) = (tempfile::tempdir().unwrap(), image(Version::Redis82));
    let _beside = Beside::start(shared.path(), image.path());
    let check = RemoteBootCheck::new(shared.path());
    let good = shared.path().join("good");
    std::fs::create_dir(&good).unwrap();
    std::fs::write(good.join("dump.rdb"), saved(Version::Redis82).await).unwrap();
    for _ in 0..2 {
        let found = check.boot(&good, false, "redis", "8.2.3").await.unwrap();
        assert_eq!((find(&found, "keys"), find(&found, "keys-loaded")), (Some("3"), Some("3")), "{found:?}");
    }
    let bad = shared.path().join("bad");
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join("dump.rdb"), b"REDIS0010\xfa\x09redis-ver").unwrap();
    let error = check.boot(&bad, false, "redis", "8.2.3").await.unwrap_err();
    assert_eq!((error.class, error.reason()), (Class::Damaged, "BootRefused"));
    assert!(check.boot(&good, false, "redis", "8.2.3").await.is_ok(), "the next one is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_too_old_or_none_is_no_word_against_the_backup() {
    let (shared, image) = (tempfile::tempdir().unwrap(), image(Version::Redis62));
    let _beside = Beside::start(shared.path(), image.path());
    let error = RemoteBootCheck::new(shared.path()).boot(shared.path(), false, "valkey", "9.0.0").await.unwrap_err();
    assert_eq!((error.class, error.reason()), (Class::Refused, "NoServerToBoot"));
    assert!(error.message.contains("valkey 9.0.0") && error.message.contains("redis 6.2"), "{error}");
}

#[test]
fn it_ends_when_it_is_told_to() {
    let shared = tempfile::tempdir().unwrap();
    let mut beside = Beside::start(shared.path(), shared.path());
    let socket = shared.path().join("boot.sock");
    while !socket.exists() {
        assert!(beside.0.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&beside.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(beside.0.wait().unwrap().success());
}
