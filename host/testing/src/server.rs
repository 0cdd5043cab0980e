//! One real server: started on a free port in a folder of its own, stopped on drop.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;

/// The servers that redkeep supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Redis 6.2.
    Redis62,
    /// Redis 7.0, Debian's.
    Redis70,
    /// Redis 8.2.
    Redis82,
    /// Valkey 8.1.
    Valkey81,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::Redis62, Self::Redis70, Self::Redis82, Self::Valkey81];

    /// As `tests/services/redis-servers` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis62 => "redis-6.2",
            Self::Redis70 => "redis-7.0",
            Self::Redis82 => "redis-8.2",
            Self::Valkey81 => "valkey-8.1",
        }
    }

    /// The server's program.
    ///
    /// # Errors
    /// When it is not on this machine; the message says how to get it.
    pub fn binary(self) -> Result<PathBuf> {
        let folder = std::env::var_os("REDKEEP_SERVERS").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redkeep-servers"),
            PathBuf::from,
        );
        let path = folder.join(self.name());
        if path.is_file() {
            return Ok(path);
        }
        if self == Self::Redis70 {
            let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .map(|dir| dir.join("redis-server"))
                .find(|path| path.is_file());
            if let Some(path) = found {
                return Ok(path);
            }
        }
        bail!("{} is not on this machine: run `cargo xtask servers`", self.name());
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// A running server.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: Folder,
    version: Version,
    password: Option<String>,
    arguments: Vec<String>,
}

enum Folder {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

impl RedisServer {
    /// Starts an empty server that saves nothing by itself and syncs without delay.
    pub fn start(version: Version) -> Result<Self> {
        Self::start_with(version, &[])
    }

    /// The same with more arguments, e.g. `["--appendonly", "yes"]`.
    pub fn start_with(version: Version, arguments: &[&str]) -> Result<Self> {
        Self::launch(version, Folder::Own(tempfile::tempdir()?), arguments)
    }

    /// Starts a server on a data directory that is there already; it stays when the server is dropped.
    pub fn start_in(version: Version, folder: &Path, arguments: &[&str]) -> Result<Self> {
        Self::launch(version, Folder::Given(folder.to_path_buf()), arguments)
    }

    fn launch(version: Version, folder: Folder, arguments: &[&str]) -> Result<Self> {
        let mut last = None;
        // Another process may take the free port between our look and the server's bind.
        for _ in 0..5 {
            match Self::try_launch(version, &folder, arguments) {
                Ok((child, port)) => {
                    let password = value_of(arguments, "--requirepass");
                    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
                    return Ok(Self { child, port, folder, version, password, arguments });
                }
                Err(error) => {
                    let taken = error.to_string().contains("already in use");
                    last = Some(error);
                    if !taken {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no attempt was made")))
    }

    fn try_launch(version: Version, folder: &Folder, arguments: &[&str]) -> Result<(Child, u16)> {
        let port = free_port();
        let log = folder.path().join("server.log");
        let mut command = Command::new(version.binary()?);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0"])
            .args(["--port", &port.to_string()])
            .arg("--dir")
            .arg(folder.path())
            .arg("--logfile")
            .arg(&log)
            .args(["--enable-debug-command", "yes"].iter().filter(|_| version != Version::Redis62))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("failed to start {}", version.name()))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let listening = value_of(arguments, "--tls-port").and_then(|port| port.parse().ok()).unwrap_or(port);
        loop {
            if let Some(status) = child.try_wait()? {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(8).collect();
                bail!(
                    "{} ended at start ({status}): {}",
                    version.name(),
                    tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
                );
            }
            if TcpStream::connect(("127.0.0.1", listening)).is_ok() {
                return Ok((child, port));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{} did not listen within 60 s", version.name());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://127.0.0.1:PORT`, without the password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("server.log")).unwrap_or_default()
    }

    /// A connection that waits until loading has ended.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        let password = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port))?;
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(120)))
            .set_connection_timeout(Some(Duration::from_secs(10)));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection_with_config(&config).await
                && redis::cmd("PING").query_async::<redis::Value>(&mut connection).await.is_ok()
            {
                return Ok(connection);
            }
            if Instant::now() > deadline {
                bail!("{} does not answer: {}", self.version.name(), self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs one command, given as words.
    pub async fn command(&self, words: &[&str]) -> Result<redis::Value> {
        let mut connection = self.connect().await?;
        let (name, rest) = words.split_first().context("an empty command")?;
        Ok(redis::cmd(name).arg(rest).query_async(&mut connection).await?)
    }

    /// One field of `INFO`.
    pub async fn info(&self, field: &str) -> Result<String> {
        let mut connection = self.connect().await?;
        let text: String = redis::cmd("INFO").arg("everything").query_async(&mut connection).await?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("INFO has no {field}"))
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it and starts it again in the same folder with the same arguments, on a new port.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let (child, port) = Self::try_launch(self.version, &self.folder, &arguments)?;
        self.child = child;
        self.port = port;
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn value_of(arguments: &[&str], name: &str) -> Option<String> {
    let index = arguments.iter().position(|argument| *argument == name)?;
    arguments.get(index + 1).map(|value| (*value).to_owned())
}
