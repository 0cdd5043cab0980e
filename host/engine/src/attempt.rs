//! One attempt at a backup: what it has written so far, and how that is taken back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use redkeep_core::storage::{StorageError, WriteStorage};

use crate::pipeline::CaptureStore;

/// How long taking back may last: after that what is left is garbage, which `prune` removes.
const CLEANING_TIME: Duration = Duration::from_secs(30);

/// Everything that an attempt writes lies under one prefix that nobody else writes in.
struct Written {
    storage: Arc<dyn WriteStorage>,
    prefix: String,
    stores: Mutex<Vec<Arc<CaptureStore>>>,
}

impl Written {
    /// Aborts uploads and deletes objects. What fails is returned, to be shown as warnings.
    async fn take_back(&self) -> Vec<String> {
        let stores = std::mem::take(&mut *self.stores.lock().unwrap_or_else(PoisonError::into_inner));
        for store in stores {
            store.abort().await;
        }
        let mut failures = Vec::new();
        let mut note = |what: &str, result: Result<(), StorageError>| {
            if let Err(error) = result {
                failures.push(format!("unable to {what} of the failed attempt, `redkeep prune` will: {error}"));
            }
        };
        match self.storage.unfinished_uploads(&self.prefix).await {
            Ok(uploads) => {
                for upload in uploads.iter().filter(|upload| upload.key.starts_with(&self.prefix)) {
                    note("abort an upload", self.storage.abort_unfinished(upload).await);
                }
            }
            Err(error) => note("find the uploads", Err(error)),
        }
        let objects: Result<Vec<String>, StorageError> =
            self.storage.list(&self.prefix).map_ok(|object| object.key).try_collect().await;
        match objects {
            Ok(keys) if keys.is_empty() => {}
            Ok(keys) => note("delete the objects", self.storage.delete(&keys).await),
            Err(error) => note("find the objects", Err(error)),
        }
        failures
    }
}

/// Takes back what an attempt wrote: at once by [`Attempt::take_back`], or when it is dropped before [`Attempt::keep`].
///
/// A dropped attempt is taken back by a task of the runtime, as far as the runtime still lives; who wants to wait for that
/// cancels the task's token instead of dropping its future.
pub(crate) struct Attempt {
    written: Arc<Written>,
    armed: AtomicBool,
}

impl Attempt {
    /// `prefix`: the attempt's folder, ending in `/`.
    pub(crate) fn new(storage: Arc<dyn WriteStorage>, prefix: String) -> Self {
        let written = Written { storage, prefix, stores: Mutex::default() };
        Self { written: Arc::new(written), armed: AtomicBool::new(true) }
    }

    /// A store whose artifacts belong to the attempt.
    pub(crate) fn add(&self, store: &Arc<CaptureStore>) {
        self.written.stores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(store));
    }

    /// It stays: it is committed, or may be.
    pub(crate) fn keep(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Nothing of it stays. Returns what could not be taken back.
    pub(crate) async fn take_back(&self) -> Vec<String> {
        self.keep();
        match tokio::time::timeout(CLEANING_TIME, self.written.take_back()).await {
            Ok(failures) => failures,
            Err(_) => vec!["unable to clean up in time after the failed attempt, `redkeep prune` will".to_owned()],
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.armed.load(Ordering::SeqCst)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let written = Arc::clone(&self.written);
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CLEANING_TIME, written.take_back()).await;
            });
        }
    }
}
