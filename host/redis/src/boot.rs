//! A throw-away server on a restored directory: the last proof that a backup can be used.
//!
//! It listens on a Unix socket in a folder of its own and on no port, saves nothing, has no command that reaches beyond its
//! data, and is killed by its process id.

mod remote;
mod serve;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use redkeep_core::provider::{BootCheck, ProviderError};
use redkeep_core::task::EndpointSpec;
use redkeep_core::{Attribute, Class};
use tokio::process::{Child, Command};

use crate::discovery::Endpoint;
use crate::discovery::probe::Probe;
use crate::error::AccessError;
use crate::target::rdb_version_of;
pub use remote::RemoteBootCheck;
pub use serve::serve_boots;

/// Programs that are looked for.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// How often a server that starts is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long a server may take until it listens; loading itself may take as long as it likes.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Commands that a throw-away server does not have: they load code, reach other hosts, write files or stop it, and what it
/// loads may be forged. Every release since 6.2 knows all of them.
const FORBIDDEN: [&str; 13] = [
    "MODULE",
    "SLAVEOF",
    "REPLICAOF",
    "DEBUG",
    "CONFIG",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "SHUTDOWN",
    "MIGRATE",
    "CLUSTER",
    "ACL",
    "FAILOVER",
];
/// `SIGKILL`. The only signal that a server never gives itself: one that crashes on what it loads aborts.
const KILLED: i32 = 9;
/// Lines of its log in an error.
const LOG_LINES: usize = 8;
/// The oldest release that knows all of [`FORBIDDEN`]; an older one ends at the first that it does not know.
const OLDEST: [u64; 2] = [6, 2];
/// What a server says when it stops for want of something that is no fault of the data.
const NOT_THE_DATA: [&str; 5] = [
    "no matching module type",
    "No space left on device",
    "Out Of Memory",
    "Cannot allocate memory",
    "Read-only file system",
];

/// Finds and starts servers of this machine.
pub struct LocalBootCheck {
    search: Vec<PathBuf>,
}

/// A program and what `--version` said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    name: String,
    version: String,
}

impl LocalBootCheck {
    /// Looks in these folders and in those of `PATH`, for `redis-server`, `valkey-server`, and names such as `redis-6.2`
    /// where several versions lie side by side.
    pub fn new(mut search: Vec<PathBuf>) -> Self {
        search.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        Self { search }
    }

    async fn programs(&self) -> Vec<Program> {
        let mut found = Vec::new();
        for folder in &self.search {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // `redis-6.2`, `valkey-8.1`: several versions side by side.
                let versioned = |prefix| {
                    name.strip_prefix(prefix)
                        .is_some_and(|rest: &str| rest.starts_with(|first: char| first.is_ascii_digit()))
                };
                if !PROGRAMS.contains(&name.as_str()) && !versioned("redis-") && !versioned("valkey-") {
                    continue;
                }
                let output =
                    Command::new(entry.path()).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
                let Ok(Ok(output)) = tokio::time::timeout(Duration::from_secs(10), output).await else { continue };
                found.extend(parse_version(&entry.path(), &String::from_utf8_lossy(&output.stdout)));
            }
        }
        found
    }
}

/// `Redis server v=7.0.15 sha=…` or `Valkey server v=8.1.8 sha=…`.
fn parse_version(path: &Path, text: &str) -> Option<Program> {
    let name = text.split_ascii_whitespace().next()?.to_ascii_lowercase();
    let version = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="))?;
    matches!(name.as_str(), "redis" | "valkey").then(|| Program {
        path: path.to_owned(),
        name,
        version: version.to_owned(),
    })
}

impl Program {
    /// Starts a server on a directory and sees what it loads. It ends before this returns.
    async fn load(
        &self,
        directory: &Path,
        appendonly: bool,
        scratch: &Path,
    ) -> io::Result<Result<Vec<Attribute>, BootFailure>> {
        let (socket, log) = (scratch.join("s"), scratch.join("log"));
        for left in [&socket, &log] {
            match std::fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut command = Command::new(&self.path);
        command
            .args(["--port", "0", "--save", "", "--daemonize", "no"])
            .args(["--appendonly", if appendonly { "yes" } else { "no" }])
            .args(["--auto-aof-rewrite-percentage", "0", "--databases", "16384", "--supervised", "no"])
            .args(FORBIDDEN.iter().flat_map(|name| ["--rename-command", name, ""]))
            // A server that repairs a torn file by itself proves nothing about it.
            .args(["--aof-load-truncated", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--logfile")
            .arg(&log)
            .arg("--dir")
            .arg(directory)
            .current_dir(scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let checked = check(&mut child, &socket, &log).await;
        let _ = child.kill().await;
        Ok(checked)
    }
}

fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

/// The same release if there is one, else the newest that can read it; the source's own kind first.
fn pick<'a>(programs: &'a [Program], name: &str, version: &str) -> Option<&'a Program> {
    let release = |version: &str| numbers(version).into_iter().take(2).collect::<Vec<_>>();
    let needed = rdb_version_of(name, version);
    let reads = |program: &&Program| {
        if program.name == name {
            return release(&program.version) >= release(version);
        }
        let able = rdb_version_of(&program.name, &program.version);
        // Valkey 9 has types of its own under numbers that Redis uses for others.
        able >= needed && (needed < 80 || program.name == "valkey") && (able < 80 || needed <= 11 || needed >= 80)
    };
    let programs: Vec<&Program> =
        programs.iter().filter(|program| numbers(&program.version).as_slice() >= OLDEST.as_slice()).collect();
    programs
        .iter()
        .copied()
        .filter(|program| program.name == name && release(&program.version) == release(version))
        .max_by_key(|program| numbers(&program.version))
        .or_else(|| {
            programs
                .iter()
                .copied()
                .filter(reads)
                .max_by_key(|program| (program.name == name, numbers(&program.version)))
        })
}

#[async_trait]
impl BootCheck for LocalBootCheck {
    async fn boot(
        &self,
        directory: &Path,
        appendonly: bool,
        server_name: &str,
        server_version: &str,
    ) -> Result<Vec<Attribute>, ProviderError> {
        let programs = self.programs().await;
        let Some(program) = pick(&programs, server_name, server_version) else {
            let known: Vec<String> =
                programs.iter().map(|program| format!("{} {}", program.name, program.version)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(ProviderError::new(
                Class::NotFound,
                "NoServerToBoot",
                format!(
                    "failed to find a server that reads what {server_name} {server_version} wrote (found: {known})"
                ),
            )
            .with_help(
                "install redis-server or valkey-server of that release or newer, or verify with --level parse",
            ));
        };
        let failed = |act: &str, error: io::Error| {
            let what = format!("failed to {act} {} {} for the check", program.name, program.version);
            ProviderError::new(Class::Failed, "BootFailed", what).caused_by(error)
        };
        // Short, because a socket's path may have 107 bytes only.
        let scratch = Scratch::new().map_err(|error| failed("make a folder to start", error))?;
        let mut checked =
            program.load(directory, appendonly, &scratch.0).await.map_err(|error| failed("start", error))?;
        if let Err(BootFailure::Refused(lines)) = &checked {
            // Only data that stops a server which runs without it speaks against the backup.
            let empty = scratch.0.join("empty");
            std::fs::create_dir(&empty).map_err(|error| failed("make an empty folder to start", error))?;
            let not_the_data = NOT_THE_DATA.iter().any(|words| lines.contains(words));
            if not_the_data || !matches!(program.load(&empty, appendonly, &scratch.0).await, Ok(Ok(_))) {
                checked = Err(BootFailure::NotTheData(lines.clone()));
            }
        }
        match checked {
            Ok(mut attributes) => {
                attributes.insert(0, Attribute::new("server", format!("{} {}", program.name, program.version)));
                Ok(attributes)
            }
            Err(BootFailure::Refused(lines)) => Err(ProviderError::new(
                Class::Damaged,
                "BootRefused",
                format!("failed to load the backup: {} {} refused to start: {lines}", program.name, program.version),
            )
            .with_help(
                "the log lines above say where the server stopped; `verify --level parse` says what redkeep finds",
            )),
            // What follows says nothing about the backup.
            Err(BootFailure::NotTheData(lines)) => Err(ProviderError::new(
                Class::Failed,
                "BootFailed",
                format!("failed to run {} {} on the backup: {lines}", program.name, program.version),
            )
            .with_help(
                "the server stopped by itself, but not for the data: see its last lines; level parse needs no server",
            )),
            Err(BootFailure::Killed) => Err(ProviderError::new(
                Class::Failed,
                "BootKilled",
                format!("failed to load the backup: {} {} was killed while it loaded", program.name, program.version),
            )
            .with_help("a server that is killed mostly needs more memory: it holds all data of the backup")),
            Err(BootFailure::Other(error)) => Err(error.into()),
        }
    }
}

enum BootFailure {
    Refused(String),
    /// It stopped by itself for another reason.
    NotTheData(String),
    /// From outside: by the kernel for want of memory, or by somebody.
    Killed,
    Other(AccessError),
}

async fn check(child: &mut Child, socket: &Path, log: &Path) -> Result<Vec<Attribute>, BootFailure> {
    let url = format!("unix://{}", socket.display());
    let endpoint = Endpoint::new(&EndpointSpec::default(), &url, None, None).map_err(BootFailure::Other)?;
    let node = endpoint.primary().await.map_err(BootFailure::Other)?;
    let begun = tokio::time::Instant::now();
    let mut answered = false;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            if status.signal() == Some(KILLED) {
                return Err(BootFailure::Killed);
            }
            return Err(BootFailure::Refused(format!("{} ({status})", last_lines(log))));
        }
        match Probe::of(&node).await {
            Ok(probe) if !probe.is_loading() => return Ok(loaded(&probe, log)),
            Ok(_) => answered = true,
            Err(error) if !answered && begun.elapsed() > START_LIMIT => return Err(BootFailure::Other(error)),
            Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What was loaded. 7.0 and later count it; for 6.2 the keys that are there now are all that can be known, and expired
/// ones are what its log says, if it does.
fn loaded(probe: &Probe, log: &Path) -> Vec<Attribute> {
    let keys = probe.keys();
    let mut attributes = vec![Attribute::new("keys", keys)];
    // `keys-db-N`, as captures report them.
    attributes
        .extend(probe.databases().into_iter().map(|(name, keys)| Attribute::new(name.replace("db", "keys-db-"), keys)));
    let by_server = probe.number("rdb_last_load_keys_loaded").zip(probe.number("rdb_last_load_keys_expired"));
    let by_log = || {
        // `Done loading RDB, keys loaded: 10, keys expired: 2.` (late 6.2)
        std::fs::read_to_string(log).unwrap_or_default().lines().rev().find_map(|line| {
            let (_, after) = line.split_once("keys loaded: ")?;
            let (loaded, expired) = after.split_once(", keys expired: ")?;
            Some((loaded.parse::<u64>().ok()?, expired.trim_end_matches('.').parse::<u64>().ok()?))
        })
    };
    let ((loaded, expired), by) = match (by_server, by_log()) {
        (Some(counts), _) => (counts, "server"),
        (None, Some(counts)) => (counts, "log"),
        (None, None) => ((keys, 0), "keys-present"),
    };
    attributes.push(Attribute::new("keys-loaded", loaded));
    attributes.push(Attribute::new("keys-expired", expired));
    attributes.push(Attribute::new("counted-by", by));
    attributes
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains(" # ") || line.contains(" * ") || line.contains("***")).collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines.get(from..).unwrap_or_default().join(" | ")
}

/// A folder that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("redkeep-boot-{:08x}", rand::random::<u32>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(list: &[(&str, &str)]) -> Vec<Program> {
        list.iter()
            .map(|(name, version)| Program {
                path: "/x".into(),
                name: (*name).to_owned(),
                version: (*version).to_owned(),
            })
            .collect()
    }

    #[test]
    fn the_same_release_is_picked_then_the_newest_that_reads_it() {
        let all = programs(&[("redis", "6.2.14"), ("redis", "7.0.15"), ("redis", "8.2.3"), ("valkey", "8.1.8")]);
        let picked =
            |list: &[Program], name, version| pick(list, name, version).map(|p| (p.name.clone(), p.version.clone()));
        let wanted = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(picked(&all, "redis", "7.0.2"), wanted("redis", "7.0.15"));
        assert_eq!(picked(&all, "redis", "7.2.1"), wanted("redis", "8.2.3"));
        assert_eq!(picked(&all, "valkey", "8.0.0"), wanted("valkey", "8.1.8"));
        assert_eq!(picked(&all[..2], "redis", "8.2.3"), None);
        assert_eq!(picked(&all[3..], "redis", "8.2.3"), None, "Valkey cannot read RDB 12");
        assert_eq!(picked(&all[3..], "redis", "7.0.15"), wanted("valkey", "8.1.8"));
        assert_eq!(picked(&all[..3], "valkey", "8.1.8"), wanted("redis", "8.2.3"));
        assert_eq!(picked(&all, "valkey", "9.0.0"), None);
        assert_eq!(picked(&all, "redis", "8.4.0"), None, "what a newer release writes is not known");
        let old = programs(&[("redis", "6.0.20")]);
        assert_eq!(picked(&old, "redis", "6.0.20"), None, "it does not know every command that is taken from it");
    }

    #[test]
    fn versions_are_read_as_servers_print_them() {
        let program =
            parse_version(Path::new("/x"), "Valkey server v=8.1.8 sha=0:0 malloc=libc bits=64 build=1").unwrap();
        assert_eq!((program.name.as_str(), program.version.as_str()), ("valkey", "8.1.8"));
        assert_eq!(parse_version(Path::new("/x"), "bash 5"), None);
    }
}
