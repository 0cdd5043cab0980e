//! What a plugin may use, and the accounting of it: memory, CPU, wall clock, bytes, log lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redkeep_core::task::MethodLimits;
use wasmtime::ResourceLimiter;

use crate::failure::Stop;

/// Between two ticks of the epoch: the resolution of [`Limits::cpu_slice`].
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Core instances, tables and memories of one component: a Python guest needs more than 20 instances (WASM.md 4.2).
const INSTANCES: usize = 200;
const TABLES: usize = 200;
const MEMORIES: usize = 10;
/// Elements of all tables together; each takes a pointer in the host.
const TABLE_ELEMENTS: usize = 1 << 20;

/// What one call of a plugin may use. A call that goes beyond is stopped with an error that says which limit it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for compiling, which happens once for each plugin and cache. 5 min: `CPython` takes 5 s on two cores.
    pub compile: Duration,
    /// Linear memory, all memories of the component together, in bytes. 64 MiB.
    pub memory: usize,
    /// The same for `describe` and `validate`, in bytes. 32 MiB (`CPython` begins with 12), or what is given as [`Self::memory`].
    pub describe_memory: usize,
    /// CPU time without a call of the host in between, in steps of 10 ms. 5 s: a chunk of 1 MiB takes a slow guest 10 ms.
    pub cpu_slice: Duration,
    /// The same for `describe` and `validate`. 1 s, or what is given as [`Self::cpu_slice`].
    pub describe_cpu_slice: Duration,
    /// Wall clock of one `plan`, `capture`, `restore`, `verify` or `inspect`. 24 h: every run ends.
    pub wall_clock: Duration,
    /// Wall clock of `describe` and `validate`. 10 s, so that a loaded machine does not refuse a good plugin.
    pub describe_wall_clock: Duration,
    /// Bytes written to all sinks of one call together. 16 TiB.
    pub output: u64,
    /// Artifacts that one call may create. 1000.
    pub artifacts: usize,
    /// Artifacts that are written or read at once: each holds up to three threads of the host's, which has 512. 16.
    pub artifacts_at_once: usize,
    /// Attributes of one artifact. 64.
    pub attributes: usize,
    /// Bytes of one attribute, its key among them. 4 KiB.
    pub attribute: usize,
    /// Bytes of the attributes of all artifacts of one call: the manifest holds them. 8 MiB.
    pub all_attributes: usize,
    /// Bytes that one call of an import may copy out of the guest, and one export may return. 2 MiB.
    pub hostcall_bytes: usize,
    /// Sources, sinks and links open at once. 1024.
    pub handles: usize,
    /// Log lines of one call; one more stops it. 1,000,000.
    pub log_lines: u64,
    /// Log lines in one second that are shown; further ones are counted and dropped. 1000.
    pub log_lines_per_second: u32,
    /// Bytes of one log line, fields included; the rest is cut off. 16 KiB.
    pub log_line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compile: Duration::from_mins(5),
            memory: 64 << 20,
            describe_memory: 32 << 20,
            cpu_slice: Duration::from_secs(5),
            describe_cpu_slice: Duration::from_secs(1),
            wall_clock: Duration::from_hours(24),
            describe_wall_clock: Duration::from_secs(10),
            output: 16 << 40,
            artifacts: 1000,
            artifacts_at_once: 16,
            attributes: 64,
            attribute: 4 << 10,
            all_attributes: 8 << 20,
            hostcall_bytes: 2 << 20,
            handles: 1024,
            log_lines: 1_000_000,
            log_lines_per_second: 1000,
            log_line: 16 << 10,
        }
    }
}

impl Limits {
    /// The defaults, but for what is given.
    pub fn of(given: &MethodLimits) -> Self {
        let default = Self::default();
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = given.memory_bytes.map_or(default.memory, size);
        let cpu_slice = given.cpu_slice_milliseconds.map_or(default.cpu_slice, Duration::from_millis);
        let wall_clock = given.wall_clock_milliseconds.map_or(default.wall_clock, Duration::from_millis);
        Self {
            // Who gives less gives less everywhere, and an interpreter that needs more needs it to describe itself too.
            describe_memory: given.memory_bytes.map_or(default.describe_memory, size),
            describe_cpu_slice: given.cpu_slice_milliseconds.map_or(default.describe_cpu_slice, Duration::from_millis),
            // Whoever looks at a plugin waits for it.
            describe_wall_clock: default.describe_wall_clock.min(wall_clock),
            memory,
            cpu_slice,
            wall_clock,
            output: given.output_bytes.unwrap_or(default.output),
            log_lines: given.log_lines.unwrap_or(default.log_lines),
            ..default
        }
    }

    /// These limits for `describe` and `validate`.
    pub(crate) fn sandbox(&self) -> Self {
        Self {
            memory: self.describe_memory,
            cpu_slice: self.describe_cpu_slice,
            wall_clock: self.describe_wall_clock,
            ..self.clone()
        }
    }
}

/// Ticks that the guest has run since the host last returned to it.
///
/// An epoch deadline alone would also count the time inside host calls and kill a guest whose `splice` took long
/// (WASM.md 4.3). Ticks of running are counted instead of time, so that neither a host call nor a busy machine counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuClock(Arc<AtomicU64>);

impl CpuClock {
    /// Held by every host function; when it is dropped, the guest's slice begins anew.
    pub(crate) fn enter(&self) -> HostCall {
        HostCall(Arc::clone(&self.0))
    }

    /// The guest was still running when a tick came: how often, since the host last returned.
    pub(crate) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// See [`CpuClock::enter`].
pub(crate) struct HostCall(Arc<AtomicU64>);

impl Drop for HostCall {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Counts memory over all memories of a store (wasmtime's own `StoreLimits` counts each alone) and fails with a typed
/// error, where `StoreLimits` would have the guest abort without a word.
#[derive(Debug)]
pub(crate) struct MemoryMeter {
    limit: usize,
    used: usize,
    elements: usize,
}

impl MemoryMeter {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0, elements: 0 }
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        let wanted = self.used.saturating_add(desired.saturating_sub(current));
        if wanted > self.limit {
            return Err(Stop::Memory { wanted, limit: self.limit }.into());
        }
        self.used = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        let wanted = self.elements.saturating_add(desired.saturating_sub(current));
        if wanted > TABLE_ELEMENTS {
            return Err(Stop::Tables { limit: TABLE_ELEMENTS }.into());
        }
        self.elements = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut meter = MemoryMeter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(meter.memory_growing(60, 70, None).unwrap());
        let error = meter.memory_growing(0, 31, None).unwrap_err();
        assert!(matches!(error.downcast_ref::<Stop>(), Some(Stop::Memory { wanted: 101, limit: 100 })));
    }

    #[test]
    fn what_is_given_counts_and_the_rest_is_the_default() {
        let given = MethodLimits { memory_bytes: Some(8 << 20), log_lines: Some(0), ..MethodLimits::default() };
        let limits = Limits::of(&given);
        assert_eq!((limits.memory, limits.describe_memory, limits.log_lines), (8 << 20, 8 << 20, 0));
        let default = Limits::default();
        assert_eq!((limits.cpu_slice, limits.output), (default.cpu_slice, default.output));
        assert_eq!(Limits::of(&MethodLimits::default()), default);
        let large = MethodLimits { memory_bytes: Some(1 << 30), cpu_slice_milliseconds: Some(10), ..given };
        let limits = Limits::of(&large);
        assert_eq!((limits.describe_memory, limits.describe_cpu_slice), (1 << 30, Duration::from_millis(10)));
        let patient = MethodLimits { wall_clock_milliseconds: Some(3_600_000), ..MethodLimits::default() };
        let limits = Limits::of(&patient);
        assert_eq!((limits.wall_clock, limits.describe_wall_clock), (Duration::from_hours(1), Duration::from_secs(10)));
        let hurried = MethodLimits { wall_clock_milliseconds: Some(1_000), ..patient };
        assert_eq!(Limits::of(&hurried).describe_wall_clock, Duration::from_secs(1));
    }

    #[test]
    fn a_host_call_starts_the_slice_anew() {
        let clock = CpuClock::default();
        assert_eq!((clock.tick(), clock.tick()), (1, 2));
        drop(clock.enter());
        assert_eq!(clock.tick(), 1);
    }
}
