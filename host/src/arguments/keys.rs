//! With what an encrypted backup is opened.

use std::path::{Path, PathBuf};

use clap::Args;
use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::secret::SecretRef;

/// Keys for reading.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct KeyArgs {
    /// File of age identities or an ssh private key; may be given several times
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// File that holds the passphrase (- is standard input)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KeyArgs {
    /// As the engine takes them.
    pub(crate) fn spec(&self) -> DecryptionKeys {
        DecryptionKeys {
            identities: self.identity.clone(),
            passphrase: self.passphrase_file.as_deref().map(secret_file),
        }
    }
}

/// A secret in a file, `-` being standard input.
pub(crate) fn secret_file(path: &Path) -> SecretRef {
    SecretRef::File(if path == Path::new("-") { PathBuf::from("/dev/stdin") } else { path.to_owned() })
}
