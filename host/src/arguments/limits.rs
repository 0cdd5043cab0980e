//! What a plugin may use, as users write it.

use clap::Args;
use redkeep_core::task::MethodLimits;
use redkeep_core::units::{parse_duration, parse_size};

/// What can be limited, for messages and help.
const NAMES: &str = "memory, cpu-slice, wall-clock, output, log-lines";

/// Limits of a plugin.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Plugin")]
pub(crate) struct LimitArgs {
    /// Limit the plugin: memory=SIZE (64Mi), cpu-slice=DURATION (5s without a call of the host), wall-clock=DURATION (24h a call),
    /// output=SIZE (16Ti a call), log-lines=NUMBER (1000000 a call); may be given several times. A memory or cpu-slice that is given
    /// holds for `describe` too, which else has 32Mi and 1s
    #[arg(long = "plugin-limit", value_name = "NAME=VALUE", value_parser = limit)]
    plugin_limit: Vec<PluginLimit>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PluginLimit {
    Memory(u64),
    CpuSlice(u64),
    WallClock(u64),
    Output(u64),
    LogLines(u64),
}

impl LimitArgs {
    /// As the engine takes them; of several of one name the last counts.
    pub(crate) fn limits(&self) -> MethodLimits {
        let mut limits = MethodLimits::default();
        for limit in &self.plugin_limit {
            match *limit {
                PluginLimit::Memory(bytes) => limits.memory_bytes = Some(bytes),
                PluginLimit::CpuSlice(milliseconds) => limits.cpu_slice_milliseconds = Some(milliseconds),
                PluginLimit::WallClock(milliseconds) => limits.wall_clock_milliseconds = Some(milliseconds),
                PluginLimit::Output(bytes) => limits.output_bytes = Some(bytes),
                PluginLimit::LogLines(lines) => limits.log_lines = Some(lines),
            }
        }
        limits
    }
}

fn limit(text: &str) -> Result<PluginLimit, String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("write NAME=VALUE; the names are {NAMES}"))?;
    let size = || parse_size(value).map_err(|error| error.to_string());
    let time = || match parse_duration(value) {
        Ok(time) => Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        Err(error) => Err(error.to_string()),
    };
    match name {
        "memory" => size().map(PluginLimit::Memory),
        "cpu-slice" => time().map(PluginLimit::CpuSlice),
        "wall-clock" => time().map(PluginLimit::WallClock),
        "output" => size().map(PluginLimit::Output),
        "log-lines" => {
            value.parse().map(PluginLimit::LogLines).map_err(|_| format!("`{value}` is not a number of lines"))
        }
        _ => Err(format!("there is no limit `{name}`; the names are {NAMES}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn limits(texts: &[&str]) -> MethodLimits {
        LimitArgs { plugin_limit: texts.iter().map(|text| limit(text).unwrap()).collect() }.limits()
    }

    #[test]
    fn what_is_given_is_limited_and_the_last_word_counts() {
        assert!(limits(&[]).is_default());
        let found =
            limits(&["memory=1Gi", "cpu-slice=2s", "wall-clock=1h", "output=5M", "log-lines=0", "memory=128Mi"]);
        let wanted = MethodLimits {
            memory_bytes: Some(128 << 20),
            cpu_slice_milliseconds: Some(2_000),
            wall_clock_milliseconds: Some(3_600_000),
            output_bytes: Some(5_000_000),
            log_lines: Some(0),
        };
        assert_eq!(found, wanted);
    }

    #[rstest]
    #[case("memory", "NAME=VALUE")]
    #[case("memory=much", "`much` is not a size")]
    #[case("wall-clock=5", "`5` is not a duration")]
    #[case("log-lines=-1", "`-1` is not a number of lines")]
    #[case("threads=2", "there is no limit `threads`; the names are memory, cpu-slice, wall-clock, output, log-lines")]
    fn what_is_no_limit_is_refused_with_what_would_be(#[case] text: &str, #[case] why: &str) {
        let error = limit(text).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
