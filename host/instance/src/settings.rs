//! What the operator's pod template says, by environment or flags, and the files that are mounted.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redkeep_core::managed::{INSTANCE_PORT, REDIS_PORT};

use crate::error::InstanceError;
use crate::redis_conf;

/// What Redis needs for TLS, as cert-manager names it.
pub(crate) const TLS_FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Starts Redis, obeys the operator, fences.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// This pod
    #[arg(long, env = "REDKEEP_POD")]
    pub(crate) pod: String,
    /// Its namespace
    #[arg(long, env = "REDKEEP_NAMESPACE")]
    pub(crate) namespace: String,
    /// The RedisCluster that it belongs to
    #[arg(long, env = "REDKEEP_CLUSTER")]
    pub(crate) cluster: String,
    /// Its address, as replicas and primary see it
    #[arg(long, env = "REDKEEP_POD_IP")]
    pub(crate) pod_ip: IpAddr,
    /// Whose orders are obeyed, e.g. system:serviceaccount:redkeep-system:redkeep
    #[arg(long, env = "REDKEEP_OPERATOR")]
    pub(crate) operator: String,
    /// How many instances the cluster had when this pod was made; the RedisCluster says how many it has now
    #[arg(long, env = "REDKEEP_INSTANCES", default_value_t = 1)]
    pub(crate) instances: usize,
    /// How long a primary that reaches nobody keeps taking writes
    #[arg(long, env = "REDKEEP_FENCING_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) fencing_seconds: u64,
    /// How long Redis has to save what it holds when it is fenced, before it is killed
    #[arg(long, env = "REDKEEP_STOP_SECONDS", default_value_t = 60)]
    pub(crate) stop_seconds: u64,
    /// The pod's terminationGracePeriodSeconds: a quarter is for being asked to hand over, half for handing over, the rest for saving
    #[arg(long, env = "REDKEEP_GRACE_SECONDS", default_value_t = 30)]
    pub(crate) grace_seconds: u64,
    /// Where Redis keeps its files
    #[arg(long, env = "REDKEEP_DATA", default_value = "/data")]
    pub(crate) data: PathBuf,
    /// A folder in memory for the generated configuration, socket and process id
    #[arg(long, env = "REDKEEP_RUN", default_value = "/redkeep/run")]
    pub(crate) run: PathBuf,
    /// The folder with `redis.conf`: lines `name value`
    #[arg(long, env = "REDKEEP_CONFIG", default_value = "/redkeep-config")]
    pub(crate) config: PathBuf,
    /// The folder with the password; without it Redis has none
    #[arg(long, env = "REDKEEP_AUTH", default_value = "/redis-auth")]
    pub(crate) auth: PathBuf,
    /// How long the former password is taken after it was exchanged: by half of that the kubelets must have brought the new one
    #[arg(long, env = "REDKEEP_PASSWORD_GRACE_SECONDS", default_value_t = 600)]
    pub(crate) password_grace_seconds: u64,
    /// The folder with `tls.crt`, `tls.key` and `ca.crt` of Redis; without it Redis speaks plainly
    #[arg(long, env = "REDKEEP_REDIS_TLS", default_value = "/redis-tls")]
    pub(crate) redis_tls: PathBuf,
    /// Clients of Redis need a certificate
    #[arg(long, env = "REDKEEP_REQUIRE_CLIENT_CERTIFICATE", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) require_client_certificate: bool,
    /// The folder with `tls.crt`, `tls.key` and `peer-token` of the instances
    #[arg(long, env = "REDKEEP_IDENTITY", default_value = "/redkeep-identity")]
    pub(crate) identity: PathBuf,
    /// The folder with `token` and `ca.crt` for the Kubernetes API
    #[arg(long, env = "REDKEEP_SERVICE_ACCOUNT", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub(crate) service_account: PathBuf,
    /// The address of the Kubernetes API: no name, for static programs have no resolver
    #[arg(long, env = "KUBERNETES_SERVICE_HOST")]
    pub(crate) api_host: IpAddr,
    /// Its port
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", default_value_t = 443)]
    pub(crate) api_port: u16,
    /// Where the instance is asked; by default on every address
    #[arg(long, env = "REDKEEP_LISTEN")]
    pub(crate) listen: Option<IpAddr>,
    /// Its port
    #[arg(long, env = "REDKEEP_PORT", default_value_t = INSTANCE_PORT)]
    pub(crate) port: u16,
    /// Where Redis listens; by default on every address
    #[arg(long, env = "REDKEEP_REDIS_BIND")]
    pub(crate) redis_bind: Option<IpAddr>,
    /// Its port
    #[arg(long, env = "REDKEEP_REDIS_PORT", default_value_t = REDIS_PORT)]
    pub(crate) redis_port: u16,
    /// The Redis server; by default `redis-server` or `valkey-server` of PATH
    #[arg(long, env = "REDKEEP_REDIS_SERVER")]
    pub(crate) redis_server: Option<PathBuf>,
    /// Where a last message goes that `kubectl describe` shows
    #[arg(long, env = "REDKEEP_TERMINATION_LOG", default_value = "/dev/termination-log")]
    pub(crate) termination_log: PathBuf,
}

impl Settings {
    pub(crate) fn fencing(&self) -> Duration {
        Duration::from_secs(self.fencing_seconds)
    }

    /// How often others are looked at, and how long one try may take.
    pub(crate) fn look_every(&self) -> Duration {
        self.fencing() / 5
    }

    pub(crate) fn stop_grace(&self) -> Duration {
        Duration::from_secs(self.stop_seconds)
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }

    pub(crate) fn password_grace(&self) -> Duration {
        Duration::from_secs(self.password_grace_seconds)
    }

    pub(crate) fn api(&self) -> SocketAddr {
        SocketAddr::new(self.api_host, self.api_port)
    }

    /// The audience that the operator's token must be for.
    pub(crate) fn audience(&self) -> String {
        format!("redis.io/instance/{}/{}", self.namespace, self.cluster)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("redis.sock")
    }

    pub(crate) fn pidfile(&self) -> PathBuf {
        self.run.join("redis.pid")
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.run.join("redis.conf")
    }

    /// The folder of Redis' certificates, if it speaks TLS.
    ///
    /// # Errors
    /// When the Secret is mounted and lacks a file.
    pub(crate) fn tls(&self) -> Result<Option<&Path>, InstanceError> {
        let folder = self.redis_tls.as_path();
        if !folder.is_dir() {
            return Ok(None);
        }
        match TLS_FILES.iter().find(|name| !folder.join(name).is_file()) {
            None => Ok(Some(folder)),
            Some(name) => Err(InstanceError::Tls { folder: folder.to_path_buf(), name }),
        }
    }

    /// The user's directives.
    pub(crate) fn directives(&self) -> Result<Vec<(String, String)>, InstanceError> {
        let path = self.config.join("redis.conf");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(redis_conf::directives(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(InstanceError::Read { path, source }),
        }
    }
}
