//! The operator as a process: what it says, what it takes.

use std::collections::{BTreeMap, HashMap};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::Options;

/// What it said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// Backup to when its task was started, by the operator's clock. A second start would be counted in `doubled`.
    pub(crate) starts: HashMap<String, Timestamp>,
    pub(crate) doubled: usize,
    pub(crate) ready: bool,
    /// How many of each kind.
    pub(crate) requests: BTreeMap<String, u64>,
}

/// A running operator; it ends with this value.
pub(crate) struct Operator {
    child: Child,
    said: Arc<Mutex<Said>>,
    pub(crate) started: Instant,
}

impl Operator {
    pub(crate) fn start(options: &Options, namespace: &str, clock: Option<i64>, speed: u32) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--operator", namespace, "--speed", &speed.to_string()]);
        if let Some(clock) = clock {
            command.args(["--clock", &clock.to_string()]);
        }
        let _ = options;
        let mut child =
            command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("the operator did not start")?;
        let stdout = child.stdout.take().context("no output")?;
        let said = Arc::new(Mutex::new(Said::default()));
        let heard = Arc::clone(&said);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                heard.lock().unwrap_or_else(PoisonError::into_inner).hear(&line);
            }
        });
        Ok(Self { child, said, started: Instant::now() })
    }

    pub(crate) fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Said) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            if done(&self.said.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the operator ended: {status}");
            }
            if begin.elapsed() > limit {
                bail!("{what} did not happen within {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The most memory it ever held, in MiB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time it used, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let after = stat.rsplit(')').next().context("no stat")?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        // utime and stime, in hundredths of a second on Linux.
        Ok((ticks(11) + ticks(12)) / 100.0)
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the operator ended")
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

impl Said {
    /// All of them.
    pub(crate) fn all_requests(&self) -> u64 {
        self.requests.values().sum()
    }

    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("start"), Some(name), Some(at)) => {
                if let Ok(at) = at.parse()
                    && self.starts.insert(name.to_owned(), at).is_some()
                {
                    self.doubled += 1;
                }
            }
            (Some("ready"), ..) => self.ready = true,
            (Some("requests"), Some(count), Some(method)) => {
                let what = format!("{method} {}", words.collect::<Vec<_>>().join(" "));
                if let Ok(count) = count.parse() {
                    self.requests.insert(what, count);
                }
            }
            _ => {}
        }
    }
}
