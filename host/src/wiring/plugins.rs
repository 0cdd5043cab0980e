//! Which plugins there are, what the bundled ones are granted, and which of them reads a backup.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redkeep_core::classify::{Class, chain};
use redkeep_core::loaded::LoadedMethod;
use redkeep_core::method::{Method, MethodInfo};
use redkeep_core::provider::ProviderError;
use redkeep_core::secret::Secret;
use redkeep_core::task::{MethodLimits, MethodSpec, OciSpec};
use redkeep_plugin::{
    Grants, HostConfig, Limits, LoadOptions, PluginError, PluginHost, Standing, missing, read_component, standing,
};
use serde::Serialize;

use super::registry::fetch_plugin;
use super::{provided, unusable};
use crate::arguments::method::method_name;

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// A folder of plugins besides the bundled ones; of the same name it is this one that counts.
const FOLDER_VARIABLE: &str = "REDKEEP_PLUGIN_DIR";

/// What the bundled plugins are granted: reviewed here, whatever they ask for. A request that is not listed fails a test.
const BUNDLED_GRANTS: &[(&str, &[&str])] = &[
    (
        "redis-rdb",
        &[
            "redis:info",
            "redis:replicate",
            "redis:load",
            "redis:command:BGSAVE",
            "redis:command:LASTSAVE",
            "redis:command:CONFIG|GET",
            "redis:command:ACL|LIST",
            "redis:command:SELECT",
            "redis:command:EXISTS",
            "redis:command:FUNCTION|LIST",
            "files:list",
            "files:read:**",
            "files:write:**",
        ],
    ),
    (
        "redis-aof",
        &[
            "redis:info",
            "redis:replicate",
            "redis:load",
            "redis:command:CONFIG|GET",
            "files:list",
            "files:read:**",
            "files:write:**",
        ],
    ),
];

/// Where a plugin's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Bundled(&'static [u8]),
    File(PathBuf),
    Registry(Box<OciSpec>),
}

/// Where a loaded component's bytes are, for those who keep it beside its backups.
#[derive(Clone, Debug)]
enum Kept {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The plugins at hand.
pub(super) struct Plugins {
    bundled: &'static [(&'static str, &'static [u8])],
    /// Of plugins besides the bundled ones.
    folder: Option<PathBuf>,
    host: tokio::sync::OnceCell<PluginHost>,
    loaded: Mutex<HashMap<String, Arc<dyn Method>>>,
    /// Where plugins that not every redkeep has were loaded from, by digest.
    kept: Mutex<HashMap<String, Kept>>,
}

/// What `plugin inspect` shows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PluginDescription {
    /// Where it was found.
    pub(crate) origin: String,
    /// SHA-256 of the component.
    pub(crate) digest: String,
    /// Its bytes.
    pub(crate) size: u64,
    /// The version of the contract that it was built against.
    pub(crate) api_version: String,
    /// Names of its imports.
    pub(crate) imports: Vec<String>,
    /// What it says of itself.
    pub(crate) method: MethodInfo,
    /// Names of its exports.
    pub(crate) exports: Vec<String>,
    /// What it asks for, and whether it has it.
    pub(crate) requests: Vec<Standing>,
    /// What it is granted: by whoever asks here, or without being asked, which only bundled plugins are.
    pub(crate) granted: Vec<String>,
    /// What it cannot do without and has not.
    pub(crate) missing: Vec<String>,
}

impl Plugins {
    pub(super) fn new() -> Self {
        let folder = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        Self::of(BUNDLED, folder)
    }

    fn of(bundled: &'static [(&'static str, &'static [u8])], folder: Option<PathBuf>) -> Self {
        let host = tokio::sync::OnceCell::new();
        Self { bundled, folder, host, loaded: Mutex::default(), kept: Mutex::default() }
    }

    /// Every plugin by its name: the bundled ones, and over them those of the folder.
    fn available(&self) -> Result<BTreeMap<String, Origin>, ProviderError> {
        available_in(self.bundled, self.folder.as_deref())
    }

    /// Loads the method that the user named.
    pub(super) async fn method(
        &self,
        spec: &MethodSpec,
        password: Option<Secret>,
    ) -> Result<Arc<dyn Method>, ProviderError> {
        let named = match (&spec.oci, &spec.file) {
            (Some(oci), _) => Some((Origin::Registry(Box::new(oci.clone())), oci.reference.clone())),
            (None, Some(file)) => Some((Origin::File(file.clone()), file.display().to_string())),
            (None, None) => None,
        };
        if let Some((origin, name)) = named {
            let grants = Grants::parse(&spec.grants).map_err(provided)?;
            let method = self.load(&origin, &name, grants, spec, password).await?;
            let wanted = method_name(&spec.name);
            if !wanted.is_empty() && method.info().name != wanted {
                return Err(unusable(
                    Class::NotFound,
                    "MethodNotFound",
                    format!("the plugin {name} is the method `{}`, not `{wanted}`", method.info().name),
                    format!("use --method {}, or leave --method out", method.info().name),
                ));
            }
            return Ok(method);
        }
        let known = self.available()?;
        let name = method_name(&spec.name);
        match known.get(name) {
            Some(origin) => {
                refuse_grants(name, origin, spec)?;
                self.load_known(name, origin, spec).await
            }
            None => Err(unknown_method(&spec.name, &known)),
        }
    }

    /// Finds a method that reads artifacts of these types.
    pub(super) async fn method_that_reads(
        &self,
        spec: &MethodSpec,
        password: Option<Secret>,
        preferred: &str,
        artifact_types: &[String],
    ) -> Result<Arc<dyn Method>, ProviderError> {
        if spec.file.is_some() || spec.oci.is_some() || !spec.name.is_empty() {
            let method = self.method(spec, password).await?;
            return if reads_all(method.info(), artifact_types) {
                Ok(method)
            } else {
                Err(unreadable(&format!("the method {} does not read", method.info().name), preferred, artifact_types))
            };
        }
        let known = self.available()?;
        let mut other_digest = None;
        let mut passed_over = Vec::new();
        let order =
            known.keys().filter(|name| *name == preferred).chain(known.keys().filter(|name| *name != preferred));
        for name in order {
            let Some(origin) = known.get(name) else { continue };
            let method = match self.load_known(name, origin, spec).await {
                Ok(method) => method,
                // Of several plugins at hand only one can have the digest that the user demands.
                Err(error) if error.reason == "PluginDigest" => {
                    other_digest = Some(error);
                    continue;
                }
                // Nobody named it: it must not keep others from being found.
                Err(error) if matches!(origin, Origin::File(_)) => {
                    let why = chain(&error);
                    tracing::warn!(plugin = name, %why, "a plugin of the folder {FOLDER_VARIABLE} is passed over");
                    passed_over.push((name, error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if reads_all(method.info(), artifact_types) {
                refuse_grants(name, origin, spec)?;
                return Ok(method);
            }
        }
        if let Some(error) = other_digest {
            return Err(error);
        }
        let names: Vec<String> = passed_over.iter().map(|(name, error)| format!("{name} ({error})")).collect();
        // The plugin that made the backup is at hand, and this is what is wrong with it.
        if let Some(index) = passed_over.iter().position(|(name, _)| *name == preferred) {
            return Err(passed_over.swap_remove(index).1);
        }
        let mut error = unreadable("no plugin at hand reads", preferred, artifact_types);
        if !names.is_empty() {
            error.message = format!("{}; passed over: {}", error.message, names.join(", "));
        }
        Err(error)
    }

    /// The component of that digest, read again, where a file was loaded.
    pub(super) async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, ProviderError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        let path = match kept {
            None => return Ok(None),
            Some(Kept::Bytes(bytes)) => return Ok(Some(bytes)),
            Some(Kept::File(path)) => path,
        };
        let (bytes, origin) = read(&Origin::File(path), digest, None).await?;
        let same = redkeep_plugin::digest_of(&bytes) == digest;
        if !same {
            return Err(unusable(
                Class::Failed,
                "PluginChanged",
                format!("the plugin {origin} has changed since it was loaded"),
                "run it again with the plugin as it is now".to_owned(),
            ));
        }
        Ok(Some(bytes))
    }

    /// Loads a component that was kept beside a backup.
    pub(super) async fn kept(
        &self,
        component: Vec<u8>,
        origin: &str,
        spec: &MethodSpec,
    ) -> Result<Arc<dyn Method>, ProviderError> {
        let options = LoadOptions {
            grants: Grants::parse(&spec.grants).map_err(provided)?,
            limits: Limits::of(&spec.limits),
            demanded_digest: spec.digest.clone(),
            origin: origin.to_owned(),
        };
        self.host().await?.load(component, options).await.map_err(provided)
    }

    /// What a plugin says of itself.
    pub(super) async fn describe(
        &self,
        name_or_file: &str,
        grants: &[String],
        limits: MethodLimits,
        oci: Option<&OciSpec>,
        password: Option<Secret>,
    ) -> Result<PluginDescription, ProviderError> {
        let known = self.available()?;
        let name = method_name(name_or_file);
        let origin = match known.get(name) {
            Some(origin) => origin.clone(),
            None if oci.is_some() => Origin::Registry(Box::new(oci.cloned().unwrap_or_default())),
            None if name_or_file.contains('/') || Path::new(name_or_file).is_file() => {
                Origin::File(name_or_file.into())
            }
            None => return Err(unknown_method(name_or_file, &known)),
        };
        let mut granted = own_grants(name, &origin);
        granted.extend_from_slice(grants);
        let held = Grants::parse(&granted).map_err(provided)?;
        let (bytes, origin) = read(&origin, name, password).await?;
        let described = self.host().await?.describe(bytes, &origin, Limits::of(&limits)).await.map_err(provided)?;
        Ok(PluginDescription {
            origin,
            digest: described.outline.digest,
            size: described.outline.size,
            api_version: described.outline.api_version,
            imports: described.outline.imports,
            exports: described.outline.exports,
            requests: standing(&described.info.requests, &held),
            missing: missing(&described.info.requests, &held),
            method: described.info,
            granted,
        })
    }

    /// Fetches, checks, compiles and describes a method as a run with it would; what it lacks is part of the answer.
    pub(super) async fn register(
        &self,
        spec: &MethodSpec,
        password: Option<Secret>,
    ) -> Result<LoadedMethod, ProviderError> {
        let known = self.available()?;
        let name = method_name(&spec.name);
        let (origin, mut granted) = match (&spec.oci, &spec.file, known.get(name)) {
            (Some(oci), _, _) => (Origin::Registry(Box::new(oci.clone())), Vec::new()),
            (None, Some(file), _) => (Origin::File(file.clone()), Vec::new()),
            (None, None, Some(origin)) => {
                refuse_grants(name, origin, spec)?;
                (origin.clone(), own_grants(name, origin))
            }
            (None, None, None) => return Err(unknown_method(&spec.name, &known)),
        };
        granted.extend(spec.grants.iter().cloned());
        let held = Grants::parse(&granted).map_err(provided)?;
        let (bytes, shown, reference, signed) = match &origin {
            Origin::Registry(oci) => {
                let fetched = fetch_plugin(oci, password).await?;
                let pinned = fetched.pinned.to_string();
                (fetched.bytes, pinned.clone(), Some(pinned), fetched.signed)
            }
            other => {
                let (bytes, shown) = read(other, name, None).await?;
                (bytes, shown, None, false)
            }
        };
        let (host, limits) = (self.host().await?, Limits::of(&spec.limits));
        let described = host.describe_demanded(bytes, &shown, limits, spec.digest.clone()).await.map_err(provided)?;
        check_requests(&described.info.requests, &shown)?;
        let (has, lacks): (Vec<Standing>, Vec<Standing>) =
            standing(&described.info.requests, &held).into_iter().partition(|request| request.granted);
        let names = |requests: Vec<Standing>| {
            let marked = |one: Standing| if one.optional { format!("?{}", one.name) } else { one.name };
            requests.into_iter().map(marked).collect()
        };
        Ok(LoadedMethod {
            info: described.info,
            digest: described.outline.digest,
            size: described.outline.size,
            api_version: described.outline.api_version,
            reference,
            signed,
            compiled_in: described.compiled_in,
            granted: names(has),
            missing: names(lacks),
        })
    }

    async fn load_known(
        &self,
        name: &str,
        origin: &Origin,
        spec: &MethodSpec,
    ) -> Result<Arc<dyn Method>, ProviderError> {
        let mut grants = own_grants(name, origin);
        if matches!(origin, Origin::File(_)) {
            grants.extend(spec.grants.iter().cloned());
        }
        let grants = Grants::parse(&grants).map_err(provided)?;
        self.load(origin, name, grants, spec, None).await
    }

    async fn load(
        &self,
        origin: &Origin,
        name: &str,
        grants: Grants,
        spec: &MethodSpec,
        password: Option<Secret>,
    ) -> Result<Arc<dyn Method>, ProviderError> {
        // A signature that was not asked for the first time is asked for the second time.
        let signer = spec.oci.as_ref().map(|oci| (oci.public_key_file.as_ref(), oci.public_key.as_ref()));
        let key = format!("{name}\0{:?}\0{:?}\0{signer:?}\0{:?}", spec.digest, grants.names(), spec.limits);
        if let Some(method) = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(method));
        }
        let (bytes, shown) = read(origin, name, password).await?;
        // What a registry gave is kept as it came: asking again would need the credentials again.
        let kept = match origin {
            Origin::Registry(_) => Some(Kept::Bytes(bytes.clone())),
            Origin::File(path) => Some(Kept::File(path.clone())),
            Origin::Bundled(_) => None,
        };
        let limits = Limits::of(&spec.limits);
        let options = LoadOptions { grants, limits, demanded_digest: spec.digest.clone(), origin: shown };
        let method = self.host().await?.load(bytes, options).await.map_err(provided)?;
        if let Some(kept) = kept {
            let digest = method.digest().to_owned();
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, kept);
        }
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&method));
        Ok(method)
    }

    async fn host(&self) -> Result<&PluginHost, ProviderError> {
        self.host
            .get_or_try_init(|| async { PluginHost::new(HostConfig { cache_dir: cache_dir() }).map_err(provided) })
            .await
    }
}

/// What a plugin is granted without being asked: only what comes with redkeep, whatever another is called.
fn own_grants(name: &str, origin: &Origin) -> Vec<String> {
    if matches!(origin, Origin::Bundled(_)) { bundled_grants(name) } else { Vec::new() }
}

/// What a bundled plugin is granted.
fn bundled_grants(name: &str) -> Vec<String> {
    let grants = BUNDLED_GRANTS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, grants)| grants);
    grants.iter().map(ToString::to_string).collect()
}

/// Where compiled plugins are kept: `$XDG_CACHE_HOME/redkeep`, else `~/.cache/redkeep`. Nowhere, where that cannot be made.
pub(super) fn cache_dir() -> Option<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    let folder = base.join("redkeep");
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
        Ok(()) => Some(folder),
        Err(error) => {
            tracing::info!(folder = %folder.display(), %error, "compiled plugins are not kept: no cache folder");
            None
        }
    }
}

fn available_in(
    bundled: &'static [(&'static str, &'static [u8])],
    folder: Option<&Path>,
) -> Result<BTreeMap<String, Origin>, ProviderError> {
    let mut known: BTreeMap<String, Origin> =
        bundled.iter().map(|(name, bytes)| ((*name).to_owned(), Origin::Bundled(bytes))).collect();
    let Some(folder) = folder else { return Ok(known) };
    let failed = |error: std::io::Error| {
        unusable(
            Class::NotFound,
            "PluginFolder",
            format!("failed to read the plugins in {}", folder.display()),
            format!("{FOLDER_VARIABLE} must name a folder of plugins, or not be set"),
        )
        .caused_by(error)
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        if let Some(name) = name
            && path.extension().is_some_and(|extension| extension == "wasm")
        {
            // The bundled plugin once more is the bundled plugin. Any other of its name is a stranger, and has no grants of its.
            let is_bundled = matches!(known.get(&name), Some(Origin::Bundled(bytes)) if holds(&path, bytes));
            if !is_bundled {
                known.insert(name, Origin::File(path));
            }
        }
    }
    Ok(known)
}

/// Whether a file holds exactly these bytes. One that cannot be read is found out about when it is used.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let is_as_long = path.metadata().is_ok_and(|about| about.is_file() && about.len() == bytes.len() as u64);
    is_as_long && std::fs::read(path).is_ok_and(|found| found == bytes)
}

/// A bundled plugin's grants are fixed; `--grant` beside it would promise what is not done.
fn refuse_grants(name: &str, origin: &Origin, spec: &MethodSpec) -> Result<(), ProviderError> {
    if matches!(origin, Origin::File(_)) || spec.grants.is_empty() {
        return Ok(());
    }
    Err(unusable(
        Class::Usage,
        "GrantsFixed",
        format!("the plugin {name} comes with redkeep and takes no --grant"),
        "leave --grant out, or name another plugin by --plugin FILE".to_owned(),
    ))
}

/// A request that this redkeep does not know can be granted by nobody: a run with it would say the same.
fn check_requests(requests: &[String], origin: &str) -> Result<(), ProviderError> {
    let required: Vec<String> = requests.iter().filter(|request| !request.starts_with('?')).cloned().collect();
    let known = Grants::parse(&required).map(drop);
    known.map_err(|source| provided(PluginError::Request { origin: origin.to_owned(), source }))
}

fn reads_all(info: &MethodInfo, artifact_types: &[String]) -> bool {
    artifact_types.iter().all(|artifact_type| info.reads(artifact_type))
}

fn unknown_method(name: &str, known: &BTreeMap<String, Origin>) -> ProviderError {
    let help = if known.is_empty() {
        "this redkeep was built without plugins: run `cargo xtask plugins` and build it again, or use --plugin FILE"
            .to_owned()
    } else {
        let names: Vec<&str> = known.keys().map(|name| short_name(name)).collect();
        format!("use {}, or --plugin FILE", names.join(", "))
    };
    unusable(Class::NotFound, "MethodNotFound", format!("there is no method `{name}`"), help)
}

fn short_name(name: &str) -> &str {
    match name {
        "redis-rdb" => "rdb",
        "redis-aof" => "aof",
        other => other,
    }
}

fn unreadable(what: &str, preferred: &str, artifact_types: &[String]) -> ProviderError {
    let types: Vec<String> = artifact_types.iter().map(|artifact_type| format!("`{artifact_type}`")).collect();
    unusable(
        Class::Refused,
        "NoPluginReads",
        format!("{what} artifacts of type {}", types.join(" and ")),
        format!("the backup was made by the method {preferred}: give its plugin by --plugin FILE"),
    )
}

/// A plugin's bytes, and where they are from.
async fn read(origin: &Origin, name: &str, password: Option<Secret>) -> Result<(Vec<u8>, String), ProviderError> {
    match origin {
        Origin::Bundled(bytes) => Ok((bytes.to_vec(), format!("bundled {name}"))),
        Origin::File(path) => Ok((read_file(path).await?, path.display().to_string())),
        Origin::Registry(spec) => {
            let fetched = fetch_plugin(spec, password).await?;
            Ok((fetched.bytes, fetched.pinned.to_string()))
        }
    }
}

/// A component's file.
pub(super) async fn read_file(path: &Path) -> Result<Vec<u8>, ProviderError> {
    let file = path.to_owned();
    let bytes = tokio::task::spawn_blocking(move || read_component(&file)).await.map_err(|error| {
        let message = format!("failed to read the plugin {}", path.display());
        ProviderError::new(Class::Failed, "PluginUnreadable", message).caused_by(error)
    })?;
    bytes.map_err(provided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_of_bundled_plugins_are_well_formed() {
        for (name, _) in BUNDLED_GRANTS {
            Grants::parse(&bundled_grants(name)).unwrap();
        }
        assert!(bundled_grants("something-else").is_empty());
    }

    #[tokio::test]
    async fn bundled_plugins_ask_for_nothing_that_was_not_reviewed() {
        assert!(
            !BUNDLED.is_empty() || std::env::var_os("CI").is_none(),
            "no plugins are bundled: run `cargo xtask plugins` first"
        );
        let plugins = Plugins::new();
        for (name, _) in BUNDLED {
            let description = plugins.describe(name, &[], MethodLimits::default(), None, None).await.unwrap();
            let reviewed = bundled_grants(name);
            for request in &description.method.requests {
                let plain = request.strip_prefix('?').unwrap_or(request).to_owned();
                assert!(reviewed.contains(&plain), "{name} asks for {request}, which nobody has reviewed");
            }
        }
    }

    #[tokio::test]
    async fn registering_says_what_a_plugin_is_and_lacks() {
        let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/example-raw.wasm");
        if !dist.is_file() {
            assert!(std::env::var_os("CI").is_none(), "run `cargo xtask plugins` first");
            return;
        }
        let plugins = Plugins::new();
        let spec = MethodSpec { file: Some(dist), grants: vec!["redis:replicate".into()], ..MethodSpec::default() };
        let loaded = plugins.register(&spec, None).await.unwrap();
        assert_eq!((loaded.info.name.as_str(), loaded.digest.len(), loaded.signed), ("example-raw", 64, false));
        assert!(loaded.granted.iter().any(|one| one.trim_start_matches('?') == "redis:replicate"), "{loaded:?}");
        assert!(loaded.missing.iter().any(|one| one.contains("files:write")), "{loaded:?}");
        let other = MethodSpec { digest: Some("0".repeat(64)), ..spec.clone() };
        assert_eq!(plugins.register(&other, None).await.unwrap_err().reason, "PluginDigest");
        let limits = redkeep_core::task::MethodLimits { memory_bytes: Some(65_536), ..Default::default() };
        let small = plugins.register(&MethodSpec { limits, ..spec.clone() }, None).await.unwrap_err();
        assert!(small.message.contains("memory") || small.source.is_some(), "{small:?}");
        let wrong = MethodSpec { grants: vec!["redis:everything".into()], ..spec };
        assert!(plugins.register(&wrong, None).await.is_err());
        let unknown = MethodSpec { name: "nobody".into(), ..MethodSpec::default() };
        assert_eq!(plugins.register(&unknown, None).await.unwrap_err().reason, "MethodNotFound");
    }

    #[test]
    fn a_required_request_that_nobody_can_grant_is_not_taken_for_one_that_is_not_granted() {
        let requests = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        check_requests(&requests(&["redis:info", "?socket:listen"]), "mine.wasm").unwrap();
        let error = check_requests(&requests(&["redis:info", "socket:listen"]), "mine.wasm").unwrap_err();
        assert_eq!((error.class, error.reason), (Class::Refused, "PluginRequest"));
        assert!(error.message.contains("mine.wasm"), "{error:?}");
    }

    #[test]
    fn an_unknown_method_names_those_there_are_or_how_to_build_them() {
        let known = available_in(&[("redis-aof", b""), ("redis-rdb", b"")], None).unwrap();
        let error = unknown_method("rbd", &known);
        assert_eq!((error.class, error.help.as_deref()), (Class::NotFound, Some("use aof, rdb, or --plugin FILE")));
        let error = unknown_method("rdb", &BTreeMap::new());
        assert!(error.help.unwrap().contains("cargo xtask plugins"));
    }

    #[test]
    fn a_plugin_in_the_folder_counts_before_a_bundled_one() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["redis-rdb.wasm", "mine.wasm", "notes.txt"] {
            std::fs::write(folder.path().join(name), "another").unwrap();
        }
        let known = available_in(&[("redis-aof", b""), ("redis-rdb", b"")], Some(folder.path())).unwrap();
        assert_eq!(known.keys().map(String::as_str).collect::<Vec<_>>(), ["mine", "redis-aof", "redis-rdb"]);
        assert_eq!(known["redis-rdb"], Origin::File(folder.path().join("redis-rdb.wasm")));
        assert_eq!(known["redis-aof"], Origin::Bundled(b""));
        let missing = available_in(&[], Some(Path::new("/no/such/folder"))).unwrap_err();
        assert!(missing.help.unwrap().contains(FOLDER_VARIABLE));
    }

    #[test]
    fn only_the_bundled_bytes_have_the_bundled_grants() {
        let folder = tempfile::tempdir().unwrap();
        let bundled: &[(&str, &[u8])] = &[("redis-aof", b"aof"), ("redis-rdb", b"rdb")];
        std::fs::write(folder.path().join("redis-rdb.wasm"), "rdb").unwrap();
        std::fs::write(folder.path().join("redis-aof.wasm"), "rdb").unwrap();
        let known = available_in(bundled, Some(folder.path())).unwrap();
        assert_eq!(known["redis-rdb"], Origin::Bundled(b"rdb"));
        assert_eq!(own_grants("redis-rdb", &known["redis-rdb"]), bundled_grants("redis-rdb"));
        assert_eq!(known["redis-aof"], Origin::File(folder.path().join("redis-aof.wasm")));
        assert_eq!(own_grants("redis-aof", &known["redis-aof"]), Vec::<String>::new());
    }

    fn example() -> Option<Vec<u8>> {
        let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/example-raw.wasm");
        let bytes = std::fs::read(dist).ok();
        assert!(bytes.is_some() || std::env::var_os("CI").is_none(), "run `cargo xtask plugins` first");
        bytes
    }

    #[tokio::test]
    async fn a_stranger_called_like_a_bundled_plugin_is_granted_only_what_the_user_grants() {
        let Some(example) = example() else { return };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("redis-rdb.wasm"), example).unwrap();
        let plugins = Plugins::of(&[("redis-rdb", b"bundled")], Some(folder.path().to_owned()));
        let described = plugins.describe("rdb", &[], MethodLimits::default(), None, None).await.unwrap();
        assert_eq!((described.method.name.as_str(), described.granted.len()), ("example-raw", 0), "{described:?}");
        let spec = MethodSpec { name: "rdb".into(), ..MethodSpec::default() };
        assert_eq!(plugins.register(&spec, None).await.unwrap().granted, Vec::<String>::new());
        let spec = MethodSpec { grants: vec!["redis:replicate".into()], ..spec };
        assert_eq!(plugins.register(&spec, None).await.unwrap().granted, ["?redis:replicate"]);
    }

    #[tokio::test]
    async fn a_bad_file_in_the_folder_keeps_no_other_from_being_found() {
        let Some(example) = example() else { return };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a-bad-one.wasm"), "#!/bin/sh").unwrap();
        std::fs::create_dir(folder.path().join("b-folder.wasm")).unwrap();
        let plugins = Plugins::of(&[], Some(folder.path().to_owned()));
        let spec = MethodSpec::default();
        let search = |preferred: &'static str| {
            let (plugins, spec) = (&plugins, &spec);
            async move { plugins.method_that_reads(spec, None, preferred, &["rdb".to_owned()]).await }
        };
        let error = search("mine").await.err().unwrap();
        assert_eq!(error.reason, "NoPluginReads");
        assert!(error.message.contains("a-bad-one") && error.message.contains("b-folder"), "{error}");
        assert!(error.message.contains("not WebAssembly"), "{error}");
        // What made the backup is there and is bad: that is what is told.
        assert_eq!(search("a-bad-one").await.err().unwrap().reason, "NotAComponent");
        std::fs::write(folder.path().join("z-good.wasm"), example).unwrap();
        for preferred in ["mine", "a-bad-one"] {
            assert_eq!(search(preferred).await.unwrap().info().name, "example-raw");
        }
    }

    #[test]
    fn grants_beside_a_bundled_plugin_are_refused() {
        let mut spec = MethodSpec::default();
        refuse_grants("redis-rdb", &Origin::Bundled(b""), &spec).unwrap();
        spec.grants = vec!["redis:load".to_owned()];
        refuse_grants("mine", &Origin::File("mine.wasm".into()), &spec).unwrap();
        let error = refuse_grants("redis-rdb", &Origin::Bundled(b""), &spec).unwrap_err();
        assert_eq!((error.class, error.reason), (Class::Usage, "GrantsFixed"));
    }

    #[test]
    fn what_no_plugin_reads_is_refused_with_the_method_that_made_it() {
        let error = unreadable("no plugin at hand reads", "my-method", &["mine".to_owned(), "notes".to_owned()]);
        assert_eq!(
            (error.class, error.message.as_str()),
            (Class::Refused, "no plugin at hand reads artifacts of type `mine` and `notes`")
        );
        assert!(error.help.unwrap().contains("my-method"));
    }
}
