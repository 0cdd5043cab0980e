//! How instances are spoken to. The trait is what tests replace; the real one is [`https::HttpsInstances`].

mod address;
pub mod https;
mod pinned;
pub(super) mod secrets;

use async_trait::async_trait;
use redkeep_core::managed::{Notice, Orders, Standing};

pub use address::Address;
pub use secrets::CertificateFailed;

/// Why an instance did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// No answer, or none that can be read.
    #[error("instance {pod} did not answer: {message}")]
    Unreachable {
        /// Its pod.
        pod: String,
        /// Why not.
        message: String,
    },
    /// It shows another certificate than the cluster's.
    #[error("{pod} shows another certificate than its cluster's")]
    Stranger {
        /// Its pod.
        pod: String,
    },
    /// It said no.
    #[error("instance {pod} refused ({reason}): {message}")]
    Refused {
        /// Its pod.
        pod: String,
        /// A stable word.
        reason: String,
        /// Why.
        message: String,
    },
    /// The operator cannot prove who it is.
    #[error("failed to get a token for instances of {cluster}")]
    Token {
        /// Which cluster.
        cluster: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Speaks to instances; every call ends within a short time.
#[async_trait]
pub trait Instances: Send + Sync {
    /// How it stands.
    async fn standing(&self, address: &Address) -> Result<Standing, InstanceError>;
    /// Gives orders.
    async fn order(&self, address: &Address, orders: &Orders) -> Result<Standing, InstanceError>;
    /// Tells it the newest decision.
    async fn notify(&self, address: &Address, notice: &Notice) -> Result<Notice, InstanceError>;
}
