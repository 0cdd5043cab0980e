//! `redkeep plugin test`: a component in the same plugin host as in production, over a world in memory that misbehaves as
//! told.

mod check;
mod scenario;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use redkeep_core::Attribute;
use redkeep_core::attribute::merge;
use redkeep_core::method::{Method, MethodError, Run, RunEvents, code};
use serde::Serialize;
use tokio::time::timeout;

use check::faults_of;
use scenario::{RunKind, Scenario, Step};
use world::{Handle, State, World};

use crate::arguments::limits::LimitArgs;
use crate::output::failure::Failure;
use crate::session::Session;

/// How long a step may take before it counts as hanging.
const STEP_LIMIT: Duration = Duration::from_mins(5);

/// Try a plugin over scripted servers, files and artifacts, with faults
#[derive(Args, Debug)]
pub(super) struct TestCommand {
    /// The component's file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The scenarios to run; may be given several times
    #[arg(long = "scenario", value_name = "YAML", required = true)]
    scenarios: Vec<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// How a scenario went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    name: String,
    /// What was wrong; empty: it passed.
    wrong: Vec<String>,
}

impl TestCommand {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let mut scenarios = Vec::new();
        for path in &self.scenarios {
            scenarios.extend(scenario::read(path)?);
        }
        let work = async {
            let mut verdicts = Vec::new();
            for scenario in &scenarios {
                let method = session.wiring.load_plugin(&self.file, &scenario.grants, self.limits.limits()).await;
                let wrong = match method {
                    Ok(method) => play(scenario, method).await.unwrap_or_else(|why| vec![why]),
                    // A plugin that cannot do without what is not granted is refused when it is loaded.
                    Err(failure) => refused(scenario, failure)?,
                };
                verdicts.push(Verdict { name: scenario.name.clone(), wrong });
            }
            Ok(verdicts)
        };
        let verdicts = session.until_cancelled(work).await?;
        session.format.print(&verdicts, || render(&verdicts))?;
        let failed = verdicts.iter().filter(|verdict| !verdict.wrong.is_empty()).count();
        if failed == 0 {
            return Ok(());
        }
        Err(Failure::failed("ScenarioFailed", format!("{failed} of {} scenarios failed", verdicts.len())))
    }
}

fn render(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        text.push_str(if verdict.wrong.is_empty() { "ok      " } else { "FAILED  " });
        text.push_str(&crate::output::failure::one_line(&verdict.name));
        text.push('\n');
        for line in &verdict.wrong {
            text.push_str("        ");
            text.push_str(&crate::output::failure::one_line(line));
            text.push('\n');
        }
    }
    text
}

fn refused(scenario: &Scenario, failure: Failure) -> Result<Vec<String>, Failure> {
    let expected = scenario.steps.first().and_then(|step| step.expect.error.as_deref());
    if failure.reason == "NotGranted" {
        let message = failure.message;
        return Ok(if expected == Some(code::DENIED) { Vec::new() } else { vec![message] });
    }
    Err(failure)
}

/// Plays every step; returns what was wrong.
async fn play(scenario: &Scenario, method: Arc<dyn Method>) -> Result<Vec<String>, String> {
    let world = Arc::new(World {
        state: state_of(scenario)?.into(),
        short_reads: scenario.short_reads,
        slow: scenario.slow_ms.map(Duration::from_millis),
        faults: scenario.faults.clone(),
    });
    let parameters = serde_json::Value::Object(scenario.parameters.clone()).to_string();
    let mut wrong = Vec::new();
    for (index, step) in scenario.steps.iter().enumerate() {
        world.state().step = index + 1;
        if step.run == RunKind::Restore {
            // The target is another place than the source.
            world.state().files.clear();
        }
        let answer = match method.validate(&parameters).await {
            Ok(()) => {
                timeout(STEP_LIMIT, call(scenario, step, &method, &world, &parameters)).await.unwrap_or_else(|_| {
                    Err(MethodError::new(code::TIMEOUT, format!("the step hangs: it took more than {STEP_LIMIT:?}")))
                })
            }
            Err(error) => Err(error),
        };
        let faults = faults_of(step, &answer, &world.state())?;
        wrong.extend(faults.into_iter().map(|fault| format!("step {} ({}): {fault}", index + 1, step.run.name())));
    }
    Ok(wrong)
}

/// `plan` and the call itself, as the engine does it.
async fn call(
    scenario: &Scenario,
    step: &Step,
    method: &Arc<dyn Method>,
    world: &Arc<World>,
    parameters: &str,
) -> Result<Vec<Attribute>, MethodError> {
    let run = || run_of(scenario, step, world, parameters);
    match step.run {
        RunKind::Capture => {
            method.plan(run()).await?;
            let facts = method.capture(run()).await?;
            world.state().facts.clone_from(&facts);
            Ok(facts)
        }
        RunKind::Restore => {
            method.plan(run()).await?;
            method.restore(run()).await
        }
        RunKind::Verify => {
            let facts = method.verify(run()).await?;
            contradiction(&world.state().facts, &facts).map_or(Ok(facts), Err)
        }
        RunKind::Inspect => {
            let query = serde_json::Value::Object(step.query.clone()).to_string();
            let answer = method.inspect(run(), &query).await?;
            Ok(vec![Attribute::new("answer", answer)])
        }
    }
}

/// A fact of `capture` must have the same value in `verify`: the engine refuses such a backup.
fn contradiction(captured: &[Attribute], verified: &[Attribute]) -> Option<MethodError> {
    let differs = |fact: &&Attribute| {
        redkeep_core::attribute::find(captured, &fact.key).is_some_and(|captured| captured != fact.value)
    };
    let fact = verified.iter().find(differs)?;
    let message = format!("verify says {} = {}, and capture said otherwise", fact.key, fact.value);
    Some(MethodError::new(code::DAMAGED, message))
}

fn run_of(scenario: &Scenario, step: &Step, world: &Arc<World>, parameters: &str) -> Run {
    let base = [("run", step.run.name()), ("backup", "20261121T091348Z-test-aaaaa"), ("shard", "0"), ("shards", "1")];
    let base: Vec<Attribute> = base.iter().map(|(key, value)| Attribute::new(*key, value)).collect();
    let more: Vec<Attribute> = step.context.iter().map(|(key, value)| Attribute::new(key, value)).collect();
    let handle = || Arc::new(Handle(Arc::clone(world)));
    let touches = matches!(step.run, RunKind::Capture | RunKind::Restore);
    let into_directory = step.run == RunKind::Restore && step.context.get("target").is_some_and(|it| it == "directory");
    Run {
        context: merge(&base, &more),
        parameters: parameters.to_owned(),
        events: handle() as Arc<dyn RunEvents>,
        artifacts: handle(),
        redis: (touches && scenario.redis.is_some() && !into_directory).then(|| handle() as _),
        files: (into_directory || (step.run == RunKind::Capture && scenario.files.is_some())).then(|| handle() as _),
        socket: (touches && scenario.socket.is_some()).then(|| handle() as _),
    }
}

fn state_of(scenario: &Scenario) -> Result<State, String> {
    let bytes = |content: &Option<scenario::Content>| {
        content.as_ref().map(|content| content.bytes().map(Bytes::from)).transpose()
    };
    let mut state = State::default();
    if let Some(redis) = &scenario.redis {
        state.info = redis.info.iter().map(|(key, value)| Attribute::new(key, value)).collect();
        state.snapshot = bytes(&redis.snapshot)?;
        state.stream = bytes(&redis.stream)?.unwrap_or_default();
        state.replies = redis.replies.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    }
    for (path, content) in scenario.files.iter().flatten() {
        state.files.insert(path.clone(), content.bytes()?.into());
    }
    if let Some(socket) = &scenario.socket {
        for exchange in &socket.conversation {
            state.conversation.push((exchange.receive.bytes()?.into(), bytes(&exchange.send)?.unwrap_or_default()));
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use redkeep_core::method::MethodInfo;

    /// A method in Rust that copies the snapshot: the harness is tested without a component.
    struct Copying(MethodInfo);

    #[async_trait]
    impl Method for Copying {
        fn info(&self) -> &MethodInfo {
            &self.0
        }

        fn digest(&self) -> &'static str {
            ""
        }

        async fn validate(&self, _: &str) -> Result<(), MethodError> {
            Ok(())
        }

        async fn plan(&self, _: Run) -> Result<Vec<Attribute>, MethodError> {
            Ok(Vec::new())
        }

        async fn capture(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
            let mut link = run.redis.unwrap().replicate(true).await?;
            let (mut source, mut sink) = (link.snapshot().await?, run.artifacts.create("dump.rdb", Vec::new()).await?);
            let mut reads = 0;
            loop {
                let data = source.read(1 << 20).await?;
                if data.is_empty() {
                    break;
                }
                reads += 1;
                sink.write(data).await?;
            }
            let size = sink.finish(Vec::new()).await?.size;
            run.events.log(redkeep_core::method::LogLevel::Warn, "done with care", &[]);
            Ok(vec![Attribute::new("rdb-bytes", size), Attribute::new("reads", reads)])
        }

        async fn restore(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
            let mut source = run.artifacts.open("dump.rdb").await?;
            let mut sink = run.files.unwrap().create("dump.rdb").await?;
            sink.write(source.read(1 << 20).await?).await?;
            sink.finish(Vec::new()).await?;
            Ok(Vec::new())
        }

        async fn verify(&self, _: Run) -> Result<Vec<Attribute>, MethodError> {
            Ok(vec![Attribute::new("reads", 1)])
        }

        async fn inspect(&self, _: Run, _: &str) -> Result<String, MethodError> {
            Ok("{}".to_owned())
        }
    }

    async fn wrong(text: &str) -> Vec<String> {
        let info = MethodInfo {
            name: "copying".to_owned(),
            version: "1".to_owned(),
            summary: String::new(),
            parameters_schema: "{}".to_owned(),
            requests: Vec::new(),
            attributes: Vec::new(),
        };
        let method: Arc<dyn Method> = Arc::new(Copying(info));
        let scenarios = scenario::parse(text).unwrap();
        play(&scenarios[0], method).await.unwrap()
    }

    const CAPTURE: &str = "name: x\nredis: { snapshot: { text: abcdef } }\n";

    #[tokio::test]
    async fn what_is_as_expected_passes() {
        let text = "short-reads: 2\nslow-ms: 1\nsteps:\n- run: capture\n  expect: { facts: { rdb-bytes: '6', reads: '3' }, \
                    artifacts: { dump.rdb: { text: abcdef } }, logged: care }\n- run: restore\n  context: { target: directory }\n  \
                    expect: { files: { dump.rdb: { text: ab } } }\n";
        assert_eq!(wrong(&format!("{CAPTURE}{text}")).await, Vec::<String>::new());
        let text = "faults: [{ at: snapshot, byte: 3, code: source-io }]\nsteps:\n- run: capture\n  expect: { error: source-io, \
                    artifacts: {} }\n";
        assert_eq!(wrong(&format!("{CAPTURE}{text}")).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_not_as_expected_is_named() {
        for (steps, why) in [
            ("- run: capture\n  expect: { facts: { rdb-bytes: '7' } }", "rdb-bytes"),
            ("- run: capture\n  expect: { artifacts: {} }", "dump.rdb"),
            ("- run: capture\n  expect: { artifacts: { dump.rdb: { text: abcdeF } } }", "byte 5"),
            ("- run: capture\n  expect: { error: denied }", "succeeded"),
            ("- run: capture\n  expect: { logged: nonsense }", "nonsense"),
            ("- run: restore\n  context: { target: directory }", "no artifact dump.rdb"),
        ] {
            let found = wrong(&format!("{CAPTURE}steps:\n{steps}\n")).await;
            assert!(found.len() == 1 && found[0].contains(why), "{steps}: {found:?}");
        }
        let found = wrong(&format!("{CAPTURE}short-reads: 1\nsteps: [{{ run: capture }}, {{ run: verify }}]\n")).await;
        assert!(found[0].contains("capture said otherwise"), "{found:?}");
        let late = "faults: [{ at: dump.rdb, byte: 0, code: sink-io, step: 2 }]\nsteps: [{ run: capture }]\n";
        assert_eq!(wrong(&format!("{CAPTURE}{late}")).await, Vec::<String>::new());
    }
}
