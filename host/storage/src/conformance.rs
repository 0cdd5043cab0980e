//! What every storage promises, as checks that run against a real one.
//!
//! Each check works in a folder of its own and says what it saw. Providers of other crates can run the same suite.

mod objects;
mod uploads;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use redkeep_core::storage::{ObjectMeta, StorageError, StorageErrorKind, WriteStorage};

/// What an endpoint is known not to do; the checks of the rest still run.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Whether of several writers at once exactly one creates an object.
    pub conditional_put: bool,
    /// Whether unfinished uploads are listed.
    pub unfinished_uploads: bool,
    /// Whether looking up a folder's name as an object says that there is none.
    pub folders_are_not_objects: bool,
}

impl Default for Abilities {
    /// Everything.
    fn default() -> Self {
        Self { conditional_put: true, unfinished_uploads: true, folders_are_not_objects: true }
    }
}

/// A check that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The check.
    pub check: &'static str,
    /// What was seen.
    pub seen: String,
}

/// The storage under test and the folder of one check.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) storage: Arc<dyn WriteStorage>,
    pub(crate) folder: String,
    pub(crate) abilities: Abilities,
}

pub(crate) type Checked = Result<(), String>;
type Check = (&'static str, fn(Bench) -> BoxFuture<'static, Checked>);

/// Ends a check with what was seen.
macro_rules! ensure {
    ($holds:expr, $($seen:tt)+) => {
        if !$holds {
            return Err(format!($($seen)+));
        }
    };
}
pub(crate) use ensure;

/// The name of a check and its function.
macro_rules! checks {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        &[$((stringify!($name), |bench| Box::pin($module::$name(bench)))),+]
    };
}

const CHECKS: &[Check] = checks![
    objects::a_put_is_read_back_and_replaced,
    objects::an_empty_object_is_an_object,
    objects::ranges_are_exact,
    objects::what_is_missing_is_not_found,
    objects::deleting_what_is_gone_is_no_error,
    objects::many_objects_are_deleted_at_once,
    objects::a_listing_is_in_order_and_keeps_to_its_prefix,
    objects::a_listing_begins_behind_a_key,
    objects::a_folder_lists_one_level,
    objects::a_missing_folder_is_empty,
    objects::a_long_listing_is_whole,
    objects::keys_that_lead_elsewhere_are_refused,
    objects::only_the_first_put_if_absent_creates,
    objects::of_many_writers_exactly_one_creates,
    objects::calls_at_once_do_not_disturb_each_other,
    uploads::uploads_of_every_size_come_back,
    uploads::an_upload_in_small_pieces_comes_back,
    uploads::an_upload_replaces_what_was_there_only_when_it_ends,
    uploads::an_aborted_upload_leaves_nothing,
    uploads::a_dropped_upload_leaves_nothing_visible,
    uploads::an_unfinished_upload_is_listed_and_can_be_aborted,
    uploads::uploads_at_once_do_not_disturb_each_other,
];

/// Runs every check and returns those that failed. `progress` hears each check's name before it runs.
pub async fn run(
    storage: Arc<dyn WriteStorage>,
    abilities: Abilities,
    progress: impl Fn(&'static str),
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (check, work) in CHECKS {
        progress(check);
        let bench = Bench { storage: storage.clone(), folder: format!("conformance/{check}/"), abilities };
        let checked = match work(bench.clone()).await {
            Ok(()) => bench.clean_up().await,
            Err(seen) => Err(seen),
        };
        if let Err(seen) = checked {
            failures.push(Failure { check, seen });
        }
    }
    failures
}

/// How many checks there are.
pub fn count() -> usize {
    CHECKS.len()
}

impl Bench {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    pub(crate) async fn put(&self, name: &str, data: impl Into<Bytes>) -> Checked {
        self.storage.put(&self.key(name), data.into()).await.map_err(told)
    }

    pub(crate) async fn read(&self, name: &str, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, StorageError> {
        let parts: Vec<Bytes> = self.storage.get(&self.key(name), range).await?.try_collect().await?;
        Ok(parts.concat())
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, String> {
        self.storage.list(prefix).try_collect().await.map_err(told)
    }

    /// Names under this check's folder.
    pub(crate) async fn names(&self) -> Result<Vec<String>, String> {
        let found = self.list(&self.folder).await?;
        Ok(found.into_iter().map(|meta| meta.key.strip_prefix(&self.folder).unwrap_or(&meta.key).to_owned()).collect())
    }

    async fn clean_up(&self) -> Checked {
        let keys: Vec<String> = self.list(&self.folder).await?.into_iter().map(|meta| meta.key).collect();
        self.storage.delete(&keys).await.map_err(told)?;
        let left = self.names().await?;
        ensure!(left.is_empty(), "still there after all was deleted: {left:?}");
        Ok(())
    }
}

/// An error with its causes.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(crate) fn told(error: StorageError) -> String {
    let mut text = format!("{:?}: {error}", error.kind);
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Expects this kind of error.
pub(crate) fn expect_kind<T>(act: &str, result: Result<T, StorageError>, kind: StorageErrorKind) -> Checked {
    match result {
        Err(error) if error.kind == kind => Ok(()),
        Err(error) => Err(format!("{act}: {kind:?} expected, got {}", told(error))),
        Ok(_) => Err(format!("{act}: {kind:?} expected, it went well")),
    }
}

/// Bytes that differ everywhere, so that parts in the wrong order show.
pub(crate) fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        // xorshift64: fast, and no run of it repeats within a test.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data.into()
}
