//! Leader election by Lease: of several operators one works. Whoever loses the Lease ends its process: running half-alive is worse.
//!
//! Whether a holder lives is judged by when *we* last saw its Lease change, on our own monotonic clock: clocks of machines differ.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::apply::{FIELD_MANAGER, is_conflict, is_not_found};
use crate::clock::Clock;

/// How the Lease is kept.
#[derive(Clone, Debug)]
pub struct LeaderSettings {
    /// The Lease's name.
    pub name: String,
    /// Its namespace: the operator's.
    pub namespace: String,
    /// This process: unique, such as the pod's name and a random part.
    pub identity: String,
    /// Nobody takes the Lease from a holder that was heard of within this.
    pub lease: Duration,
    /// A holder that could not renew for so long gives up; less than `lease`, so that it has ended before another begins.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry: Duration,
}

impl LeaderSettings {
    /// Takes over within 20 s of a death, at 0.25 requests a second.
    pub fn new(namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            name: "redkeep-operator".to_owned(),
            namespace: namespace.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(4),
        }
    }
}

/// What to do with a Lease as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Nobody holds it: take it.
    Take,
    /// It is ours: say that we live.
    Renew,
    /// Somebody else's.
    Wait,
}

fn claim(spec: Option<&LeaseSpec>, identity: &str, unchanged_for: Duration, lease: Duration) -> Claim {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    // The holder's own word counts, should it be configured otherwise.
    let promised = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let promised = promised.map_or(lease, Duration::from_secs);
    match holder {
        "" => Claim::Take,
        holder if holder == identity => Claim::Renew,
        _ if unchanged_for > promised => Claim::Take,
        _ => Claim::Wait,
    }
}

/// The Lease as we hold it now.
fn held(before: Option<&LeaseSpec>, identity: &str, lease: Duration, now: Timestamp) -> LeaseSpec {
    let ours = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(identity));
    let acquired = before.filter(|_| ours).and_then(|spec| spec.acquire_time.clone());
    let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(lease.as_secs()).ok(),
        acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || before.is_none() { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    }
}

/// Why leading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The Lease is somebody else's or could not be renewed in time: end the process.
    Lost,
    /// Asked to; the Lease was given back, so that another one begins at once.
    Released,
}

/// A candidate.
pub struct Leader {
    leases: Api<Lease>,
    settings: LeaderSettings,
    clock: Arc<dyn Clock>,
    /// The Lease as last seen, and when it last changed.
    seen: Option<(Lease, Instant)>,
}

impl Leader {
    /// A candidate that holds nothing yet.
    pub fn new(client: Client, settings: LeaderSettings, clock: Arc<dyn Clock>) -> Self {
        Self { leases: Api::namespaced(client, &settings.namespace), settings, clock, seen: None }
    }

    /// Waits until the Lease is ours; false when it was asked to end instead.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        loop {
            match self.attempt().await {
                Ok(true) => {
                    tracing::info!(lease = self.settings.name, identity = self.settings.identity, "leading");
                    return true;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(error = %error, "unable to take the lease"),
            }
            tokio::select! {
                () = sleep(self.settings.retry) => {}
                () = shutdown.cancelled() => return false,
            }
        }
    }

    /// Keeps the Lease until it is lost or `shutdown` says so. The work must stop when this returns.
    pub async fn hold(&mut self, shutdown: &CancellationToken) -> Ended {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = sleep(self.settings.retry) => {}
                () = shutdown.cancelled() => {
                    self.release().await;
                    return Ended::Released;
                }
            }
            let left = self.settings.renew_deadline.saturating_sub(renewed.elapsed());
            let started = Instant::now();
            match timeout(left, self.attempt()).await {
                // The Lease runs from when the request was sent, not from when it was answered.
                Ok(Ok(true)) => renewed = started,
                Ok(Ok(false)) => {
                    tracing::error!(lease = self.settings.name, "the lease was taken by another operator");
                    return Ended::Lost;
                }
                Ok(Err(error)) => tracing::warn!(error = %error, "unable to renew the lease"),
                Err(_) => tracing::warn!("the lease could not be renewed in time"),
            }
            if renewed.elapsed() >= self.settings.renew_deadline {
                tracing::error!(lease = self.settings.name, "the lease was not renewed before its deadline");
                return Ended::Lost;
            }
        }
    }

    /// One try: true when the Lease is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        // A holder writes what it remembers, without reading first; a conflict says that somebody else wrote.
        let ours = |lease: &Lease| {
            lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.settings.identity))
        };
        let remembered = self.seen.as_ref().filter(|(lease, _)| ours(lease)).map(|(lease, _)| lease.clone());
        if let Some(lease) = remembered {
            match self.write(lease).await {
                Err(error) if is_conflict(&error) || is_not_found(&error) => self.seen = None,
                written => return written.map(|()| true),
            }
        }
        let Some(found) = self.leases.get_opt(&self.settings.name).await? else {
            return self.create().await;
        };
        let now = Instant::now();
        let since = match &self.seen {
            Some((seen, since)) if seen.metadata.resource_version == found.metadata.resource_version => *since,
            _ => now,
        };
        self.seen = Some((found.clone(), since));
        let unchanged_for = now.duration_since(since);
        match claim(found.spec.as_ref(), &self.settings.identity, unchanged_for, self.settings.lease) {
            Claim::Wait => Ok(false),
            Claim::Take | Claim::Renew => match self.write(found).await {
                Ok(()) => Ok(true),
                // Another one was faster.
                Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    async fn create(&mut self) -> Result<bool, kube::Error> {
        let LeaderSettings { name, namespace, identity, lease, .. } = &self.settings;
        let metadata =
            ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..ObjectMeta::default() };
        let spec = held(None, identity, *lease, self.clock.now());
        match self.leases.create(&parameters(), &Lease { metadata, spec: Some(spec) }).await {
            Ok(created) => {
                self.seen = Some((created, Instant::now()));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// With the resource version that was read: of two writers one gets a conflict.
    async fn write(&mut self, mut lease: Lease) -> Result<(), kube::Error> {
        let LeaderSettings { name, identity, lease: duration, .. } = &self.settings;
        lease.spec = Some(held(lease.spec.as_ref(), identity, *duration, self.clock.now()));
        lease.metadata.managed_fields = None;
        let written = self.leases.replace(name, &parameters(), &lease).await?;
        self.seen = Some((written, Instant::now()));
        Ok(())
    }

    /// Gives the Lease back. Should that fail, the next one waits until it runs out.
    async fn release(&mut self) {
        let Some((mut lease, _)) = self.seen.take() else { return };
        lease.metadata.managed_fields = None;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.clock.now()));
        }
        let parameters = parameters();
        let written = self.leases.replace(&self.settings.name, &parameters, &lease);
        match timeout(self.settings.renew_deadline, written).await {
            Ok(Ok(_)) => tracing::info!(lease = self.settings.name, "the lease was given back"),
            Ok(Err(error)) => tracing::warn!(error = %error, "unable to give the lease back"),
            Err(_) => tracing::warn!("unable to give the lease back in time"),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests;
