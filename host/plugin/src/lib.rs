//! The plugin host: loads, checks, limits and runs WebAssembly method components.
//!
//! [`PluginHost::load`] turns bytes into a [`redkeep_core::method::Method`]. Every call of it runs in a store of its own,
//! with nothing but the capabilities that the plugin requested, the user granted and the run has at hand.

mod bindings;
mod bounds;
mod cache;
mod engine;
mod error;
mod failure;
mod grants;
mod handles;
mod host;
mod interfaces;
mod limits;
mod loader;
mod measured;
pub mod oci;
mod plugin;
mod schema;
mod state;
mod text;

pub use error::{NotComponent, PluginError};
pub use grants::{GrantError, Grants, Standing, missing, standing};
pub use host::{Description, HostConfig, LoadOptions, PluginHost};
pub use limits::Limits;
pub use loader::{MAX_COMPONENT, Outline, digest_of, read_component};
