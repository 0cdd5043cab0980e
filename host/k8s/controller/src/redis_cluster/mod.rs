//! `RedisCluster`: managed Redis, one primary and its replicas, that can be born from a backup (ADR 18).
//!
//! Six steps: dereference (reads, asks the instances), validate, decide, build (pure), apply (writes, orders), status (pure).
//! What is decided about who is primary is written to the status first, and ordered at the next look.

mod apply;
mod bootstrap;
mod build;
mod decide;
mod dereference;
mod fleet;
mod growth;
pub mod instance;
mod look;
mod memory;
mod names;
mod status;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use redkeep_core::classify::{Class, Classify};
use redkeep_core::managed::Standing;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_cluster_status::RedisClusterStatus;
use tokio_util::sync::CancellationToken;

use crate::common::Unresolved;
use crate::common::endpoints::name_of_pod;
use crate::context::Context;
use crate::executor::ExecutorError;
use crate::outcome::Outcome;
use crate::runtime::{Action, Drive, drive, watch};
use crate::server::Readiness;
use bootstrap::Restore;
use build::restore::Target;
use build::stateful_set::PodFacts;
use decide::{Seen, Stage};
use dereference::Workload;
pub use fleet::Fleet;
use status::Hindrance;
use validate::ValidatedCluster;

/// How often a cluster is looked at: three looks without an answer are a lost primary.
const LOOK: Duration = Duration::from_secs(1);
/// After a decision was written the next step follows at once.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Why a look at a cluster failed; what is wrong with the cluster itself is in its status instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Reading what the bootstrap names.
    #[error("failed to read what cluster {name} is born from")]
    Dereference {
        /// Which cluster.
        name: String,
        /// Why not.
        #[source]
        source: Unresolved,
    },
    /// The Kubernetes API did not answer as it should.
    #[error("failed to {act} cluster {name}")]
    Api {
        /// What was tried.
        act: &'static str,
        /// Which cluster.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The restore.
    #[error("failed to handle the restore of cluster {name}")]
    Task {
        /// Which cluster.
        name: String,
        /// Why not.
        #[source]
        source: ExecutorError,
    },
    /// The certificate.
    #[error("failed to make what the instances are known by")]
    Certificate {
        /// Why not.
        #[source]
        source: instance::CertificateFailed,
    },
    /// A part could not be written as JSON.
    #[error("failed to encode {name}")]
    Encode {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Somebody else's object has the name.
    #[error("{kind} {name} is there already and is not this cluster's")]
    NameTaken {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A claim stays as small as it is.
    #[error("claim {name} stays at {asked} instead of {wanted}: {message}; {}", growth::HELP)]
    ClaimNotGrown {
        /// Its name.
        name: String,
        /// What it asks for.
        asked: String,
        /// What the spec wants.
        wanted: String,
        /// Why.
        message: String,
    },
    /// The API server refused a part.
    #[error("{kind} {name} was refused: {message}")]
    Refused {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        message: String,
    },
}

impl Classify for ClusterError {
    fn class(&self) -> Class {
        match self {
            Self::NameTaken { .. } | Self::Refused { .. } | Self::ClaimNotGrown { .. } => Class::Refused,
            _ => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Task { source, .. } => source.reason(),
            Self::NameTaken { .. } => reasons::NAME_TAKEN,
            Self::Refused { .. } => reasons::FORBIDDEN,
            Self::ClaimNotGrown { .. } => reasons::CLAIM_NOT_GROWN,
            Self::Certificate { .. } | Self::Encode { .. } => "Internal",
            Self::Dereference { .. } | Self::Api { .. } => "KubernetesApi",
        }
    }

    fn retryable(&self) -> bool {
        true
    }
}

/// Runs the controller until it is cancelled.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let client = context.client.clone();
    let api: Api<DeserializeGuard<RedisCluster>> = match &context.settings.watch_namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let fleet = Arc::new(Fleet::default());
    let watched = watch(api, watcher::Config::default());
    let how = Drive { name: "rediscluster", shutdown, readiness };
    drive(how, context, watched, move |cluster, context| reconcile(cluster, context, Arc::clone(&fleet))).await;
}

/// One look at one cluster.
///
/// # Errors
/// When the API server or the executor did not answer; the cluster is looked at again.
pub async fn reconcile(
    cached: Arc<RedisCluster>,
    context: Arc<Context>,
    fleet: Arc<Fleet>,
) -> Result<Action, ClusterError> {
    let (name, namespace) = (cached.name_any(), cached.namespace().unwrap_or_default());
    let api: Api<RedisCluster> = Api::namespaced(context.client.clone(), &namespace);
    // The cache may lag behind what was decided a moment ago.
    let found = api.get_opt(&name).await;
    let found = found.map_err(|source| ClusterError::Api { act: "read", name, source: Box::new(source) })?;
    let Some(cluster) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
        // All parts are its dependents and go with it.
        fleet.forget(&cached.uid().unwrap_or_default());
        return Ok(Action::await_change());
    };
    match Box::pin(look_at(&cluster, &context, &fleet)).await {
        Err(error @ (ClusterError::NameTaken { .. } | ClusterError::Refused { .. })) => {
            let (next, outcome) = status::hindered(&cluster, error.reason(), &error.to_string(), context.now());
            apply::status(&cluster, &context, &next, outcome).await?;
            Ok(Action::requeue(context.settings.poll_interval))
        }
        other => other,
    }
}

async fn look_at(cluster: &RedisCluster, context: &Arc<Context>, fleet: &Fleet) -> Result<Action, ClusterError> {
    let spec = validate::validate(cluster, &context.settings);
    let is_begun = cluster.status.as_ref().is_some_and(|status| status.epoch.is_some());
    if let Err(wrong) = &spec
        && !is_begun
    {
        let (next, outcome) = status::refused(cluster, wrong, context.now());
        apply::status(cluster, context, &next, outcome).await?;
        return Ok(Action::await_change());
    }
    let workload = dereference::workload(cluster, context).await?;
    if workload.is_foreign {
        return Err(ClusterError::NameTaken { kind: "StatefulSet".to_owned(), name: cluster.name_any() });
    }
    let validated = match &spec {
        Ok(validated) => validated,
        // Instances that serve lose their primary all the same: they are looked after as they were made.
        Err(wrong) => {
            let hindrance = Hindrance::of_spec(wrong);
            return Box::pin(look_at_instances(cluster, Err(&hindrance), &workload, context, fleet)).await;
        }
    };
    let filled = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref()?.filled) == Some(true);
    let fills_claim = cluster.spec.bootstrap.is_some() && validated.storage.is_some();
    if fills_claim && !filled && workload.set.is_none() {
        return Box::pin(fill_claim(cluster, validated, context)).await;
    }
    match make_secrets(cluster, validated, context, fleet).await {
        Ok(Some(next)) => {
            apply::status(cluster, context, &next, None).await?;
            Ok(Action::requeue(AT_ONCE))
        }
        Ok(None) => Box::pin(look_at_instances(cluster, Ok(validated), &workload, context, fleet)).await,
        // Pods would be made with a Secret that is not there. Those that serve are looked after as they are.
        Err(NoSecrets::Hindered(hindrance)) if is_begun => {
            Box::pin(look_at_instances(cluster, Err(&hindrance), &workload, context, fleet)).await
        }
        Err(NoSecrets::Hindered(_)) => Ok(Action::requeue(LOOK)),
        Err(NoSecrets::Failed(error)) => Err(error),
    }
}

/// Why there are no Secrets.
enum NoSecrets {
    /// While nothing serves.
    Failed(ClusterError),
    Hindered(Hindrance),
}

/// Makes them; what was refused, or failed, is tried again when the spec has changed or a while has passed.
async fn make_secrets(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Arc<Context>,
    fleet: &Fleet,
) -> Result<Option<RedisClusterStatus>, NoSecrets> {
    let (uid, generation) = (cluster.uid().unwrap_or_default(), cluster.metadata.generation);
    let elapsed = fleet.elapsed();
    let paused = fleet.with(&uid, |memory| memory.no_secrets.clone());
    if let Some((of, at, hindrance)) = paused
        && of == generation
        && elapsed.saturating_sub(at) < context.settings.poll_interval
    {
        return Err(NoSecrets::Hindered(hindrance));
    }
    let made = apply::make_secrets(cluster, context, validated.has_password).await;
    if cluster.status.as_ref().is_none_or(|status| status.epoch.is_none()) {
        return made.map_err(NoSecrets::Failed);
    }
    let hindrance = made.as_ref().err().map(|error| {
        tracing::warn!(cluster = validated.name, error = %redkeep_core::classify::chain(error), "unable to make a Secret");
        Hindrance::of_object(error)
    });
    let at = fleet.elapsed();
    fleet.with(&uid, |memory| memory.no_secrets = hindrance.clone().map(|hindrance| (generation, at, hindrance)));
    made.map_err(|error| NoSecrets::Hindered(Hindrance::of_object(&error)))
}

/// The first claim is filled before anything else is made.
async fn fill_claim(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Arc<Context>,
) -> Result<Action, ClusterError> {
    let restore = restore(cluster, validated, context).await?;
    if matches!(restore, Restore::Done { .. }) {
        // Before it is said to be whole: what is whole is kept as the spec says.
        apply::keep_claim(cluster, context).await?;
    }
    if let (Restore::Begin { .. }, Some(storage)) = (&restore, &validated.storage) {
        // Before a task is said to be there: a claim that is refused must not look like a Job that vanished.
        apply::make_claim(cluster, context, &build::claim::first(cluster, storage)).await?;
    }
    let (next, outcome) = status::restoring(cluster, &restore, context.now());
    if !apply::status(cluster, context, &next, outcome).await? {
        return Ok(Action::requeue(AT_ONCE));
    }
    match restore {
        Restore::Begin { validated: wanted, attempt } => {
            start(cluster, validated, context, *wanted, &Target::Claim, attempt).await?;
            Ok(Action::requeue(LOOK))
        }
        Restore::Renew { claim } => {
            apply::drop_claim(cluster, context, &claim).await?;
            Ok(Action::requeue(LOOK))
        }
        Restore::Done { .. } => {
            forget_last(cluster, context).await?;
            Ok(Action::requeue(AT_ONCE))
        }
        Restore::Follow { .. } => Ok(Action::requeue(LOOK * 2)),
        Restore::None | Restore::Wait { .. } | Restore::Failed { .. } => {
            Ok(Action::requeue(context.settings.poll_interval.min(Duration::from_secs(5))))
        }
    }
}

async fn restore(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Context,
) -> Result<Restore, ClusterError> {
    let seen = dereference::bootstrap(cluster, validated, context).await?;
    let status = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref());
    let observed = bootstrap::Observed { status, claims: &seen.claims, task: seen.task, found: seen.found };
    let restore = bootstrap::decide(context.now(), cluster, observed);
    let Restore::Begin { attempt, .. } = &restore else { return Ok(restore) };
    let before = attempt.saturating_sub(1);
    if before < 1 {
        return Ok(restore);
    }
    // Nobody reads what the attempt before says any more, and two must not write into one claim.
    forget(cluster, context, before).await?;
    let pod = dereference::running_pod(cluster, context, before).await?;
    Ok(pod.map_or(restore, |pod| Restore::Wait {
        reason: reasons::PREPARING.to_owned(),
        message: format!("pod {pod} of the attempt before has not ended yet"),
        is_failed: false,
    }))
}

async fn start(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Arc<Context>,
    wanted: bootstrap::ValidatedBootstrap,
    target: &Target,
    attempt: i32,
) -> Result<(), ClusterError> {
    let request = build::restore::task(cluster, validated, wanted, target, attempt, context.now());
    let refused = match context.executor.start(&request).await {
        Ok(()) => return Ok(()),
        Err(refused) if !refused.retryable() => refused,
        Err(source) => return Err(ClusterError::Task { name: cluster.name_any(), source }),
    };
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let api: Api<RedisCluster> = Api::namespaced(context.client.clone(), &namespace);
    let found = api.get_opt(&name).await;
    let found = found.map_err(|source| ClusterError::Api { act: "read", name, source: Box::new(source) })?;
    let Some(cluster) = found else { return Ok(()) };
    let status = cluster.status.as_ref().and_then(|status| status.bootstrap.clone()).unwrap_or_default();
    let failed =
        bootstrap::failed(context.now(), &status, refused.reason().to_owned(), redkeep_core::classify::chain(&refused));
    let (next, outcome) = status::restoring(&cluster, &failed, context.now());
    apply::status(&cluster, context, &next, outcome).await.map(drop)
}

/// The report was read and is in the status.
async fn forget_last(cluster: &RedisCluster, context: &Context) -> Result<(), ClusterError> {
    let attempt = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref()?.attempts).unwrap_or(1);
    forget(cluster, context, attempt).await
}

async fn forget(cluster: &RedisCluster, context: &Context, attempt: i32) -> Result<(), ClusterError> {
    let forgotten = context.executor.forget(&build::restore::task_key(cluster, attempt)).await;
    forgotten.map_err(|source| ClusterError::Task { name: cluster.name_any(), source })
}

async fn look_at_instances(
    cluster: &RedisCluster,
    spec: Result<&ValidatedCluster, &Hindrance>,
    workload: &Workload,
    context: &Arc<Context>,
    fleet: &Fleet,
) -> Result<Action, ClusterError> {
    let asked = dereference::standings(cluster, context, &workload.pods).await;
    let mut troubles: Vec<(String, String)> = workload.pods.iter().filter_map(look::trouble).collect();
    let answers: BTreeMap<String, Option<Standing>> = asked
        .into_iter()
        .map(|(pod, answer)| {
            if let Err(error @ (instance::InstanceError::Stranger { .. } | instance::InstanceError::Refused { .. })) =
                &answer
            {
                troubles.push((reasons::INSTANCE_FAILED.to_owned(), error.to_string()));
            }
            if let Err(error) = &answer {
                tracing::debug!(cluster = cluster.name_any(), pod, error = %error, "no answer");
            }
            (pod, answer.ok())
        })
        .collect();
    let unscheduled =
        workload.pods.iter().find(|pod| look::trouble(pod).is_some_and(|(reason, _)| reason == reasons::UNSCHEDULABLE));
    if let Some(pod) = unscheduled
        && let Some(why) = dereference::claim_waits(cluster, context, &names::claim_of(&pod.name_any())).await
    {
        troubles.insert(0, why);
    }
    if troubles.is_empty() {
        troubles.extend(dereference::waits_for(cluster, context, &workload.pods).await);
    }
    let (now, uid) = (context.now(), cluster.uid().unwrap_or_default());
    let elapsed = fleet.elapsed();
    let wanted = match spec {
        Ok(validated) => look::wanted(cluster, validated),
        Err(_) => look::deployed(cluster, workload),
    };
    let seen = fleet.with(&uid, |memory| look::look(now, elapsed, cluster, wanted, workload, &answers, memory));
    let mut plan = decide::decide(&seen);
    let bootstrap = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref());
    let is_lost = bootstrap.is_some_and(|bootstrap| bootstrap::is_lost(bootstrap, seen.truth.process.as_ref()));
    let is_ready = seen.is_hidden && matches!(plan.stage, Stage::Serving { .. }) && plan.truth == seen.truth;
    // While a replica is waited for there is nothing to read of what it was born from.
    let is_ready = is_ready && (is_lost || !seen.is_only_copy);
    let mut restore = match spec {
        Ok(validated) if is_ready => restore(cluster, validated, context).await.unwrap_or_else(|error| Restore::Wait {
            reason: error.reason().to_owned(),
            message: redkeep_core::classify::chain(&error),
            is_failed: false,
        }),
        _ => Restore::None,
    };
    if let (Restore::Begin { .. }, Some(step)) = (&restore, empty_first(&seen)) {
        plan.steps.push(step);
        let message = "what an attempt before left is taken away".to_owned();
        restore = Restore::Wait { reason: reasons::PREPARING.to_owned(), message, is_failed: false };
    }
    if plan.truth != seen.truth {
        let hindrance = match spec {
            Ok(_) => fleet.with(&uid, |memory| memory.hindrance()),
            Err(hindrance) => Some(hindrance.clone()),
        };
        let (next, news) = status::looked(cluster, &seen, &plan, &troubles, &restore, hindrance.as_ref(), now);
        // Written before anybody hears of it; the next look goes on from there.
        write(cluster, context, &next, plan.outcomes, news).await?;
        return Ok(Action::requeue(AT_ONCE));
    }
    // First of all: who is primary does not wait for objects that the API server may refuse.
    let untouched = apply::steps(cluster, context, fleet, &seen, std::mem::take(&mut plan.steps)).await.err();
    let hindrance = match spec {
        Ok(validated) => apply_objects(cluster, validated, workload, context, fleet, plan.replicas).await,
        Err(hindrance) => Some(hindrance.clone()),
    };
    let hindrance = untouched.map(|error| Hindrance::of_object(&error)).or(hindrance);
    let (next, news) = status::looked(cluster, &seen, &plan, &troubles, &restore, hindrance.as_ref(), now);
    if !write(cluster, context, &next, plan.outcomes, news).await? {
        return Ok(Action::requeue(AT_ONCE));
    }
    if let Ok(validated) = spec {
        fill_pod(cluster, validated, context, &seen, restore).await?;
    }
    Ok(Action::requeue(LOOK))
}

/// Applies what a cluster is made of. What is refused, or fails, is no reason to look at the instances later: it is said, and
/// tried again when the spec has changed or a while has passed, for an admission webhook that is down holds each call up.
async fn apply_objects(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    workload: &Workload,
    context: &Arc<Context>,
    fleet: &Fleet,
    replicas: i32,
) -> Option<Hindrance> {
    let (uid, generation) = (cluster.uid().unwrap_or_default(), cluster.metadata.generation);
    let elapsed = fleet.elapsed();
    let before = fleet.with(&uid, |memory| memory.hindered.clone());
    if let Some((of, at, hindrance)) = before
        && of == generation
        && elapsed.saturating_sub(at) < context.settings.poll_interval
    {
        return Some(hindrance);
    }
    let objects = build::objects(cluster, validated);
    let mut set = build::stateful_set::stateful_set(cluster, validated, &facts(cluster, context), replicas);
    build::stateful_set::keep_claims(&mut set, workload.set.as_ref());
    let applied = apply::objects(cluster, context, fleet, &objects, &set).await;
    let error = match applied {
        Ok(not_grown) => {
            fleet.with(&uid, |memory| memory.hindered = None);
            return not_grown;
        }
        Err(error) => error,
    };
    let message = redkeep_core::classify::chain(&error);
    tracing::warn!(cluster = validated.name, error = %message, "unable to apply what a cluster is made of");
    let hindrance = Hindrance::of_object(&error);
    // A call that hung for long has its pause all the same.
    let at = fleet.elapsed();
    fleet.with(&uid, |memory| memory.hindered = Some((generation, at, hindrance.clone())));
    Some(hindrance)
}

async fn write(
    cluster: &RedisCluster,
    context: &Arc<Context>,
    next: &RedisClusterStatus,
    outcomes: Vec<Outcome>,
    news: Option<Outcome>,
) -> Result<bool, ClusterError> {
    apply::status(cluster, context, next, outcomes.into_iter().chain(news)).await
}

/// What an attempt before left in a primary that nobody else ever wrote to goes with its pod.
fn empty_first(seen: &Seen) -> Option<decide::Step> {
    let primary = seen.members.get(seen.truth.primary.as_ref()?)?;
    let is_empty = primary.standing.as_ref().is_some_and(|standing| standing.keys == 0);
    (!is_empty).then(|| decide::Step::Delete { pod: primary.pod.clone(), uid: primary.uid.clone() })
}

/// A cluster without claims is filled while its first instance runs, and nobody else sees it.
async fn fill_pod(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Arc<Context>,
    seen: &Seen,
    restore: Restore,
) -> Result<(), ClusterError> {
    let primary = seen.truth.primary.as_ref().and_then(|primary| seen.members.get(primary));
    let Some(primary) = primary else { return Ok(()) };
    match restore {
        Restore::Begin { validated: wanted, attempt } => {
            let port = redkeep_core::managed::REDIS_PORT;
            let host = match (&cluster.spec.tls, &primary.ip) {
                // Its certificate is for its name.
                (Some(_), _) => name_of_pod(&primary.pod, &names::headless(&validated.name), &validated.namespace),
                (None, Some(ip)) if ip.contains(':') => format!("[{ip}]"),
                (None, Some(ip)) => ip.clone(),
                (None, None) => return Ok(()),
            };
            let target = Target::Pod { address: format!("{host}:{port}") };
            start(cluster, validated, context, *wanted, &target, attempt).await
        }
        Restore::Done { .. } => forget_last(cluster, context).await,
        _ => Ok(()),
    }
}

fn facts(cluster: &RedisCluster, context: &Context) -> PodFacts {
    let settings = &context.settings;
    let secret = cluster.status.as_ref().and_then(|status| status.identity_secret.as_ref());
    PodFacts {
        operator_image: settings.image.clone(),
        operator_user: format!("system:serviceaccount:{}:{}", settings.operator_namespace, settings.service_account),
        identity_secret: secret.map(|secret| secret.name.clone()).unwrap_or_default(),
    }
}
