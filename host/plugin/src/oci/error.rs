//! Why a component could not be fetched from a registry or brought to one.

use std::path::PathBuf;

use redkeep_core::provider::ProviderError;
use redkeep_core::units::format_size;
use redkeep_core::{Class, Classify};

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// Not well-formed.
    #[error("failed to understand the reference `{given}`: {why}")]
    Reference {
        /// As given.
        given: String,
        /// What is wrong.
        why: String,
    },
    /// A file of settings: credentials, certificates, a key.
    #[error("failed to use {}: {why}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No connection, no TLS, or cut off.
    #[error("failed to {act} the registry {registry}")]
    Transport {
        /// What was under way.
        act: &'static str,
        /// Host and port.
        registry: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No credentials, or wrong ones.
    #[error("the registry {registry} does not let us {act}")]
    Unauthorized {
        /// What was under way.
        act: &'static str,
        /// Host and port.
        registry: String,
    },
    /// Nothing there.
    #[error("there is no {what} in the registry")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// Another answer than a registry gives.
    #[error("the registry {registry} answered {status}, when asked to {act}")]
    Status {
        /// What was under way.
        act: &'static str,
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: u16,
    },
    /// Led elsewhere.
    #[error("the registry {registry} sends us to another host, {to}")]
    Redirect {
        /// Host and port.
        registry: String,
        /// Where to.
        to: String,
    },
    /// Larger than it may be.
    #[error("{what} has more than {}", format_size(*limit))]
    TooLarge {
        /// What.
        what: String,
        /// In bytes.
        limit: u64,
    },
    /// Other bytes than were asked for.
    #[error("{what} has digest sha256:{actual}, and sha256:{wanted} was asked for")]
    Digest {
        /// What.
        what: String,
        /// Lower-case hexadecimal.
        wanted: String,
        /// Lower-case hexadecimal.
        actual: String,
    },
    /// Not a component.
    #[error("{reference} is not a WebAssembly component: {why}")]
    Layout {
        /// What was fetched.
        reference: String,
        /// What is wrong.
        why: String,
    },
    /// No signature, where one is demanded.
    #[error("{reference} carries no signature")]
    Unsigned {
        /// What was fetched.
        reference: String,
    },
    /// No signature that holds.
    #[error("no signature of {reference} holds: {why}")]
    Signature {
        /// What was fetched.
        reference: String,
        /// Why the last one does not.
        why: String,
    },
}

impl Classify for OciError {
    fn class(&self) -> Class {
        match self {
            Self::Reference { .. } | Self::Settings { .. } | Self::Layout { .. } => Class::Usage,
            Self::Transport { .. } | Self::Status { .. } => Class::Failed,
            Self::NotFound { .. } => Class::NotFound,
            Self::Unauthorized { .. }
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Unsigned { .. }
            | Self::Signature { .. } => Class::Refused,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "InvalidReference",
            Self::Settings { .. } => "RegistrySettings",
            Self::Transport { .. } => "RegistryUnreachable",
            Self::Unauthorized { .. } => "RegistryUnauthorized",
            Self::NotFound { .. } => "PluginNotFound",
            Self::Status { .. } => "RegistryAnswer",
            Self::Redirect { .. } => "RegistryRedirect",
            Self::TooLarge { .. } => "PluginTooLarge",
            Self::Digest { .. } => "PluginDigest",
            Self::Layout { .. } => "NotAComponent",
            Self::Unsigned { .. } => "PluginUnsigned",
            Self::Signature { .. } => "PluginSignature",
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Reference { .. } => "write oci://registry/name:tag, or better oci://registry/name@sha256:…",
            Self::Transport { .. } => {
                "check the registry's name and that it can be reached; --registry-ca trusts its authority, and only \
                 --plain-http speaks HTTP without TLS"
            }
            Self::Unauthorized { .. } => {
                "log in with `docker login`, or give --registry-config, or --registry-user and --registry-password-file"
            }
            Self::NotFound { .. } => {
                "look at the name, the tag or the digest; a registry also says so where reading is not allowed"
            }
            Self::Redirect { .. } => "if that host is right for what this registry keeps, add --registry-redirect HOST",
            Self::TooLarge { .. } => "build the plugin without debug information",
            Self::Digest { .. } => "do not use it: the registry, or what lies between, changed it",
            Self::Layout { .. } => {
                "push it with `redkeep plugin push`, or another tool that writes the CNCF layout for WebAssembly"
            }
            Self::Unsigned { .. } => {
                "sign it (`redkeep plugin push --sign`, `cosign sign --key`), or use one that is signed"
            }
            Self::Signature { .. } => "do not use it, unless the key that was given is the wrong one",
            Self::Settings { .. } => {
                "see that the file is there and readable; on Kubernetes the pull Secret and the authority of a BackupMethod must \
                 stand in the run's namespace too, under the same names"
            }
            Self::Status { .. } => "see the registry's own log; where it speaks TLS, leave --plain-http out",
        };
        Some(help.to_owned())
    }
}

impl From<OciError> for ProviderError {
    fn from(error: OciError) -> Self {
        let mut provider = Self::new(error.class(), error.reason(), error.to_string());
        provider.help = error.help();
        provider.retryable = error.retryable();
        if let OciError::Transport { source, .. } = error {
            provider.source = Some(source);
        }
        provider
    }
}
