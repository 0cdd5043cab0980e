//! Keys of encrypted backups: which Secret is mounted, and as what the task reads it.

use std::path::PathBuf;

use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::secret::SecretRef;
use redkeep_k8s_api::common::DecryptionSettings;

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
