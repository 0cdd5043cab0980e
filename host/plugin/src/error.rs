//! Why a plugin could not be loaded.

use std::path::PathBuf;

use redkeep_core::method::MethodError;
use redkeep_core::provider::ProviderError;
use redkeep_core::units::format_size;
use redkeep_core::{Class, Classify};

use crate::grants::{GrantError, quoted};

/// What a file is, where it should have been a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotComponent {
    /// A core module: the step that makes a component of it was left out.
    CoreModule,
    /// WebAssembly as text.
    Text,
    /// A compiled component (`.cwasm`), which is machine code and never taken from outside.
    Precompiled,
    /// A binary format of another time.
    UnknownVersion,
    /// Not WebAssembly.
    Other,
    /// Nothing at all.
    Empty,
}

impl NotComponent {
    fn what(self) -> &'static str {
        match self {
            Self::CoreModule => "a core WebAssembly module, not a component",
            Self::Text => "WebAssembly text, not a binary component",
            Self::Precompiled => "compiled machine code, which is never loaded",
            Self::UnknownVersion => "WebAssembly of a format that this host does not know",
            Self::Other => "not WebAssembly",
            Self::Empty => "empty",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::CoreModule => "make a component of it, e.g. with `wasm-tools component new`",
            Self::Text => "make a binary of it, e.g. with `wasm-tools parse`",
            Self::Precompiled => "give the .wasm file; redkeep compiles it and keeps the result itself",
            Self::UnknownVersion | Self::Other | Self::Empty => "give a WebAssembly component (.wasm)",
        }
    }
}

/// Why a plugin could not be loaded. `origin` is the file or reference that the user named.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The sandbox could not be set up on this machine.
    #[error("failed to set up the plugin sandbox")]
    Engine {
        /// What wasmtime said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file cannot be read.
    #[error("failed to read plugin {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Larger than any plugin may be.
    #[error("plugin {origin} has {}, and at most {} are loaded", format_size(*size), format_size(*limit))]
    TooLarge {
        /// What was to be loaded.
        origin: String,
        /// Its bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// More than the compiler is to be given.
    #[error("plugin {origin} is not compiled: {what}")]
    TooComplex {
        /// What was to be loaded.
        origin: String,
        /// What there is too much of.
        what: String,
    },
    /// The compiler took too long.
    #[error("compiling plugin {origin} was given up after {limit:?}")]
    CompileTime {
        /// What was to be loaded.
        origin: String,
        /// The limit.
        limit: std::time::Duration,
    },
    /// Something else than a component.
    #[error("plugin {origin} is {}", kind.what())]
    NotAComponent {
        /// What was to be loaded.
        origin: String,
        /// What it is.
        kind: NotComponent,
    },
    /// Cut short, or not valid.
    #[error("plugin {origin} is damaged or cut short: {reason}")]
    Damaged {
        /// What was to be loaded.
        origin: String,
        /// What the parser said, and where.
        reason: String,
    },
    /// Not the component that was demanded.
    #[error("plugin {origin} has digest sha256:{actual}, and sha256:{demanded} was demanded")]
    Digest {
        /// What was to be loaded.
        origin: String,
        /// Lower-case hexadecimal.
        demanded: String,
        /// Lower-case hexadecimal.
        actual: String,
    },
    /// Imports something that this host does not give.
    #[error("plugin {origin} imports {import}, which redkeep does not give to plugins")]
    Import {
        /// What was to be loaded.
        origin: String,
        /// The import's name.
        import: String,
    },
    /// Imports or exports another version of the contract.
    #[error("plugin {origin} was built for {name}, and this redkeep speaks redkeep:plugin {ours}")]
    ApiVersion {
        /// What was to be loaded.
        origin: String,
        /// The import or export that says so.
        name: String,
        /// The versions this host speaks.
        ours: &'static str,
    },
    /// Not a method plugin.
    #[error("plugin {origin} does not export redkeep:plugin/method")]
    NotAMethod {
        /// What was to be loaded.
        origin: String,
    },
    /// The compiler refused it.
    #[error("failed to compile plugin {origin}")]
    Compile {
        /// What was to be loaded.
        origin: String,
        /// What the compiler said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its imports or exports have other types than the contract's.
    #[error("plugin {origin} does not fit the contract")]
    Link {
        /// What was to be loaded.
        origin: String,
        /// What does not fit.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `describe` failed.
    #[error("plugin {origin} failed to describe itself")]
    Describe {
        /// What was to be loaded.
        origin: String,
        /// Why.
        #[source]
        source: MethodError,
    },
    /// `describe` gave something that cannot be.
    #[error("plugin {origin} describes itself wrongly: {reason}")]
    Description {
        /// What was to be loaded.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// It requests what this host does not know.
    #[error("plugin {origin} requests a capability that this redkeep does not have")]
    Request {
        /// What was to be loaded.
        origin: String,
        /// The request.
        #[source]
        source: GrantError,
    },
    /// It requests what the user did not grant.
    #[error("plugin {name} needs what it is not granted: {}", missing.join(", "))]
    NotGranted {
        /// The plugin's name.
        name: String,
        /// Its requests that are not granted.
        missing: Vec<String>,
    },
}

impl Classify for PluginError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Class::NotFound,
            Self::Engine { .. } | Self::Read { .. } | Self::Describe { .. } | Self::CompileTime { .. } => Class::Failed,
            Self::Digest { .. } | Self::NotGranted { .. } | Self::ApiVersion { .. } | Self::Request { .. } => {
                Class::Refused
            }
            Self::TooLarge { .. }
            | Self::TooComplex { .. }
            | Self::NotAComponent { .. }
            | Self::Damaged { .. }
            | Self::Import { .. }
            | Self::NotAMethod { .. }
            | Self::Compile { .. }
            | Self::Link { .. }
            | Self::Description { .. } => Class::Usage,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Engine { .. } => "PluginSandbox",
            Self::Read { .. } => "PluginUnreadable",
            Self::TooLarge { .. } => "PluginTooLarge",
            Self::TooComplex { .. } => "PluginTooComplex",
            Self::CompileTime { .. } => "PluginCompileTime",
            Self::NotAComponent { .. } => "NotAComponent",
            Self::Damaged { .. } => "PluginDamaged",
            Self::Digest { .. } => "PluginDigest",
            Self::Import { .. } => "PluginImport",
            Self::ApiVersion { .. } => "PluginApiVersion",
            Self::NotAMethod { .. } => "NotAMethod",
            Self::Compile { .. } => "PluginCompile",
            Self::Link { .. } => "PluginLink",
            Self::Describe { .. } | Self::Description { .. } => "PluginDescribe",
            Self::Request { .. } => "PluginRequest",
            Self::NotGranted { .. } => "NotGranted",
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "name an existing file that you may read".to_owned(),
            Self::TooLarge { .. } => "build the plugin without debug information (`strip = true`)".to_owned(),
            Self::TooComplex { .. } => "build the plugin optimized for size, with less in it".to_owned(),
            Self::CompileTime { .. } => {
                "try again where the machine has less to do; else the plugin is made to keep compilers busy".to_owned()
            }
            Self::NotAComponent { kind, .. } => kind.help().to_owned(),
            Self::Damaged { .. } => "fetch or build the file again".to_owned(),
            Self::Digest { .. } => "name the file that was meant, or the digest of this one".to_owned(),
            Self::Import { import, .. } if import.starts_with("wasi:") => "build the plugin without WASI: Rust for \
                wasm32-unknown-unknown, Python with `componentize-py componentize --stub-wasi`, JavaScript with `jco \
                componentize --backend qjs --backend-qjs-stub-wasi`"
                .to_owned(),
            Self::Import { .. } => {
                "a plugin may import only the interfaces of redkeep:plugin@0.1 (wit/v0.1)".to_owned()
            }
            Self::ApiVersion { .. } => {
                "build the plugin against that version, or use a redkeep that speaks the plugin's".to_owned()
            }
            Self::NotAMethod { .. } => "build it for the world redis-method or socket-method of wit/v0.1".to_owned(),
            Self::Compile { .. } => "build the plugin again with a current toolchain".to_owned(),
            Self::Link { .. } => "build the plugin against wit/v0.1 of this redkeep, or use a newer redkeep".to_owned(),
            Self::Describe { source, .. } => return source.help(),
            Self::Description { .. } => "this is a defect of the plugin: tell its author this message".to_owned(),
            Self::Request { .. } => "use a newer redkeep".to_owned(),
            Self::NotGranted { missing, .. } => {
                let grants: Vec<String> = missing.iter().map(|grant| format!("--grant {}", quoted(grant))).collect();
                format!("if the plugin may do this, add {}", grants.join(" "))
            }
            Self::Engine { .. } => return None,
        })
    }
}

impl From<PluginError> for ProviderError {
    fn from(error: PluginError) -> Self {
        let mut provider = Self::new(error.class(), error.reason(), error.to_string());
        provider.help = error.help();
        // The message is already told; what it does not tell is the cause below.
        provider.source = match error {
            PluginError::Engine { source } | PluginError::Compile { source, .. } | PluginError::Link { source, .. } => {
                Some(source)
            }
            PluginError::Read { source, .. } => Some(source.into()),
            PluginError::Describe { source, .. } => Some(source.into()),
            PluginError::Request { source, .. } => Some(source.into()),
            _ => None,
        };
        provider
    }
}
