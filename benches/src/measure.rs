//! Running commands: wall time, processor time, peak memory.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    /// Wall time in seconds.
    pub(crate) seconds: f64,
    /// Processor time of the process itself in seconds, as last seen.
    pub(crate) processor: f64,
    /// Peak resident memory in MiB, as last seen.
    pub(crate) peak_mib: f64,
    /// Cores of the machine that were busy meanwhile, with whatever: the servers beside us too.
    pub(crate) busy_cores: f64,
}

/// Runs a command to its end; a failure shows what it said.
pub(crate) fn run(command: &mut Command) -> Result<Run> {
    let (begun, busy) = (Instant::now(), machine_time());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let mut errors = child.stderr.take().context("no standard error")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut errors, &mut text);
        text
    });
    let mut run = Run::default();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        look(child.id(), &mut run);
        std::thread::sleep(Duration::from_millis(5));
    };
    run.seconds = begun.elapsed().as_secs_f64();
    run.busy_cores = (machine_time() - busy) / run.seconds;
    let said = reader.join().unwrap_or_default();
    if !status.success() {
        bail!("{command:?} failed ({status}): {}", said.trim());
    }
    Ok(run)
}

/// Processor time of the whole machine in seconds: everything but idling and waiting for disks.
fn machine_time() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: f64 = fields
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4 | 8 | 9))
        .filter_map(|(_, field)| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// Peak memory and processor time so far, from `/proc`.
fn look(pid: u32, run: &mut Run) {
    if let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/status"))
        && let Some(kib) =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok())
    {
        run.peak_mib = run.peak_mib.max(kib / 1024.0);
    }
    if let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        && let Some((_, rest)) = text.rsplit_once(')')
    {
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().filter_map(|&index| fields.get(index)?.parse::<f64>().ok()).sum();
        run.processor = run.processor.max(ticks / 100.0);
    }
}

/// A shell pipeline in which every part must succeed.
pub(crate) fn shell(text: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", text]);
    command
}

/// Runs two commands in turn, `rounds` times each, after one run of both that is not counted; returns the medians.
pub(crate) fn alternate(
    rounds: usize,
    mut ours: impl FnMut() -> Result<Run>,
    mut theirs: impl FnMut() -> Result<Run>,
) -> Result<(Run, Run)> {
    ours()?;
    theirs()?;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        left.push(ours()?);
        right.push(theirs()?);
    }
    Ok((median(left)?, median(right)?))
}

/// The run of median wall time.
pub(crate) fn median(mut runs: Vec<Run>) -> Result<Run> {
    runs.sort_by(|left, right| left.seconds.total_cmp(&right.seconds));
    let peak_mib = runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
    runs.get(runs.len() / 2).map(|run| Run { peak_mib, ..*run }).context("no runs")
}
