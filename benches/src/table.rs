//! The table of results and the machine it was made on.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

const HEAD: &str =
    "| what | against | reach | ours | theirs | figure | reached |\n| --- | --- | --- | --- | --- | --- | --- |\n";

/// One comparison.
pub(crate) struct Row {
    /// What was done.
    pub(crate) what: String,
    /// What a user would run instead.
    pub(crate) against: String,
    /// What is to be reached.
    pub(crate) target: String,
    /// Ours, with its unit.
    pub(crate) ours: String,
    /// Theirs, with its unit.
    pub(crate) theirs: String,
    /// The figure to hold against the target.
    pub(crate) figure: String,
    /// Whether it was reached.
    pub(crate) reached: bool,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) failures: Vec<String>,
}

impl Table {
    pub(crate) fn markdown(&self) -> String {
        self.text_after(&[])
    }

    fn lines(&self) -> Vec<String> {
        let line = |row: &Row| {
            let reached = if row.reached { "yes" } else { "**no**" };
            format!(
                "| {} | {} | {} | {} | {} | {} | {reached} |",
                row.what, row.against, row.target, row.ours, row.theirs, row.figure
            )
        };
        self.rows.iter().map(line).collect()
    }

    fn text_after(&self, earlier: &[String]) -> String {
        let mut text = String::from(HEAD);
        for line in earlier.iter().chain(&self.lines()) {
            let _ = writeln!(text, "{line}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nNot measured: {failure}");
        }
        text
    }

    /// Writes the table; rows of an earlier run that this one did not make again (`--only`) stay.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let before = std::fs::read_to_string(path).unwrap_or_default();
        let made: Vec<String> = self.rows.iter().map(|row| format!("| {} |", row.what)).collect();
        let kept: Vec<String> = before
            .lines()
            .filter(|line| line.starts_with("| ") && !HEAD.contains(line))
            .filter(|line| !made.iter().any(|what| line.starts_with(what.as_str())))
            .map(str::to_owned)
            .collect();
        let text = format!(
            "# Results\n\nMade by `cargo xtask bench` on {}.\nEach row compares side by side in one run; the median of the rounds is shown.\n\n{}",
            machine(),
            self.text_after(&kept)
        );
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }
}

fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
        .unwrap_or_else(|| "an unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_default()
        / (1 << 20);
    format!("{model}, {cores} cores, {memory} GiB")
}
