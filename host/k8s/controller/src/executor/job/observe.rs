//! How a Job stands, from what the API server holds of it: pure, `(Job, Pods, Events, now) -> TaskState`.
//!
//! A Job never fails by itself when its pod cannot be made, scheduled or started, so what it waits for is read from pods and
//! Events, and it is given up when it took too long.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Event, Pod};
use redkeep_core::task::{Outcome, TaskReport};

use redkeep_k8s_api::conditions::reasons::START_DEADLINE_EXCEEDED;

use crate::executor::job::build::{CONTAINER, START_DEADLINE};
use crate::executor::{RETRY_NOT_STARTED, TaskState};
use crate::settings;

/// A container that could not be run.
const NOT_STARTED: &str = "ContainerNotStarted";

/// The Job's own words, as far as its pods and the Events about it and them explain them.
pub fn observe(job: &Job, pods: &[Pod], events: &[Event], now: Timestamp) -> TaskState {
    let pods = by_age(pods);
    if let Some((report, pod)) = success(&pods) {
        return TaskState::Ended { report, pod };
    }
    // `FailureTarget` counts as the end: with a lost node, `Failed` waits for a pod that never ends.
    if let Some(failed) = condition(job, "Failed").or_else(|| condition(job, "FailureTarget")) {
        return ended(job, &pods, failed);
    }
    if condition(job, "Complete").is_some() || condition(job, "SuccessCriteriaMet").is_some() {
        return TaskState::Failed {
            reason: "NoReport".to_owned(),
            message: "the task's pod is gone, and what it reported with it".to_owned(),
        };
    }
    unfinished(job, &pods, events, now)
}

/// Whether the Job will not change any more, whatever its pods do.
pub fn is_finished(job: &Job) -> bool {
    ["Complete", "Failed", "FailureTarget"].iter().any(|kind| condition(job, kind).is_some())
}

/// When it came to that.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    let times = ["FailureTarget", "Failed", "Complete"].into_iter();
    times.filter_map(|kind| condition(job, kind)?.last_transition_time.as_ref()).map(|time| time.0).min()
}

/// When one that did not start is given up.
pub fn gave_up_at(job: &Job, pods: &[Pod]) -> Option<Timestamp> {
    waits_since(job, by_age(pods).last().copied())?.checked_add(start_deadline(job)).ok()
}

/// Whether one of its pods did the work, whatever the Job says.
pub fn is_done(pods: &[Pod]) -> bool {
    success(&by_age(pods)).is_some()
}

fn by_age(pods: &[Pod]) -> Vec<&Pod> {
    let mut pods: Vec<&Pod> = pods.iter().collect();
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
    pods
}

fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// A report of work that is done ends the task, even before the Job says so or when another pod of it failed.
fn success(pods: &[&Pod]) -> Option<(TaskReport, Option<String>)> {
    pods.iter().rev().find_map(|pod| {
        let report = report(pod)?;
        matches!(report.outcome, Outcome::Done | Outcome::Planned).then(|| (report, pod.metadata.name.clone()))
    })
}

fn report(pod: &Pod) -> Option<TaskReport> {
    let message = terminated(pod)?.message.as_deref()?;
    serde_json::from_str(message.trim()).ok()
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

/// Whether a pod's task cannot have done anything. In doubt it may: of one that was evicted or whose node was lost nobody knows.
fn never_ran(pod: &Pod) -> bool {
    let task = container(pod);
    let ran_before = task.is_some_and(|task| {
        task.restart_count > 0 || task.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    });
    let is_waiting = task.is_none_or(|task| {
        task.state.as_ref().is_none_or(|state| state.running.is_none() && state.terminated.is_none())
    });
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        None | Some("Pending") => is_waiting && !ran_before,
        Some("Failed") => {
            let could_not_start = terminated(pod).is_some_and(is_start_error);
            !ran_before && (could_not_start || is_waiting && before_the_task(pod).is_some())
        }
        _ => false,
    }
}

/// Whether an attempt may have run, and done what nobody said: by its pod, or by the Job's count of those that failed, of which
/// some may be gone.
fn may_have_run(job: &Job, pods: &[&Pod]) -> bool {
    let has_failed = |pod: &&&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
    let status = job.status.as_ref();
    let counted = status.and_then(|status| status.failed.max(status.succeeded)).unwrap_or(0);
    let seen = pods.iter().filter(has_failed).count();
    pods.iter().any(|pod| !never_ran(pod)) || usize::try_from(counted).unwrap_or(0) > seen
}

fn is_start_error(end: &ContainerStateTerminated) -> bool {
    matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
}

/// An attempt that did not start, by which reason; of a retry that one is told apart, for the attempts before it may have done
/// their work.
fn not_started(job: &Job, pods: &[&Pod], reason: &str, message: String) -> TaskState {
    if may_have_run(job, pods) {
        let message = format!("an attempt ran and did not say how it ended, and the next: {reason}: {message}");
        return TaskState::Failed { reason: RETRY_NOT_STARTED.to_owned(), message };
    }
    TaskState::Failed { reason: reason.to_owned(), message }
}

/// The Job failed: the newest pod's report says why, else what killed the pod, else what the Job says.
fn ended(job: &Job, pods: &[&Pod], failed: &JobCondition) -> TaskState {
    let newest = pods.last();
    let killed = newest.and_then(|pod| killed_by(pod));
    let last_word = newest.and_then(|pod| Some((report(pod)?, pod.metadata.name.clone())));
    if let Some((report, pod)) = last_word.clone()
        && report.is_final()
    {
        return TaskState::Ended { report, pod };
    }
    if let Some((reason, message)) = killed {
        return match reason.as_str() {
            NOT_STARTED => not_started(job, pods, NOT_STARTED, message),
            _ => TaskState::Failed { reason, message },
        };
    }
    let said = failed.message.clone().unwrap_or_default();
    let (reason, message) = match (failed.reason.as_deref(), newest) {
        (Some("DeadlineExceeded"), _) => ("DeadlineExceeded", "the run took longer than its deadline".to_owned()),
        (_, None) => ("PodGone", format!("the task's pod is gone: {said}")),
        (_, Some(pod)) => match (last_word, terminated(pod)) {
            // Written at a stage, in case the task never comes to its end.
            (Some((TaskReport { outcome: Outcome::Running { stage }, .. }, _)), _) => {
                ("NoReport", format!("the task ended in stage {stage} without its last report"))
            }
            (_, Some(end)) => ("TaskFailed", exit_text("the task", end)),
            (_, None) => match before_the_task(pod) {
                Some(why) => return not_started(job, pods, NOT_STARTED, why),
                None => ("PodLost", format!("the task's pod did not end: {said}")),
            },
        },
    };
    TaskState::Failed { reason: reason.to_owned(), message }
}

/// What kept the pod from coming to its task.
fn before_the_task(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let end = status.state.as_ref()?.terminated.as_ref().filter(|end| end.exit_code != 0)?;
        Some(exit_text(&format!("container {}", status.name), end))
    })
}

fn exit_text(who: &str, end: &ContainerStateTerminated) -> String {
    let code = end.exit_code;
    match end.message.as_deref().map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{who} exited with {code}: {message}"),
        None => format!("{who} exited with {code} and said nothing"),
    }
}

/// What ended a pod from outside.
fn killed_by(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let said = status.message.clone().unwrap_or_default();
    let because = |reason: &str, message: String| Some((reason.to_owned(), message));
    match status.reason.as_deref() {
        Some("Evicted") => return because("Evicted", format!("pod {name} was evicted: {said}")),
        Some("DeadlineExceeded") => return because("DeadlineExceeded", "the run took longer than its deadline".into()),
        Some("NodeLost") => return because("NodeLost", format!("the node of pod {name} was lost: {said}")),
        Some("NodeShutdown" | "Terminated") => {
            return because("NodeShutdown", format!("the node of pod {name} was shut down: {said}"));
        }
        Some("Preempting") => return because("PodPreempted", format!("pod {name} made room for another: {said}")),
        Some(reason @ ("NodeAffinity" | "UnexpectedAdmissionError" | "OutOfcpu" | "OutOfmemory" | "OutOfpods")) => {
            return because("NodeRefused", format!("the node refused pod {name}: {reason}: {said}"));
        }
        _ => {}
    }
    let disruption =
        status.conditions.iter().flatten().find(|one| one.type_ == "DisruptionTarget" && one.status == "True");
    if let Some(disruption) = disruption {
        let message = disruption.message.clone().unwrap_or_default();
        return match disruption.reason.as_deref() {
            Some("DeletionByTaintManager" | "DeletionByPodGC") => {
                because("NodeLost", format!("the node of pod {name} was lost: {message}"))
            }
            Some("PreemptionByScheduler") => {
                because("PodPreempted", format!("pod {name} made room for another: {message}"))
            }
            _ => because("Evicted", format!("pod {name} was evicted: {message}")),
        };
    }
    let end = terminated(pod)?;
    if end.reason.as_deref() == Some("OOMKilled") {
        return because("OutOfMemory", format!("pod {name} needed more memory than its limit"));
    }
    if is_start_error(end) {
        return because(NOT_STARTED, exit_text("the task", end));
    }
    match end.exit_code {
        137 | 143 => because("PodKilled", format!("pod {name} was killed (exit code {})", end.exit_code)),
        _ => None,
    }
}

fn unfinished(job: &Job, pods: &[&Pod], events: &[Event], now: Timestamp) -> TaskState {
    let newest = pods.last().copied();
    let phase = newest.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
    let pod_name = newest.and_then(|pod| pod.metadata.name.clone());
    if phase == Some("Running") {
        return TaskState::Running { pod: pod_name, progress: None };
    }
    if let Some(pod) = newest
        && matches!(phase, Some("Failed" | "Succeeded"))
    {
        // Between two attempts; how long that may take is the Job's own deadline.
        let since = terminated(pod).and_then(|end| end.finished_at.clone()).map_or(now, |time| time.0);
        let why = report(pod).map_or_else(|| "the last attempt failed".to_owned(), |report| outcome_text(&report));
        return TaskState::Waiting { reason: "Retrying".to_owned(), message: why, since };
    }
    let since = waits_since(job, newest).unwrap_or(now);
    let (reason, message) = match newest {
        Some(pod) => why_pending(pod, events),
        None => why_no_pod(job, events),
    };
    let waited = now.duration_since(since);
    let allowed = start_deadline(job);
    if waited > SignedDuration::try_from(allowed).unwrap_or(SignedDuration::MAX) {
        let message = format!("not started within {} seconds: {message}", allowed.as_secs());
        // Nothing is known to stand in its way: then the wait itself is the reason.
        let reason = if matches!(reason, "PodStarting" | "PodNotCreated") { START_DEADLINE_EXCEEDED } else { reason };
        return not_started(job, pods, reason, message);
    }
    TaskState::Waiting { reason: reason.to_owned(), message, since }
}

/// Since when the newest attempt has waited for its start.
fn waits_since(job: &Job, newest: Option<&Pod>) -> Option<Timestamp> {
    let pod = newest.and_then(|pod| pod.metadata.creation_timestamp.as_ref());
    pod.or(job.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

fn outcome_text(report: &TaskReport) -> String {
    match &report.outcome {
        Outcome::Failed { reason, message, .. } => format!("the last attempt failed: {reason}: {message}"),
        Outcome::Running { stage } => format!("the last attempt ended in stage {stage}"),
        Outcome::Done | Outcome::Planned => "the last attempt is done".to_owned(),
    }
}

fn start_deadline(job: &Job) -> Duration {
    let annotations = job.metadata.annotations.as_ref();
    let seconds = annotations.and_then(|all| all.get(START_DEADLINE)).and_then(|text| text.parse().ok());
    seconds.map_or(settings::START_DEADLINE, Duration::from_secs)
}

/// What a pod that has not started waits for.
fn why_pending(pod: &Pod, events: &[Event]) -> (&'static str, String) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref();
    // Those before the task hold it up too.
    let before = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    for one in container(pod).into_iter().chain(before) {
        let Some(waiting) = one.state.as_ref().and_then(|state| state.waiting.as_ref()) else { continue };
        let message = waiting.message.clone().unwrap_or_else(|| waiting.reason.clone().unwrap_or_default());
        let message = if one.name == CONTAINER { message } else { format!("container {}: {message}", one.name) };
        match waiting.reason.as_deref() {
            Some("CrashLoopBackOff") => {
                let last = one.last_state.as_ref().and_then(|state| state.terminated.as_ref());
                let last = last.map(|end| exit_text(&format!("container {}", one.name), end));
                return (NOT_STARTED, last.unwrap_or(message));
            }
            Some(
                "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable",
            ) => {
                return ("ImagePullFailed", message);
            }
            Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
                return (NOT_STARTED, message);
            }
            _ => {}
        }
    }
    let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let unscheduled = conditions.into_iter().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    if let Some(unscheduled) = unscheduled {
        return ("Unschedulable", unscheduled.message.clone().unwrap_or_else(|| format!("pod {name} has no node")));
    }
    if let Some(mount) = latest(events, name, &["FailedMount", "FailedAttachVolume"]) {
        return ("MountFailed", mount);
    }
    ("PodStarting", format!("pod {name} is being started"))
}

/// Why a Job has no pod.
fn why_no_pod(job: &Job, events: &[Event]) -> (&'static str, String) {
    if condition(job, "Suspended").is_some() {
        return ("Suspended", "the task's Job is suspended".to_owned());
    }
    let name = job.metadata.name.as_deref().unwrap_or_default();
    match latest(events, name, &["FailedCreate"]) {
        Some(message) if message.contains("exceeded quota") => ("QuotaExceeded", message),
        Some(message) if message.contains("violates PodSecurity") => ("PodSecurityRefused", message),
        Some(message) if message.contains("serviceaccount") && message.contains("not found") => {
            ("ServiceAccountMissing", message)
        }
        Some(message) => ("PodRefused", message),
        None => ("PodNotCreated", "the task's pod was not created yet".to_owned()),
    }
}

fn latest(events: &[Event], about: &str, reasons: &[&str]) -> Option<String> {
    let time = |event: &&Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.clone()).map(|time| time.0);
        let last = event.last_timestamp.clone().map(|time| time.0);
        series.max(last).max(event.event_time.clone().map(|time| time.0))
    };
    events
        .iter()
        .filter(|event| event.involved_object.name.as_deref() == Some(about))
        .filter(|event| event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason)))
        .max_by_key(time)
        .map(|event| event.message.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
