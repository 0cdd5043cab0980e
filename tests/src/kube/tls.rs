//! Certificates of a managed Redis, and clients of it that trust one authority alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
pub use rcgen::ExtendedKeyUsagePurpose as Use;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use redis::RedisConnectionInfo;
use redis::aio::MultiplexedConnection;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// How long a connection and each of its replies may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    fn issue(&self, names: &[String], uses: &[Use]) -> Result<(rcgen::Certificate, KeyPair)> {
        let mut parameters = CertificateParams::new(names)?;
        parameters.extended_key_usages = uses.to_vec();
        let key = KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &self.0)?, key))
    }

    /// A Secret as cert-manager makes it, for these names and uses; `also` are further authorities that its holders trust.
    pub fn secret(&self, name: &str, names: &[String], uses: &[Use], also: &[&Self]) -> Result<Value> {
        let (certificate, key) = self.issue(names, uses)?;
        let trusted: String = [self].iter().chain(also).map(|authority| authority.0.pem()).collect();
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem(), "ca.crt": trusted},
        }))
    }

    /// A connection to the Redis at an address that must show a certificate of this authority for that name; with
    /// `certified`, the client shows one too.
    pub async fn dial(
        &self,
        address: &str,
        name: &str,
        password: &str,
        certified: bool,
    ) -> Result<MultiplexedConnection> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let config = if certified {
            let (certificate, key) = self.issue(&["client".to_owned()], &[Use::ClientAuth])?;
            let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
            let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
            builder.with_client_auth_cert(chain, key)?
        } else {
            builder.with_no_client_auth()
        };
        let connect = async {
            let stream = TcpStream::connect((address, 6379)).await?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(ServerName::try_from(name.to_owned())?, stream).await?;
            let login = RedisConnectionInfo::default().set_password(password);
            let settings = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
            let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, settings).await?;
            // It ends with the last of its connections.
            tokio::spawn(driver);
            anyhow::Ok(connection)
        };
        tokio::time::timeout(PATIENCE, connect).await.context("no connection in time")?
    }
}
