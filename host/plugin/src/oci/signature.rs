//! Signatures as cosign keeps them beside an artifact: a payload that names the manifest's digest, and an ECDSA P-256
//! signature over it. A key is all that is trusted; certificates and logs of transparency are not looked at.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use serde::{Deserialize, Serialize};

use super::error::OciError;
use super::reference::OciReference;

/// The type of a layer that is a payload.
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The type of the config beside it.
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Where the layer's annotation has the signature, in base64.
pub(super) const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is.
const KIND: &str = "cosign container image signature";
/// The largest payload, in bytes.
pub(super) const MAX_PAYLOAD: u64 = 64 << 10;
/// Signatures that are looked at.
pub(super) const MAX_SIGNATURES: usize = 16;
/// The largest key file, in bytes.
const MAX_KEY: u64 = 64 << 10;

/// The tag that cosign keeps a manifest's signatures at.
pub(super) fn tag_of(digest: &str) -> String {
    format!("sha256-{digest}.sig")
}

/// A payload and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signed {
    /// The payload's bytes, in base64: the signature is over these and no others.
    pub(super) payload: String,
    /// In base64 too.
    pub(super) signature: String,
}

impl Signed {
    pub(super) fn new(payload: &[u8], signature: &str) -> Self {
        Self { payload: STANDARD.encode(payload), signature: signature.to_owned() }
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

fn read(path: &Path) -> Result<String, OciError> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| OciError::Settings { path: path.to_owned(), why: error.to_string() };
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_KEY).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// A public key (PEM) from a file.
pub(super) fn public_key(path: &Path) -> Result<VerifyingKey, OciError> {
    VerifyingKey::from_public_key_pem(read(path)?.trim()).map_err(|_| OciError::Settings {
        path: path.to_owned(),
        why: "it is not a public key of ECDSA P-256 in PEM (BEGIN PUBLIC KEY)".to_owned(),
    })
}

/// A public key (PEM) as text.
pub(super) fn public_key_text(text: &str) -> Result<VerifyingKey, OciError> {
    VerifyingKey::from_public_key_pem(text.trim()).map_err(|_| OciError::Settings {
        path: "the public key".into(),
        why: "it is not one of ECDSA P-256 in PEM (BEGIN PUBLIC KEY)".to_owned(),
    })
}

/// A private key (PKCS 8, PEM, not encrypted) from a file.
pub(super) fn private_key(path: &Path) -> Result<SigningKey, OciError> {
    SigningKey::from_pkcs8_pem(read(path)?.trim()).map_err(|_| OciError::Settings {
        path: path.to_owned(),
        why: "it is not a private key of ECDSA P-256 in PEM without a passphrase (BEGIN PRIVATE KEY)".to_owned(),
    })
}

/// Signs a manifest of this digest.
pub(super) fn sign(key: &SigningKey, reference: &OciReference, digest: &str) -> (Vec<u8>, String) {
    let payload = serde_json::json!({
        "critical": {
            "identity": { "docker-reference": format!("{}/{}", reference.registry, reference.repository) },
            "image": { "docker-manifest-digest": format!("sha256:{digest}") },
            "type": KIND,
        },
        "optional": null,
    });
    let payload = payload.to_string().into_bytes();
    let signature: DerSignature = key.sign(&payload);
    let signature = STANDARD.encode(signature.as_bytes());
    (payload, signature)
}

/// Whether one of the signatures is the key's and is about this manifest.
pub(super) fn verify(
    key: &VerifyingKey,
    signatures: &[Signed],
    digest: &str,
    reference: &OciReference,
) -> Result<(), OciError> {
    let mut why = None;
    for signed in signatures {
        match holds(key, signed, digest) {
            Ok(()) => return Ok(()),
            Err(reason) => why = Some(reason),
        }
    }
    let reference = reference.to_string();
    Err(match why {
        Some(why) => OciError::Signature { reference, why: why.to_owned() },
        None => OciError::Unsigned { reference },
    })
}

fn holds(key: &VerifyingKey, signed: &Signed, digest: &str) -> Result<(), &'static str> {
    let payload = STANDARD.decode(&signed.payload).map_err(|_| "its payload is not base64")?;
    let signature = STANDARD.decode(signed.signature.trim()).map_err(|_| "it is not base64")?;
    let signature =
        DerSignature::from_bytes(signature.as_slice()).map_err(|_| "it is not a signature of ECDSA P-256")?;
    key.verify(&payload, &signature).map_err(|_| "it was made with another key, or over other bytes")?;
    // Only now is what it says worth reading.
    let payload: Payload = serde_json::from_slice(&payload).map_err(|_| "its payload is not cosign's")?;
    if payload.critical.kind != KIND {
        return Err("its payload is about something else than an artifact");
    }
    if payload.critical.image.digest != format!("sha256:{digest}") {
        return Err("it is about another artifact");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_slice(&[seed; 32]).unwrap()
    }

    #[test]
    fn a_signature_is_the_keys_and_about_its_artifact() {
        let reference = OciReference::parse("oci://r.io/x:1").unwrap();
        let digest = "a".repeat(64);
        let (payload, signature) = sign(&key(1), &reference, &digest);
        let good = Signed::new(&payload, &signature);
        let public = VerifyingKey::from(&key(1));
        verify(&public, std::slice::from_ref(&good), &digest, &reference).unwrap();
        let stranger = VerifyingKey::from(&key(2));
        let refused = |key: &VerifyingKey, signatures: &[Signed], digest: &str| {
            verify(key, signatures, digest, &reference).unwrap_err().to_string()
        };
        assert!(refused(&stranger, std::slice::from_ref(&good), &digest).contains("another key"));
        assert!(refused(&public, std::slice::from_ref(&good), &"b".repeat(64)).contains("another artifact"));
        assert!(refused(&public, &[], &digest).contains("carries no signature"));
        let changed =
            Signed::new(&String::from_utf8(payload).unwrap().replace("r.io", "s.io").into_bytes(), &signature);
        assert!(refused(&public, std::slice::from_ref(&changed), &digest).contains("other bytes"));
        let broken = Signed { signature: "!".to_owned(), ..good.clone() };
        assert!(refused(&public, std::slice::from_ref(&broken), &digest).contains("not base64"));
        // One that holds is enough.
        verify(&public, &[broken, changed, good], &digest, &reference).unwrap();
    }
}
