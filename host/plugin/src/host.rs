//! Loading: from bytes to a method that can be called.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redkeep_core::method::{Method, MethodInfo};
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::bindings::{Everything, EverythingPre};
use crate::cache::Cache;
use crate::engine;
use crate::error::PluginError;
use crate::grants::{Grants, Permissions, missing};
use crate::limits::Limits;
use crate::loader::{Outline, outline};
use crate::plugin::{Failure, Plugin};
use crate::schema::Schema;
use crate::state::{State, unique};
use crate::text::printable;

/// The longest name of a method, in bytes.
const MAX_NAME: usize = 63;
/// Requests of one plugin.
const MAX_REQUESTS: usize = 100;

/// How the plugin host is set up.
#[derive(Clone, Debug, Default)]
pub struct HostConfig {
    /// Where compiled plugins are kept; made with mode 700 where it is missing. None: every start compiles.
    pub cache_dir: Option<PathBuf>,
}

/// How one plugin is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// What it may do, as far as it requests it.
    pub grants: Grants,
    /// What it may use.
    pub limits: Limits,
    /// SHA-256 in hexadecimal, with or without `sha256:` in front: anything else is refused.
    pub demanded_digest: Option<String>,
    /// The file or reference that the user named, for messages.
    pub origin: String,
}

/// What a plugin is and asks for, for a user who decides whether to trust it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What can be read off the component.
    pub outline: Outline,
    /// What it says of itself.
    pub info: MethodInfo,
    /// Whether its machine code came from the compile cache.
    pub from_cache: bool,
    /// How long compiling took, where it was compiled.
    pub compiled_in: Option<Duration>,
}

/// Loads plugins. One for a process: it holds the engine, its ticker thread and the compile cache.
pub struct PluginHost {
    engine: Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    cache_refusal: Option<String>,
}

impl PluginHost {
    /// Sets up the sandbox. A cache folder that cannot be trusted is not used: see [`Self::cache_refusal`].
    pub fn new(config: HostConfig) -> Result<Self, PluginError> {
        let failed = |source: wasmtime::Error| PluginError::Engine { source: source.into() };
        let engine = engine::start().map_err(failed)?;
        let mut linker = Linker::new(&engine);
        Everything::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).map_err(failed)?;
        let (mut cache, mut cache_refusal) = (None, None);
        if let Some(directory) = &config.cache_dir {
            match Cache::open(directory, &engine) {
                Ok(opened) => cache = Some(opened),
                Err(error) => {
                    let directory = directory.display();
                    let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                    tracing::warn!(%directory, %error, "the plugin cache is not used");
                    cache_refusal = Some(format!("the plugin cache {directory} is not used: {error}{why}"));
                }
            }
        }
        Ok(Self { engine, linker, cache, cache_refusal })
    }

    /// Why the cache folder is not used; none where it is, or where there is none.
    pub fn cache_refusal(&self) -> Option<&str> {
        self.cache_refusal.as_deref()
    }

    /// Checks, compiles (or finds in the cache), links and describes a plugin, and holds its requests against the grants.
    pub async fn load(&self, bytes: Vec<u8>, options: LoadOptions) -> Result<Arc<dyn Method>, PluginError> {
        let LoadOptions { grants, limits, demanded_digest, origin } = options;
        let (plugin, outline, _) = self.prepare(bytes, &origin, limits, demanded_digest).await?;
        let info = describe(&plugin, &origin).await?;
        let schema = Schema::parse(&info.parameters_schema)
            .map_err(|reason| PluginError::Description { origin: origin.clone(), reason })?;
        let requested =
            Grants::parse_requests(&info.requests).map_err(|source| PluginError::Request { origin, source })?;
        let missing = missing(&info.requests, &grants);
        if !missing.is_empty() {
            return Err(PluginError::NotGranted { name: info.name, missing });
        }
        tracing::debug!(plugin = %info.name, plugin_digest = %outline.digest, "plugin loaded");
        Ok(Arc::new(plugin.ready(info, outline.digest, schema, Permissions::new(grants, requested))))
    }

    /// What a plugin is and asks for. Nothing is granted to it, and nothing needs to be.
    pub async fn describe(&self, bytes: Vec<u8>, origin: &str, limits: Limits) -> Result<Description, PluginError> {
        self.describe_demanded(bytes, origin, limits, None).await
    }

    /// The same of exactly the component with this digest.
    pub async fn describe_demanded(
        &self,
        bytes: Vec<u8>,
        origin: &str,
        limits: Limits,
        demanded_digest: Option<String>,
    ) -> Result<Description, PluginError> {
        let (plugin, outline, compiled_in) = self.prepare(bytes, origin, limits, demanded_digest).await?;
        let info = describe(&plugin, origin).await?;
        Schema::parse(&info.parameters_schema)
            .map_err(|reason| PluginError::Description { origin: origin.to_owned(), reason })?;
        Ok(Description { outline, info, from_cache: compiled_in.is_none(), compiled_in })
    }

    /// Everything up to the first instruction of the plugin's.
    async fn prepare(
        &self,
        bytes: Vec<u8>,
        origin: &str,
        limits: Limits,
        demanded_digest: Option<String>,
    ) -> Result<(Plugin, Outline, Option<Duration>), PluginError> {
        let (outline, component, compiled_in) = self.compile(bytes, origin, demanded_digest, limits.compile).await?;
        let unfit = |source: wasmtime::Error| PluginError::Link { origin: origin.to_owned(), source: source.into() };
        let linked = self.linker.instantiate_pre(&component).map_err(unfit)?;
        let linked = EverythingPre::new(linked).map_err(unfit)?;
        Ok((Plugin::new(self.engine.clone(), linked, limits, origin), outline, compiled_in))
    }

    /// On a thread of its own: a Python plugin takes five seconds, and what takes too long can be given up, but not be stopped. Then it
    /// holds up nobody: not a call, nor the process's end.
    async fn compile(
        &self,
        bytes: Vec<u8>,
        origin: &str,
        demanded_digest: Option<String>,
        limit: Duration,
    ) -> Result<(Outline, Component, Option<Duration>), PluginError> {
        let (engine, cache, named) = (self.engine.clone(), self.cache.clone(), origin.to_owned());
        let work = move || {
            let outline = outline(&bytes, &named, demanded_digest.as_deref())?;
            if let Some(component) = cache.as_ref().and_then(|cache| cache.load(&engine, &outline.digest)) {
                return Ok((outline, component, None));
            }
            let begun = Instant::now();
            let component = compile_alone(&engine, &bytes)
                .map_err(|source| PluginError::Compile { origin: named, source: source.into() })?;
            let compiled_in = begun.elapsed();
            if let Some(cache) = cache {
                cache.store(&component, &outline.digest);
            }
            Ok((outline, component, Some(compiled_in)))
        };
        let (done, answer) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("redkeep-compile".to_owned());
        // Nobody waits for it any more where the answer is not taken.
        let started = thread.spawn(move || drop(done.send(work())));
        started.map_err(|source| PluginError::Engine { source: source.into() })?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(compiled)) => compiled,
            // It panicked.
            Ok(Err(_)) => {
                Err(PluginError::Compile { origin: origin.to_owned(), source: "the compiler itself failed".into() })
            }
            Err(_) => Err(PluginError::CompileTime { origin: origin.to_owned(), limit }),
        }
    }
}

/// By threads of its own: on those that the process shares, a component that keeps the compiler busy would hold up every other.
fn compile_alone(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    let threads = rayon::ThreadPoolBuilder::new().thread_name(|number| format!("redkeep-compile-{number}"));
    threads.build()?.install(|| Component::from_binary(engine, bytes))
}

/// Calls `describe` and holds what it says against what must be.
async fn describe(plugin: &Plugin, origin: &str) -> Result<MethodInfo, PluginError> {
    let info = plugin.describe().await.map_err(|failure| match failure {
        Failure::Unfit(source) => PluginError::Link { origin: origin.to_owned(), source: source.into() },
        Failure::Call(source) => PluginError::Describe { origin: origin.to_owned(), source },
    })?;
    let wrong = |reason: String| PluginError::Description { origin: origin.to_owned(), reason };
    let fits = |name: &str| {
        (1..=MAX_NAME).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if !fits(&info.name) {
        let name = printable(&info.name, 100);
        return Err(wrong(format!("{name:?} is not a method's name (lower-case letters, digits and '-')")));
    }
    if info.version.trim().is_empty() {
        return Err(wrong("its version is empty".to_owned()));
    }
    if info.requests.len() > MAX_REQUESTS {
        return Err(wrong(format!("it has {} requests, and {MAX_REQUESTS} are the most", info.requests.len())));
    }
    let attributes = info.attributes.into_iter().map(|attribute| redkeep_core::Attribute {
        key: printable(&attribute.key, 200),
        value: printable(&attribute.value, 4096),
    });
    let attributes = unique(attributes.collect(), "its description").map_err(|error| wrong(error.message))?;
    Ok(MethodInfo {
        version: printable(&info.version, 100),
        summary: printable(&info.summary, 500),
        requests: info.requests.iter().map(|request| printable(request, 300)).collect(),
        attributes,
        name: info.name,
        parameters_schema: info.parameters_schema,
    })
}
