//! The composition root: the only place that names concrete providers, reads the clock, the environment and chance.

pub(crate) mod operator;
mod plugins;
mod registry;
mod secrets;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rand::Rng;
use redkeep_core::Timestamp;
use redkeep_core::classify::{Class, Classify};
use redkeep_core::loaded::LoadedMethod;
use redkeep_core::method::Method;
use redkeep_core::provider::{BootCheck, DataSource, LiveTarget, ProviderError, Providers, StagedDirectory};
use redkeep_core::secret::{Secret, SecretRef};
use redkeep_core::storage::{ProbeReport, WriteStorage};
use redkeep_core::task::{DirectoryTarget, EndpointSpec, MethodLimits, MethodSpec, OciSpec, StorageSpec};

use crate::output::failure::Failure;
pub(crate) use plugins::PluginDescription;
use plugins::Plugins;
use secrets::Secrets;

/// Folders of servers for `verify --level boot`, themselves or their subfolders; they come before those of `PATH`.
const SERVERS_VARIABLE: &str = "REDKEEP_SERVERS";

/// The world, as this program has it.
pub(crate) struct Wiring {
    plugins: Plugins,
    secrets: Secrets,
    boot: Arc<dyn BootCheck>,
}

impl Wiring {
    /// Connects nothing yet.
    pub(crate) fn new() -> Arc<Self> {
        let boot = Arc::new(redkeep_redis::LocalBootCheck::new(server_folders()));
        Arc::new(Self { plugins: Plugins::new(), secrets: Secrets::default(), boot })
    }

    /// Keeps a secret that came with the command line; what refers to it can be stored and printed.
    pub(crate) fn keep_secret(&self, secret: Secret) -> SecretRef {
        self.secrets.keep(secret)
    }

    /// Who makes backups here: `host:NAME`.
    pub(crate) fn origin() -> String {
        let name = rustix::system::uname();
        format!("host:{}", name.nodename().to_string_lossy())
    }

    /// What a plugin says of itself, without granting it anything; `grants` are only held against its requests.
    pub(crate) async fn describe_plugin(
        &self,
        name_or_file: &str,
        grants: &[String],
        limits: MethodLimits,
        oci: Option<&OciSpec>,
    ) -> Result<PluginDescription, Failure> {
        let password = self.secret_of(oci.and_then(|oci| oci.password.as_ref())).await?;
        self.plugins.describe(name_or_file, grants, limits, oci, password).await.map_err(Failure::from)
    }

    /// Fetches a plugin from a registry: its bytes, and the reference by digest.
    pub(crate) async fn fetch_plugin(&self, spec: &OciSpec) -> Result<(Vec<u8>, String), Failure> {
        let password = self.secret_of(spec.password.as_ref()).await?;
        let fetched = registry::fetch_plugin(spec, password).await?;
        Ok((fetched.bytes, fetched.pinned.to_string()))
    }

    /// Loads a plugin from a file with these grants, within these limits.
    pub(crate) async fn load_plugin(
        &self,
        file: &Path,
        grants: &[String],
        limits: MethodLimits,
    ) -> Result<Arc<dyn Method>, Failure> {
        let spec = MethodSpec { file: Some(file.to_owned()), grants: grants.to_vec(), limits, ..MethodSpec::default() };
        Ok(self.plugins.method(&spec, None).await?)
    }

    /// Brings a plugin to a registry; returns the reference by digest.
    pub(crate) async fn push_plugin(
        &self,
        spec: &OciSpec,
        file: &Path,
        sign_with: Option<&Path>,
    ) -> Result<String, Failure> {
        let password = self.secret_of(spec.password.as_ref()).await?;
        let bytes = plugins::read_file(file).await?;
        Ok(registry::push_plugin(spec, password, bytes, sign_with).await?)
    }

    async fn registry_password(&self, spec: &MethodSpec) -> Result<Option<Secret>, ProviderError> {
        self.secret_of(spec.oci.as_ref().and_then(|oci| oci.password.as_ref())).await
    }

    async fn secret_of(&self, place: Option<&SecretRef>) -> Result<Option<Secret>, ProviderError> {
        match place {
            Some(place) => self.secrets.read(place).await.map(Some),
            None => Ok(None),
        }
    }
}

fn server_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for folder in std::env::var_os(SERVERS_VARIABLE).iter().flat_map(std::env::split_paths) {
        let inside = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let inside: Vec<PathBuf> = inside.filter(|path| path.is_dir()).collect();
        folders.push(folder);
        for path in inside {
            folders.push(path.join("bin"));
            folders.push(path.join("src"));
            folders.push(path);
        }
    }
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths).filter(|path| path.is_absolute()));
    folders
}

/// Another crate's error as the engine takes it from a provider.
fn provided<E: Classify + Send + Sync + 'static>(error: E) -> ProviderError {
    ProviderError {
        class: error.class(),
        reason: error.reason(),
        message: error.to_string(),
        help: error.help(),
        retryable: error.retryable(),
        // Says the same once more; whoever prints the chain leaves such lines out.
        source: Some(Box::new(error)),
    }
}

#[async_trait]
impl Providers for Wiring {
    async fn storage(&self, spec: &StorageSpec) -> Result<Arc<dyn WriteStorage>, ProviderError> {
        redkeep_storage::open(spec).await.map_err(provided)
    }

    async fn probe(&self, spec: &StorageSpec) -> Result<ProbeReport, ProviderError> {
        let storage = self.storage(spec).await?;
        redkeep_storage::probe(storage.as_ref()).await.map_err(provided)
    }

    async fn source(&self, spec: &EndpointSpec) -> Result<Arc<dyn DataSource>, ProviderError> {
        let password = self.secret_of(spec.password.as_ref()).await?;
        let sentinel_password = self.secret_of(spec.sentinel_password.as_ref()).await?;
        let spec = self.secrets.with_user(spec).await?;
        redkeep_redis::resolve(&spec, password, sentinel_password).await
    }

    async fn target(&self, spec: &EndpointSpec) -> Result<LiveTarget, ProviderError> {
        let password = self.secret_of(spec.password.as_ref()).await?;
        let sentinel_password = self.secret_of(spec.sentinel_password.as_ref()).await?;
        let spec = self.secrets.with_user(spec).await?;
        redkeep_redis::connect_target(&spec, password, sentinel_password).await
    }

    async fn directory(&self, spec: &DirectoryTarget) -> Result<Arc<dyn StagedDirectory>, ProviderError> {
        redkeep_redis::stage(spec).await
    }

    async fn method(&self, spec: &MethodSpec) -> Result<Arc<dyn Method>, ProviderError> {
        let password = self.registry_password(spec).await?;
        self.plugins.method(spec, password).await
    }

    async fn load_method(&self, spec: &MethodSpec) -> Result<LoadedMethod, ProviderError> {
        let password = self.registry_password(spec).await?;
        self.plugins.register(spec, password).await
    }

    async fn method_that_reads(
        &self,
        spec: &MethodSpec,
        preferred: &str,
        artifact_types: &[String],
    ) -> Result<Arc<dyn Method>, ProviderError> {
        let password = self.registry_password(spec).await?;
        self.plugins.method_that_reads(spec, password, preferred, artifact_types).await
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, ProviderError> {
        self.plugins.component(digest).await
    }

    async fn kept_method(
        &self,
        component: Vec<u8>,
        origin: &str,
        spec: &MethodSpec,
    ) -> Result<Arc<dyn Method>, ProviderError> {
        self.plugins.kept(component, origin, spec).await
    }

    fn boot_check(&self, beside: Option<&Path>) -> Arc<dyn BootCheck> {
        match beside {
            Some(folder) => Arc::new(redkeep_redis::RemoteBootCheck::new(folder)),
            None => Arc::clone(&self.boot),
        }
    }

    async fn secret(&self, place: &SecretRef) -> Result<Secret, ProviderError> {
        self.secrets.read(place).await
    }

    fn random_token(&self, length: usize) -> String {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut random = rand::rng();
        (0..length).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A provider's refusal for want of something that the user can give.
fn unusable(class: Class, reason: &'static str, message: String, help: String) -> ProviderError {
    ProviderError::new(class, reason, message).with_help(help)
}
