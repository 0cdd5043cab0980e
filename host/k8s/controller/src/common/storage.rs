//! From a destination, or a BackupStorage's name, to what a task needs to reach it.

use std::path::PathBuf;

use kube::{Api, Client};
use redkeep_core::task::StorageSpec;
use redkeep_k8s_api::backup_storage::BackupStorage;
use redkeep_k8s_api::common::{CertificateAuthority, LocalReference};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::destination::Destination;

use super::Unresolved;
use crate::executor::{CREDENTIALS_PATH, FOLDER_PATH, Mount, MountSource, STORAGE_CA_PATH};

/// A storage as a task sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageAccess {
    /// For the task.
    pub spec: StorageSpec,
    /// What the task's pod mounts for it.
    pub mounts: Vec<Mount>,
    /// What people call it: `s3://bucket/path`, `folder://claim/path`.
    pub address: String,
    /// The BackupStorage, where it is one.
    pub name: Option<String>,
    /// Its service account, for tasks that name none.
    pub service_account: Option<String>,
    /// How many tasks may use it at once.
    pub concurrent_tasks: Option<usize>,
}

/// Which storage a spec means.
#[derive(Clone, Copy, Debug)]
pub struct StorageChoice<'a> {
    /// Written out,
    pub destination: Option<&'a Destination>,
    /// or by name.
    pub storage_ref: Option<&'a LocalReference>,
    /// Credentials of `destination`.
    pub credentials: Option<&'a LocalReference>,
}

/// Reads what has to be read. This is the step that takes a client.
///
/// # Errors
/// A BackupStorage that is not there, or a destination that cannot be followed.
pub async fn resolve(client: &Client, namespace: &str, choice: StorageChoice<'_>) -> Result<StorageAccess, Unresolved> {
    match (choice.destination, choice.storage_ref) {
        (Some(destination), None) => access(destination, choice.credentials),
        (None, Some(reference)) => {
            let api: Api<BackupStorage> = Api::namespaced(client.clone(), namespace);
            let name = &reference.name;
            let found = api.get_opt(name).await.map_err(Unresolved::read(format!("BackupStorage {name}")))?;
            match found {
                Some(storage) => access_of(&storage),
                None => Err(Unresolved::not_yet(
                    reasons::STORAGE_NOT_FOUND,
                    format!("there is no BackupStorage {name} in namespace {namespace}"),
                )),
            }
        }
        _ => Err(Unresolved::invalid("spec", "exactly one of destination and storageRef must be set")),
    }
}

/// The storage that a BackupStorage describes.
///
/// # Errors
/// A destination that cannot be followed.
pub fn access_of(storage: &BackupStorage) -> Result<StorageAccess, Unresolved> {
    let spec = &storage.spec;
    let mut access = access(&spec.destination, spec.backup_credentials_secret.as_ref())?;
    access.name.clone_from(&storage.metadata.name);
    access.service_account = spec.task.as_ref().and_then(|task| task.service_account_name.clone());
    access.concurrent_tasks = usize::try_from(spec.max_concurrent_tasks).ok();
    Ok(access)
}

/// The storage that a destination describes.
///
/// # Errors
/// More or fewer providers than one, or a path that leaves its place.
pub fn access(destination: &Destination, credentials: Option<&LocalReference>) -> Result<StorageAccess, Unresolved> {
    let mut spec = StorageSpec::default();
    let mut mounts = Vec::new();
    let address = match destination {
        Destination { s3: Some(s3), gcs: None, azure: None, folder: None } => {
            spec.url = joined(&format!("s3://{}", s3.bucket), &s3.path)?;
            spec.region.clone_from(&s3.region);
            spec.endpoint.clone_from(&s3.endpoint);
            // A server of one's own seldom answers under a name for each bucket.
            spec.path_style = s3.path_style.or(s3.endpoint.as_ref().map(|_| true));
            if let Some(authority) = &s3.ca {
                let (mount, file) = authority_file("spec.destination.s3.ca", authority, STORAGE_CA_PATH)?;
                mounts.push(mount);
                spec.ca_file = Some(file);
            }
            spec.url.clone()
        }
        Destination { s3: None, gcs: Some(gcs), azure: None, folder: None } => {
            spec.url = joined(&format!("gs://{}", gcs.bucket), &gcs.path)?;
            spec.url.clone()
        }
        Destination { s3: None, gcs: None, azure: Some(azure), folder: None } => {
            spec.url = joined(&format!("az://{}", azure.container), &azure.path)?;
            spec.url.clone()
        }
        Destination { s3: None, gcs: None, azure: None, folder: Some(folder) } => {
            let claim = MountSource::Claim { name: folder.claim.clone(), read_only: false };
            mounts.push(Mount { source: claim, path: FOLDER_PATH.into() });
            spec.url = joined(FOLDER_PATH, &folder.path)?;
            joined(&format!("folder://{}", folder.claim), &folder.path)?
        }
        _ => {
            return Err(Unresolved::invalid(
                "spec.destination",
                "exactly one of s3, gcs, azure and folder must be set",
            ));
        }
    };
    if let Some(secret) = credentials {
        mounts.push(Mount::secret(&secret.name, CREDENTIALS_PATH));
        spec.credentials_dir = Some(CREDENTIALS_PATH.into());
    }
    Ok(StorageAccess { spec, mounts, address, name: None, service_account: None, concurrent_tasks: None })
}

/// The API server refuses such paths too; a definition may be older than this program.
fn joined(root: &str, path: &str) -> Result<String, Unresolved> {
    let path = path.trim_matches('/');
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Unresolved::invalid("spec.destination", "a path must not hold `.` or `..`"));
    }
    Ok(if path.is_empty() { root.to_owned() } else { format!("{root}/{path}") })
}

/// Where an authority is mounted, and its file.
pub(super) fn authority_file(
    field: &'static str,
    authority: &CertificateAuthority,
    place: &str,
) -> Result<(Mount, PathBuf), Unresolved> {
    let source = match (&authority.secret, &authority.config_map) {
        (Some(secret), None) => MountSource::Secret(secret.name.clone()),
        (None, Some(map)) => MountSource::ConfigMap(map.name.clone()),
        _ => {
            return Err(Unresolved::invalid(field, "exactly one of secret and configMap must be set"));
        }
    };
    Ok((Mount { source, path: place.into() }, PathBuf::from(place).join(&authority.key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn destination(value: Value) -> Destination {
        serde_json::from_value(value).unwrap()
    }

    #[rstest]
    #[case(json!({"s3": {"bucket": "b", "path": "p/q/", "region": "us-east-1"}}), "s3://b/p/q", "s3://b/p/q")]
    #[case(json!({"gcs": {"bucket": "b"}}), "gs://b", "gs://b")]
    #[case(json!({"azure": {"container": "c", "path": "p"}}), "az://c/p", "az://c/p")]
    #[case(json!({"folder": {"claim": "backups", "path": "redis"}}), "/backup-folder/redis", "folder://backups/redis")]
    fn a_destination_becomes_an_address(#[case] value: Value, #[case] url: &str, #[case] address: &str) {
        let access = access(&destination(value), None).unwrap();
        assert_eq!((access.spec.url.as_str(), access.address.as_str()), (url, address));
        assert_eq!(access.spec.credentials_dir, None, "workload identity without a Secret");
    }

    #[rstest]
    #[case(json!({"s3": {"bucket": "b", "path": "p/", "region": "us-east-1"}}), json!({"s3": {"bucket": "b", "path": "/p"}}), true)]
    #[case(json!({"s3": {"bucket": "b"}}), json!({"gcs": {"bucket": "b"}}), false)]
    #[case(json!({"s3": {"bucket": "b", "path": "p"}}), json!({"s3": {"bucket": "b", "path": "q"}}), false)]
    fn a_place_is_the_same_however_the_way_there_is_described(
        #[case] one: Value,
        #[case] other: Value,
        #[case] same: bool,
    ) {
        let address = |value| access(&destination(value), None).unwrap().address;
        assert_eq!(address(one) == address(other), same);
    }

    #[test]
    fn an_endpoint_of_ones_own_takes_the_bucket_in_the_path_and_its_authority_as_a_file() {
        let value = json!({"s3": {"bucket": "b", "endpoint": "https://minio:9000", "ca": {"configMap": {"name": "ca"}, "key": "root.pem"}}});
        let access = access(&destination(value), Some(&LocalReference { name: "keys".into() })).unwrap();
        assert_eq!(access.spec.path_style, Some(true));
        assert_eq!(access.spec.ca_file.as_deref(), Some(std::path::Path::new("/storage-ca/root.pem")));
        assert_eq!(access.spec.credentials_dir.as_deref(), Some(std::path::Path::new("/backup-credentials")));
        let sources: Vec<MountSource> = access.mounts.into_iter().map(|mount| mount.source).collect();
        assert_eq!(sources, [MountSource::ConfigMap("ca".into()), MountSource::Secret("keys".into())]);
    }

    #[rstest]
    #[case(json!({}))]
    #[case(json!({"s3": {"bucket": "b"}, "gcs": {"bucket": "b"}}))]
    #[case(json!({"folder": {"claim": "c", "path": "../other"}}))]
    fn what_the_api_server_should_have_refused_is_refused(#[case] value: Value) {
        assert!(matches!(access(&destination(value), None), Err(Unresolved::Invalid { .. })));
    }
}
