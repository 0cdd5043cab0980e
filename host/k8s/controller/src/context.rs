//! What every reconcile is given.

use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::events::Reporter;

use crate::clock::Clock;
use crate::events::Events;
use crate::executor::Executor;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::redis_cluster::instance::Instances;
use crate::redis_cluster::instance::https::HttpsInstances;
use crate::runtime::{Triggers, Versions};
use crate::settings::Settings;

/// Shared by all controllers of a process.
pub struct Context {
    /// The Kubernetes API.
    pub client: kube::Client,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Runs the data tasks.
    pub executor: Arc<dyn Executor>,
    /// Speaks to the instances of managed Redis.
    pub instances: Arc<dyn Instances>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How this operator was configured.
    pub settings: Settings,
    /// Writes Events.
    pub events: Events,
    /// Tells a controller that one of its objects must be looked at.
    pub triggers: Triggers,
    /// Who uses which storage.
    pub places: Places,
    /// What this process wrote a moment ago.
    pub versions: Versions,
}

impl Context {
    /// A context whose Events carry the name of this operator's instance.
    pub fn new(
        client: kube::Client,
        clock: Arc<dyn Clock>,
        executor: Arc<dyn Executor>,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Self {
        let reporter = Reporter { controller: "redkeep".to_owned(), instance: Some(settings.instance.clone()) };
        let events = Events::new(client.clone(), reporter);
        let (namespace, account) = (&settings.operator_namespace, &settings.service_account);
        let instances = Arc::new(HttpsInstances::new(client.clone(), namespace, account));
        let (triggers, versions) = (Triggers::default(), Versions::default());
        let places = Places::new(settings.poll_interval);
        Self { client, clock, executor, instances, metrics, settings, events, triggers, places, versions }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
