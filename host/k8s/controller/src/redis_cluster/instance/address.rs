//! Where an instance is, and how it is known.

use redkeep_core::managed::INSTANCE_PORT;

/// Where an instance is, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Namespace of its cluster.
    pub namespace: String,
    /// Its cluster.
    pub cluster: String,
    /// Its pod.
    pub pod: String,
    /// The pod's address.
    pub ip: String,
    /// Its port.
    pub port: u16,
    /// SHA-256 of the certificate that it must show, in hexadecimal.
    pub certificate: String,
}

impl Address {
    /// At the port where instances in pods listen.
    pub fn new(namespace: &str, cluster: &str, pod: &str, ip: &str, certificate: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            pod: pod.to_owned(),
            ip: ip.to_owned(),
            port: INSTANCE_PORT,
            certificate: certificate.to_owned(),
        }
    }

    /// For whom the operator's token is: worthless at the API server and at other clusters.
    pub fn audience(&self) -> String {
        format!("redis.io/instance/{}/{}", self.namespace, self.cluster)
    }
}
