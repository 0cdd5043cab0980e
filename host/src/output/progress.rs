//! What a running task shows on standard error: bars on a terminal, a plain line every few seconds in a log, warnings in both.
//!
//! Called often and from any thread. Text of plugins and servers is shown on one line and without control characters.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use redkeep_core::Attribute;
use redkeep_core::method::LogLevel;
use redkeep_engine::events::TaskEvents;
use tokio_util::sync::CancellationToken;

use super::failure::one_line;
use super::text;

/// How often a bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a log gets a line for one shard.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// Phases are a plugin's own words: no more than this many are shown.
const MAX_LINES: usize = 64;
/// Characters by which a warning is known again: fewer than a result keeps of one.
const ABOUT: usize = 300;
/// Warnings that are remembered, so that each is shown once.
const MAX_SAID: usize = 1_000;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Warnings only.
    Quiet,
    /// Bars.
    Bars,
    /// Plain lines.
    Lines,
}

impl Mode {
    /// The mode that fits standard error.
    pub(crate) fn detect(no_progress: bool) -> Self {
        if no_progress {
            Self::Quiet
        } else if std::io::stderr().is_terminal() {
            Self::Bars
        } else {
            Self::Lines
        }
    }
}

/// Shows a task's progress.
pub(crate) struct Progress {
    mode: Mode,
    colours: bool,
    bars: MultiProgress,
    state: Mutex<State>,
    cancellation: CancellationToken,
}

#[derive(Default)]
struct State {
    stages: Vec<String>,
    stage_bar: Option<ProgressBar>,
    lines: BTreeMap<(String, String), Line>,
    said: BTreeSet<String>,
}

struct Line {
    counts: Counts,
    since: Instant,
    shown: Option<Instant>,
    bar: Option<ProgressBar>,
}

/// What is known of one shard in one phase: of each unit how many are done, and of how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts(BTreeMap<String, (u64, Option<u64>)>);

impl Counts {
    fn bytes(&self) -> Option<(u64, Option<u64>)> {
        self.0.get("bytes").copied()
    }

    /// E.g. `1.2 GiB of 3.0 GiB, 120.0 MiB/s, 1,203,000 keys, 15.0s left`.
    fn describe(&self, elapsed: Duration) -> String {
        let mut parts = Vec::new();
        let mut left = None;
        if let Some((done, total)) = self.bytes() {
            parts.push(match total {
                Some(total) => format!("{} of {}", text::size(done), text::size(total)),
                None => text::size(done),
            });
            let milliseconds = elapsed.as_millis();
            // Below half a second a rate is noise.
            if milliseconds >= 500 {
                let rate = u64::try_from(u128::from(done) * 1_000 / milliseconds).unwrap_or(u64::MAX);
                parts.push(format!("{}/s", text::size(rate)));
                left = total.and_then(|total| total.saturating_sub(done).checked_div(rate));
            }
        }
        for (unit, (done, total)) in self.0.iter().filter(|(unit, _)| *unit != "bytes") {
            parts.push(match total {
                Some(total) => format!("{} of {} {unit}", text::count(*done), text::count(*total)),
                None => format!("{} {unit}", text::count(*done)),
            });
        }
        if let Some(seconds) = left {
            parts.push(format!("{} left", text::duration(Duration::from_secs(seconds))));
        }
        parts.join(", ")
    }
}

/// What is shown while a stage has counted nothing yet.
fn waiting_text(stage: &str, detail: &str) -> String {
    let doing = match stage {
        "plan" => "planning",
        "capture" => "waiting for the server (its repl-diskless-sync-delay is 5 s unless set)",
        "commit" => "committing",
        "checksum" => "checking digests",
        "parse" => "reading the backup",
        "boot" => "starting a throw-away server",
        "restore" => "restoring",
        "publish" => "moving files into place",
        "copy" => "copying",
        "delete" => "deleting",
        "clean" => "cleaning up",
        other => other,
    };
    if detail.is_empty() { doing.to_owned() } else { format!("{doing}: {detail}") }
}

fn label(shard: &str, phase: &str) -> String {
    if shard.is_empty() || shard == "0" { phase.to_owned() } else { format!("{phase} shard {shard}") }
}

fn with_fields(message: &str, fields: &[Attribute]) -> String {
    let mut line = one_line(message);
    if !fields.is_empty() {
        let fields: Vec<String> =
            fields.iter().map(|field| one_line(&format!("{}={}", field.key, field.value))).collect();
        let _ = std::fmt::Write::write_fmt(&mut line, format_args!(" ({})", fields.join(", ")));
    }
    line
}

impl Progress {
    /// Shows progress in this mode; cancelling `cancellation` stops the task.
    pub(crate) fn new(mode: Mode, colours: bool, cancellation: CancellationToken) -> Arc<Self> {
        Arc::new(Self { mode, colours, bars: MultiProgress::new(), state: Mutex::default(), cancellation })
    }

    /// A line on standard error, above the bars.
    pub(crate) fn say(&self, line: &str) {
        // Standard error that is closed is nobody's fault here, and nothing is left to say it to.
        self.suspended(|| drop(writeln!(std::io::stderr(), "{line}")));
    }

    /// A warning or hint, once.
    pub(crate) fn warn(&self, word: &str, message: &str) {
        self.warn_about(word, message, message);
    }

    /// A warning that is shown as `line`, unless one about the same `message` was shown before: a result repeats the
    /// warnings of its run without their fields, and cuts long ones.
    fn warn_about(&self, word: &str, message: &str, line: &str) {
        let about: String = one_line(message).chars().take(ABOUT).collect();
        {
            let mut state = self.state();
            if state.said.contains(&about) {
                return;
            }
            if state.said.len() < MAX_SAID {
                state.said.insert(about);
            }
        }
        let word = if self.colours { format!("\u{1b}[1;33m{word}:\u{1b}[0m") } else { format!("{word}:") };
        self.say(&format!("{word} {}", one_line(line)));
    }

    /// The kinds of stage that have begun, in the order in which each began last.
    pub(crate) fn stages(&self) -> Vec<String> {
        self.state().stages.clone()
    }

    /// Takes every bar away.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.clear();
        drop(state);
        drop(self.bars.clear());
    }

    /// Runs `write` while no bar is drawn.
    pub(crate) fn suspended<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.mode == Mode::Bars { self.bars.suspend(write) } else { write() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_bar(&self, total: Option<u64>) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::no_length());
        let template = if total.is_some() { "{spinner} {prefix} [{bar:24}] {msg}" } else { "{spinner} {prefix} {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.enable_steady_tick(REDRAW);
        bar
    }
}

impl State {
    fn clear(&mut self) {
        for bar in self.stage_bar.take().into_iter().chain(self.lines.values_mut().filter_map(|line| line.bar.take())) {
            bar.finish_and_clear();
        }
        self.lines.clear();
    }
}

impl TaskEvents for Progress {
    fn stage(&self, name: &str, detail: &str) {
        let text = one_line(&waiting_text(name, detail));
        let mut state = self.state();
        state.stages.retain(|stage| stage != name);
        state.stages.push(name.to_owned());
        state.clear();
        match self.mode {
            Mode::Quiet => {}
            Mode::Bars => {
                let bar = self.new_bar(None);
                bar.set_message(text);
                state.stage_bar = Some(bar);
            }
            Mode::Lines => {
                drop(state);
                self.say(&text);
            }
        }
    }

    fn progress(&self, shard: &str, phase: &str, unit: &str, done: u64, total: Option<u64>) {
        if self.mode == Mode::Quiet {
            return;
        }
        let mut state = self.state();
        let key = (shard.to_owned(), phase.to_owned());
        if state.lines.len() >= MAX_LINES && !state.lines.contains_key(&key) {
            return;
        }
        if let Some(bar) = state.stage_bar.take() {
            bar.finish_and_clear();
        }
        let now = Instant::now();
        let line = state.lines.entry(key).or_insert_with(|| Line {
            counts: Counts::default(),
            since: now,
            // A log's first line comes after a while, so that a short task says nothing.
            shown: (self.mode == Mode::Lines).then_some(now),
            bar: None,
        });
        line.counts.0.insert(one_line(unit), (done, total));
        let every = if self.mode == Mode::Bars { REDRAW } else { LOG_EVERY };
        if line.shown.is_some_and(|shown| now.duration_since(shown) < every) {
            return;
        }
        line.shown = Some(now);
        let description = line.counts.describe(now.duration_since(line.since));
        let label = one_line(&label(shard, phase));
        if self.mode == Mode::Lines {
            drop(state);
            self.say(&format!("{label}: {description}"));
            return;
        }
        let bytes_total = line.counts.bytes().and_then(|(_, total)| total);
        let bar = match &line.bar {
            Some(bar) if bar.length() == bytes_total => bar.clone(),
            known => {
                if let Some(bar) = known {
                    bar.finish_and_clear();
                }
                let bar = self.new_bar(bytes_total);
                bar.set_prefix(label);
                line.bar = Some(bar.clone());
                bar
            }
        };
        bar.set_position(line.counts.bytes().map_or(0, |(done, _)| done));
        bar.set_message(description);
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]) {
        let line = with_fields(message, fields);
        match level {
            LogLevel::Trace => tracing::trace!(target: "redkeep::task", "{line}"),
            LogLevel::Debug => tracing::debug!(target: "redkeep::task", "{line}"),
            LogLevel::Info => tracing::info!(target: "redkeep::task", "{line}"),
            LogLevel::Warn | LogLevel::Error => self.warn_about("warning", message, &line),
        }
    }

    fn cancellation(&self) -> CancellationToken {
        self.cancellation.clone()
    }
}

/// Where log lines go: standard error, with the bars out of the way.
#[derive(Clone)]
pub(crate) struct LogWriter(pub(crate) Arc<Progress>);

impl Write for LogWriter {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.suspended(|| std::io::stderr().write(buffer))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(entries: &[(&str, u64, Option<u64>)]) -> Counts {
        Counts(entries.iter().map(|(unit, done, total)| ((*unit).to_owned(), (*done, *total))).collect())
    }

    #[test]
    fn a_line_says_bytes_rate_keys_and_what_is_left() {
        for (entries, seconds, text) in [
            (&[("bytes", 1_048_576, None)][..], 0, "1.0 MiB"),
            (&[("bytes", 10 << 20, None)], 2, "10.0 MiB, 5.0 MiB/s"),
            (&[("bytes", 10 << 20, Some(40 << 20))], 2, "10.0 MiB of 40.0 MiB, 5.0 MiB/s, 6.0s left"),
            (
                &[("bytes", 10 << 20, Some(40 << 20)), ("keys", 1_203_000, None)],
                2,
                "10.0 MiB of 40.0 MiB, 5.0 MiB/s, 1,203,000 keys, 6.0s left",
            ),
            (&[("keys", 5, Some(10))], 2, "5 of 10 keys"),
            (&[("bytes", 0, Some(10))], 2, "0 B of 10 B, 0 B/s"),
            (&[("bytes", 20, Some(10))], 1, "20 B of 10 B, 20 B/s, 0ms left"),
            (&[("bytes", u64::MAX, None)], 1, "16384.0 PiB, 16384.0 PiB/s"),
            (&[], 1, ""),
        ] {
            assert_eq!(counts(entries).describe(Duration::from_secs(seconds)), text, "{entries:?}");
        }
    }

    #[test]
    fn a_capture_without_bytes_says_that_the_server_is_waited_for() {
        assert!(waiting_text("capture", "").contains("repl-diskless-sync-delay"));
        assert_eq!(waiting_text("boot", "redis-server 7.0.15"), "starting a throw-away server: redis-server 7.0.15");
        assert_eq!(waiting_text("something-new", ""), "something-new");
    }

    #[test]
    fn a_warning_is_shown_once_and_phases_are_bounded() {
        let progress = Progress::new(Mode::Quiet, false, CancellationToken::new());
        progress.log(LogLevel::Warn, "the same", &[Attribute::new("shard", "0")]);
        progress.warn("warning", "the same");
        let long = "x".repeat(1_000);
        progress.log(LogLevel::Warn, &long, &[]);
        progress.warn("warning", &(long[..400].to_owned() + "…"));
        assert_eq!(progress.state().said.len(), 2);
        let progress = Progress::new(Mode::Lines, false, CancellationToken::new());
        for phase in 0..1_000 {
            progress.progress("0", &phase.to_string(), "bytes", 1, None);
        }
        assert_eq!(progress.state().lines.len(), MAX_LINES);
    }

    #[test]
    fn shards_are_named_where_there_are_several() {
        assert_eq!(label("0", "capture"), "capture");
        assert_eq!(label("shard-2", "capture"), "capture shard shard-2");
    }
}
