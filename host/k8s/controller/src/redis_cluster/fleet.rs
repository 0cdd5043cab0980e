//! What this operator process remembers of every cluster, and the clock by which it waits: one that never goes back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::memory::Memory;

/// Of all clusters.
pub struct Fleet {
    began: Instant,
    memories: Mutex<HashMap<String, Memory>>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { began: Instant::now(), memories: Mutex::default() }
    }
}

impl Fleet {
    /// Since this process began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Works on the memory of a cluster.
    pub(super) fn with<T>(&self, uid: &str, work: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        work(memories.entry(uid.to_owned()).or_default())
    }

    /// The cluster is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
