//! Real storage servers for this crate's tests: on a free port of the loopback, stopped by process id.
//!
//! A server that is not installed is a failure where `CI` is set and a printed line elsewhere;
//! `tests/services/install-storage-servers` installs them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::storage::WriteStorage;

use crate::conformance::{self, Abilities};

/// Runs the suite and fails with all that failed.
pub(crate) async fn pass(storage: Arc<dyn WriteStorage>, abilities: Abilities) {
    let failures = conformance::run(storage, abilities, |check| println!("  {check}")).await;
    let failed: Vec<String> = failures.iter().map(|failure| format!("{}: {}", failure.check, failure.seen)).collect();
    assert!(failed.is_empty(), "{} of {} checks failed:\n{}", failed.len(), conformance::count(), failed.join("\n"));
}

/// Where a program is: `PATH`, or one of the places where the installer puts it.
pub(crate) fn find(name: &str, places: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>();
    candidates.extend(places.iter().map(|place| home.join(place).join(name)));
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    if found.is_none() {
        let note = format!("{name} is not installed (tests/services/install-storage-servers installs it)");
        assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "{note}");
        println!("skipped: {note}");
    }
    found
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A server's process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    /// Starts `command` (given a port and a folder) and waits until it listens.
    pub(crate) async fn start(command: impl Fn(u16, &std::path::Path) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let mut command = command(port, &data);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut server = Self { child: command.spawn().unwrap(), port, folder };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                return server;
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended with {status}: {}", server.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not listen: {}", server.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
