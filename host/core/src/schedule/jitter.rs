//! A delay that spreads schedules of the same slot. A hash of the name, so that it is the same after each restart.

use std::time::Duration;

/// The delay of one schedule: whole seconds, from none to `span`, the same for each of its slots.
pub fn jitter(namespace: &str, name: &str, span: Duration) -> Duration {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    // FNV-1a; the slash cannot be part of either name, so that `a/bc` and `ab/c` differ.
    for byte in namespace.bytes().chain([b'/']).chain(name.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV leaves its last bytes in the low bits; the finaliser of splitmix64 spreads them.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let choices = u128::from(span.as_secs()) + 1;
    let chosen = (u128::from(hash) * choices) >> 64;
    Duration::from_secs(u64::try_from(chosen).unwrap_or(0))
}
