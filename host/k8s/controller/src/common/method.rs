//! From a method's name to what a task needs to load it: a bundled one, or the plugin of a BackupMethod as it was registered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kube::{Api, Client, ResourceExt};
use redkeep_core::task::{MethodLimits, MethodSpec, OciSpec};
use redkeep_core::units::{InvalidQuantity, parse_duration, parse_size};
use redkeep_k8s_api::backup_method::{
    self, BackupMethod, BackupMethodSpec, BackupMethodStatus, MethodSource, OciSource,
};
use redkeep_k8s_api::conditions::{READY, reasons};
use serde_json::{Map, Value};

use super::Unresolved;
use super::storage::authority_file;
use crate::apply::condition;
use crate::executor::{METHOD_PATH, Mount, MountSource, REGISTRY_CA_PATH, REGISTRY_PATH};
use crate::settings::Settings;

/// Methods that are part of the program.
const BUNDLED: [&str; 2] = ["rdb", "aof"];
/// The key of a Secret of type `kubernetes.io/dockerconfigjson`.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// A method as a task sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodAccess {
    /// For the task.
    pub spec: MethodSpec,
    /// What the task's pod mounts for it.
    pub mounts: Vec<Mount>,
    /// Parameters of every backup that has none of its own.
    pub parameters: Map<String, Value>,
}

/// Whether a method comes with the program.
pub fn is_bundled(name: &str) -> bool {
    BUNDLED.contains(&name)
}

/// Whether its plugin comes with the image that operator and tasks run, and changes with it.
pub fn is_in_image(source: &MethodSource) -> bool {
    source.file.is_some() || source.builtin.is_some()
}

/// Reads what has to be read. A bundled name may have a BackupMethod, for limits and parameters; any other must.
///
/// # Errors
/// A BackupMethod that is not there, or not ready.
pub async fn resolve(client: &Client, name: &str, settings: &Settings) -> Result<MethodAccess, Unresolved> {
    let bundled = || MethodAccess {
        spec: MethodSpec { name: name.to_owned(), ..MethodSpec::default() },
        ..MethodAccess::default()
    };
    match Api::<BackupMethod>::all(client.clone()).get_opt(name).await {
        Ok(Some(method)) => access(&method, settings),
        Ok(None) if is_bundled(name) => Ok(bundled()),
        Ok(None) => Err(Unresolved::not_yet(
            reasons::METHOD_NOT_FOUND,
            format!("there is no BackupMethod {name}, and no bundled method of that name (rdb, aof)"),
        )),
        // An operator of one namespace need not see what belongs to the cluster.
        Err(kube::Error::Api(status)) if status.code == 403 && is_bundled(name) => Ok(bundled()),
        Err(error) => Err(Unresolved::read(format!("BackupMethod {name}"))(error)),
    }
}

/// What reads a backup of this method. One that is gone, or not ready, is no reason not to look: its plugin lies beside its backups.
///
/// # Errors
/// What the API server says.
pub async fn reader(client: &Client, name: &str, settings: &Settings) -> Result<MethodAccess, Unresolved> {
    if is_bundled(name) {
        return Ok(MethodAccess::default());
    }
    match resolve(client, name, settings).await {
        Err(Unresolved::NotYet { .. }) => Ok(MethodAccess::default()),
        other => other,
    }
}

/// The plugin as it was registered: by its pinned digest, whatever its source holds by now. What lies in the image is the image's,
/// which an upgrade changes: only a digest that the spec demands holds it.
///
/// # Errors
/// When it is not ready, or is being registered.
pub fn access(method: &BackupMethod, settings: &Settings) -> Result<MethodAccess, Unresolved> {
    let name = method.name_any();
    let status = ready(method)?;
    let unready = |wrong: Unresolved| {
        Unresolved::not_yet(reasons::METHOD_NOT_READY, format!("BackupMethod {name} cannot be followed: {wrong}"))
    };
    let mut access = source(&method.spec, status.resolved_reference.as_deref(), settings).map_err(unready)?;
    if !is_in_image(&method.spec.source) {
        access.spec.digest.clone_from(&status.digest);
    }
    if method.spec.source.builtin.is_none() {
        // Under this name the plugin knows itself; the object may have another.
        access.spec.name = status.description.as_ref().map(|description| description.name.clone()).unwrap_or_default();
    }
    Ok(access)
}

fn ready(method: &BackupMethod) -> Result<&BackupMethodStatus, Unresolved> {
    let name = method.name_any();
    let not_ready =
        |why: &str| Unresolved::not_yet(reasons::METHOD_NOT_READY, format!("BackupMethod {name} is not ready: {why}"));
    let status = method.status.as_ref().ok_or_else(|| not_ready("it has not been registered yet"))?;
    let condition = condition(&status.conditions, READY).ok_or_else(|| not_ready("it has not been registered yet"))?;
    if status.observed_generation != method.metadata.generation {
        return Err(not_ready("its spec has changed, and it is to be registered anew"));
    }
    if condition.status != "True" || status.digest.is_none() {
        return Err(not_ready(&format!("{}: {}", condition.reason, condition.message)));
    }
    Ok(status)
}

/// The plugin of a spec, from the pinned reference where there is one. A demanded digest is the spec's own.
///
/// # Errors
/// The field that cannot be followed.
pub fn source(spec: &BackupMethodSpec, pinned: Option<&str>, settings: &Settings) -> Result<MethodAccess, Unresolved> {
    let mut method = MethodSpec {
        digest: spec.digest.clone(),
        grants: spec.grants.clone(),
        limits: spec.limits.as_ref().map(limits).transpose()?.unwrap_or_default(),
        ..MethodSpec::default()
    };
    let mut mounts = Vec::new();
    let source = &spec.source;
    match (&source.oci, &source.config_map, &source.file, &source.builtin) {
        (Some(oci), None, None, None) => {
            let mut registry = registry(oci, pinned, &mut mounts)?;
            registry.public_key = spec.verify.as_ref().map(|verify| verify.public_key.clone());
            method.oci = Some(registry);
        }
        (None, Some(map), None, None) => {
            mounts.push(Mount { source: MountSource::ConfigMap(map.name.clone()), path: METHOD_PATH.into() });
            method.file = Some(PathBuf::from(METHOD_PATH).join(&map.key));
        }
        (None, None, Some(file), None) => method.file = Some(settings.plugin_folder.join(file)),
        (None, None, None, Some(builtin)) => method.name.clone_from(builtin),
        _ => {
            let why = "exactly one of oci, configMap, file and builtin must be set";
            return Err(Unresolved::invalid("spec.source", why));
        }
    }
    if spec.verify.is_some() && method.oci.is_none() {
        return Err(Unresolved::invalid("spec.verify", "goes with source.oci: only a registry keeps signatures"));
    }
    Ok(MethodAccess { spec: method, mounts, parameters: texts(&spec.parameters).collect() })
}

fn registry(oci: &OciSource, pinned: Option<&str>, mounts: &mut Vec<Mount>) -> Result<OciSpec, Unresolved> {
    let mut spec = OciSpec {
        reference: pinned.map_or_else(|| format!("oci://{}", oci.reference), str::to_owned),
        redirect_hosts: oci.redirect_hosts.clone(),
        ..OciSpec::default()
    };
    if let Some(secret) = &oci.pull_secret {
        mounts.push(Mount::secret(&secret.name, REGISTRY_PATH));
        spec.config_file = Some(PathBuf::from(REGISTRY_PATH).join(DOCKER_CONFIG));
    }
    if let Some(authority) = &oci.ca {
        let (mount, file) = authority_file("spec.source.oci.ca", authority, REGISTRY_CA_PATH)?;
        mounts.push(mount);
        spec.ca_file = Some(file);
    }
    Ok(spec)
}

fn limits(given: &backup_method::MethodLimits) -> Result<MethodLimits, Unresolved> {
    let size = |field, text: &Option<String>| text.as_deref().map(parse_size).transpose().map_err(wrong(field));
    let time = |field, text: &Option<String>| {
        let time = text.as_deref().map(parse_duration).transpose().map_err(wrong(field))?;
        Ok::<_, Unresolved>(time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    };
    Ok(MethodLimits {
        memory_bytes: size("spec.limits.memory", &given.memory)?,
        cpu_slice_milliseconds: time("spec.limits.cpuSlice", &given.cpu_slice)?,
        wall_clock_milliseconds: time("spec.limits.wallClock", &given.wall_clock)?,
        output_bytes: size("spec.limits.outputBytes", &given.output_bytes)?,
        log_lines: given.log_lines.and_then(|lines| u64::try_from(lines).ok()),
    })
}

fn wrong(field: &'static str) -> impl FnOnce(InvalidQuantity) -> Unresolved {
    move |error| Unresolved::invalid(field, error)
}

/// Parameters as a task takes them: as text. Which type the method's schema says is for the task, which has the method.
pub fn texts(parameters: &BTreeMap<String, String>) -> impl Iterator<Item = (String, Value)> {
    parameters.iter().map(|(key, text)| (key.clone(), Value::from(text.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use rstest::rstest;
    use serde_json::json;

    const REFERENCE: &str = "oci://r.io/mine@sha256:11";

    fn settings() -> Settings {
        Settings::new("i", "home", "o")
    }

    fn spec(value: Value) -> BackupMethodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn object(spec: Value, status: Value) -> Value {
        json!({"apiVersion": "redis.io/v1", "kind": "BackupMethod", "metadata": {"name": "mine", "generation": 2},
            "spec": spec, "status": status})
    }

    fn registered(generation: u64, ready: &str) -> Value {
        json!({"observedGeneration": generation, "digest": "sha256:aa", "resolvedReference": REFERENCE,
            "description": {"name": "key-listing"},
            "conditions": [{"type": "Ready", "status": ready, "reason": "PluginUnsigned", "message": "it is not signed",
                "lastTransitionTime": "2026-11-27T12:00:00Z"}]})
    }

    #[test]
    fn a_registry_is_spoken_to_with_what_the_spec_names_and_by_the_pinned_digest() {
        let spec = spec(json!({
            "source": {"oci": {"reference": "r.io/mine:1", "pullSecret": {"name": "pull"},
                "ca": {"configMap": {"name": "ca"}, "key": "root.pem"}, "redirectHosts": ["blobs.io"]}},
            "grants": ["redis:info"], "verify": {"publicKey": "-----BEGIN PUBLIC KEY-----"},
            "limits": {"memory": "128Mi", "cpuSlice": "2s", "wallClock": "1h", "outputBytes": "1G", "logLines": 10},
            "parameters": {"count": "5", "window": "30s"},
        }));
        let first = source(&spec, None, &settings()).unwrap();
        assert_eq!(first.spec.oci.as_ref().unwrap().reference, "oci://r.io/mine:1");
        let access = source(&spec, Some(REFERENCE), &settings()).unwrap();
        let oci = access.spec.oci.unwrap();
        assert_eq!(oci.reference, REFERENCE);
        assert_eq!(oci.config_file.as_deref(), Some(std::path::Path::new("/method-registry/.dockerconfigjson")));
        assert_eq!(oci.ca_file.as_deref(), Some(std::path::Path::new("/method-registry-ca/root.pem")));
        assert!(oci.public_key.is_some() && !oci.plain_http);
        assert_eq!(oci.redirect_hosts, ["blobs.io"]);
        let sources: Vec<MountSource> = access.mounts.into_iter().map(|mount| mount.source).collect();
        assert_eq!(sources, [MountSource::Secret("pull".into()), MountSource::ConfigMap("ca".into())]);
        let limits = access.spec.limits;
        assert_eq!((limits.memory_bytes, limits.cpu_slice_milliseconds), (Some(128 << 20), Some(2_000)));
        assert_eq!((limits.wall_clock_milliseconds, limits.log_lines), (Some(3_600_000), Some(10)));
        assert_eq!(Value::Object(access.parameters), json!({"count": "5", "window": "30s"}));
    }

    #[rstest]
    #[case(json!({"oci": {"reference": "r.io/mine:1"}}), Some("sha256:aa"), Some("sha256:aa"))]
    #[case(json!({"configMap": {"name": "plugin"}}), Some("sha256:aa"), Some("sha256:aa"))]
    #[case(json!({"file": "mine.wasm"}), None, Some("sha256:bb"))]
    #[case(json!({"builtin": "rdb"}), None, Some("sha256:bb"))]
    fn what_lies_in_the_image_is_held_only_by_a_digest_of_the_spec(
        #[case] from: Value,
        #[case] pinned: Option<&str>,
        #[case] demanded: Option<&str>,
    ) {
        let digest = |spec: Value| {
            let method: BackupMethod = serde_json::from_value(object(spec, registered(2, "True"))).unwrap();
            access(&method, &settings()).unwrap().spec.digest
        };
        assert_eq!(digest(json!({"source": from.clone()})).as_deref(), pinned);
        assert_eq!(digest(json!({"source": from, "digest": "sha256:bb"})).as_deref(), demanded);
    }

    #[rstest]
    #[case(json!({"configMap": {"name": "plugin"}}), json!({"file": "/method/plugin.wasm"}), 1)]
    #[case(json!({"file": "a/b.wasm"}), json!({"file": "/usr/local/share/redkeep/plugins/a/b.wasm"}), 0)]
    #[case(json!({"builtin": "rdb"}), json!({"name": "rdb"}), 0)]
    fn every_source_becomes_a_place(#[case] from: Value, #[case] wanted: Value, #[case] mounts: usize) {
        let access = source(&spec(json!({"source": from})), None, &settings()).unwrap();
        assert_eq!(access.spec, serde_json::from_value(wanted).unwrap());
        assert_eq!(access.mounts.len(), mounts);
    }

    #[rstest]
    #[case(json!({"source": {}}), "spec.source: exactly one")]
    #[case(json!({"source": {"builtin": "rdb", "file": "a.wasm"}}), "spec.source: exactly one")]
    #[case(json!({"source": {"file": "a.wasm"}, "verify": {"publicKey": "k"}}), "spec.verify: goes with")]
    #[case(json!({"source": {"file": "a.wasm"}, "limits": {"memory": "much"}}), "spec.limits.memory: `much`")]
    #[case(json!({"source": {"file": "a.wasm"}, "limits": {"wallClock": "long"}}), "spec.limits.wallClock: `long`")]
    #[case(json!({"source": {"oci": {"reference": "r.io/a", "ca": {}}}}), "spec.source.oci.ca: exactly one")]
    fn what_cannot_be_followed_is_refused_by_field(#[case] value: Value, #[case] expected: &str) {
        let error = source(&spec(value), None, &settings()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[rstest]
    #[case(json!(null), "it has not been registered yet")]
    #[case(registered(1, "True"), "its spec has changed")]
    #[case(registered(2, "False"), "PluginUnsigned: it is not signed")]
    #[case(registered(2, "Unknown"), "PluginUnsigned")]
    fn a_method_that_is_not_ready_says_why(#[case] status: Value, #[case] expected: &str) {
        let method: BackupMethod =
            serde_json::from_value(object(json!({"source": {"oci": {"reference": "r.io/mine:1"}}}), status)).unwrap();
        let error = access(&method, &settings()).unwrap_err();
        assert!(matches!(&error, Unresolved::NotYet { reason: "MethodNotReady", .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[tokio::test]
    async fn a_name_is_a_bundled_method_or_a_backup_method() {
        use redkeep_core::classify::Classify;
        let fake = FakeApi::new();
        let find = async |name: &str| resolve(&fake.client(), name, &settings()).await;
        assert_eq!(find("rdb").await.unwrap().spec, MethodSpec { name: "rdb".into(), ..MethodSpec::default() });
        assert_eq!(find("mine").await.unwrap_err().reason(), "MethodNotFound");
        // Putting it there makes it the third generation.
        fake.put(object(json!({"source": {"oci": {"reference": "r.io/mine:1"}}}), registered(3, "True")));
        let found = find("mine").await.unwrap().spec;
        assert_eq!((found.name.as_str(), found.digest.as_deref()), ("key-listing", Some("sha256:aa")));
        assert_eq!(found.oci.unwrap().reference, REFERENCE);
        assert!(reader(&fake.client(), "mine", &settings()).await.unwrap().spec.oci.is_some());
        assert_eq!(reader(&fake.client(), "gone", &settings()).await.unwrap(), MethodAccess::default());
        // An operator of one namespace may not look, and needs not for what is bundled.
        fake.fail_when(|call| call.path.contains("backupmethods").then(|| (403, "Forbidden", "no".to_owned())));
        assert!(find("aof").await.is_ok() && find("mine").await.is_err());
    }
}
