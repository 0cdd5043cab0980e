//! What the sandbox costs. Measured inside the plugin host's own tests (`host/plugin/tests/measure.rs`), which can make guests;
//! here the figures become rows.

use std::path::Path;

use anyhow::{Context, Result};

use crate::table::Row;

#[derive(serde::Deserialize)]
struct Figures {
    starts: Vec<Start>,
    copies: Copies,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start {
    plugin: String,
    kib: u64,
    cold_ms: f64,
    warm_ms: f64,
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
    rows.extend(figures.starts.into_iter().filter(|start| start.plugin.starts_with("redis-")).map(|start| Row {
        what: format!("plugin start with a warm compile cache, {}", start.plugin.trim_end_matches(".wasm")),
        against: String::new(),
        target: "at most 5 ms".to_owned(),
        ours: format!(
            "{} KiB; compiled anew {:.0} ms; a fresh instance and a call {:.0} µs",
            start.kib, start.cold_ms, start.call_us
        ),
        theirs: String::new(),
        figure: format!("{:.1} ms", start.warm_ms),
        reached: start.warm_ms <= 5.0,
    }));
    Ok(rows)
}
