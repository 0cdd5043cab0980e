//! What failed on a stored backup is left alone for a while. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long.
pub(super) const PAUSE: Duration = Duration::from_secs(120);

/// What is left of it after a failure.
pub(super) fn left_of_pause(failed: Timestamp, now: Timestamp) -> Option<Duration> {
    let pause = SignedDuration::try_from(PAUSE).unwrap_or(SignedDuration::ZERO);
    let left = pause.saturating_sub(now.duration_since(failed));
    // A clock that went back must not hold the object for longer than one pause.
    Duration::try_from(left.min(pause)).ok().filter(|left| !left.is_zero())
}
