//! What a spec says, checked: pure. Everything after this step trusts it.

use std::path::PathBuf;
use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::encoding::{Compression, Encryption};
use redkeep_core::secret::SecretRef;
use redkeep_core::units::{parse_duration, parse_size};
use redkeep_k8s_api::common::EncryptionSettings;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::{RedisBackup, RedisBackupSpec};
use serde_json::{Map, Value};

use super::dereference::Dereferenced;
use crate::common::Unresolved;
use crate::common::method::{is_bundled, texts};
use crate::common::placement::{TaskPod, task_pod};
use crate::common::server;
use crate::executor::{KEYS_PATH, Mount, SCRATCH_PATH};
use crate::settings::Settings;

/// The parameter of the bundled methods that says where a capture reads from.
const SOURCE_PARAMETER: &str = "source";

/// A spec that can be followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Validated {
    pub(super) compression: Compression,
    pub(super) encryption: Encryption,
    pub(super) encryption_mounts: Vec<Mount>,
    pub(super) parameters: Map<String, Value>,
    pub(super) limit_rate: Option<u64>,
    pub(super) hold_limit_seconds: Option<u64>,
    pub(super) spool: Option<PathBuf>,
    pub(super) deadline: Duration,
    pub(super) start_deadline: Duration,
    pub(super) retries: u32,
    pub(super) pod: TaskPod,
}

/// Checks what the API server could not.
pub(super) fn validate(
    spec: &RedisBackupSpec,
    access: &Dereferenced,
    settings: &Settings,
) -> Result<Validated, Unresolved> {
    let compression = spec.compression.parse().map_err(|error| Unresolved::invalid("spec.compression", error))?;
    let (encryption, encryption_mounts) = match &spec.encryption {
        Some(settings) => encryption(settings)?,
        None => (Encryption::default(), Vec::new()),
    };
    let rate = spec.limit_rate.as_deref().map(parse_size).transpose();
    let hold = spec.hold_limit.as_deref().map(parse_duration).transpose();
    let spool = spec.task.as_ref().and_then(|task| task.spool.as_ref()).map(|_| PathBuf::from(SCRATCH_PATH));
    if spec.limit_rate.is_some() && spool.is_none() {
        let why = "goes with spec.task.spool: without, the server would be held by it";
        return Err(Unresolved::invalid("spec.limitRate", why));
    }
    Ok(Validated {
        compression,
        encryption,
        encryption_mounts,
        parameters: parameters(spec, access)?,
        limit_rate: rate.map_err(|error| Unresolved::invalid("spec.limitRate", error))?,
        hold_limit_seconds: hold
            .map_err(|error| Unresolved::invalid("spec.holdLimit", error))?
            .map(|duration| duration.as_secs()),
        spool,
        deadline: seconds(spec.active_deadline_seconds),
        start_deadline: seconds(spec.start_deadline_seconds),
        retries: u32::try_from(spec.backoff_limit).unwrap_or(0),
        pod: task_pod(spec.task.as_ref(), access.storage.service_account.as_deref(), settings)?,
    })
}

/// Whether what was asked for can be verified at all. A schedule's run is made all the same: an unverified backup is better than none.
pub(super) fn check_verification(backup: &RedisBackup, settings: &Settings) -> Result<(), Unresolved> {
    match &backup.spec.verification {
        Some(verification) if !backup.labels().contains_key(labels::SCHEDULE) => {
            server::check(verification, backup.spec.cluster_name.as_deref(), settings)
        }
        _ => Ok(()),
    }
}

fn encryption(settings: &EncryptionSettings) -> Result<(Encryption, Vec<Mount>), Unresolved> {
    match (settings.recipients.as_slice(), &settings.passphrase_secret) {
        ([], Some(secret)) => {
            let passphrase = Some(SecretRef::File(PathBuf::from(KEYS_PATH).join(&secret.key)));
            let mounts = vec![Mount::secret(&secret.name, KEYS_PATH)];
            Ok((Encryption { recipients: Vec::new(), passphrase }, mounts))
        }
        ([_, ..], None) => Ok((Encryption { recipients: settings.recipients.clone(), passphrase: None }, Vec::new())),
        _ => Err(Unresolved::invalid("spec.encryption", "exactly one of recipients and passphraseSecret must be set")),
    }
}

/// The method's, and over them the backup's own.
fn parameters(spec: &RedisBackupSpec, access: &Dereferenced) -> Result<Map<String, Value>, Unresolved> {
    let mut parameters = access.method.parameters.clone();
    parameters.extend(texts(&spec.parameters));
    // Ours take the server where they have both. What another method's parameters are is not known here.
    if access.source.files.is_some() && is_bundled(&spec.method) {
        let files = Value::from("files");
        let asked = spec.parameters.get(SOURCE_PARAMETER).map(String::as_str);
        if !matches!(asked, None | Some("auto" | "files")) {
            let why =
                "source reads by the replication link, and spec.source.statefulSet.files from files: leave one out";
            return Err(Unresolved::invalid("spec.parameters", why));
        }
        parameters.insert(SOURCE_PARAMETER.to_owned(), files);
    }
    Ok(parameters)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_backup::testing::{access, spec};
    use rstest::rstest;
    use serde_json::json;

    fn checked(change: Value) -> Result<Validated, Unresolved> {
        validate(&spec(change), &access(), &Settings::new("i", "n", "o"))
    }

    #[test]
    fn a_run_by_hand_is_refused_where_it_cannot_be_verified_and_one_of_a_schedule_is_made() {
        let mut backup = RedisBackup::new("b", spec(json!({"verification": {"level": "boot"}})));
        let error = check_verification(&backup, &Settings::new("i", "n", "o")).unwrap_err().to_string();
        assert!(error.starts_with("spec.verification.image: level boot needs"), "{error}");
        backup.labels_mut().insert(labels::SCHEDULE.to_owned(), "nightly".to_owned());
        check_verification(&backup, &Settings::new("i", "n", "o")).unwrap();
    }

    #[rstest]
    #[case(json!({"compression": "brotli"}), "spec.compression: `brotli`")]
    #[case(json!({"encryption": {}}), "spec.encryption: exactly one")]
    #[case(json!({"limitRate": "5M"}), "spec.limitRate: goes with spec.task.spool")]
    #[case(json!({"limitRate": "fast", "task": {"spool": {"sizeLimit": "1Gi"}}}), "spec.limitRate: `fast`")]
    #[case(json!({"holdLimit": "long"}), "spec.holdLimit: `long`")]
    #[case(json!({"task": {"serviceAccountName": "admin"}}), "spec.task.serviceAccountName: service account admin")]
    fn what_cannot_be_followed_is_refused_by_field(#[case] change: Value, #[case] expected: &str) {
        let error = checked(change).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn a_plain_spec_is_a_plain_task() {
        let plain = checked(json!({})).unwrap();
        assert_eq!((plain.compression, plain.retries), (Compression::None, 2));
        assert!(plain.encryption.is_none() && plain.spool.is_none());
        assert_eq!((plain.deadline.as_secs(), plain.start_deadline.as_secs()), (21_600, 300));
    }

    #[test]
    fn parameters_reach_the_task_as_they_are_written() {
        let written = json!({"window": "30s", "count": "5", "exact": "true", "list": "[1]", "null": "null"});
        let parameters = checked(json!({"parameters": written.clone()})).unwrap().parameters;
        assert_eq!(Value::Object(parameters), written);
    }

    #[test]
    fn a_backups_own_parameters_win_over_its_methods() {
        let mut access = access();
        access.method.parameters = serde_json::from_value(json!({"window": "30s", "count": "5"})).unwrap();
        let own = spec(json!({"parameters": {"count": "7"}}));
        let parameters = validate(&own, &access, &Settings::new("i", "n", "o")).unwrap().parameters;
        assert_eq!(Value::Object(parameters), json!({"count": "7", "window": "30s"}));
    }

    #[test]
    fn a_passphrase_is_a_file_of_a_mounted_secret_and_recipients_need_none() {
        let change = json!({"encryption": {"passphraseSecret": {"name": "s", "key": "phrase"}}});
        let with_phrase = checked(change).unwrap();
        assert_eq!(with_phrase.encryption.passphrase, Some(SecretRef::File("/backup-keys/phrase".into())));
        assert_eq!(with_phrase.encryption_mounts, [Mount::secret("s", "/backup-keys")]);
        let with_keys = checked(json!({"encryption": {"recipients": ["age1x"]}})).unwrap();
        assert!(with_keys.encryption_mounts.is_empty() && !with_keys.encryption.is_none());
    }
}
