//! What `plugin test` runs, as an author writes it: a world, faults, steps, and what must come of them.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;

use crate::output::failure::Failure;

/// One document of a scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) name: String,
    #[serde(default)]
    pub(super) grants: Vec<String>,
    #[serde(default)]
    pub(super) parameters: serde_json::Map<String, serde_json::Value>,
    pub(super) redis: Option<ScriptedRedis>,
    /// The data directory: path and content.
    pub(super) files: Option<BTreeMap<String, Content>>,
    pub(super) socket: Option<ScriptedSocket>,
    #[serde(default)]
    pub(super) faults: Vec<Fault>,
    /// Reads return at most so many bytes, whatever is asked for.
    pub(super) short_reads: Option<usize>,
    /// Every read takes so long.
    pub(super) slow_ms: Option<u64>,
    pub(super) steps: Vec<Step>,
}

/// Bytes, written as text, as base64, or as text many times over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Content {
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    repeat: Option<usize>,
}

/// The most that one content has, in bytes.
const MAX_CONTENT: usize = 256 << 20;

impl Content {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        let once = match (&self.text, &self.base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|error| format!("a content is not base64 ({error})"))?,
            _ => return Err("a content is either text or base64".to_owned()),
        };
        let times = self.repeat.unwrap_or(1);
        if once.len().saturating_mul(times) > MAX_CONTENT {
            return Err("a content has more than 256 MiB".to_owned());
        }
        Ok(once.repeat(times))
    }
}

/// A server that answers by a script.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ScriptedRedis {
    /// Lines of `INFO`.
    #[serde(default)]
    pub(super) info: BTreeMap<String, String>,
    /// What a full resynchronisation sends.
    pub(super) snapshot: Option<Content>,
    /// The commands that follow it, as RESP.
    pub(super) stream: Option<Content>,
    /// Answers in RESP2 by the command's words with spaces between them; the name alone answers whatever its arguments are.
    #[serde(default)]
    pub(super) replies: BTreeMap<String, String>,
}

/// A server of another system: what it waits for, what it sends then.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ScriptedSocket {
    pub(super) conversation: Vec<Exchange>,
}

/// Once `receive` has come, `send` goes out; then the next one.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Exchange {
    pub(super) receive: Content,
    #[serde(default)]
    pub(super) send: Option<Content>,
}

/// Something goes wrong at a byte.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Fault {
    /// An artifact's name, a file's path, `snapshot`, `stream`, `replies`, `load` or `socket`.
    pub(super) at: String,
    /// How many bytes pass before it.
    #[serde(default)]
    pub(super) byte: u64,
    /// The error's code; `cancelled` stops the run.
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
    /// Only in the step of this number, beginning with 1.
    pub(super) step: Option<usize>,
}

/// A call of the plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Step {
    pub(super) run: RunKind,
    /// Joined to the context, e.g. `target: directory`.
    #[serde(default)]
    pub(super) context: BTreeMap<String, String>,
    /// Only for `inspect`.
    #[serde(default)]
    pub(super) query: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(super) expect: Expectation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RunKind {
    Capture,
    Verify,
    Restore,
    Inspect,
}

impl RunKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::Inspect => "inspect",
        }
    }
}

/// What must come of a step. What is not named is not looked at; without `error` the step must succeed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Expectation {
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) facts: BTreeMap<String, String>,
    /// Exactly these artifacts.
    pub(super) artifacts: Option<BTreeMap<String, Content>>,
    /// Exactly these files were restored.
    pub(super) files: Option<BTreeMap<String, Content>>,
    /// Exactly these bytes were loaded into the server.
    pub(super) loaded: Option<Content>,
    /// This stands in a line of the log.
    pub(super) logged: Option<String>,
}

/// Reads the documents of a scenario file.
pub(super) fn read(path: &Path) -> Result<Vec<Scenario>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let class = if error.kind() == std::io::ErrorKind::NotFound {
            redkeep_core::Class::NotFound
        } else {
            redkeep_core::Class::Failed
        };
        Failure::new(class, "ScenarioUnreadable", format!("failed to read {}", path.display())).caused_by(&error)
    })?;
    parse(&text).map_err(|why| {
        Failure::usage(format!("{} is not a scenario: {why}", path.display()))
            .with_help("docs/plugin-test.md says how one is written; `redkeep plugin new` makes one that works")
    })
}

pub(super) fn parse(text: &str) -> Result<Vec<Scenario>, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut scenarios = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let scenario = Scenario::deserialize(document).map_err(|error| error.to_string())?;
        if scenario.steps.is_empty() {
            return Err(format!("`{}` has no steps", scenario.name));
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_scenarios_are_read() {
        let scenarios = parse(include_str!("../templates/shared/round-trip.yaml")).unwrap();
        assert_eq!(scenarios.len(), 3);
        assert_eq!(scenarios[0].steps[0].run, RunKind::Capture);
        let snapshot = scenarios[0].redis.clone().unwrap().snapshot.unwrap();
        assert_eq!(snapshot.bytes().unwrap(), b"REDIS0011 and more of it");
    }

    #[test]
    fn what_is_no_scenario_is_said() {
        for (text, why) in [
            ("", "empty"),
            ("name: x\nsteps: []", "no steps"),
            ("name: x\nsteps: [{run: capture}]\nfault: []", "fault"),
            ("name: x\nsteps: [{run: dance}]", "dance"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let content: Content = serde_norway::from_str("{ base64: '!' }").unwrap();
        assert!(content.bytes().unwrap_err().contains("base64"));
        let content: Content = serde_norway::from_str("{ text: abc, repeat: 3 }").unwrap();
        assert_eq!(content.bytes().unwrap(), b"abcabcabc");
        let content: Content = serde_norway::from_str("{ text: abc, repeat: 1000000000 }").unwrap();
        assert!(content.bytes().is_err());
    }
}
