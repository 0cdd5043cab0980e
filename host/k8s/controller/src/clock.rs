//! Time is an argument: controllers ask this, and only the composition root reads the machine's clock.

use std::time::Duration;

use jiff::Timestamp;

/// The time now.
pub trait Clock: Send + Sync {
    /// Wall-clock time; it may step in either direction.
    fn now(&self) -> Timestamp;

    /// How long to sleep for this span of the clock. Another answer than the span itself is a clock that runs faster, as in
    /// tests of scale.
    fn real(&self, span: Duration) -> Duration {
        span
    }
}
