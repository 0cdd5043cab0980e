//! TLS among instances: one self-signed certificate for all of them, and nothing else is accepted.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::InstanceError;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What instances of one cluster share.
pub(crate) struct Identity {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) peer_token: redkeep_core::secret::Secret,
}

impl Identity {
    /// Reads `tls.crt`, `tls.key` and `peer-token`.
    pub(crate) fn read(folder: &Path) -> Result<Self, InstanceError> {
        let unusable = |why: String| InstanceError::Identity { folder: folder.to_path_buf(), why };
        let broken = |why: rustls::Error| unusable(why.to_string());
        let certificate = CertificateDer::from_pem_file(folder.join("tls.crt"))
            .map_err(|why| unusable(format!("its tls.crt cannot be read ({why})")))?;
        let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"))
            .map_err(|why| unusable(format!("its tls.key cannot be read ({why})")))?;
        let path = folder.join("peer-token");
        let token = std::fs::read_to_string(&path).map_err(|source| InstanceError::Read { path, source })?;
        let token = token.trim();
        if token.len() < 16 {
            return Err(unusable("its peer-token is shorter than 16 bytes".to_owned()));
        }
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .map_err(broken)?;
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Exactly { certificate, provider: provider() }))
            .with_no_client_auth();
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            peer_token: redkeep_core::secret::Secret::new(token),
        })
    }
}

/// TLS to the Kubernetes API: whom this authority vouches for.
pub(crate) fn trusting(authority: &Path) -> Result<ClientConfig, String> {
    let unusable = |why: &dyn std::fmt::Display| format!("failed to read {}: {why}", authority.display());
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(authority).and_then(Iterator::collect).map_err(|why| unusable(&why))?;
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(unusable(&"it holds no certificate"));
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    Ok(builder.map_err(|why| why.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

/// That certificate and no other; names and times in it mean nothing.
#[derive(Debug)]
struct Exactly {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.certificate.as_ref() {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
