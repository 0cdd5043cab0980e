//! What can go wrong between a plugin and the storage, told apart by what the user must do about it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use redkeep_core::method::{MethodError, code};
use redkeep_core::storage::{StorageError, StorageErrorKind};
use redkeep_core::{Class, Classify};

/// A failure of the pipeline. No variant carries a secret, and none prints its own source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// Text that is no age or ssh public key.
    #[error("failed to read the recipient {given}: {why}")]
    InvalidRecipient {
        /// What was given, shortened; never anything that looks like a secret key.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// Recipients and a passphrase at once (age's own rule).
    #[error("a backup is encrypted either to recipients or with a passphrase, not both")]
    RecipientsAndPassphrase,
    /// A passphrase without a character.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// Encryption could not be set up.
    #[error("failed to set up the encryption of {artifact}: {why}")]
    Encrypt {
        /// The artifact.
        artifact: String,
        /// Why.
        why: String,
    },
    /// Compression failed (out of memory).
    #[error("failed to compress {artifact}")]
    Compress {
        /// The artifact.
        artifact: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of identities that cannot be read or is none.
    #[error("failed to read the identity file {}: {why}", .path.display())]
    InvalidIdentity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// The operating system's word, where it was that.
        source: Option<std::io::Error>,
    },
    /// An identity file that itself is encrypted, and the passphrase is missing or wrong.
    #[error("failed to open the encrypted identity file {}: {why}", .path.display())]
    LockedIdentity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// None of the keys at hand opens the artifact.
    #[error("failed to decrypt {artifact}: {why}{needed}")]
    NoKey {
        /// The artifact.
        artifact: String,
        /// Whether there was no key or none that fits.
        why: &'static str,
        /// Which keys would fit, as a clause of its own; empty where it is not known.
        needed: String,
    },
    /// An artifact marked secret in a backup that is not encrypted.
    #[error("the artifact {artifact} holds secrets and is stored only in an encrypted backup")]
    SecretInClear {
        /// The artifact.
        artifact: String,
    },
    /// A name that cannot be an artifact's, or was used before.
    #[error("`{name}` cannot be the name of an artifact: {why}")]
    InvalidName {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// The backup has no such artifact.
    #[error("the backup has no artifact `{name}`")]
    NoSuchArtifact {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// This run cannot do that.
    #[error("{what}")]
    NotSupported {
        /// What was asked.
        what: String,
    },
    /// The storage did not take the bytes.
    #[error("failed to store {artifact}")]
    Store {
        /// The artifact.
        artifact: String,
        /// Why.
        source: StorageError,
    },
    /// The spool did not take the bytes, or did not give them back.
    #[error("failed to {act} the spool {} for {artifact}", .directory.display())]
    Spool {
        /// `write` or `read`.
        act: &'static str,
        /// The artifact.
        artifact: String,
        /// The folder given by `--spool`.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Storage was slower than the server for longer than allowed.
    #[error(
        "failed to store {artifact}: slow storage held the server for {held_seconds} s, the limit is {limit_seconds} s"
    )]
    HeldTooLong {
        /// The artifact.
        artifact: String,
        /// How long writes were blocked, in total.
        held_seconds: u64,
        /// How long they may be.
        limit_seconds: u64,
    },
    /// Artifacts that were begun and neither finished nor dropped.
    #[error("the artifacts {} were not finished", .names.join(", "))]
    Unfinished {
        /// Their names.
        names: Vec<String>,
    },
    /// The storage could not be read; says nothing about the backup.
    #[error("failed to read {artifact}")]
    Fetch {
        /// The artifact.
        artifact: String,
        /// Why.
        source: StorageError,
    },
    /// What is stored is not what was stored.
    #[error("the artifact {artifact} is damaged: {what}")]
    Damaged {
        /// The artifact.
        artifact: String,
        /// What does not hold, and where.
        what: String,
    },
    /// The run was stopped.
    #[error("the run was cancelled")]
    Cancelled,
    /// A failure that was met, and may have been reported, before.
    #[error(transparent)]
    Earlier(Arc<PipelineError>),
    /// A defect of redkeep.
    #[error("a stage of the pipeline ended without a word ({stage}): this is a defect of redkeep")]
    Internal {
        /// Which stage.
        stage: &'static str,
    },
}

impl PipelineError {
    /// `damaged`, said in one line.
    pub(crate) fn damaged(artifact: &str, what: impl Into<String>) -> Self {
        Self::Damaged { artifact: artifact.to_owned(), what: what.into() }
    }

    /// The error and everything below it in one line, for where only text fits.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut below = std::error::Error::source(self);
        while let Some(error) = below {
            let _ = write!(text, ": {error}");
            below = error.source();
        }
        text
    }

    /// As the contract between plugin and host says it.
    pub fn to_method_error(&self) -> MethodError {
        let code = match self {
            Self::Earlier(error) => return error.to_method_error(),
            Self::SecretInClear { .. } | Self::NoKey { .. } | Self::LockedIdentity { .. } => code::REFUSED,
            Self::InvalidName { .. }
            | Self::InvalidRecipient { .. }
            | Self::RecipientsAndPassphrase
            | Self::EmptyPassphrase
            | Self::InvalidIdentity { .. } => code::INVALID_PARAMETERS,
            Self::NoSuchArtifact { .. } => code::NOT_FOUND,
            Self::NotSupported { .. } => code::NOT_SUPPORTED,
            Self::Encrypt { .. }
            | Self::Compress { .. }
            | Self::Store { .. }
            | Self::Spool { .. }
            | Self::HeldTooLong { .. } => code::SINK_IO,
            Self::Fetch { .. } => code::SOURCE_IO,
            Self::Damaged { .. } => code::DAMAGED,
            Self::Cancelled => code::CANCELLED,
            Self::Unfinished { .. } | Self::Internal { .. } => code::INTERNAL,
        };
        let mut error = MethodError::new(code, self.chain());
        error.retryable = self.retryable();
        match self.help() {
            Some(help) => error.with_help(help),
            None => error,
        }
    }
}

impl From<PipelineError> for MethodError {
    fn from(error: PipelineError) -> Self {
        error.to_method_error()
    }
}

impl Classify for PipelineError {
    fn class(&self) -> Class {
        match self {
            Self::Earlier(error) => error.class(),
            Self::InvalidRecipient { .. }
            | Self::RecipientsAndPassphrase
            | Self::EmptyPassphrase
            | Self::InvalidIdentity { .. } => Class::Usage,
            Self::LockedIdentity { .. }
            | Self::NoKey { .. }
            | Self::SecretInClear { .. }
            | Self::NotSupported { .. } => Class::Refused,
            Self::NoSuchArtifact { .. } => Class::NotFound,
            Self::Damaged { .. } => Class::Damaged,
            Self::Store { source, .. } if is_thrown_away(source) => Class::Failed,
            Self::Store { source, .. } | Self::Fetch { source, .. } => source.class(),
            _ => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Earlier(error) => error.reason(),
            Self::InvalidRecipient { .. } | Self::RecipientsAndPassphrase | Self::EmptyPassphrase => {
                "InvalidEncryption"
            }
            Self::Encrypt { .. } => "EncryptionFailed",
            Self::Compress { .. } => "CompressionFailed",
            Self::InvalidIdentity { .. } => "InvalidIdentity",
            Self::LockedIdentity { .. } => "IdentityLocked",
            Self::NoKey { .. } => "KeyMissing",
            Self::SecretInClear { .. } => "SecretUnencrypted",
            Self::InvalidName { .. } => "InvalidArtifactName",
            Self::NoSuchArtifact { .. } => "ArtifactNotFound",
            Self::NotSupported { .. } => "NotSupported",
            Self::Store { source, .. } if is_thrown_away(source) => "UploadAborted",
            Self::Store { source, .. } | Self::Fetch { source, .. } => source.reason(),
            Self::Spool { .. } => "SpoolFailed",
            Self::HeldTooLong { .. } => "HoldLimit",
            Self::Unfinished { .. } => "ArtifactUnfinished",
            Self::Damaged { .. } => "ArtifactDamaged",
            Self::Cancelled => "Cancelled",
            Self::Internal { .. } => "Internal",
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Self::Earlier(error) => error.retryable(),
            Self::Store { source, .. } | Self::Fetch { source, .. } => source.retryable(),
            _ => false,
        }
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::Earlier(error) => return error.help(),
            Self::InvalidRecipient { .. } => {
                "give a public key: `age1…` (from `age-keygen -y KEYFILE`), `ssh-ed25519 …` or `ssh-rsa …`"
            }
            Self::RecipientsAndPassphrase => "leave out either --recipient or --passphrase-file",
            Self::EmptyPassphrase => "put the passphrase in the file or variable that was named",
            Self::InvalidIdentity { .. } => {
                "give a file made by `age-keygen`, or an ssh private key (ed25519 or RSA in OpenSSH format)"
            }
            Self::LockedIdentity { .. } => "give the identity file's passphrase by --passphrase-file",
            Self::NoKey { .. } => "give the private key by --identity, or the passphrase by --passphrase-file",
            Self::SecretInClear { .. } => {
                "encrypt the backup with --recipient or --passphrase-file, or leave the secrets out"
            }
            Self::NoSuchArtifact { known, .. } => return Some(format!("it has: {}", known.join(", "))),
            Self::Store { source, .. } if is_thrown_away(source) => {
                "somebody threw the upload away while it ran, and no backup was made: give `redkeep prune` a --grace longer than any \
                 backup runs, then back up again"
            }
            Self::Store { source, .. } | Self::Fetch { source, .. } => return source.help(),
            Self::Spool { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free space there, or give --spool a folder that holds the whole compressed backup"
            }
            Self::Spool { .. } => "give --spool a folder that exists and can be written to",
            Self::HeldTooLong { .. } => {
                "use --spool DIR: the backup is taken at full speed into DIR and uploaded from there"
            }
            Self::Damaged { .. } => {
                "this backup cannot be trusted: restore another one, or a copy of this one from elsewhere"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Whether what is not there is the upload itself. A bucket or folder that is not there comes with its own help.
fn is_thrown_away(source: &StorageError) -> bool {
    source.kind == StorageErrorKind::NotFound && source.help.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_was_thrown_away_is_no_backup_that_is_not_there() {
        let store = |source| PipelineError::Store { artifact: "dump.rdb".to_owned(), source };
        let aborted =
            store(StorageError::new(StorageErrorKind::NotFound, "failed to finish x: the upload was aborted"));
        assert_eq!((aborted.class(), aborted.reason()), (Class::Failed, "UploadAborted"));
        assert!(aborted.help().unwrap().contains("--grace"));
        let bucket =
            store(StorageError::new(StorageErrorKind::NotFound, "failed to write x").with_help("make the bucket"));
        assert_eq!((bucket.class(), bucket.help().as_deref()), (Class::NotFound, Some("make the bucket")));
    }
}
