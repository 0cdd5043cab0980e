use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_k8s_api::redis_cluster_status::BootstrapStatus;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::common::storage::access;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn cluster() -> RedisCluster {
    serde_json::from_value(json!({
        "apiVersion": "redis.io/v1", "kind": "RedisCluster",
        "metadata": {"name": "carts", "namespace": "shop", "uid": "uid-1"},
        "spec": {"imageName": "redis:7.2", "storage": {"size": "1Gi"}, "bootstrap": {"backupName": "nightly"}},
    }))
    .unwrap()
}

fn found() -> Result<ValidatedBootstrap, Unresolved> {
    let destination = serde_json::from_value(json!({"s3": {"bucket": "b"}})).unwrap();
    let storage = access(&destination, None).unwrap();
    let settings = Settings::new("redkeep:1", "redkeep-system", "k8s:1");
    let found = FoundBackup { storage, backup: "20261127T120000Z-nightly-1".into(), made_by: None };
    validate(&cluster(), found, MethodAccess::default(), &settings)
}

fn claim(name: &str, of: Option<&str>) -> FoundClaim {
    FoundClaim { name: name.into(), uid: "c".into(), filled_for: of.map(str::to_owned), is_terminating: false }
}

fn decided(status: &BootstrapStatus, claims: &[FoundClaim], task: TaskState) -> Restore {
    decide(at(1000), &cluster(), Observed { status: Some(status), claims, task, found: found() })
}

#[test]
fn a_new_cluster_begins() {
    let Restore::Begin { validated, attempt } = decided(&BootstrapStatus::default(), &[], TaskState::Missing) else {
        panic!("it does not begin");
    };
    assert_eq!((attempt, validated.selector.backup.as_str()), (1, "20261127T120000Z-nightly-1"));
}

#[rstest]
#[case::backup("spec.backupName", "spec.bootstrap.backupName")]
#[case::both("spec", "spec.bootstrap")]
#[case::cluster("spec.fromCluster", "spec.bootstrap.fromCluster")]
#[case::namespace("spec.fromNamespace", "spec.bootstrap.fromNamespace")]
#[case::of_the_storage("spec.destination", "spec.destination")]
fn what_is_wrong_is_named_as_the_cluster_has_it(#[case] field: &'static str, #[case] named: &str) {
    let message = of_bootstrap(Unresolved::invalid(field, "no")).to_string();
    assert_eq!(message, format!("{named}: no"));
}

#[test]
fn a_digest_that_the_bootstrap_demands_wins_over_its_methods() {
    let mut cluster = cluster();
    cluster.spec.bootstrap.as_mut().unwrap().method_digest = Some("sha256:bb".to_owned());
    let destination = serde_json::from_value(json!({"s3": {"bucket": "b"}})).unwrap();
    let storage = access(&destination, None).unwrap();
    let found = FoundBackup { storage, backup: "20261127T120000Z-nightly-1".into(), made_by: None };
    let mut method = MethodAccess::default();
    method.spec.digest = Some("sha256:aa".to_owned());
    let validated = validate(&cluster, found, method, &Settings::new("redkeep:1", "redkeep-system", "k8s:1")).unwrap();
    assert_eq!(validated.method.spec.digest.as_deref(), Some("sha256:bb"));
}

#[rstest]
#[case::of_another_cluster("data-carts-0", Some("uid-0"))]
#[case::of_a_user("data-carts-0", None)]
#[case::of_a_replica("data-carts-2", None)]
fn a_claim_that_is_there_already_is_refused_and_nothing_is_touched(#[case] name: &str, #[case] of: Option<&str>) {
    let restore = decided(&BootstrapStatus::default(), &[claim(name, of)], TaskState::Missing);
    let Restore::Wait { reason, message, is_failed } = restore else { panic!("{restore:?}") };
    assert_eq!((reason.as_str(), is_failed), ("ClaimNotEmpty", true));
    assert!(message.contains(name), "{message}");
}

#[test]
fn an_own_claim_is_taken_up_again() {
    let restore = decided(&BootstrapStatus::default(), &[claim("data-carts-0", Some("uid-1"))], TaskState::Missing);
    assert!(matches!(restore, Restore::Begin { .. }), "{restore:?}");
}

#[test]
fn pauses_grow_and_a_failure_is_told_once() {
    let mut pauses = Vec::new();
    for attempts in [1, 2, 3, 9] {
        let status =
            BootstrapStatus { attempts: Some(attempts), task_name: Some("t".into()), ..BootstrapStatus::default() };
        let failed = TaskState::Failed { reason: "ImagePullFailed".into(), message: "m".into() };
        let Restore::Failed { retry_at, reason, .. } = decided(&status, &[], failed.clone()) else { panic!() };
        assert_eq!(reason, "ImagePullFailed");
        pauses.push(retry_at.duration_since(at(1000)).as_secs());
        let said = BootstrapStatus {
            retry_at: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1001))),
            ..status
        };
        let Restore::Failed { retry_at, .. } = decided(&said, &[], failed) else { panic!() };
        assert_eq!(retry_at, at(1001), "the time is not moved by looking again");
    }
    assert_eq!(pauses, [10, 20, 40, 300]);
}

#[test]
fn after_the_pause_the_next_attempt_begins() {
    let time = |second| Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(second)));
    let status = BootstrapStatus {
        attempts: Some(2),
        task_name: Some("t".into()),
        retry_at: time(999),
        reason: Some("NotFound".into()),
        ..BootstrapStatus::default()
    };
    assert!(matches!(decided(&status, &[], TaskState::Missing), Restore::Begin { attempt: 3, .. }));
    let waiting = BootstrapStatus { retry_at: time(1010), ..status.clone() };
    assert!(matches!(decided(&waiting, &[], TaskState::Missing), Restore::Failed { .. }));
    let half = BootstrapStatus { reason: Some("TargetNotEmpty".into()), ..status };
    let renewed = decided(&half, &[claim("data-carts-0", Some("uid-1"))], TaskState::Missing);
    assert!(matches!(renewed, Restore::Renew { .. }), "{renewed:?}");
    assert!(
        matches!(decided(&half, &[], TaskState::Missing), Restore::Begin { .. }),
        "it is gone: again from the start"
    );
}

#[test]
fn a_job_that_somebody_deleted_is_made_again_later() {
    let status = BootstrapStatus { attempts: Some(1), task_name: Some("t".into()), ..BootstrapStatus::default() };
    let Restore::Failed { reason, .. } = decided(&status, &[], TaskState::Missing) else { panic!() };
    assert_eq!(reason, "JobVanished");
}

#[test]
fn what_was_filled_is_never_filled_again() {
    let status = BootstrapStatus { filled: Some(true), ..BootstrapStatus::default() };
    assert!(matches!(decided(&status, &[claim("data-carts-1", None)], TaskState::Missing), Restore::None));
}

fn filled(only_copy: bool) -> BootstrapStatus {
    BootstrapStatus {
        filled: Some(true),
        only_copy: Some(only_copy),
        process: Some("first".into()),
        completed_at: Some(Time(at(1000))),
        ..BootstrapStatus::default()
    }
}

#[rstest]
#[case::restarted(true, Some("second"), true)]
#[case::still_there(true, Some("first"), false)]
#[case::being_replaced(true, None, false)]
#[case::another_had_it(false, Some("second"), false)]
fn what_only_the_first_instance_had_is_lost_with_it(
    #[case] only_copy: bool,
    #[case] process: Option<&str>,
    #[case] expected: bool,
) {
    assert_eq!(is_lost(&filled(only_copy), process.map(str::to_owned).as_ref()), expected);
}

#[rstest]
#[case::alone(1299, "first", false, false)]
#[case::in_sync(1001, "first", true, true)]
#[case::none_came(1300, "first", false, true)]
#[case::lost(1300, "second", true, false)]
fn clients_are_led_to_it_when_a_second_instance_has_it(
    #[case] second: i64,
    #[case] process: &str,
    #[case] any_in_sync: bool,
    #[case] expected: bool,
) {
    assert_eq!(is_shared(at(second), &filled(true), Some(&process.to_owned()), any_in_sync), expected);
}

#[rstest]
#[case(Unresolved::not_yet(reasons::BACKUP_NOT_FOUND, "m"), "BackupNotFound", false)]
#[case(Unresolved::invalid("spec.backupName", "failed"), "InvalidSpec", true)]
fn what_it_is_born_from_must_be_there(#[case] why: Unresolved, #[case] expected: &str, #[case] failed: bool) {
    let status = BootstrapStatus::default();
    let seen = Observed { status: Some(&status), claims: &[], task: TaskState::Missing, found: Err(why) };
    let Restore::Wait { reason, is_failed, .. } = decide(at(1000), &cluster(), seen) else { panic!() };
    assert_eq!((reason.as_str(), is_failed), (expected, failed));
}
