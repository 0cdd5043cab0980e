//! Schedules on a real API server under a clock that the test moves: slots, a clock that steps, downtime, summer time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use redkeep_controller::clock::Clock;
use redkeep_controller::context::Context;
use redkeep_controller::executor::{Executor, ExecutorError, TaskKey, TaskRequest, TaskState};
use redkeep_controller::metrics::Metrics;
use redkeep_controller::server::Readiness;
use redkeep_controller::settings::Settings;
use redkeep_controller::{redis_backup, redis_scheduled_backup};
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_tests::kube::{Cluster, TestNamespace, install_crds};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "redis.io/v1";
/// How long nothing must happen to be believed.
const QUIET: Duration = Duration::from_secs(2);

/// Stands where it was set; whoever sleeps by it looks again soon.
struct HandClock(Mutex<Timestamp>);

impl HandClock {
    fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn real(&self, span: Duration) -> Duration {
        span.min(Duration::from_millis(50))
    }
}

/// Every task ends well as soon as it is begun.
struct Pretender {
    clock: Arc<HandClock>,
    begun: Mutex<BTreeMap<TaskKey, Timestamp>>,
}

#[async_trait]
impl Executor for Pretender {
    async fn start(&self, request: &TaskRequest) -> Result<(), ExecutorError> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.entry(request.key.clone()).or_insert_with(|| self.clock.now());
        Ok(())
    }

    async fn observe(&self, key: &TaskKey) -> Result<TaskState, ExecutorError> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied();
        Ok(begun.map_or(TaskState::Missing, |at| TaskState::Ended {
            report: TaskReport {
                outcome: Outcome::Done,
                started_at: at,
                ended_at: at,
                backup_id: None,
                manifest: None,
                facts: [("stored-size".to_owned(), "1".to_owned())].into(),
                warnings: Vec::new(),
            },
            pod: None,
        }))
    }

    async fn cancel(&self, _: &TaskKey) -> Result<(), ExecutorError> {
        Ok(())
    }

    async fn forget(&self, _: &TaskKey) -> Result<(), ExecutorError> {
        Ok(())
    }
}

/// The controllers, as the operator runs them.
struct Controllers {
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Controllers {
    fn start(cluster: &TestNamespace, clock: &Arc<HandClock>, executor: &Arc<Pretender>) -> Self {
        let name = cluster.name();
        let mut settings = Settings::new("redkeep:test", name, "k8s:test");
        settings.watch_namespace = Some(name.to_owned());
        settings.poll_interval = Duration::from_millis(200);
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let (clock, executor) = (Arc::clone(clock) as Arc<dyn Clock>, Arc::clone(executor) as Arc<dyn Executor>);
        let context = Arc::new(Context::new(cluster.client().clone(), clock, executor, metrics, settings));
        let stop = CancellationToken::new();
        let (readiness, token) = (Readiness::default(), stop.clone());
        let running = tokio::spawn(async move {
            tokio::join!(
                redis_scheduled_backup::run(Arc::clone(&context), readiness.clone(), token.clone()),
                redis_backup::run(context, readiness, token),
            );
        });
        Self { stop, running }
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.running.await.context("a controller panicked")
    }
}

struct World {
    namespace: TestNamespace,
    clock: Arc<HandClock>,
    executor: Arc<Pretender>,
}

impl World {
    /// Every run there ever was, by name; limits of the history are set so that none is pruned.
    async fn runs(&self) -> Result<Vec<String>> {
        let runs = self.namespace.list(GROUP, "RedisBackup", "").await?;
        let mut names: Vec<_> =
            runs.iter().filter_map(|run| run["metadata"]["name"].as_str()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    async fn apply(&self, name: &str, schedule: &str, zone: &str) -> Result<()> {
        let object = json!({
            "apiVersion": GROUP, "kind": "RedisScheduledBackup", "metadata": {"name": name},
            "spec": {
                "schedule": schedule, "timeZone": zone, "successfulBackupsHistoryLimit": 100,
                "source": {"endpoints": ["redis.example:6379"], "name": "redis"},
                "destination": {"s3": {"bucket": "backups", "path": "clock", "endpoint": "http://s3.example:9000"}},
            },
        });
        self.namespace.apply(&object).await?;
        Ok(())
    }

    /// Waits until the schedule knows its next slot, as `expected`.
    async fn next(&self, name: &str, expected: Timestamp) -> Result<()> {
        let expected = expected.to_string();
        let wait = self.namespace.wait_for(GROUP, "RedisScheduledBackup", name, "to know its next slot", |schedule| {
            schedule.is_some_and(|schedule| schedule["status"]["nextScheduleTime"] == expected.as_str())
        });
        wait.await.with_context(|| format!("{name}: next slot {expected}"))?;
        Ok(())
    }

    /// Moves the clock; waits until exactly these runs are there and completed, and until no other comes.
    async fn at(&self, now: Timestamp, expected: &[String]) -> Result<()> {
        self.clock.set(now);
        self.namespace
            .wait_until("the runs of the schedule end", || async {
                let runs = self.namespace.list(GROUP, "RedisBackup", "").await?;
                let done = runs.iter().filter(|run| run["status"]["phase"] == "Completed").count();
                Ok((done >= expected.len()).then_some(()))
            })
            .await
            .with_context(|| format!("at {now}: {expected:?}"))?;
        tokio::time::sleep(QUIET).await;
        let runs = self.runs().await?;
        ensure!(runs == expected, "at {now} there are {runs:?}, wanted {expected:?}");
        Ok(())
    }
}

fn slot(name: &str, time: Timestamp) -> String {
    format!("{name}-{}", time.strftime("%Y%m%d%H%M"))
}

fn at(text: &str) -> Result<Timestamp> {
    text.parse().context("a time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_follows_a_clock_that_steps_sleeps_and_changes_to_summer_time() -> Result<()> {
    let Some(cluster) = Cluster::api("a_schedule_follows_a_clock_that_steps") else { return Ok(()) };
    install_crds(cluster)?;
    let namespace = cluster.namespace("clock").await?;
    // The API server's own clock stamps the creation; the test's begins at the next full day.
    let day = SignedDuration::from_hours(24);
    let midnight = Timestamp::from_second((Timestamp::now().as_second() / 86_400 + 1) * 86_400)?;
    let clock = Arc::new(HandClock(Mutex::new(midnight)));
    let executor = Arc::new(Pretender { clock: Arc::clone(&clock), begun: Mutex::default() });
    let world = World { namespace, clock, executor };
    let controllers = Controllers::start(&world.namespace, &world.clock, &world.executor);
    world.apply("nightly", "0 2 * * *", "UTC").await?;
    let two = midnight + SignedDuration::from_hours(2);
    // It was made yesterday, so that yesterday's slot may have come since: what is made good is known first.
    let mut expected = Vec::new();
    world.next("nightly", two).await?;
    tokio::time::sleep(QUIET).await;
    expected.extend(world.runs().await?);
    ensure!(expected.len() <= 1, "{expected:?}");

    world.at(two - SignedDuration::from_secs(1), &expected).await?;
    expected.push(slot("nightly", two));
    world.at(two, &expected).await?;
    // Set back: no slot comes twice. The same time again: neither.
    world.at(two - SignedDuration::from_hours(3), &expected).await?;
    world.at(two + SignedDuration::from_secs(5), &expected).await?;
    // Three days in one step: one run, for the newest slot.
    let newest = two + day * 3;
    expected.push(slot("nightly", newest));
    world.at(newest + SignedDuration::from_mins(7), &expected).await?;
    // Down for two days, and begun anew: one.
    controllers.stop().await?;
    let newest = newest + day * 2;
    world.clock.set(newest + SignedDuration::from_mins(7));
    let controllers = Controllers::start(&world.namespace, &world.clock, &world.executor);
    expected.push(slot("nightly", newest));
    world.at(newest + SignedDuration::from_mins(8), &expected).await?;
    world.namespace.delete(GROUP, "RedisScheduledBackup", "nightly").await?;

    // Summer time of Berlin, 28 March 2027: 02:30 does not exist; the slot comes at the first moment after the gap. And on
    // 31 October 02:30 comes twice: the slot comes once.
    let eve = at("2027-03-27T12:00:00Z")?;
    world.clock.set(eve);
    world
        .namespace
        .wait_until("the nightly runs go", || async { Ok(world.runs().await?.is_empty().then_some(())) })
        .await?;
    world.apply("berlin", "30 2 * * *", "Europe/Berlin").await?;
    let gap = at("2027-03-28T01:00:00Z")?;
    world.next("berlin", gap).await?;
    tokio::time::sleep(QUIET).await;
    let mut expected = world.runs().await?;
    ensure!(expected.len() <= 1, "{expected:?}");
    expected.push(slot("berlin", gap));
    world.at(gap + SignedDuration::from_secs(2), &expected).await?;
    world.next("berlin", at("2027-03-29T00:30:00Z")?).await?;
    let autumn = at("2027-10-31T00:30:00Z")?;
    expected.push(slot("berlin", autumn));
    world.at(autumn + SignedDuration::from_secs(2), &expected).await?;
    world.at(autumn + SignedDuration::from_mins(61), &expected).await?;
    world.next("berlin", at("2027-11-01T01:30:00Z")?).await?;
    controllers.stop().await?;
    world.namespace.remove();
    Ok(())
}
