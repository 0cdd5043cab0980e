//! The status that follows from the step, and what is said of it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::Timestamp;
use redkeep_core::loaded::LoadFacts;
use redkeep_core::task::{Outcome as TaskOutcome, TaskReport};
use redkeep_k8s_api::backup_method::{BackupMethod, BackupMethodStatus, MethodDescription};
use redkeep_k8s_api::conditions::{ACCEPTED, READY, SIGNED, reasons};

use super::decide::Step;
use super::dereference::task_name;
use crate::apply::{ConditionUpdate, condition, set_condition, whole_seconds};
use crate::outcome::Outcome;

/// As the definition allows.
const MOST_NAMES: usize = 64;
const LONGEST_NAME: usize = 256;
const MOST_TYPES: usize = 32;

pub(super) fn next(
    method: &BackupMethod,
    step: &Step,
    image: &str,
    now: Timestamp,
) -> (BackupMethodStatus, Option<Outcome>) {
    let mut change = Change { method, status: method.status.clone().unwrap_or_default(), image, now };
    let outcome = match step {
        Step::Rest | Step::Remove => None,
        Step::Reject { reason, message } => change.rejected(reason, message),
        Step::Start => change.started(),
        Step::Follow { message } => change.followed(message),
        Step::Take { report } => change.taken(report),
        Step::Fail { reason, message } => change.failed(reason, message),
    };
    (change.status, outcome)
}

struct Change<'a> {
    method: &'a BackupMethod,
    status: BackupMethodStatus,
    image: &'a str,
    now: Timestamp,
}

impl Change<'_> {
    fn set(&mut self, kind: &str, status: Option<bool>, reason: &str, message: &str) {
        let update = ConditionUpdate { kind, status, reason, message: message.to_owned() };
        set_condition(&mut self.status.conditions, update, self.method.metadata.generation, self.now);
    }

    fn rejected(&mut self, reason: &str, message: &str) -> Option<Outcome> {
        let is_news = condition(&self.status.conditions, ACCEPTED).is_none_or(|before| before.message != message);
        self.status.task_name = None;
        self.status.observed_generation = self.method.metadata.generation;
        self.set(ACCEPTED, Some(false), reason, message);
        self.set(READY, Some(false), reason, message);
        is_news.then(|| Outcome::warning("Accept", reason, message))
    }

    fn started(&mut self) -> Option<Outcome> {
        let is_other = self.status.observed_generation != self.method.metadata.generation;
        self.status.observed_generation = self.method.metadata.generation;
        self.status.task_name = Some(task_name(self.method));
        self.set(ACCEPTED, Some(true), reasons::VALID, "the spec can be followed");
        let reference = self.method.spec.source.oci.as_ref().map(|oci| oci.reference.clone());
        if self.status.resolved_from != reference {
            // What was known is of another plugin.
            let conditions = std::mem::take(&mut self.status.conditions);
            self.status = BackupMethodStatus {
                observed_generation: self.status.observed_generation,
                task_name: self.status.task_name.take(),
                conditions,
                ..BackupMethodStatus::default()
            };
        }
        if is_other || condition(&self.status.conditions, READY).is_none() {
            self.set(READY, None, reasons::STARTING, "it is being registered");
        }
        None
    }

    fn followed(&mut self, message: &str) -> Option<Outcome> {
        // One that failed keeps its reason while it is tried again.
        if condition(&self.status.conditions, READY).is_none_or(|ready| ready.status == "Unknown") {
            self.set(READY, None, reasons::STARTING, message);
        }
        None
    }

    fn taken(&mut self, report: &TaskReport) -> Option<Outcome> {
        if let TaskOutcome::Failed { reason, message, help, .. } = &report.outcome {
            let help = help.as_ref().map(|help| format!(" (help: {help})")).unwrap_or_default();
            return self.failed(reason, &format!("{message}{help}"));
        }
        let Some(facts) = LoadFacts::of(report) else {
            return self.failed(reasons::NO_REPORT, "the task's report says nothing of the plugin");
        };
        self.status.task_name = None;
        self.status.attempted_at = Some(Time(whole_seconds(self.now)));
        self.describe(&facts);
        self.signed(facts.signed.then_some((reasons::VALID, "the signature holds")), true);
        let required: Vec<&str> =
            facts.missing.iter().map(String::as_str).filter(|request| !request.starts_with('?')).collect();
        if !required.is_empty() {
            let message = format!("it cannot do without, and is not granted: {}", required.join(", "));
            return self.not_ready(reasons::NOT_GRANTED, &message);
        }
        let is_news = condition(&self.status.conditions, READY).is_none_or(|before| before.status != "True");
        let message = format!("{} {}, {}", facts.name, facts.version, facts.digest);
        self.set(READY, Some(true), reasons::LOADED, "it is fetched, checked, compiled and described");
        is_news.then(|| Outcome::normal("Load", reasons::LOADED, message))
    }

    fn describe(&mut self, facts: &LoadFacts) {
        let status = &mut self.status;
        let digest = format!("sha256:{}", facts.digest);
        if status.digest.as_ref() != Some(&digest) || status.resolved_at.is_none() {
            status.resolved_at = Some(Time(whole_seconds(self.now)));
        }
        status.digest = Some(digest);
        status.resolved_reference.clone_from(&facts.reference);
        status.resolved_from = self.method.spec.source.oci.as_ref().map(|oci| oci.reference.clone());
        status.registered_by = Some(self.image.to_owned());
        status.api_version = Some(cut(&facts.api_version, 32));
        status.component_bytes = facts.size.and_then(|size| i64::try_from(size).ok());
        // Of code that came from a cache the time of its first compilation stays.
        if let Some(time) = facts.compiled_in {
            status.compile_milliseconds = i64::try_from(time.as_millis()).ok();
        }
        status.granted = names(&facts.granted);
        status.missing = names(&facts.missing);
        status.requested = names(&[facts.granted.as_slice(), &facts.missing].concat());
        let types = |key: &str| {
            let words = facts.attributes.get(key).into_iter().flat_map(|text| text.split_ascii_whitespace());
            words.map(|word| cut(word, 64)).take(MOST_TYPES).collect()
        };
        status.description = Some(MethodDescription {
            name: cut(&facts.name, 128),
            version: cut(&facts.version, 64),
            summary: (!facts.summary.is_empty()).then(|| cut(&facts.summary, 1024)),
            writes: types("writes"),
            reads: types("reads"),
            parameters_schema: facts.parameters_schema.clone(),
            attributes: facts.attributes.clone().into_iter().take(MOST_NAMES).collect(),
        });
    }

    fn failed(&mut self, reason: &str, message: &str) -> Option<Outcome> {
        self.status.task_name = None;
        self.status.attempted_at = Some(Time(whole_seconds(self.now)));
        let is_signature = matches!(reason, "PluginUnsigned" | "PluginSignature");
        self.signed(is_signature.then_some((reason, message)), false);
        self.not_ready(reason, message)
    }

    fn signed(&mut self, said: Option<(&str, &str)>, holds: bool) {
        match (said, &self.method.spec.verify) {
            (Some((reason, message)), Some(_)) => self.set(SIGNED, Some(holds), reason, message),
            (_, None) => self.status.conditions.retain(|condition| condition.type_ != SIGNED),
            (None, Some(_)) => {}
        }
    }

    fn not_ready(&mut self, reason: &str, message: &str) -> Option<Outcome> {
        let before = condition(&self.status.conditions, READY);
        let is_news = before.is_none_or(|before| before.status != "False" || before.reason != reason);
        self.set(READY, Some(false), reason, message);
        is_news.then(|| Outcome::warning("Load", reason, message))
    }
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

fn names(all: &[String]) -> Vec<String> {
    all.iter().map(|name| cut(name, LONGEST_NAME)).take(MOST_NAMES).collect()
}
