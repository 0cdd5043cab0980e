//! One function turns what happened to an object into an Event, a metric and a log line, so that the three always agree.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, EventType};

use crate::apply::is_namespace_terminating;
use crate::context::Context;
use crate::metrics::OutcomeLabels;

/// An Event's note is cut here by the API server's own rule.
const LONGEST_NOTE: usize = 1024;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether somebody should look.
    pub severity: Severity,
    /// What was done: `Backup`, `Restore`, `Schedule`, `Verify`, `Prune`, `Delete`, `Probe`, `Load`, `Accept`,
    /// of clusters `Cluster`, `Promote`, `Failover`, `SwitchOver`.
    pub action: &'static str,
    /// The stable word that the condition carries too.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Outcome {
    /// Something went as it should.
    pub fn normal(action: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, action, reason: reason.into(), message: message.into() }
    }

    /// Somebody should look.
    pub fn warning(action: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, action, reason: reason.into(), message: message.into() }
    }
}

/// Publishes an outcome. An Event that cannot be written is no reason to fail: the status says the same.
pub async fn publish<K: Resource<DynamicType = ()>>(context: &Context, object: &K, outcome: &Outcome) {
    let reference = object.object_ref(&());
    publish_for(context, &K::kind(&()), &reference, outcome).await;
}

/// As [`publish`], for an object of which only the reference is at hand.
pub async fn publish_for(context: &Context, kind: &str, reference: &ObjectReference, outcome: &Outcome) {
    let name = reference.name.as_deref().unwrap_or_default();
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let labels =
        OutcomeLabels { kind: kind.to_owned(), action: outcome.action.to_owned(), reason: outcome.reason.clone() };
    context.metrics.outcomes.get_or_create(&labels).inc();
    let Outcome { action, reason, message, .. } = outcome;
    let event_type = match outcome.severity {
        Severity::Normal => {
            tracing::info!(kind, namespace, name, action, reason, message, "outcome");
            EventType::Normal
        }
        Severity::Warning => {
            tracing::warn!(kind, namespace, name, action, reason, message, "outcome");
            EventType::Warning
        }
    };
    let event = Event {
        type_: event_type,
        reason: reason.clone(),
        note: Some(cut(message, LONGEST_NOTE)),
        action: (*action).to_owned(),
        secondary: None,
    };
    match context.events.publish(&event, reference).await {
        Ok(()) => {}
        Err(error) if is_namespace_terminating(&error) => {}
        Err(error) => tracing::warn!(kind, namespace, name, error = %error, "unable to write an event"),
    }
}

/// At most so many bytes, ending at a character.
fn cut(text: &str, longest: usize) -> String {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
