//! The operator put together: client, clock, executor, pages, leadership, controllers. The only place that names them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use redkeep_controller::clock::Clock;
use redkeep_controller::context::Context;
use redkeep_controller::executor::Executor;
use redkeep_controller::executor::job::JobExecutor;
use redkeep_controller::leader::{Ended, Leader, LeaderSettings};
use redkeep_controller::metrics::Metrics;
use redkeep_controller::preflight::{PreflightError, check_definitions, check_rights};
use redkeep_controller::server::{Readiness, router};
use redkeep_controller::settings::Settings;
use redkeep_controller::{
    backup_method, backup_storage, redis_backup, redis_cluster, redis_restore, redis_scheduled_backup, runtime,
};
use redkeep_core::Timestamp;
use redkeep_core::classify::Classify;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Wiring;
use crate::executor::secrets::KubernetesSecrets;
use crate::executor::{InProcessExecutor, SecretReader};
use crate::output::failure::Failure;

/// A watch is ended by the API server after 290 seconds.
const LONGEST_SILENCE: Duration = Duration::from_secs(295);
/// How often the pre-flight checks are repeated while something is missing.
const CHECK_AGAIN: Duration = Duration::from_secs(5);
/// How long controllers may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What the command line says.
pub(crate) struct OperatorOptions {
    pub(crate) executor: ExecutorKind,
    pub(crate) image: String,
    pub(crate) watch_namespace: Option<String>,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) instance: Option<String>,
    pub(crate) origin: Option<String>,
    pub(crate) listen: SocketAddr,
    pub(crate) is_alone: bool,
    pub(crate) task_service_accounts: BTreeSet<String>,
    pub(crate) verification_images: Vec<String>,
    pub(crate) plugin_folder: PathBuf,
    pub(crate) concurrency: u16,
    pub(crate) poll_interval: Duration,
}

/// Where tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExecutorKind {
    /// Kubernetes Jobs.
    Job,
    /// This process.
    InProcess {
        /// How many at once.
        parallel: usize,
        /// Whether they may read Secrets.
        read_secrets: bool,
    },
}

/// The machine's clock.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Runs until it is cancelled, or until leadership is lost.
pub(crate) async fn run(
    wiring: &Arc<Wiring>,
    options: OperatorOptions,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let client = connect().await?;
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let readiness = Readiness::default();
    readiness.wait_for("definitions", "not looked at yet");
    readiness.wait_for("rights", "not looked at yet");
    let pages = serve(options.listen, Arc::new(registry), readiness.clone(), shutdown.clone()).await?;
    let work = lead(wiring, options, client, metrics, readiness, shutdown.clone());
    tokio::pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        _ = pages => {
            if shutdown.is_cancelled() {
                // Asked to end, the pages end first. The work has its Lease to give back still.
                work.await
            } else {
                Err(Failure::failed("PagesFailed", "the server of /livez, /readyz and /metrics ended"))
            }
        }
    };
    shutdown.cancel();
    result
}

async fn connect() -> Result<Client, Failure> {
    let mut config = kube::Config::infer().await.map_err(|error| {
        Failure::failed("KubernetesUnreachable", "failed to find a Kubernetes cluster")
            .caused_by(&error)
            .with_help("run in a pod, or let KUBECONFIG name a configuration")
    })?;
    // A connection whose other end is gone is never told so when nothing is on its way: it is given up when it is silent for
    // longer than any watch is.
    config.read_timeout = Some(LONGEST_SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config)
        .map_err(|error| Failure::failed("KubernetesUnreachable", "failed to make a client").caused_by(&error))
}

async fn serve(
    listen: SocketAddr,
    registry: Arc<Registry>,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<tokio::task::JoinHandle<std::io::Result<()>>, Failure> {
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::failed("PagesFailed", format!("failed to listen on {listen}"))
            .caused_by(&error)
            .with_help("give another address with --metrics-listen")
    })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving pages");
    }
    let router = router(registry, readiness);
    Ok(tokio::spawn(
        async move { axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await },
    ))
}

async fn lead(
    wiring: &Arc<Wiring>,
    options: OperatorOptions,
    client: Client,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    if !preflight(&client, &options, &readiness, &shutdown).await? {
        return Ok(());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let settings = settings(&client, &options).await?;
    // Of a restarted pod the old process's Lease must not look like one's own.
    let identity =
        format!("{}_{}", settings.instance, redkeep_core::provider::Providers::random_token(wiring.as_ref(), 8));
    let mut leader = Leader::new(client.clone(), LeaderSettings::new(&options.namespace, identity), Arc::clone(&clock));
    if !options.is_alone && !leader.acquire(&shutdown).await {
        return Ok(());
    }
    let in_process = match options.executor {
        ExecutorKind::Job => None,
        ExecutorKind::InProcess { parallel, read_secrets } => {
            let secrets = read_secrets.then(|| Arc::new(KubernetesSecrets(client.clone())) as Arc<dyn SecretReader>);
            Some(InProcessExecutor::new(Arc::clone(wiring) as _, parallel, secrets))
        }
    };
    let executor: Arc<dyn Executor> = if let Some(executor) = &in_process {
        Arc::clone(executor) as _
    } else {
        let watched = options.watch_namespace.clone();
        Arc::new(JobExecutor::new(client.clone(), Arc::clone(&clock), options.image.clone(), watched))
    };
    let context = Arc::new(Context::new(client, clock, executor, metrics, settings));
    // Not of `shutdown`: a controller that ends because it was asked to would look like one that ended by itself.
    let stop = CancellationToken::new();
    let mut controllers = controllers(&context, &readiness, &stop);
    // Given back only when the controllers have stopped: the next operator begins at once.
    let release = CancellationToken::new();
    let held = async {
        if options.is_alone {
            release.cancelled().await;
            return Ended::Released;
        }
        leader.hold(&release).await
    };
    tokio::pin!(held);
    let result = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        _ = &mut held => Err(Failure::failed("LeadershipLost", "the lease was lost: another operator works now")),
        // Half an operator is worse than none: it is started again as a whole.
        _ = controllers.join_next() => Err(Failure::failed("ControllerEnded", "a controller ended unexpectedly")),
    };
    stop.cancel();
    let stopped = async {
        while controllers.join_next().await.is_some() {}
        if let Some(executor) = in_process {
            executor.shutdown().await;
        }
    };
    if result.is_ok() {
        // Whoever waits for the Lease waits no longer than this; held on to meanwhile.
        tokio::select! {
            _ = tokio::time::timeout(STOP_LIMIT, stopped) => {}
            _ = &mut held => return Err(Failure::failed("LeadershipLost", "the lease was lost while stopping")),
        }
        release.cancel();
        let _ = tokio::time::timeout(STOP_LIMIT, held).await;
    } else {
        let _ = tokio::time::timeout(STOP_LIMIT, stopped).await;
    }
    result
}

/// Every controller there is.
fn controllers(context: &Arc<Context>, readiness: &Readiness, stop: &CancellationToken) -> JoinSet<()> {
    let mut set = JoinSet::new();
    set.spawn(redis_backup::run(Arc::clone(context), readiness.clone(), stop.clone()));
    set.spawn(redis_scheduled_backup::run(Arc::clone(context), readiness.clone(), stop.clone()));
    set.spawn(redis_restore::run(Arc::clone(context), readiness.clone(), stop.clone()));
    set.spawn(redis_cluster::run(Arc::clone(context), readiness.clone(), stop.clone()));
    set.spawn(backup_storage::run(Arc::clone(context), readiness.clone(), stop.clone()));
    set.spawn(backup_method::run(Arc::clone(context), readiness.clone(), stop.clone()));
    set.spawn(runtime::forward_changes(Arc::clone(context), stop.clone()));
    set
}

/// Waits until definitions and rights are there; false when it was cancelled first. Another operator's definitions end it.
async fn preflight(
    client: &Client,
    options: &OperatorOptions,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> Result<bool, Failure> {
    let wanted: Vec<String> = redkeep_k8s_api::all_crds().iter().map(ResourceExt::name_any).collect();
    let mut said = String::new();
    loop {
        let checked = check(client, &wanted, options, readiness).await;
        let Err(error) = checked else { return Ok(true) };
        if !error.retryable() {
            return Err(failure(&error));
        }
        let text = redkeep_core::classify::chain(&error);
        if text != said {
            tracing::error!(reason = error.reason(), error = %text, help = error.help(), "not ready");
            said = text;
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK_AGAIN) => {}
            () = shutdown.cancelled() => return Ok(false),
        }
    }
}

async fn check(
    client: &Client,
    wanted: &[String],
    options: &OperatorOptions,
    readiness: &Readiness,
) -> Result<(), PreflightError> {
    for gate in ["rights", "definitions"] {
        let checked = match gate {
            "rights" => {
                let (namespace, home) = (options.watch_namespace.as_deref(), &options.namespace);
                check_rights(client, namespace, home, &options.service_account).await
            }
            _ => check_definitions(client, wanted).await,
        };
        match checked {
            Ok(()) => readiness.open(gate),
            Err(error) => {
                readiness.wait_for(gate, redkeep_core::classify::chain(&error));
                return Err(error);
            }
        }
    }
    Ok(())
}

async fn settings(client: &Client, options: &OperatorOptions) -> Result<Settings, Failure> {
    let origin = if let Some(origin) = &options.origin {
        origin.clone()
    } else {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let system = namespaces.get("kube-system").await.map_err(|error| {
            Failure::failed("KubernetesApi", "failed to read namespace kube-system")
                .caused_by(&error)
                .with_help("allow `get` on it, or give --origin")
        })?;
        format!("k8s:{}", system.uid().unwrap_or_default())
    };
    let mut settings = Settings::new(&options.image, &options.namespace, origin);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    settings.instance = options.instance.clone().unwrap_or(host);
    settings.service_account.clone_from(&options.service_account);
    settings.watch_namespace.clone_from(&options.watch_namespace);
    settings.task_service_accounts.clone_from(&options.task_service_accounts);
    settings.verification_images.clone_from(&options.verification_images);
    settings.plugin_folder.clone_from(&options.plugin_folder);
    settings.concurrency = options.concurrency;
    settings.poll_interval = options.poll_interval;
    Ok(settings)
}

fn failure(error: &PreflightError) -> Failure {
    let failure = Failure::new(error.class(), error.reason(), error.to_string());
    match error.help() {
        Some(help) => failure.with_help(help),
        None => failure,
    }
}
