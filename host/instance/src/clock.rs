//! The one place that reads the clock.

use std::time::Duration;

/// A point in time: since the machine started.
pub(crate) type Moment = Duration;

/// Now. It never steps, and unlike the usual monotonic clock it counts the time that the machine slept: a primary that
/// slept for an hour has reached nobody for an hour.
pub(crate) fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
