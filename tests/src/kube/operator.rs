//! The operator as a process of this machine, against a cluster; and a proxy between them that ends it at a chosen write.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::kube::Client;
use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use redkeep_testing::server::free_port;
use serde_json::Value;

use super::TestNamespace;

/// The Lease that the operator holds while it works.
pub const LEADER_LEASE: &str = "redkeep-operator";
/// A request larger than this is no object.
const MAX_BODY: usize = 4 << 20;

/// A running `redkeep operator`; killed on drop.
pub struct Operator {
    child: Arc<Mutex<Child>>,
    port: u16,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Operator {
    /// Starts it with more arguments, and waits until it says that it is ready.
    pub async fn start(kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let operator = Self::spawn(kubeconfig, arguments)?;
        operator.ready().await?;
        Ok(operator)
    }

    /// Starts one that looks after a namespace alone and keeps its Lease there, and waits until it is ready.
    pub async fn in_namespace(namespace: &TestNamespace, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let operator = Self::spawn_in(namespace, kubeconfig, arguments)?;
        operator.ready().await?;
        Ok(operator)
    }

    /// The same, and waits for nothing.
    pub fn spawn_in(namespace: &TestNamespace, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let name = namespace.name();
        let place = ["--watch-namespace", name, "--operator-namespace", name, "--image", "localhost/redkeep:dev"];
        let instance = format!("operator-{:08x}", rand::random::<u32>());
        let own = ["--instance", &instance, "--poll-interval", "1s"];
        Self::spawn(kubeconfig, &[place.as_slice(), &own, arguments].concat())
    }

    /// Starts it and waits for nothing.
    pub fn spawn(kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("operator.log");
        let port = free_port();
        let file = std::fs::File::create(&log)?;
        let mut command: Command = crate::redkeep();
        command.arg("operator").arg("--metrics-listen").arg(format!("127.0.0.1:{port}")).args(arguments);
        command.env("KUBECONFIG", kubeconfig).env("REDKEEP_LOG_LEVEL", "info");
        command.stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file));
        let child = command.spawn().context("failed to start the operator")?;
        Ok(Self { child: Arc::new(Mutex::new(child)), port, log, _folder: folder })
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + super::LIMIT;
        loop {
            if self.get("/readyz").await.is_ok() {
                return Ok(());
            }
            if self.has_ended() || Instant::now() > deadline {
                bail!("the operator did not become ready:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// One of its pages, e.g. `/metrics`.
    pub async fn get(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let talk = async {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
            anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
            Ok(body.to_owned())
        };
        tokio::time::timeout(Duration::from_secs(20), talk).await.context("it does not answer")?
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended, by itself or by [`Self::kill`].
    pub fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(child.try_wait(), Ok(None))
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&self) {
        self.killer()();
    }

    /// Asks it to end (SIGTERM), as Kubernetes does, and waits until it has.
    pub async fn stop(&self) -> Result<()> {
        let pid = {
            let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).context("no process")?
        };
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + super::LIMIT;
        while !self.has_ended() {
            if Instant::now() > deadline {
                bail!("the operator does not end when it is asked to:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What kills it, for another thread.
    pub fn killer(&self) -> impl Fn() + Send + Sync + 'static {
        let child = Arc::clone(&self.child);
        move || {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- operator\n{}", self.log());
        }
    }
}

type Killer = Box<dyn Fn() + Send + Sync>;

/// Stands between an operator and the API server and counts what the operator writes: every create, update, patch and
/// delete but those of the Lease by which it leads and of Events. At the chosen one the operator is killed, after the API
/// server has done what it was asked and before the operator hears of it.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    folder: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    client: Client,
    writes: AtomicU64,
    at: AtomicU64,
    killer: Mutex<Option<Killer>>,
    seen: Mutex<Vec<String>>,
}

impl Proxy {
    /// Listens on a free port.
    pub async fn start(client: Client) -> Result<Self> {
        let shared = Arc::new(Shared {
            client,
            writes: AtomicU64::new(0),
            at: AtomicU64::new(0),
            killer: Mutex::new(None),
            seen: Mutex::new(Vec::new()),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let folder = tempfile::tempdir()?;
        std::fs::write(
            folder.path().join("kubeconfig"),
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: proxy\n\
                 clusters: [{{name: proxy, cluster: {{server: \"http://{address}\"}}}}]\n\
                 users: [{{name: proxy, user: {{}}}}]\n\
                 contexts: [{{name: proxy, context: {{cluster: proxy, user: proxy}}}}]\n"
            ),
        )?;
        let service = axum::Router::new().fallback(forward).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self { shared, address, folder, server })
    }

    /// Points an operator here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on counts anew, and calls `killer` at write number `at` (from 1).
    pub fn kill_at(&self, at: u64, killer: impl Fn() + Send + Sync + 'static) {
        *self.shared.killer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(killer));
        self.shared.writes.store(0, Ordering::SeqCst);
        self.shared.at.store(at, Ordering::SeqCst);
    }

    /// How many writes went through since then.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::SeqCst)
    }

    /// What they were, for people.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match pass(&shared, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

/// The name of what a request creates.
fn created(method: &Method, body: &[u8]) -> String {
    let object = if method == Method::POST { serde_json::from_slice(body).unwrap_or_default() } else { Value::Null };
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Whether a request is about the Lease by which an operator leads; the one of a restore's target is an object like others.
fn is_of_leader(resource: &str, created: &str) -> bool {
    resource.contains("/leases") && (created == LEADER_LEASE || resource.ends_with(&format!("/leases/{LEADER_LEASE}")))
}

async fn pass(shared: &Shared, request: Request) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().context("a request without a path")?.as_str().to_owned();
    let resource = path.split('?').next().unwrap_or_default().to_owned();
    let is_write = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE)
        && !resource.contains("/events")
        && !resource.contains("accessreviews");
    // Of this connection, not of the next.
    for name in [http::header::HOST, http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    parts.uri = path.parse()?;
    let body = axum::body::to_bytes(body, MAX_BODY).await?;
    let name = if is_write { created(&parts.method, &body) } else { String::new() };
    let counted = is_write && !is_of_leader(&resource, &name);
    let shown = format!("{} {resource} {name}", parts.method).trim_end().to_owned();
    let request = http::Request::from_parts(parts, ::kube::client::Body::from(body));
    let response = shared.client.send(request).await?;
    if counted && response.status().is_success() {
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
        let number = shared.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if number == shared.at.load(Ordering::SeqCst)
            && let Some(killer) = shared.killer.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            killer();
        }
    }
    let (parts, body) = response.into_parts();
    Ok(Response::from_parts(parts, Body::new(body)))
}
