//! Secrets that the operator makes: it creates them under a name never used before, and can read none of them again.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::RngCore;
use rand::distr::{Alphanumeric, SampleString};

use crate::common::digest::sha256_hex;

/// Characters of a password: 190 bits.
const PASSWORD_LENGTH: usize = 32;
/// Characters of the token by which instances know one another.
const PEER_TOKEN_LENGTH: usize = 43;
/// A certificate must not end before its cluster does: nothing but its digest is believed, and that can be exchanged.
const LAST_YEAR: i32 = 2126;

/// A failure to make a certificate.
#[derive(Debug, thiserror::Error)]
#[error("failed to make the certificate of cluster {cluster}")]
pub struct CertificateFailed {
    cluster: String,
    #[source]
    source: rcgen::Error,
}

/// What the names that the operator makes end with.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_LETTERS: usize = 8;

/// A name never used before.
pub(crate) fn fresh_name(prefix: &str) -> String {
    let mut bytes = [0_u8; NAME_LETTERS];
    rand::rng().fill_bytes(&mut bytes);
    let letters = bytes.iter().filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
    format!("{prefix}-{}", letters.map(|letter| char::from(*letter)).collect::<String>())
}

/// Whether the operator made this name.
pub(crate) fn is_fresh_name(name: &str, prefix: &str) -> bool {
    let letters = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
    letters.is_some_and(|letters| letters.len() == NAME_LETTERS && letters.bytes().all(|one| LETTERS.contains(&one)))
}

/// The password of a cluster.
pub(crate) fn password(metadata: ObjectMeta) -> Secret {
    let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH);
    // Whoever exchanges the password does it here: the instances take up what they find.
    Secret { immutable: None, ..secret(metadata, [("password", password)].into()) }
}

/// The certificate of a cluster's instances, and what they show one another. Also the certificate's digest.
pub(crate) fn identity(metadata: ObjectMeta, cluster: &str) -> Result<(Secret, String), CertificateFailed> {
    let failed = |source| CertificateFailed { cluster: cluster.to_owned(), source };
    let names = vec![cluster.to_owned(), format!("{cluster}-r"), format!("*.{cluster}-r")];
    let mut parameters = rcgen::CertificateParams::new(names).map_err(failed)?;
    parameters.not_after = rcgen::date_time_ymd(LAST_YEAR, 1, 1);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    let token = Alphanumeric.sample_string(&mut rand::rng(), PEER_TOKEN_LENGTH);
    let digest = sha256_hex(certificate.der());
    let data = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("peer-token", token)];
    Ok((secret(metadata, data.into()), digest))
}

fn secret(metadata: ObjectMeta, data: BTreeMap<&str, String>) -> Secret {
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect();
    Secret { metadata, data: Some(data), immutable: Some(true), type_: Some("Opaque".to_owned()), ..Secret::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_have_nothing_in_common() {
        let (one, two) = (password(ObjectMeta::default()), password(ObjectMeta::default()));
        assert_ne!(one.data, two.data);
        assert_eq!(one.data.unwrap()["password"].0.len(), PASSWORD_LENGTH);
        let name = fresh_name("carts-auth");
        assert_ne!(name, fresh_name("carts-auth"));
        assert!(name.starts_with("carts-auth-") && name.len() == "carts-auth-".len() + 8, "{name}");
    }

    #[test]
    fn the_digest_is_that_of_the_certificate_in_the_secret() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let (secret, digest) = identity(ObjectMeta::default(), "carts").unwrap();
        let data = secret.data.unwrap();
        let der = CertificateDer::from_pem_slice(&data["tls.crt"].0).unwrap();
        assert_eq!(sha256_hex(&der), digest);
        assert_eq!(data.keys().collect::<Vec<_>>(), ["peer-token", "tls.crt", "tls.key"]);
    }
}
