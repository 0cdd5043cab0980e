//! What the operator finds: definitions, a namespace, schedules, finished backups.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use redkeep_k8s_api::{RedisBackup, RedisScheduledBackup, all_crds, labels};
use serde_json::{Value, json};

/// Creations at once: what one API server on two cores takes well.
const AT_ONCE: usize = 32;

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl World {
    pub(crate) async fn new(client: Client, namespace: &str) -> Result<Self> {
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in all_crds() {
            let name = definition.name_any();
            definitions.patch(&name, &PatchParams::apply("bench").force(), &Patch::Apply(&definition)).await?;
            let is_established = kube::runtime::conditions::is_crd_established();
            let established = kube::runtime::wait::await_condition(definitions.clone(), &name, is_established);
            tokio::time::timeout(Duration::from_mins(1), established).await.context("the definitions")??;
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = Namespace {
            metadata: ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        match namespaces.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            created => drop(created?),
        }
        Ok(Self { client, namespace: namespace.to_owned() })
    }

    fn schedules(&self) -> Api<RedisScheduledBackup> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn backups(&self) -> Api<RedisBackup> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn make_schedules(&self, count: usize, spec: impl Fn(usize) -> Value) -> Result<()> {
        let api = self.schedules();
        let objects = (0..count).map(|number| {
            json!({
                "apiVersion": "redis.io/v1", "kind": "RedisScheduledBackup",
                "metadata": {"name": format!("schedule-{number:05}")},
                "spec": spec(number),
            })
        });
        stream::iter(objects)
            .map(|object| async {
                let object: RedisScheduledBackup = serde_json::from_value(object)?;
                anyhow::Ok(api.create(&PostParams::default(), &object).await?)
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// Finished backups of the schedules that are there, as the operator leaves them.
    pub(crate) async fn make_finished(&self, count: usize) -> Result<()> {
        let schedules = self.schedules().list_metadata(&ListParams::default()).await?.items;
        let api = self.backups();
        let objects = (0..count).map(|number| {
            let schedule = &schedules[number % schedules.len()];
            let (name, day) = (schedule.name_any(), 1 + number / schedules.len());
            let at = format!("2026-10-{:02}T02:00:00Z", day.min(28));
            json!({
                "apiVersion": "redis.io/v1", "kind": "RedisBackup",
                "metadata": {
                    "name": format!("{name}-202610{:02}0200", day.min(28)),
                    "labels": {
                        labels::SCHEDULE: name, labels::OUTCOME: labels::OUTCOME_COMPLETED, labels::CLUSTER: "carts",
                        labels::PART_OF: labels::PART_OF_VALUE, labels::MANAGED_BY: labels::MANAGED_BY_VALUE,
                    },
                    "annotations": {labels::SLOT: at, labels::COMPLETED_AT: at},
                    "ownerReferences": [{
                        "apiVersion": "redis.io/v1", "kind": "RedisScheduledBackup", "name": name,
                        "uid": schedule.uid().unwrap_or_default(), "controller": true, "blockOwnerDeletion": true,
                    }],
                },
                "spec": backup_spec(number),
            })
        });
        stream::iter(objects)
            .map(|object| async {
                let object: RedisBackup = serde_json::from_value(object)?;
                anyhow::Ok(api.create(&PostParams::default(), &object).await?)
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// How many runs each schedule has of the slots that count.
    pub(crate) async fn runs(&self, counts: impl Fn(&str) -> bool) -> Result<HashMap<String, usize>> {
        let mut runs = HashMap::new();
        let parameters = ListParams::default().labels(labels::SCHEDULE);
        for run in self.backups().list_metadata(&parameters).await?.items {
            let slot = run.annotations().get(labels::SLOT).cloned().unwrap_or_default();
            if counts(&slot)
                && let Some(schedule) = run.labels().get(labels::SCHEDULE)
            {
                *runs.entry(schedule.clone()).or_default() += 1;
            }
        }
        Ok(runs)
    }

    /// Takes the namespace's objects away, so that the next row begins on a quiet server.
    /// Best effort: tens of thousands take the API server longer than one request may last. What stays is in a namespace of its own.
    pub(crate) async fn clear(&self) {
        let (parameters, all) = (DeleteParams::background(), ListParams::default());
        for _ in 0..5 {
            let schedules = self.schedules().delete_collection(&parameters, &all).await;
            let backups = self.backups().delete_collection(&parameters, &all).await;
            if schedules.is_ok() && backups.is_ok() {
                return;
            }
        }
    }
}

/// Addresses written out: nothing else has to exist.
pub(crate) fn backup_spec(number: usize) -> Value {
    json!({
        "source": {"endpoints": [format!("redis-{number:05}.example:6379")], "name": format!("redis-{number:05}")},
        "destination": {"s3": {"bucket": "backups", "path": "bench", "region": "us-east-1"}},
    })
}
