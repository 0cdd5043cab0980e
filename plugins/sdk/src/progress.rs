//! Progress that is told often enough for a person and seldom enough to cost nothing.

use crate::error::Error;
use crate::host::Host;

/// Counts bytes and keys of one phase; tells the host each time 8 MiB have passed (some hundred times a minute at the
/// most).
pub struct Progress<'host> {
    host: &'host dyn Host,
    phase: &'static str,
    total_bytes: Option<u64>,
    bytes: u64,
    told: u64,
}

/// Bytes between two reports.
const STEP: u64 = 8 << 20;

impl<'host> Progress<'host> {
    /// A phase such as `capture`; `total_bytes` where it is known.
    pub fn new(host: &'host dyn Host, phase: &'static str, total_bytes: Option<u64>) -> Self {
        Self { host, phase, total_bytes, bytes: 0, told: 0 }
    }

    /// Counts bytes; `keys` is the count of keys so far.
    ///
    /// # Errors
    /// "cancelled" when the run is to stop.
    pub fn advance(&mut self, bytes: usize, keys: u64) -> Result<(), Error> {
        self.bytes += bytes as u64;
        if self.bytes - self.told < STEP {
            return Ok(());
        }
        self.tell(keys)
    }

    /// Tells the host where the phase stands, and at its end where it ended.
    pub fn tell(&mut self, keys: u64) -> Result<(), Error> {
        self.told = self.bytes;
        self.host.progress(self.phase, "bytes", self.bytes, self.total_bytes)?;
        self.host.progress(self.phase, "keys", keys, None)
    }
}
