//! What the sandbox costs. Measured inside the plugin host's own tests (`host/plugin/tests/measure.rs`), which can make guests;
//! here the figures become rows.

use std::path::Path;

use anyhow::{Context, Result};

use crate::table::Row;

#[derive(serde::Deserialize)]
struct Figures {
    starts: Vec<Start>,
    copies: Copies,
    languages: Vec<Language>,
}

/// The best of several `splice`s.
#[derive(serde::Deserialize)]
struct Language {
    plugin: String,
    seconds: f64,
    bytes: f64,
}

impl Language {
    fn rate(&self) -> String {
        format!("{:.2} GB/s", self.bytes / self.seconds / 1e9)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start {
    plugin: String,
    kib: u64,
    cold_ms: f64,
    warm_ms: f64,
    compile_ms: f64,
    call_us: f64,
}

/// Seconds for the same bytes.
#[derive(serde::Deserialize)]
struct Copies {
    native: f64,
    splice: f64,
    bytes: f64,
}

pub(super) fn figures(path: Option<&Path>) -> Result<Vec<Row>> {
    let path = path.context("no figures of the plugin host: run `cargo xtask bench`, or name --plugin-figures")?;
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let figures: Figures = serde_json::from_str(&text).context("failed to understand the plugin host's figures")?;
    let rate = |seconds: f64| format!("{:.2} GB/s", figures.copies.bytes / seconds / 1e9);
    let more = (figures.copies.splice / figures.copies.native - 1.0) * 100.0;
    let mut rows = vec![Row {
        what: "plugin route: `splice` of raw bytes".to_owned(),
        against: "the same copy by native code".to_owned(),
        target: "at most 3 % more wall time".to_owned(),
        ours: rate(figures.copies.splice),
        theirs: rate(figures.copies.native),
        figure: format!("{more:+.1} %"),
        reached: more <= 3.0,
    }];
    rows.extend(figures.starts.iter().filter(|start| start.is_bundled()).map(Start::warm));
    rows.extend(figures.starts.iter().filter(|start| !start.is_bundled() && start.kib > 100).map(Start::registering));
    let starts = figures.starts.iter().filter(|start| start.kib > 100 && !start.is_large());
    if let Some(slowest) = starts.max_by(|left, right| left.call_us.total_cmp(&right.call_us)) {
        rows.push(slowest.fresh());
    }
    let of = |name: &str| figures.languages.iter().find(|one| one.plugin == name);
    if let (Some(rust), Some(python)) = (of("example-raw"), of("example-python")) {
        let more = (python.seconds / rust.seconds - 1.0) * 100.0;
        rows.push(Row {
            what: "`splice` by a plugin in Python".to_owned(),
            against: "by one in Rust".to_owned(),
            target: "within 5 % of its rate".to_owned(),
            ours: python.rate(),
            theirs: rust.rate(),
            figure: format!("{more:+.1} %"),
            reached: more <= 5.0,
        });
    }
    Ok(rows)
}

impl Start {
    fn is_bundled(&self) -> bool {
        self.plugin.starts_with("redis-")
    }

    /// One that brings its language along.
    fn is_large(&self) -> bool {
        self.kib > 4096
    }

    fn name(&self) -> &str {
        self.plugin.trim_end_matches(".wasm")
    }

    fn warm(&self) -> Row {
        Row {
            what: format!("plugin start with a warm compile cache, {}", self.name()),
            against: String::new(),
            target: "at most 5 ms".to_owned(),
            ours: format!(
                "{} KiB; compiled anew {:.0} ms; a fresh instance and a call {:.0} µs",
                self.kib, self.cold_ms, self.call_us
            ),
            theirs: String::new(),
            figure: format!("{:.1} ms", self.warm_ms),
            reached: self.warm_ms <= 5.0,
        }
    }

    /// A component of Python's size is allowed seconds, one of Rust's (some 300 KiB) a third of one.
    fn registering(&self) -> Row {
        let is_large = self.is_large();
        let (target, limit) = if is_large { ("at most 10 s", 10_000.0) } else { ("at most 300 ms", 300.0) };
        let took = if is_large { self.cold_ms } else { self.compile_ms };
        Row {
            what: format!("registering a plugin of {} KiB, {}", self.kib, self.name()),
            against: String::new(),
            target: target.to_owned(),
            ours: format!("compiled in {:.0} ms, loaded in {:.0} ms", self.compile_ms, self.cold_ms),
            theirs: String::new(),
            figure: format!("{took:.0} ms; from the cache {:.1} ms", self.warm_ms),
            reached: took <= limit && (is_large || self.warm_ms <= 5.0),
        }
    }

    fn fresh(&self) -> Row {
        Row {
            what: format!("a fresh instance and a call of it, the slowest plugin in Rust: {}", self.name()),
            against: String::new(),
            target: "at most 1 ms".to_owned(),
            ours: format!("{} KiB", self.kib),
            theirs: String::new(),
            figure: format!("{:.0} µs", self.call_us),
            reached: self.call_us <= 1000.0,
        }
    }
}
