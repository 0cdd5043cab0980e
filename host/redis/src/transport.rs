//! Byte streams to servers: TCP, TLS over TCP, Unix sockets. Knows nothing of Redis.
//!
//! Receive buffers are left to the kernel: setting `SO_RCVBUF` turns its autotuning off and caps it at `rmem_max`
//! (208 KiB unless changed), where autotuning reaches 6 MiB.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::task::TlsSpec;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::endpoint::Address;
use crate::error::AccessError;

/// How long a connection, its TLS handshake included, may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the kernel begins to ask whether the peer still lives.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connected byte stream.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// How to reach servers, made once for each endpoint.
#[derive(Clone)]
pub(crate) struct Transport {
    tls: Option<Arc<ClientConfig>>,
}

impl Transport {
    /// `None`: without TLS.
    pub(crate) fn new(tls: Option<&TlsSpec>) -> Result<Self, AccessError> {
        Ok(Self { tls: tls.map(client_config).transpose()?.map(Arc::new) })
    }

    /// Connects.
    pub(crate) async fn connect(&self, address: &Address) -> Result<Box<dyn ByteStream>, AccessError> {
        let unreachable = |source| AccessError::Unreachable { address: address.to_string(), source };
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 seconds");
        match address {
            Address::Unix(path) => {
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await;
                Ok(Box::new(stream.map_err(|_| unreachable(timed_out()))?.map_err(unreachable)?))
            }
            Address::Tcp { host, port } => {
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), *port))).await;
                let stream = stream.map_err(|_| unreachable(timed_out()))?.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(unreachable)?;
                let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.clone()).map_err(|_| AccessError::Address {
                    given: address.to_string(),
                    why: "the host cannot be the name in a certificate".to_owned(),
                })?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let failed = |source: io::Error| {
                    let help = tls_help(&source);
                    AccessError::Tls { address: address.to_string(), help, source }
                };
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream)).await;
                Ok(Box::new(stream.map_err(|_| failed(timed_out()))?.map_err(failed)?))
            }
        }
    }
}

/// What to change after a failed handshake.
pub(crate) fn tls_help(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "trust the server's certificate authority with --cacert, or use the name that the certificate is for"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the server refused our side: give a client certificate with --cert and --key"
        }
        _ => "the port may not speak TLS: write redis:// instead of rediss://",
    }
    .to_owned()
}

fn client_config(spec: &TlsSpec) -> Result<ClientConfig, AccessError> {
    let unusable = |what: &Path, why: &dyn std::fmt::Display| AccessError::Configuration {
        what: what.display().to_string(),
        why: why.to_string(),
    };
    let broken =
        |why: rustls::Error| AccessError::Configuration { what: "the TLS settings".to_owned(), why: why.to_string() };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, AccessError> {
        let list: Vec<_> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|why| unusable(path, &why))?;
        if list.is_empty() { Err(unusable(path, &"it holds no certificate")) } else { Ok(list) }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    let builder = if spec.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnything(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &spec.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|why| unusable(path, &why))?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        builder.with_root_certificates(roots)
    };
    match client_certificate(spec) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|why| unusable(key, &why))?;
            builder.with_client_auth_cert(chain, private).map_err(broken)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(AccessError::Configuration {
            what: "the client certificate".to_owned(),
            why: "--cert and --key belong together".to_owned(),
        }),
    }
}

/// The files of the client certificate. Where it is taken if it is there, a mounted Secret may hold neither; one alone is a
/// mistake, and is told as one.
fn client_certificate(spec: &TlsSpec) -> (Option<&Path>, Option<&Path>) {
    let (certificate, key) = (spec.cert_file.as_deref(), spec.key_file.as_deref());
    let is_missing = |path: Option<&Path>| path.is_none_or(|path| !path.exists());
    if spec.client_certificate_if_present && is_missing(certificate) && is_missing(key) {
        return (None, None);
    }
    (certificate, key)
}

/// `--insecure-skip-verify`: any certificate passes; signatures are still checked, so the peer owns the key it shows.
#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::both(&["tls.crt", "tls.key"], true, (true, true))]
    #[case::neither(&[], true, (false, false))]
    #[case::neither_but_needed(&[], false, (true, true))]
    #[case::one_is_a_mistake(&["tls.crt"], true, (true, true))]
    #[case::the_other_too(&["tls.key"], true, (true, true))]
    fn a_client_certificate_is_left_out_only_where_neither_file_is_there(
        #[case] files: &[&str],
        #[case] if_present: bool,
        #[case] expected: (bool, bool),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "x").unwrap();
        }
        let spec = TlsSpec {
            cert_file: Some(folder.path().join("tls.crt")),
            key_file: Some(folder.path().join("tls.key")),
            client_certificate_if_present: if_present,
            ..TlsSpec::default()
        };
        let (certificate, key) = client_certificate(&spec);
        assert_eq!((certificate.is_some(), key.is_some()), expected);
    }
}
