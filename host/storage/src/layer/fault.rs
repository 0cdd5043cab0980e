//! Faults on demand: a storage that fails, lies, cuts short or hangs exactly where a test says.
//!
//! ```
//! use redkeep_storage::layer::fault::{Fault, FaultPlan};
//! use redkeep_storage::layer::Operation;
//! use redkeep_core::storage::StorageErrorKind;
//!
//! let plan = FaultPlan::new()
//!     .with(Fault::fail(StorageErrorKind::Full).on(Operation::Upload).key("dump.rdb").at_byte(1 << 20))
//!     .with(Fault::fail(StorageErrorKind::Unreachable).on(Operation::PutIfAbsent).nth(1).after_the_act());
//! # let _ = plan;
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::storage::{StorageError, StorageErrorKind, WriteStorage};

use super::intercept::{Intercept, Intercepted, Operation, Span};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Fail(StorageErrorKind),
    Truncate,
    Corrupt,
    Hang,
    Pause(Duration),
}

/// One thing that goes wrong, and where. Without further words: every call, at its beginning.
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    operation: Option<Operation>,
    key: Option<String>,
    at_byte: Option<u64>,
    after: bool,
    first: u64,
    times: u64,
    seen: u64,
}

impl Fault {
    fn new(effect: Effect, at_byte: Option<u64>) -> Self {
        Self { effect, operation: None, key: None, at_byte, after: false, first: 1, times: u64::MAX, seen: 0 }
    }

    /// The call fails.
    pub fn fail(kind: StorageErrorKind) -> Self {
        Self::new(Effect::Fail(kind), None)
    }

    /// A body ends after this many bytes as if it were whole; an upload or a put loses what comes after.
    pub fn truncate(at_byte: u64) -> Self {
        Self::new(Effect::Truncate, Some(at_byte))
    }

    /// One bit of this byte (counted from the beginning of the body or upload) is flipped.
    pub fn corrupt(at_byte: u64) -> Self {
        Self::new(Effect::Corrupt, Some(at_byte))
    }

    /// The call never ends.
    pub fn hang() -> Self {
        Self::new(Effect::Hang, None)
    }

    /// The call takes longer.
    pub fn pause(duration: Duration) -> Self {
        Self::new(Effect::Pause(duration), None)
    }

    /// Only at calls of this kind.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only at keys that hold this text.
    #[must_use]
    pub fn key(mut self, part: impl Into<String>) -> Self {
        self.key = Some(part.into());
        self
    }

    /// Not at the call's beginning but when this many bytes of its body or upload went through.
    #[must_use]
    pub fn at_byte(mut self, at_byte: u64) -> Self {
        self.at_byte = Some(at_byte);
        self
    }

    /// The act is done and reported as failed: the answer that is lost on its way.
    #[must_use]
    pub fn after_the_act(mut self) -> Self {
        self.after = true;
        self
    }

    /// Only at the n-th matching call, from 1.
    #[must_use]
    pub fn nth(mut self, number: u64) -> Self {
        self.first = number;
        self.times = 1;
        self
    }

    /// Only at the first so many matching calls (from the one that [`Self::nth`] names, if it was said before).
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Counts a matching call and says whether this one is hit.
    fn hits(&mut self, operation: Operation, key: &str) -> bool {
        let matches = self.operation.is_none_or(|wanted| wanted == operation)
            && self.key.as_deref().is_none_or(|part| key.contains(part));
        if !matches {
            return false;
        }
        self.seen += 1;
        self.seen >= self.first && self.seen - self.first < self.times
    }
}

/// Every fault that a storage has. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    struck: u64,
    calls: Vec<(Operation, String)>,
}

impl FaultPlan {
    /// Nothing goes wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With another fault; it may also be added while the storage is in use.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        self.add(fault);
        self
    }

    /// Adds a fault now.
    pub fn add(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Takes all faults away; the storage is sound again.
    pub fn clear(&self) {
        self.state().faults.clear();
    }

    /// How often a fault struck: a test whose fault never did has shown nothing.
    pub fn struck(&self) -> u64 {
        self.state().struck
    }

    /// Every call so far, in order, with its key.
    pub fn calls(&self) -> Vec<(Operation, String)> {
        self.state().calls.clone()
    }

    /// How many calls of this kind there were.
    pub fn count(&self, operation: Operation) -> usize {
        self.state().calls.iter().filter(|(kind, _)| *kind == operation).count()
    }

    /// Puts the plan over a storage.
    pub fn over(&self, inner: Arc<dyn WriteStorage>) -> Arc<dyn WriteStorage> {
        Arc::new(Intercepted::new(inner, Arc::new(self.clone())))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strike(&self) {
        self.state().struck += 1;
    }
}

fn injected(kind: StorageErrorKind, operation: Operation, key: &str) -> StorageError {
    StorageError::new(kind, format!("failed to {} {key}: injected fault", operation.name()))
}

#[async_trait]
impl Intercept for FaultPlan {
    async fn begin(&self, operation: Operation, key: &str) -> Result<Box<dyn Span>, StorageError> {
        let hits: Vec<Fault> = {
            let mut state = self.state();
            state.calls.push((operation, key.to_owned()));
            state.faults.iter_mut().filter_map(|fault| fault.hits(operation, key).then(|| fault.clone())).collect()
        };
        let mut later = Vec::new();
        for fault in hits {
            if fault.after || fault.at_byte.is_some() {
                later.push(fault);
                continue;
            }
            self.strike();
            match fault.effect {
                Effect::Fail(kind) => return Err(injected(kind, operation, key)),
                Effect::Hang => std::future::pending::<()>().await,
                Effect::Pause(duration) => tokio::time::sleep(duration).await,
                // These always say at which byte.
                Effect::Truncate | Effect::Corrupt => {}
            }
        }
        Ok(Box::new(FaultSpan { plan: self.clone(), operation, key: key.to_owned(), at: 0, later }))
    }
}

struct FaultSpan {
    plan: FaultPlan,
    operation: Operation,
    key: String,
    /// Bytes that went through.
    at: u64,
    later: Vec<Fault>,
}

#[async_trait]
impl Span for FaultSpan {
    async fn data(&mut self, mut data: Bytes) -> Result<Option<Bytes>, StorageError> {
        let (start, end) = (self.at, self.at + data.len() as u64);
        self.at = end;
        for index in (0..self.later.len()).rev() {
            let Some(fault) = self.later.get(index) else { continue };
            let Some(at_byte) = fault.at_byte.filter(|at_byte| *at_byte < end || fault.effect == Effect::Truncate)
            else {
                continue;
            };
            let effect = fault.effect;
            match effect {
                Effect::Truncate if at_byte >= end => continue,
                Effect::Truncate => {
                    if start <= at_byte {
                        self.plan.strike();
                    }
                    let keep = usize::try_from(at_byte.saturating_sub(start)).unwrap_or_default();
                    data.truncate(keep);
                    // It stays in force: all that follows is lost too.
                    if data.is_empty() {
                        return Ok(None);
                    }
                    continue;
                }
                Effect::Corrupt => {
                    let mut changed = BytesMut::from(data.as_ref());
                    if let Some(byte) = usize::try_from(at_byte - start).ok().and_then(|index| changed.get_mut(index)) {
                        *byte ^= 1;
                    }
                    data = changed.freeze();
                }
                Effect::Pause(duration) => tokio::time::sleep(duration).await,
                Effect::Hang => std::future::pending::<()>().await,
                Effect::Fail(_) => {}
            }
            self.plan.strike();
            self.later.remove(index);
            if let Effect::Fail(kind) = effect {
                return Err(injected(kind, self.operation, &self.key));
            }
        }
        Ok(Some(data))
    }

    async fn succeeded(&mut self) -> Result<(), StorageError> {
        let Some(index) = self.later.iter().position(|fault| fault.after) else { return Ok(()) };
        let fault = self.later.remove(index);
        self.plan.strike();
        match fault.effect {
            Effect::Fail(kind) => Err(injected(kind, self.operation, &self.key)),
            Effect::Hang => std::future::pending().await,
            Effect::Pause(duration) => {
                tokio::time::sleep(duration).await;
                Ok(())
            }
            Effect::Truncate | Effect::Corrupt => Ok(()),
        }
    }
}
