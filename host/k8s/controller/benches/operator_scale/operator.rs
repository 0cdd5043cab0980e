//! The operator under test: the real controllers, a clock that may be fast, tasks that take two seconds and do nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, unfold};
use jiff::{SignedDuration, Timestamp};
use kube::Config;
use kube::client::ClientBuilder;
use prometheus_client::registry::Registry;
use redkeep_controller::clock::Clock;
use redkeep_controller::context::Context;
use redkeep_controller::executor::{ChangedOwner, Executor, ExecutorError, Purpose, TaskKey, TaskRequest, TaskState};
use redkeep_controller::leader::{Leader, LeaderSettings};
use redkeep_controller::metrics::Metrics;
use redkeep_controller::server::Readiness;
use redkeep_controller::settings::Settings;
use redkeep_controller::{redis_backup, redis_scheduled_backup, runtime};
use redkeep_core::task::{Outcome, TaskReport};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequestLayer;

use crate::Options;

/// How long a task pretends to work.
const WORK: Duration = Duration::from_secs(2);

/// Runs until it is killed; says on standard output what the other side counts.
pub(crate) async fn run(options: &Options, namespace: String) -> Result<()> {
    let requests = Arc::new(Requests::default());
    let config = Config::infer().await.context("no kubeconfig")?;
    let counted = Arc::clone(&requests);
    let client = ClientBuilder::try_from(config)?
        .with_layer(&MapRequestLayer::new(move |request: http::Request<kube::client::Body>| {
            counted.count(&request);
            request
        }))
        .build();
    let begin = options.clock.map_or_else(|| Ok(Timestamp::now()), Timestamp::from_second)?;
    let clock = Arc::new(FastClock { begin, started: Instant::now(), speed: options.speed });
    let (sender, receiver) = unbounded_channel();
    let executor = Arc::new(Pretender {
        clock: Arc::clone(&clock),
        tasks: Mutex::default(),
        changed: sender,
        changes: Mutex::new(Some(receiver)),
    });
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    let mut settings = Settings::new("redkeep:bench", &namespace, "k8s:bench");
    settings.watch_namespace = Some(namespace.clone());
    let shutdown = CancellationToken::new();
    let mut leader =
        Leader::new(client.clone(), LeaderSettings::new(&namespace, "bench"), Arc::clone(&clock) as Arc<_>);
    leader.acquire(&shutdown).await;
    let context = Arc::new(Context::new(client, Arc::clone(&clock) as Arc<_>, executor, metrics, settings));
    let readiness = Readiness::default();
    let report = async {
        let mut was_ready = false;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !was_ready && readiness.closed().is_empty() {
                was_ready = true;
                println!("ready {}", clock.now());
            }
            requests.say();
        }
    };
    let controllers = async {
        tokio::join!(
            redis_scheduled_backup::run(Arc::clone(&context), readiness.clone(), shutdown.clone()),
            redis_backup::run(Arc::clone(&context), readiness.clone(), shutdown.clone()),
            runtime::forward_changes(Arc::clone(&context), shutdown.clone()),
        );
    };
    tokio::select! {
        () = controllers => {}
        ended = leader.hold(&shutdown) => anyhow::bail!("leading ended: {ended:?}"),
        () = report => {}
    }
    Ok(())
}

/// Requests beside watches, by what they ask for.
#[derive(Default)]
struct Requests(Mutex<BTreeMap<String, u64>>);

impl Requests {
    fn count(&self, request: &http::Request<kube::client::Body>) {
        if request.uri().query().unwrap_or_default().contains("watch=") {
            return;
        }
        // `/apis/redis.io/v1/namespaces/NAMESPACE/redisbackups/NAME/status`
        let mut words = request.uri().path().split('/').skip_while(|word| *word != "namespaces").skip(2);
        let (kind, part) = (words.next().unwrap_or("others"), words.nth(1));
        let part = part.map(|part| format!("/{part}")).unwrap_or_default();
        let what = format!("{} {kind}{part}", request.method());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    fn say(&self) {
        for (what, count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            println!("requests {count} {what}");
        }
    }
}

/// Runs `speed` times as fast as the world.
struct FastClock {
    begin: Timestamp,
    started: Instant,
    speed: u32,
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.started.elapsed() * self.speed).unwrap_or(SignedDuration::ZERO);
        self.begin.checked_add(passed).unwrap_or(self.begin)
    }

    fn real(&self, span: Duration) -> Duration {
        span / self.speed
    }
}

/// Says that it starts tasks, and that they end well after a while.
struct Pretender {
    clock: Arc<FastClock>,
    tasks: Mutex<HashMap<TaskKey, (Instant, Timestamp)>>,
    changed: UnboundedSender<ChangedOwner>,
    changes: Mutex<Option<UnboundedReceiver<ChangedOwner>>>,
}

#[async_trait]
impl Executor for Pretender {
    async fn start(&self, request: &TaskRequest) -> Result<(), ExecutorError> {
        let now = self.clock.now();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.contains_key(&request.key) {
            return Ok(());
        }
        tasks.insert(request.key.clone(), (Instant::now(), now));
        if request.purpose == Purpose::Backup {
            println!("start {} {now}", request.owner.name);
        }
        let owner = ChangedOwner {
            kind: request.owner.kind.clone(),
            namespace: request.key.namespace.clone(),
            name: request.owner.name.clone(),
        };
        let changed = self.changed.clone();
        tokio::spawn(async move {
            let _ = changed.send(owner.clone());
            tokio::time::sleep(WORK).await;
            let _ = changed.send(owner);
        });
        Ok(())
    }

    async fn observe(&self, key: &TaskKey) -> Result<TaskState, ExecutorError> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((started, at)) = tasks.get(key) else { return Ok(TaskState::Missing) };
        if started.elapsed() < WORK {
            return Ok(TaskState::Running { pod: None, progress: None });
        }
        let report = TaskReport {
            outcome: Outcome::Done,
            started_at: *at,
            ended_at: self.clock.now(),
            backup_id: None,
            manifest: None,
            facts: [("stored-size".to_owned(), "1048576".to_owned())].into(),
            warnings: Vec::new(),
        };
        Ok(TaskState::Ended { report, pod: None })
    }

    async fn cancel(&self, _: &TaskKey) -> Result<(), ExecutorError> {
        Ok(())
    }

    async fn forget(&self, _: &TaskKey) -> Result<(), ExecutorError> {
        // Kept, so that a second start of the same task would be seen as what it is.
        Ok(())
    }

    async fn failed_at(&self, _: &TaskKey) -> Result<Option<Timestamp>, ExecutorError> {
        // None ever does.
        Ok(None)
    }

    fn changes(&self) -> BoxStream<'static, ChangedOwner> {
        let receiver = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        match receiver {
            Some(receiver) => {
                unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
            }
            None => futures::stream::pending().boxed(),
        }
    }
}
