//! Keys of encrypted backups: which Secret is mounted, and as what the task reads it.

use std::path::PathBuf;

use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::secret::SecretRef;
use redkeep_k8s_api::common::{DecryptionSettings, Verification, VerificationLevel};

use super::Unresolved;
use crate::executor::{KEYS_PATH, Mount};

/// With what an encrypted backup is opened.
pub fn decryption(settings: Option<&DecryptionSettings>) -> (DecryptionKeys, Vec<Mount>) {
    let Some(settings) = settings else { return (DecryptionKeys::default(), Vec::new()) };
    let mut keys = DecryptionKeys::default();
    let mut mounts = Vec::new();
    if let Some(secret) = &settings.identity_secret {
        // Every key of the Secret is a file of identities.
        keys.identities.push(PathBuf::from(KEYS_PATH));
        mounts.push(Mount::secret(&secret.name, KEYS_PATH));
    }
    if let Some(passphrase) = &settings.passphrase_secret {
        keys.passphrase = Some(SecretRef::File(PathBuf::from(KEYS_PATH).join(&passphrase.key)));
        mounts.push(Mount::secret(&passphrase.name, KEYS_PATH));
    }
    (keys, mounts)
}

/// Whether a verification can be done at all; refused before the backup is begun where it cannot.
pub fn verifiable(verification: &Verification) -> Result<(), Unresolved> {
    if verification.level == VerificationLevel::Boot {
        let why = "boot needs a server in the task's image; use checksum or parse";
        return Err(Unresolved::invalid("spec.verification.level", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case(json!({"level": "boot"}), false)]
    #[case(json!({"level": "parse", "decryption": {"identitySecret": {"name": "s"}}}), true)]
    #[case(json!({"level": "parse", "decryption": {"passphraseSecret": {"name": "s", "key": "k"}}}), true)]
    #[case(json!({"level": "checksum"}), true)]
    fn what_cannot_be_verified_is_refused_first(#[case] verification: Value, #[case] works: bool) {
        assert_eq!(verifiable(&serde_json::from_value(verification).unwrap()).is_ok(), works);
    }
}
