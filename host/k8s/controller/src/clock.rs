//! Time is an argument: controllers ask this, and only the composition root reads the machine's clock.

use jiff::Timestamp;

/// The time now.
pub trait Clock: Send + Sync {
    /// Wall-clock time; it may step in either direction.
    fn now(&self) -> Timestamp;
}
