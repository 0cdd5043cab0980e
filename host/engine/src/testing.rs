//! Doubles for tests of the engine: providers over memory storage, a method in Rust that can misbehave, targets that remember.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use redkeep_core::attribute::find;
use redkeep_core::encoding::{Compression, DecryptionKeys, Encryption};
use redkeep_core::loaded::LoadedMethod;
use redkeep_core::method::{ArtifactStore, Method, MethodError, MethodInfo, Run, code};
use redkeep_core::provider::{
    BootCheck, DataSource, LiveTarget, ProviderError, Providers, SourceShard, StagedDirectory,
};
use redkeep_core::redis::{Command, FileEntry, Files, RedisServer, Replication};
use redkeep_core::secret::{Secret, SecretRef};
use redkeep_core::storage::{ProbeReport, StorageError, WriteStorage};
use redkeep_core::stream::{Artifact, Sink, Source};
use redkeep_core::task::{
    BackupSelector, BackupTask, DirectoryTarget, EndpointSpec, KeepRules, MethodSpec, PruneTask, RestoreTask,
    StorageSpec, TargetSpec, VerifyLevel, VerifyTask,
};
use redkeep_core::{Attribute, Class, Classify, Timestamp};
use redkeep_storage::MemoryStorage;
use redkeep_storage::layer::fault::FaultPlan;
use tokio_util::sync::CancellationToken;

use crate::events::{Silent, TaskEvents};
use crate::index::hex;

/// How the method misbehaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conduct {
    #[default]
    Sound,
    /// Capture of this shard fails after so many bytes.
    FailAt(&'static str, usize),
    /// Capture drops its sink and ends well.
    DropSink,
    /// Capture never ends.
    Hang,
    /// Capture says one key more than there is.
    Boast,
    /// `plan` refuses.
    RefusePlan,
    /// A restore stops after so many keys.
    StopRestore(u64),
    /// A live restore leaves one key out and says so in its facts.
    LoseKey,
    /// Captures a secret artifact.
    Secret,
    /// Capture reports a fact of so many of these characters.
    Sprawl(char, usize),
}

/// Something that others do to the storage.
pub(crate) type Meanwhile = Box<dyn FnOnce(MemoryStorage) -> BoxFuture<'static, ()> + Send>;

/// A method whose artifact `dump.rdb` is one line for each key.
pub(crate) struct FakeMethod {
    info: MethodInfo,
    digest: String,
    world: Arc<World>,
}

/// Everything that the doubles share.
pub(crate) struct World {
    pub(crate) storages: Mutex<BTreeMap<String, Arc<dyn WriteStorage>>>,
    pub(crate) memory: MemoryStorage,
    pub(crate) faults: FaultPlan,
    pub(crate) conduct: Mutex<Conduct>,
    /// Keys of each shard of the source.
    pub(crate) source: Mutex<BTreeMap<String, Vec<String>>>,
    pub(crate) topology: Mutex<Option<String>>,
    /// What others do between a capture and its commit.
    pub(crate) meanwhile: Mutex<Option<Meanwhile>>,
    pub(crate) source_has_server: Mutex<bool>,
    pub(crate) artifact_type: Mutex<String>,
    pub(crate) requests: Mutex<Vec<String>>,
    /// Keys in the live target.
    pub(crate) target: Mutex<Vec<String>>,
    pub(crate) target_cluster: Mutex<bool>,
    /// What the live target says of itself, besides `evicted_keys`.
    pub(crate) target_info: Mutex<Vec<Attribute>>,
    /// What a second primary of the target says of itself, where there is one.
    pub(crate) other_primary: Mutex<Option<Vec<Attribute>>>,
    /// Whether that one has functions.
    pub(crate) other_has_functions: Mutex<bool>,
    /// Commands that the live target denies its user.
    pub(crate) denied: Mutex<Vec<&'static str>>,
    /// Function libraries of each shard of the source.
    pub(crate) functions: Mutex<u64>,
    /// Keys for which the live target has room; it evicts the oldest.
    pub(crate) target_room: Mutex<usize>,
    /// Keys that the live target evicted.
    pub(crate) evicted: Mutex<u64>,
    /// Published directories by path.
    pub(crate) directories: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    /// Directories being filled.
    pub(crate) staged: Mutex<u64>,
    /// Keys that the booted server drops silently.
    pub(crate) boot_loses: Mutex<u64>,
    /// The method's component, where it is not one that every redkeep has.
    pub(crate) component: Mutex<Option<Vec<u8>>>,
    /// Whether that component is at hand.
    pub(crate) component_at_hand: Mutex<bool>,
    /// A probe finds that listings lack new objects.
    pub(crate) lists_late: Mutex<bool>,
    pub(crate) now: Mutex<Timestamp>,
    /// What directories say of their file system.
    pub(crate) free_bytes: Mutex<Option<u64>>,
    pub(crate) tokens: AtomicU64,
    pub(crate) contexts: Mutex<Vec<Vec<Attribute>>>,
}

pub(crate) fn lines(count: usize, prefix: &str) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}{index:06}")).collect()
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        let memory = MemoryStorage::new("test");
        let faults = FaultPlan::new();
        let storage = faults.over(Arc::new(memory.clone()));
        let mut storages: BTreeMap<String, Arc<dyn WriteStorage>> = BTreeMap::new();
        storages.insert("memory://test".to_owned(), storage);
        storages.insert("memory://other".to_owned(), Arc::new(MemoryStorage::new("other")));
        Arc::new(Self {
            storages: Mutex::new(storages),
            memory,
            faults,
            conduct: Mutex::default(),
            source: Mutex::new(BTreeMap::from([("0".to_owned(), lines(1000, "key:"))])),
            topology: Mutex::default(),
            meanwhile: Mutex::default(),
            source_has_server: Mutex::new(true),
            artifact_type: Mutex::new("rdb".to_owned()),
            requests: Mutex::new(vec!["redis:replicate".to_owned(), "?files:list".to_owned()]),
            target: Mutex::default(),
            target_cluster: Mutex::new(false),
            target_info: Mutex::default(),
            other_primary: Mutex::default(),
            other_has_functions: Mutex::default(),
            denied: Mutex::default(),
            functions: Mutex::default(),
            target_room: Mutex::new(usize::MAX),
            evicted: Mutex::new(7),
            directories: Mutex::default(),
            staged: Mutex::default(),
            boot_loses: Mutex::default(),
            component: Mutex::default(),
            component_at_hand: Mutex::new(true),
            lists_late: Mutex::default(),
            // Objects in memory have the time of the real clock.
            now: Mutex::new(Timestamp::now()),
            free_bytes: Mutex::default(),
            tokens: AtomicU64::new(0),
            contexts: Mutex::default(),
        })
    }

    pub(crate) fn providers(self: &Arc<Self>) -> Arc<dyn Providers> {
        Arc::new(FakeProviders { world: Arc::clone(self) })
    }

    pub(crate) fn behave(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap() = conduct;
    }

    pub(crate) fn set_shards(&self, shards: &[(&str, usize)]) {
        *self.source.lock().unwrap() =
            shards.iter().map(|(name, count)| ((*name).to_owned(), lines(*count, &format!("{name}:")))).collect();
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap();
        *now += by;
    }

    /// Every key in the storage, past all faults.
    pub(crate) async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt;
        use redkeep_core::storage::ReadStorage;
        self.memory.list("").map_ok(|object| object.key).try_collect().await.unwrap()
    }

    pub(crate) async fn uploads(&self) -> usize {
        self.memory.unfinished_uploads("").await.unwrap().len()
    }
}

pub(crate) fn silent() -> Arc<dyn TaskEvents> {
    Arc::new(Silent)
}

/// Events whose task can be stopped.
pub(crate) struct Cancellable(pub(crate) CancellationToken);

impl TaskEvents for Cancellable {
    fn stage(&self, _name: &str, _detail: &str) {}
    fn progress(&self, _shard: &str, _phase: &str, _unit: &str, _done: u64, _total: Option<u64>) {}
    fn log(&self, _level: redkeep_core::method::LogLevel, _message: &str, _fields: &[Attribute]) {}
    fn cancellation(&self) -> CancellationToken {
        self.0.clone()
    }
}

pub(crate) fn storage_spec(name: &str) -> StorageSpec {
    StorageSpec { url: format!("memory://{name}"), ..StorageSpec::default() }
}

pub(crate) fn backup_task() -> BackupTask {
    BackupTask {
        source: EndpointSpec::default(),
        method: MethodSpec { name: "rdb".to_owned(), ..MethodSpec::default() },
        storage: storage_spec("test"),
        namespace: "default".parse().unwrap(),
        cluster: Some("cache".parse().unwrap()),
        name: None,
        backup_id: None,
        origin: "host:a".to_owned(),
        compression: Compression::DEFAULT,
        encryption: Encryption::default(),
        parameters: serde_json::Map::new(),
        spool: None,
        limit_rate: None,
        hold_limit_seconds: None,
        pin: false,
        dry_run: false,
    }
}

pub(crate) fn selector(text: &str) -> BackupSelector {
    BackupSelector { backup: text.to_owned(), cluster: None, namespace: None, before: None, origin: None }
}

pub(crate) fn restore_task(target: TargetSpec) -> RestoreTask {
    RestoreTask {
        storage: storage_spec("test"),
        backup: selector("latest"),
        target,
        method: MethodSpec::default(),
        keys: DecryptionKeys::default(),
        parameters: serde_json::Map::new(),
        skip_preverify: false,
        allow_non_empty: false,
        shard: None,
        dry_run: false,
    }
}

pub(crate) fn into_directory(path: &str) -> TargetSpec {
    TargetSpec::Directory(DirectoryTarget { path: path.into(), ..DirectoryTarget::default() })
}

pub(crate) fn into_server() -> TargetSpec {
    TargetSpec::Live { endpoint: EndpointSpec::default() }
}

pub(crate) fn verify_task(level: VerifyLevel) -> VerifyTask {
    VerifyTask {
        storage: storage_spec("test"),
        backup: selector("latest"),
        level,
        method: MethodSpec::default(),
        keys: DecryptionKeys::default(),
        record: true,
        server: None,
    }
}

pub(crate) fn prune_task(keep: KeepRules) -> PruneTask {
    PruneTask {
        storage: storage_spec("test"),
        namespace: None,
        cluster: None,
        keep,
        origin: None,
        grace_seconds: 86_400,
        as_of: None,
        dry_run: false,
    }
}

struct FakeProviders {
    world: Arc<World>,
}

#[async_trait]
impl Providers for FakeProviders {
    async fn storage(&self, spec: &StorageSpec) -> Result<Arc<dyn WriteStorage>, ProviderError> {
        let storages = self.world.storages.lock().unwrap();
        let found = storages.get(&spec.url).cloned();
        found.ok_or_else(|| ProviderError::new(Class::Usage, "StorageInvalid", "no such storage"))
    }

    async fn probe(&self, spec: &StorageSpec) -> Result<ProbeReport, ProviderError> {
        let storage = self.storage(spec).await?;
        let failed = |error: StorageError| ProviderError::new(Class::Failed, error.reason(), error.to_string());
        let mut report = redkeep_storage::probe(storage.as_ref()).await.map_err(failed)?;
        if *self.world.lists_late.lock().unwrap() {
            for check in report.checks.iter_mut().filter(|check| check.name == "list") {
                (check.supported, check.detail) = (false, "shows old objects only".to_owned());
            }
        }
        Ok(report)
    }

    async fn source(&self, _spec: &EndpointSpec) -> Result<Arc<dyn DataSource>, ProviderError> {
        let has_server = *self.world.source_has_server.lock().unwrap();
        let shards = self.world.source.lock().unwrap();
        let shards = shards
            .keys()
            .map(|name| SourceShard {
                name: name.clone(),
                node: format!("10.0.0.1:{name}"),
                slots: Vec::new(),
                facts: vec![
                    Attribute::new("node-role", "replica"),
                    Attribute::new("server-name", "redis"),
                    Attribute::new("server-version", "7.0.15"),
                    Attribute::new("primary-offset", 77),
                    Attribute::new("run", "nonsense"),
                ],
                warnings: vec!["the first replica lags".to_owned()],
                redis: has_server.then(|| {
                    Arc::new(FakeServer { world: Arc::clone(&self.world), other: false }) as Arc<dyn RedisServer>
                }),
                files: None,
                socket: None,
            })
            .collect();
        Ok(Arc::new(FakeSource { world: Arc::clone(&self.world), shards }))
    }

    async fn target(&self, _spec: &EndpointSpec) -> Result<LiveTarget, ProviderError> {
        Ok(LiveTarget {
            address: "redis://target".to_owned(),
            cluster: *self.world.target_cluster.lock().unwrap(),
            keys: self.world.target.lock().unwrap().len() as u64,
            facts: vec![Attribute::new("databases", 16), Attribute::new("run", "nonsense")],
            redis: Some(Arc::new(FakeServer { world: Arc::clone(&self.world), other: false })),
            socket: None,
            primaries: [false, true]
                .into_iter()
                .filter(|other| !other || self.world.other_primary.lock().unwrap().is_some())
                .map(|other| {
                    let server: Arc<dyn RedisServer> = Arc::new(FakeServer { world: Arc::clone(&self.world), other });
                    (format!("primary-{}", usize::from(other)), server)
                })
                .collect(),
        })
    }

    async fn directory(&self, spec: &DirectoryTarget) -> Result<Arc<dyn StagedDirectory>, ProviderError> {
        let path = spec.path.display().to_string();
        if self.world.directories.lock().unwrap().contains_key(&path) {
            return Err(ProviderError::new(Class::Refused, "TargetNotEmpty", "the directory is not empty"));
        }
        *self.world.staged.lock().unwrap() += 1;
        let files = Arc::new(FakeFiles::default());
        Ok(Arc::new(FakeStaged { world: Arc::clone(&self.world), path, files }))
    }

    async fn method(&self, spec: &MethodSpec) -> Result<Arc<dyn Method>, ProviderError> {
        if !matches!(spec.name.as_str(), "rdb" | "") {
            return Err(ProviderError::new(Class::NotFound, "MethodNotFound", "no such method"));
        }
        let info = MethodInfo {
            name: "fake-rdb".to_owned(),
            version: "0.1.0".to_owned(),
            summary: "lines".to_owned(),
            parameters_schema: "{}".to_owned(),
            requests: self.world.requests.lock().unwrap().clone(),
            attributes: vec![Attribute::new("reads", "rdb aof"), Attribute::new("targets", "directory server")],
        };
        let component = self.world.component.lock().unwrap().clone();
        let digest = component.map_or_else(|| "00ff".to_owned(), |component| hex(&component));
        Ok(Arc::new(FakeMethod { info, digest, world: Arc::clone(&self.world) }))
    }

    async fn load_method(&self, spec: &MethodSpec) -> Result<LoadedMethod, ProviderError> {
        let method = self.method(spec).await?;
        Ok(LoadedMethod {
            info: method.info().clone(),
            digest: method.digest().to_owned(),
            size: 1,
            api_version: "0.1.0".to_owned(),
            reference: spec.oci.as_ref().map(|oci| oci.reference.clone()),
            signed: false,
            compiled_in: None,
            granted: spec.grants.clone(),
            missing: Vec::new(),
        })
    }

    async fn method_that_reads(
        &self,
        spec: &MethodSpec,
        preferred: &str,
        artifact_types: &[String],
    ) -> Result<Arc<dyn Method>, ProviderError> {
        assert_eq!(preferred, "fake-rdb");
        if !*self.world.component_at_hand.lock().unwrap() {
            return Err(ProviderError::new(Class::Refused, "NoPluginReads", "no plugin at hand reads it"));
        }
        let method = self.method(spec).await?;
        if artifact_types.iter().all(|artifact_type| method.info().reads(artifact_type)) {
            return Ok(method);
        }
        Err(ProviderError::new(Class::Refused, "MethodNeeded", "no method reads it"))
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, ProviderError> {
        let component = self.world.component.lock().unwrap().clone();
        Ok(component.inspect(|component| assert_eq!(hex(component), digest)))
    }

    async fn kept_method(
        &self,
        component: Vec<u8>,
        origin: &str,
        spec: &MethodSpec,
    ) -> Result<Arc<dyn Method>, ProviderError> {
        assert_eq!(origin, format!("memory://test/plugins/{}.wasm", hex(&component)));
        assert_eq!(Some(component), self.world.component.lock().unwrap().clone());
        if spec.grants.is_empty() {
            return Err(ProviderError::new(Class::Refused, "NotGranted", "the plugin asks for redis:replicate"));
        }
        self.method(&MethodSpec::default()).await
    }

    fn boot_check(&self, _beside: Option<&Path>) -> Arc<dyn BootCheck> {
        Arc::new(FakeBoot { world: Arc::clone(&self.world) })
    }

    async fn secret(&self, _place: &SecretRef) -> Result<Secret, ProviderError> {
        Ok(Secret::new("correct horse"))
    }

    fn random_token(&self, length: usize) -> String {
        let number = self.world.tokens.fetch_add(1, Ordering::SeqCst);
        let token = format!("{number:0>length$}");
        token
    }

    fn now(&self) -> Timestamp {
        *self.world.now.lock().unwrap()
    }
}

struct FakeSource {
    world: Arc<World>,
    shards: Vec<SourceShard>,
}

#[async_trait]
impl DataSource for FakeSource {
    fn address(&self) -> String {
        "redis://10.0.0.1:6379".to_owned()
    }

    fn mode(&self) -> &'static str {
        if self.shards.len() > 1 { "cluster" } else { "standalone" }
    }

    fn shards(&self) -> &[SourceShard] {
        &self.shards
    }

    async fn check_topology(&self) -> Result<(), ProviderError> {
        let meanwhile = self.world.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile(self.world.memory.clone()).await;
        }
        match self.world.topology.lock().unwrap().clone() {
            None => Ok(()),
            Some(moved) => Err(ProviderError::new(Class::Failed, "SlotsMoved", moved)),
        }
    }
}

/// Reads an artifact to its end.
async fn read_whole(store: &Arc<dyn ArtifactStore>, name: &str) -> Result<Vec<u8>, MethodError> {
    let mut source = store.open(name).await?;
    let mut bytes = Vec::new();
    loop {
        let chunk = source.read(64 << 10).await?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&chunk);
    }
}

fn count(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count() - 1
}

impl FakeMethod {
    fn conduct(&self) -> Conduct {
        self.world.conduct.lock().unwrap().clone()
    }

    fn remember(&self, run: &Run) {
        self.world.contexts.lock().unwrap().push(run.context.clone());
    }
}

#[async_trait]
impl Method for FakeMethod {
    fn info(&self) -> &MethodInfo {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    async fn validate(&self, parameters: &str) -> Result<(), MethodError> {
        if parameters.contains("bad") {
            return Err(MethodError::new(code::INVALID_PARAMETERS, "`bad` is not a parameter"));
        }
        Ok(())
    }

    async fn plan(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        self.remember(&run);
        if self.conduct() == Conduct::RefusePlan {
            return Err(MethodError::new(code::REFUSED, "not like this").with_help("do it otherwise"));
        }
        let mut plan = vec![Attribute::new("route", "replication")];
        if *self.world.artifact_type.lock().unwrap() == "acl" {
            plan.push(Attribute::new("secret-artifact", "users.acl"));
        }
        Ok(plan)
    }

    async fn capture(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        self.remember(&run);
        let shard = find(&run.context, "shard").unwrap().to_owned();
        let keys = self.world.source.lock().unwrap().get(&shard).cloned().unwrap();
        let artifact_type = self.world.artifact_type.lock().unwrap().clone();
        let mut attributes = vec![Attribute::new("type", artifact_type)];
        let conduct = self.conduct();
        if conduct == Conduct::Secret {
            attributes.push(Attribute::new("secret", "yes"));
        }
        let mut sink = run.artifacts.create("dump.rdb", attributes).await?;
        let mut written = 0;
        for chunk in keys.chunks(100) {
            let text: String = chunk.iter().flat_map(|key| [key.as_str(), "\n"]).collect();
            written += text.len();
            sink.write(text.into()).await?;
            run.events.progress("capture", "keys", (written / 11) as u64, None);
            match &conduct {
                Conduct::FailAt(failing, at) if *failing == shard && written >= *at => {
                    return Err(MethodError::new(code::SOURCE_IO, "the link dropped").retryable());
                }
                Conduct::DropSink => return Ok(Vec::new()),
                Conduct::Hang => std::future::pending().await,
                _ => {}
            }
        }
        sink.finish(Vec::new()).await?;
        let boast = usize::from(conduct == Conduct::Boast);
        let mut facts = vec![
            Attribute::new("keys", keys.len() + boast),
            Attribute::new("databases", "0"),
            Attribute::new("functions", *self.world.functions.lock().unwrap()),
        ];
        if let Conduct::Sprawl(character, count) = conduct {
            facts.push(Attribute::new("sprawl", character.to_string().repeat(count)));
        }
        Ok(facts)
    }

    async fn restore(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        self.remember(&run);
        let bytes = read_whole(&run.artifacts, "dump.rdb").await?;
        if let Some(files) = &run.files {
            let mut sink = files.create("dump.rdb").await?;
            sink.write(bytes.clone().into()).await?;
            if let Conduct::StopRestore(_) = self.conduct() {
                return Err(MethodError::new(code::TARGET_IO, "no space left"));
            }
            sink.finish(Vec::new()).await?;
            return Ok(vec![Attribute::new("keys-restored", count(&bytes)), Attribute::new("layout", "dump")]);
        }
        let redis = run.redis.clone().unwrap();
        let mut restored = 0_u64;
        let text = String::from_utf8(bytes).unwrap();
        let mut keys: Vec<&str> = text.lines().collect();
        if self.conduct() == Conduct::LoseKey {
            keys.pop();
        }
        for key in keys {
            if self.conduct() == Conduct::StopRestore(restored) {
                return Err(MethodError::new(code::SERVER_REPLY, "OOM command not allowed")
                    .with_detail("commands", restored)
                    .with_detail("errors", 1));
            }
            redis.command(vec![Bytes::from_static(b"SET"), Bytes::from(key.to_owned())]).await?;
            restored += 1;
            run.events.progress("restore", "keys", restored, None);
        }
        Ok(vec![Attribute::new("keys-restored", restored)])
    }

    async fn verify(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        let bytes = read_whole(&run.artifacts, "dump.rdb").await?;
        Ok(vec![Attribute::new("keys", count(&bytes))])
    }

    async fn inspect(&self, run: Run, query: &str) -> Result<String, MethodError> {
        let bytes = read_whole(&run.artifacts, "dump.rdb").await?;
        Ok(serde_json::json!({"keys": count(&bytes), "query": query}).to_string())
    }
}

struct FakeServer {
    world: Arc<World>,
    /// The target cluster's second primary, which takes no keys.
    other: bool,
}

#[async_trait]
impl RedisServer for FakeServer {
    async fn info(&self, _section: Option<&str>) -> Result<Vec<Attribute>, MethodError> {
        if self.other {
            return Ok(self.world.other_primary.lock().unwrap().clone().unwrap_or_default());
        }
        let mut info = self.world.target_info.lock().unwrap().clone();
        info.push(Attribute::new("evicted_keys", *self.world.evicted.lock().unwrap()));
        Ok(info)
    }

    async fn command(&self, command: Command) -> Result<Bytes, MethodError> {
        if command[0] == "FUNCTION" {
            let has_functions = self.other && *self.world.other_has_functions.lock().unwrap();
            return Ok(Bytes::from_static(if has_functions { b"*1\r\n*0\r\n" } else { b"*0\r\n" }));
        }
        let word = |at: usize| String::from_utf8(command[at].to_vec()).unwrap().to_ascii_lowercase();
        let is_denied = |name: &str| self.world.denied.lock().unwrap().contains(&name);
        let denial = |name: &str| format!("User restorer has no permissions to run the '{name}' command");
        match (word(0).as_str(), command.get(1).map(|_| word(1)).as_deref()) {
            ("acl", Some("whoami")) => return Ok(Bytes::from_static(b"$8\r\nrestorer\r\n")),
            ("acl", _) if is_denied("acl") => {
                return Err(MethodError::new(code::SERVER_REPLY, format!("NOPERM {}", denial("acl|dryrun"))));
            }
            ("acl", _) if is_denied(&word(3)) => {
                let text = denial(&word(3));
                return Ok(format!("${}\r\n{text}\r\n", text.len()).into());
            }
            ("acl", _) => return Ok(Bytes::from_static(b"+OK\r\n")),
            ("restore", _) if is_denied("restore") => {
                return Err(MethodError::new(code::SERVER_REPLY, format!("NOPERM {}", denial("restore"))));
            }
            ("restore", _) => {
                return Err(MethodError::new(code::SERVER_REPLY, "ERR DUMP payload version or checksum are wrong"));
            }
            _ => {}
        }
        let key = String::from_utf8(command[1].to_vec()).unwrap();
        let mut target = self.world.target.lock().unwrap();
        target.push(key);
        if target.len() > *self.world.target_room.lock().unwrap() {
            target.remove(0);
            *self.world.evicted.lock().unwrap() += 1;
        }
        Ok(Bytes::from_static(b"+OK\r\n"))
    }

    async fn pipeline(&self, _commands: Vec<Command>) -> Result<Box<dyn Source>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "no"))
    }

    async fn replicate(&self, _snapshot_only: bool) -> Result<Box<dyn Replication>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "no"))
    }

    async fn resume(&self, _id: &str, _offset: u64) -> Result<Box<dyn Replication>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "no"))
    }

    async fn load(&self, _options: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, "no"))
    }
}

#[derive(Default)]
struct FakeFiles {
    written: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

#[async_trait]
impl Files for FakeFiles {
    async fn list_directory(&self, _path: &str) -> Result<Vec<FileEntry>, MethodError> {
        Ok(Vec::new())
    }

    async fn open(&self, _path: &str) -> Result<Box<dyn Source>, MethodError> {
        Err(MethodError::new(code::NOT_FOUND, "no"))
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Sink>, MethodError> {
        Ok(Box::new(FakeFile { path: path.to_owned(), bytes: Vec::new(), files: Arc::clone(&self.written) }))
    }

    async fn remove(&self, _path: &str) -> Result<(), MethodError> {
        Ok(())
    }
}

struct FakeFile {
    path: String,
    bytes: Vec<u8>,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

#[async_trait]
impl Sink for FakeFile {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        self.bytes.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        let size = self.bytes.len() as u64;
        self.files.lock().unwrap().insert(self.path.clone(), self.bytes);
        Ok(Artifact { name: self.path, size, sha256: String::new(), attributes })
    }
}

struct FakeStaged {
    world: Arc<World>,
    path: String,
    files: Arc<FakeFiles>,
}

#[async_trait]
impl StagedDirectory for FakeStaged {
    fn files(&self) -> Arc<dyn Files> {
        self.files.clone()
    }

    fn free_bytes(&self) -> Option<u64> {
        *self.world.free_bytes.lock().unwrap()
    }

    async fn publish(&self) -> Result<(), ProviderError> {
        *self.world.staged.lock().unwrap() -= 1;
        let files = self.files.written.lock().unwrap().clone();
        self.world.directories.lock().unwrap().insert(self.path.clone(), files);
        Ok(())
    }

    async fn discard(&self) -> Result<(), ProviderError> {
        *self.world.staged.lock().unwrap() -= 1;
        Ok(())
    }
}

struct FakeBoot {
    world: Arc<World>,
}

#[async_trait]
impl BootCheck for FakeBoot {
    async fn boot(
        &self,
        directory: &Path,
        _appendonly: bool,
        server_name: &str,
        server_version: &str,
    ) -> Result<Vec<Attribute>, ProviderError> {
        let directories = self.world.directories.lock().unwrap();
        let files = directories.get(&directory.display().to_string()).unwrap();
        let keys = count(files.get("dump.rdb").unwrap()) as u64 - *self.world.boot_loses.lock().unwrap();
        Ok(vec![
            Attribute::new("server", format!("{server_name} {server_version}")),
            Attribute::new("keys-loaded", keys),
            Attribute::new("keys-expired", 0),
            Attribute::new("keys", keys),
        ])
    }
}
