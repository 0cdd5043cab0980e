//! What the tests stand on: instances as processes, an API server, an operator, and wires that can be cut.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use redis::aio::MultiplexedConnection;
use redkeep_core::managed::{
    LIVE_PATH, NOTICE_PATH, Notice, ORDERS_PATH, Orders, Peer, READY_PATH, Refusal, Role, STANDING_PATH, Standing,
};
use redkeep_testing::server::Version;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_redkeep-instance");
pub(crate) const OPERATOR: &str = "system:serviceaccount:redkeep-system:redkeep";
pub(crate) const OPERATOR_TOKEN: &str = "token-of-the-operator";
pub(crate) const PEER_TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// T of the tests.
pub(crate) const FENCING: Duration = Duration::from_secs(3);
/// `terminationGracePeriodSeconds` of these instances.
pub(crate) const GRACE: Duration = Duration::from_secs(8);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port that is free and stays so: not one of those that outgoing connections are given, for a restarted server needs
/// it again.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs of several worktrees may run at once.
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = 15_000 + (first + NEXT.fetch_add(1, Ordering::SeqCst)) % 10_000;
        if std::net::TcpListener::bind((LOOPBACK, port)).is_ok() {
            return port;
        }
    }
}

/// A TCP wire that can be cut: then it takes connections and answers nothing, as a network that drops packets.
pub(crate) struct Wire {
    pub(crate) port: u16,
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut near, _)) = listener.accept().await else { return };
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    if !seen.load(Ordering::SeqCst) {
                        let Ok(mut far) = TcpStream::connect((LOOPBACK, port)).await else { return };
                        let copy = tokio::io::copy_bidirectional(&mut near, &mut far);
                        tokio::select! {
                            _ = copy => return,
                            () = until(|| seen.load(Ordering::SeqCst)) => {}
                        }
                    }
                    until(|| !seen.load(Ordering::SeqCst)).await;
                });
            }
        });
        Self { port: own, cut, task }
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits up to a minute.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) if Instant::now() > deadline => panic!("waited a minute for {what}; last: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The Kubernetes API: one RedisCluster, and whose tokens are.
pub(crate) struct Api {
    port: u16,
    object: Arc<Mutex<Value>>,
    pub(crate) reviews: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl Api {
    async fn start(folder: &Path, instances: usize) -> Self {
        let object = Arc::new(Mutex::new(json!({"spec": {"instances": instances}})));
        let reviews = Arc::new(Mutex::new(0));
        let (read, counted) = (Arc::clone(&object), Arc::clone(&reviews));
        let router = axum::Router::new()
            .route(
                "/apis/redis.io/v1/namespaces/shop/redisclusters/cart",
                axum::routing::get(async move |headers: axum::http::HeaderMap| {
                    assert_eq!(headers["authorization"], "Bearer token-of-the-pod");
                    axum::Json(read.lock().unwrap().clone())
                }),
            )
            .route(
                "/apis/authentication.k8s.io/v1/tokenreviews",
                axum::routing::post(async move |axum::Json(review): axum::Json<Value>| {
                    *counted.lock().unwrap() += 1;
                    axum::Json(answer(&review))
                }),
            );
        let certificate = CertificateDer::from_pem_file(folder.join("server.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, object, reviews, task }
    }

    /// What the operator wrote to the status.
    pub(crate) fn write(&self, epoch: u64, primary: &str, next: &str) {
        self.object.lock().unwrap()["status"] = json!({"epoch": epoch, "primary": primary, "nextPrimary": next});
    }

    /// The RedisCluster is deleted.
    pub(crate) fn delete(&self) {
        self.object.lock().unwrap()["metadata"] = json!({"deletionTimestamp": "2026-11-28T09:00:00Z"});
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As a `TokenReview` is answered: tokens are `token-of-the-operator`, one for another audience, and another user's.
fn answer(review: &Value) -> Value {
    let asked = review["spec"]["audiences"][0].as_str().unwrap_or_default().to_owned();
    let ours = "redis.io/instance/shop/cart";
    let (audience, user) = match review["spec"]["token"].as_str().unwrap_or_default() {
        OPERATOR_TOKEN => (ours, OPERATOR),
        "token-for-another-cluster" => ("redis.io/instance/shop/other", OPERATOR),
        "token-of-somebody" => (ours, "system:serviceaccount:shop:default"),
        _ => ("", ""),
    };
    if audience != asked {
        return json!({"status": {"authenticated": false, "error": "token audiences are not those asked for"}});
    }
    json!({"status": {"authenticated": true, "user": {"username": user}, "audiences": [audience]}})
}

/// Certificates of the API server, of Redis and of the instances, by the openssl command.
pub(crate) fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().unwrap();
        assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"));
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    openssl("x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names");
    openssl(&format!("req -x509 {key} -keyout identity.key -out identity.crt -days 2 -subj /CN=instances"));
}

/// How instances are set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) version: Version,
    pub(crate) conf: String,
    pub(crate) password: Option<String>,
    /// For how many seconds a former one is taken.
    pub(crate) password_grace: u64,
    pub(crate) tls: bool,
}

impl Setup {
    pub(crate) fn of(version: Version) -> Self {
        let conf = "save \"\"\nrepl-diskless-sync-delay 0\n".to_owned();
        Self { version, conf, password: None, password_grace: 600, tls: false }
    }

    pub(crate) fn config(&self) -> BTreeMap<String, String> {
        let pairs = self.conf.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
    }
}

/// A managed Redis of some instances.
pub(crate) struct Rig {
    pub(crate) api: Api,
    pub(crate) instances: Vec<Instance>,
    pub(crate) setup: Setup,
    tls: Arc<rustls::ClientConfig>,
    folder: tempfile::TempDir,
}

/// One of them.
pub(crate) struct Instance {
    pub(crate) pod: String,
    pub(crate) port: u16,
    pub(crate) redis_port: u16,
    pub(crate) folder: PathBuf,
    /// Its way to the API server.
    pub(crate) to_api: Wire,
    child: Child,
    instances: usize,
    setup: Setup,
    shared: PathBuf,
}

impl Instance {
    fn command(&self) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .env("REDKEEP_POD", &self.pod)
            .env("REDKEEP_NAMESPACE", "shop")
            .env("REDKEEP_CLUSTER", "cart")
            .env("REDKEEP_POD_IP", "127.0.0.1")
            .env("REDKEEP_OPERATOR", OPERATOR)
            .env("REDKEEP_INSTANCES", self.instances.to_string())
            .env("REDKEEP_FENCING_SECONDS", FENCING.as_secs().to_string())
            .env("REDKEEP_GRACE_SECONDS", GRACE.as_secs().to_string())
            .env("REDKEEP_DATA", self.folder.join("data"))
            .env("REDKEEP_RUN", self.folder.join("run"))
            .env("REDKEEP_CONFIG", self.folder.join("config"))
            .env("REDKEEP_AUTH", self.folder.join("auth"))
            .env("REDKEEP_PASSWORD_GRACE_SECONDS", self.setup.password_grace.to_string())
            .env("REDKEEP_REDIS_TLS", self.folder.join("tls"))
            .env("REDKEEP_IDENTITY", self.shared.join("identity"))
            .env("REDKEEP_SERVICE_ACCOUNT", self.shared.join("account"))
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", self.to_api.port.to_string())
            .env("REDKEEP_LISTEN", "127.0.0.1")
            .env("REDKEEP_PORT", self.port.to_string())
            .env("REDKEEP_REDIS_BIND", "127.0.0.1")
            .env("REDKEEP_REDIS_PORT", self.redis_port.to_string())
            .env("REDKEEP_REDIS_SERVER", self.setup.version.binary().unwrap())
            .env("REDKEEP_TERMINATION_LOG", self.folder.join("termination-log"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    /// Starts it (again).
    pub(crate) fn start(&mut self) {
        self.child = self.command().spawn().unwrap();
    }

    /// A signal to the instance itself.
    pub(crate) fn signal(&self, name: &str) {
        kill(name, self.child.id());
    }

    /// Waits for its end; the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{} did not end: {}", self.pod, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process id of its Redis.
    pub(crate) fn redis_pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.folder.join("run/redis.pid")).ok()?.trim().parse().ok()
    }

    /// A signal to its Redis.
    pub(crate) fn signal_redis(&self, name: &str) {
        kill(name, self.redis_pid().unwrap());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer {
            pod: self.pod.clone(),
            ip: "127.0.0.1".to_owned(),
            redis_port: self.redis_port,
            instance_port: self.port,
        }
    }

    /// A client of its Redis.
    pub(crate) async fn client(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        let scheme = if self.setup.tls { "rediss" } else { "redis" };
        let password = self.setup.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let insecure = if self.setup.tls { "/#insecure" } else { "" };
        let client = redis::Client::open(format!("{scheme}://{password}127.0.0.1:{}{insecure}", self.redis_port))?;
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(30)))
            .set_connection_timeout(Some(Duration::from_secs(5)));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// One command, given as words; the reply or the error as text.
    pub(crate) async fn redis(&self, words: &[&str]) -> Result<String, String> {
        let mut client = self.client().await.map_err(|error| error.to_string())?;
        let reply: redis::Value =
            redis::cmd(words[0]).arg(&words[1..]).query_async(&mut client).await.map_err(|error| error.to_string())?;
        Ok(match reply {
            redis::Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            redis::Value::SimpleString(text) => text,
            redis::Value::Okay => "OK".to_owned(),
            redis::Value::Int(number) => number.to_string(),
            redis::Value::Nil => "nil".to_owned(),
            other => format!("{other:?}"),
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let redis = self.redis_pid();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its Redis has a group of its own and may outlive it; without its instance it is nobody's child.
        if let Some(pid) = redis.filter(|pid| is_ours(*pid, &self.folder)) {
            kill("KILL", pid);
        }
        if std::thread::panicking() {
            eprintln!("---- log of {}\n{}", self.pod, self.log());
        }
    }
}

/// Whether a process works in that folder: numbers are used again.
fn is_ours(pid: u32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
}

fn kill(name: &str, pid: u32) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}

impl Rig {
    pub(crate) async fn start(version: Version, instances: usize) -> Self {
        Self::with(Setup::of(version), instances).await
    }

    /// Starts so many instances and waits until they stand by.
    pub(crate) async fn with(setup: Setup, instances: usize) -> Self {
        let mut rig = Self::prepared(setup, instances).await;
        for instance in &mut rig.instances {
            instance.start();
        }
        for index in 0..instances {
            rig.wait(index, "standing by", |standing| standing.serving && standing.role.as_str() == "standby").await;
        }
        rig
    }

    /// Everything is there, but nothing was started.
    pub(crate) async fn prepared(setup: Setup, instances: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().to_path_buf();
        certificates(&shared);
        let write = |name: &str, text: &str| {
            let path = shared.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let copy = |from: &str, to: &str| write(to, &std::fs::read_to_string(shared.join(from)).unwrap());
        copy("identity.crt", "identity/tls.crt");
        copy("identity.key", "identity/tls.key");
        write("identity/peer-token", PEER_TOKEN);
        copy("ca.crt", "account/ca.crt");
        write("account/token", "token-of-the-pod");
        let api = Api::start(&shared, instances).await;
        let mut list = Vec::new();
        for index in 0..instances {
            let pod = format!("cart-{index}");
            write(&format!("{pod}/data/.keep"), "");
            write(&format!("{pod}/config/redis.conf"), &setup.conf);
            write(&format!("{pod}/termination-log"), "");
            if let Some(password) = &setup.password {
                write(&format!("{pod}/auth/password"), password);
            }
            if setup.tls {
                copy("server.crt", &format!("{pod}/tls/tls.crt"));
                copy("server.key", &format!("{pod}/tls/tls.key"));
                copy("ca.crt", &format!("{pod}/tls/ca.crt"));
            }
            list.push(Instance {
                folder: shared.join(&pod),
                pod,
                port: port(),
                redis_port: port(),
                to_api: Wire::to(api.port).await,
                child: Command::new("true").spawn().unwrap(),
                instances,
                setup: setup.clone(),
                shared: shared.clone(),
            });
        }
        let tls = pinned(&shared.join("identity.crt"));
        Self { api, instances: list, setup, tls, folder }
    }

    /// One request to an instance.
    pub(crate) async fn ask(
        &self,
        index: usize,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Result<(StatusCode, Bytes), String> {
        let address = SocketAddr::new(LOOPBACK, self.instances[index].port);
        let asked = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
            let stream = connector.connect(LOOPBACK.into(), stream).await.map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let mut request = http::Request::builder().method(method).uri(path).header("host", "instance");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let body = body.map(|body| body.to_string()).unwrap_or_default();
            let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await;
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, body))
        };
        tokio::time::timeout(Duration::from_secs(10), asked).await.map_err(|_| "no answer in 10 s".to_owned())?
    }

    pub(crate) async fn standing(&self, index: usize) -> Result<Standing, String> {
        let (status, body) = self.ask(index, Method::GET, STANDING_PATH, Some(OPERATOR_TOKEN), None).await?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    /// Waits for a standing.
    pub(crate) async fn wait(&self, index: usize, what: &str, fits: impl Fn(&Standing) -> bool) -> Standing {
        eventually(&format!("{} {what}", self.instances[index].pod), async || {
            let standing = self.standing(index).await?;
            if fits(&standing) { Ok(standing) } else { Err(format!("{standing:?}")) }
        })
        .await
    }

    /// Orders to the process that it runs now.
    pub(crate) async fn order(&self, index: usize, epoch: u64, role: Role) -> Result<Standing, Refusal> {
        let process = self.standing(index).await.unwrap().process;
        self.order_process(index, epoch, &process, role).await
    }

    pub(crate) async fn order_process(
        &self,
        index: usize,
        epoch: u64,
        process: &str,
        role: Role,
    ) -> Result<Standing, Refusal> {
        let others = self.instances.iter().enumerate().filter(|(other, _)| *other != index);
        let orders = Orders {
            epoch,
            process: process.to_owned(),
            role,
            peers: others.map(|(_, instance)| instance.peer()).collect(),
            config: self.setup.config(),
        };
        self.send(index, &orders).await
    }

    pub(crate) async fn send(&self, index: usize, orders: &Orders) -> Result<Standing, Refusal> {
        let body = serde_json::to_value(orders).unwrap();
        let (status, body) = self.ask(index, Method::PUT, ORDERS_PATH, Some(OPERATOR_TOKEN), Some(body)).await.unwrap();
        match status {
            StatusCode::OK => Ok(serde_json::from_slice(&body).unwrap()),
            StatusCode::CONFLICT => Err(serde_json::from_slice(&body).unwrap()),
            other => panic!("orders were answered with {other}: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// Makes 0 primary and the others its replicas, by epoch 1, and waits until all are in sync.
    pub(crate) async fn establish(&self) {
        self.api.write(1, "", "cart-0");
        self.order(0, 1, Role::Primary).await.unwrap();
        self.api.write(1, "cart-0", "");
        for index in 1..self.instances.len() {
            self.follow(index, 1, 0).await;
        }
    }

    /// Makes one the replica of another and waits until it is in sync.
    pub(crate) async fn follow(&self, index: usize, epoch: u64, primary: usize) {
        self.order(index, epoch, Role::Replica { of: self.instances[primary].peer() }).await.unwrap();
        let standing = self.wait(index, "in sync", |standing| standing.link_up && standing.in_sync_once).await;
        assert_eq!(standing.role.as_str(), "replica");
    }

    pub(crate) async fn notice(&self, index: usize, notice: &Notice) -> Notice {
        let body = serde_json::to_value(notice).unwrap();
        let (status, body) = self.ask(index, Method::PUT, NOTICE_PATH, Some(PEER_TOKEN), Some(body)).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).unwrap()
    }

    /// The answers to the kubelet: ready, live.
    pub(crate) async fn probes(&self, index: usize) -> (StatusCode, StatusCode) {
        let ready = self.ask(index, Method::GET, READY_PATH, None, None).await.unwrap();
        let live = self.ask(index, Method::GET, LIVE_PATH, None, None).await.unwrap();
        (ready.0, live.0)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// TLS as the operator speaks it: to that certificate alone.
fn pinned(path: &Path) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Pin { certificate: CertificateDer::from_pem_file(path).unwrap(), provider: Arc::clone(&provider) };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Pin {
    certificate: CertificateDer<'static>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl rustls::client::danger::ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        assert_eq!(end_entity, &self.certificate);
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
