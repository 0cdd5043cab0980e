//! The method `zookeeper` against real ZooKeeper servers, seen by ZooKeeper's own Java client.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redkeep_testing::server::free_port;
use redkeep_tests::{fail, need, succeed};

const ZNODES: usize = 10_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The jars of `tests/services/zookeeper`, as a class path.
fn class_path() -> String {
    let servers = std::env::var_os("REDKEEP_SERVERS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redkeep-servers"),
        PathBuf::from,
    );
    let lib = servers.join("zookeeper-3.9.4/lib");
    assert!(lib.is_dir(), "{} is missing: run `cargo xtask servers`", lib.display());
    format!("{}/*", lib.display())
}

/// A server of its own, ended by its process id.
struct ZooKeeper {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl ZooKeeper {
    fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let child = Command::new("java")
            .args(["-Xmx256m", "-Dzookeeper.admin.enableServer=false", "-Dzookeeper.extendedTypesEnabled=true"])
            .args(["-Dzookeeper.4lw.commands.whitelist=srvr", "-cp", &class_path()])
            .args(["org.apache.zookeeper.server.ZooKeeperServerMain", &port.to_string()])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port, _folder: folder };
        let begun = Instant::now();
        while !server.is_ready() {
            assert!(begun.elapsed() < Duration::from_secs(120), "the ZooKeeper server does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// `ruok` is answered before requests are served; the mode is told only then.
    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut answer = String::new();
        stream.write_all(b"srvr").is_ok()
            && std::io::Read::read_to_string(&mut stream, &mut answer).is_ok()
            && answer.contains("Mode: ")
    }

    fn tool(&self, act: &str) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-cp", &class_path()]).arg(root().join("tests/services/Tree.java"));
        command.args([act, &self.port.to_string()]).stderr(Stdio::null());
        command
    }

    /// Every znode but ZooKeeper's own, as its client sees it.
    fn walk(&self) -> Vec<String> {
        let output = self.tool("walk").output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.starts_with("/zookeeper")).map(str::to_owned).collect()
    }

    fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    fn url_as_bob(&self) -> String {
        format!("tcp://bob@127.0.0.1:{}?login=zookeeper-digest", self.port)
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ten_thousand_znodes_are_captured_and_restored_into_an_empty_server() {
    if !need("java") {
        return;
    }
    let source = ZooKeeper::start();
    let mut filler =
        source.tool("fill").arg(ZNODES.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(filler.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready");

    let folder = tempfile::tempdir().unwrap();
    let (storage, password) = (folder.path().join("storage"), folder.path().join("password"));
    std::fs::write(&password, "secret\n").unwrap();
    let plugin = root().join("plugins/dist/zookeeper.wasm");
    let with_plugin = ["--plugin", plugin.to_str().unwrap(), "--grant", "socket:connect"];
    let stored = ["--storage", storage.to_str().unwrap(), "--cluster", "zoo"];
    let as_bob = ["--password-file", password.to_str().unwrap()];
    let backup = |source: &str| {
        [&["backup", "--source", source][..], &with_plugin, &stored]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };

    // Without the login a part of the tree cannot be read, and nothing is left out in silence.
    fail(1, &["no authority", "login=zookeeper-digest"], backup(&source.url()));
    let none = succeed([&["list"][..], &stored, &["--output", "json"]].concat());
    assert!(!none.stdout.contains("zookeeper"), "{}", none.stdout);

    let begun = Instant::now();
    let mut arguments = backup(&source.url_as_bob());
    arguments.extend(as_bob.map(str::to_owned));
    let said = succeed(arguments);
    println!("captured after {:?}", begun.elapsed());
    assert!(!format!("{}{}", said.stdout, said.stderr).contains("secret"), "{said:?}");
    let before = source.walk();
    drop(filler.stdin.take());
    filler.wait().unwrap();

    let inspected =
        succeed([&["inspect"][..], &stored, &["latest", "--largest", "2", "--output", "json"], &with_plugin].concat());
    // The znodes of the test, the root, and the four of ZooKeeper's own.
    assert_eq!(inspected.json()["ephemerals"], 2, "{inspected:?}");
    assert_eq!(inspected.json()["largest"][0]["path"], "/large");
    succeed([&["verify"][..], &stored, &["latest", "--level", "parse"], &with_plugin].concat());

    let target = ZooKeeper::start();
    let target_url = target.url();
    let restore = [&["restore", "--target", &target_url][..], &with_plugin, &stored, &["latest"]].concat();
    let begun = Instant::now();
    let said = succeed(&restore);
    println!("restored after {:?}", begun.elapsed());
    assert!(format!("{}{}", said.stdout, said.stderr).contains("sequence number"), "{said:?}");
    let expected: Vec<String> = before.iter().filter(|line| !line.contains("\tephemeral\t")).cloned().collect();
    assert_eq!(before.len() - expected.len(), 2);
    assert_eq!(expected.len(), ZNODES - 2 + 1);
    let after = target.walk();
    for (one, other) in expected.iter().zip(&after) {
        assert_eq!(one, other);
    }
    assert_eq!(after.len(), expected.len());
    println!("{} znodes are equal, {} ephemerals were left out", after.len(), before.len() - expected.len());

    // Once more: the target is not empty now.
    fail(5, &["the target is not empty", "--on-conflict replace"], &restore);
    let mut again = restore.clone();
    let as_bobs = target.url_as_bob();
    again[2] = &as_bobs;
    again.extend(as_bob);
    again.extend(["--on-conflict", "replace"]);
    succeed(&again);
    assert_eq!(target.walk(), after);
}
