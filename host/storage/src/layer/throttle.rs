//! At most so many bytes a second, over all bodies and uploads together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::storage::StorageError;
use tokio::time::Instant;

use super::intercept::{Intercept, Operation, Span};

/// Bounds the rate of bytes.
#[derive(Clone, Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When what was let through so far is paid for.
    paid_until: Arc<Mutex<Option<Instant>>>,
}

impl Throttle {
    /// At most `bytes_per_second`; at least one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_until: Arc::default() }
    }

    /// Books `bytes` and says until when to wait before they go. Idle time is not saved up.
    fn book(&self, bytes: usize, now: Instant) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let start = paid_until.map_or(now, |until| until.max(now));
        *paid_until = Some(start + cost);
        start
    }
}

#[async_trait]
impl Intercept for Throttle {
    async fn begin(&self, _operation: Operation, _key: &str) -> Result<Box<dyn Span>, StorageError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Span for Throttle {
    async fn data(&mut self, data: Bytes) -> Result<Option<Bytes>, StorageError> {
        let until = self.book(data.len(), Instant::now());
        tokio::time::sleep_until(until).await;
        Ok(Some(data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_booked_one_after_the_other_and_idle_time_is_not_saved() {
        let throttle = Throttle::new(1000);
        let start = Instant::now();
        assert_eq!(throttle.book(500, start), start);
        assert_eq!(throttle.book(500, start), start + Duration::from_millis(500));
        let later = start + Duration::from_secs(60);
        assert_eq!(throttle.book(1, later), later);
    }
}
