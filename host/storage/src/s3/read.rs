//! Looking up, listing and reading objects.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::Object;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt as _};
use jiff::Timestamp;
use redkeep_core::storage::{Listing, ObjectMeta, ObjectStream, ReadStorage, StorageError, StorageErrorKind};

use super::{Inner, S3Storage};
use crate::key::{check_folder, check_key, check_prefix};
use crate::range::{check_order, exactly, too_short};

/// How long a body may stand still while somebody waits for it.
const STALL_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn timestamp(time: Option<&DateTime>) -> Timestamp {
    time.and_then(|time| Timestamp::from_nanosecond(time.as_nanos()).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

impl Inner {
    fn object(&self, object: &Object) -> Option<ObjectMeta> {
        // Consoles write empty objects that end in `/` to show folders.
        let key = self.relative(object.key()?).filter(|key| !key.ends_with('/'))?;
        Some(ObjectMeta {
            key: key.to_owned(),
            size: size(object.size()),
            modified: timestamp(object.last_modified()),
            etag: object.e_tag().map(str::to_owned),
        })
    }

    pub(super) async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        check_key(key)?;
        let answer = self.client.head_object().bucket(&self.bucket).key(self.key(key)).send().await;
        let answer =
            answer.map_err(|error| self.context.map(format!("failed to look up {}", self.address_of(key)), error))?;
        Ok(ObjectMeta {
            key: key.to_owned(),
            size: size(answer.content_length()),
            modified: timestamp(answer.last_modified()),
            etag: answer.e_tag().map(str::to_owned),
        })
    }

    async fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        position: &Position,
    ) -> Result<(Vec<ObjectMeta>, Vec<String>, Position), StorageError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(prefix));
        let request = request.set_delimiter(delimiter.map(str::to_owned));
        let (request, token) = match position {
            Position::After(key) if key.is_empty() => (request, None),
            Position::After(key) => (request.start_after(self.key(key)), None),
            Position::Token(token) => (request.continuation_token(token), Some(token)),
            Position::End => return Ok((Vec::new(), Vec::new(), Position::End)),
        };
        let act = || format!("failed to list {}", self.address_of(prefix));
        let answer = request.send().await.map_err(|error| self.context.map(act(), error))?;
        let objects = answer.contents().iter().filter_map(|object| self.object(object)).collect();
        let folders = answer.common_prefixes().iter();
        let folders = folders.filter_map(|folder| self.relative(folder.prefix()?).map(str::to_owned)).collect();
        let next = match (answer.is_truncated().unwrap_or(false), answer.next_continuation_token) {
            (false, _) => Position::End,
            (true, Some(next)) if Some(&next) != token => Position::Token(next),
            // Ending here would hide objects.
            (true, _) => {
                let act = format!("{}: the endpoint says there is more and not where", act());
                return Err(StorageError::new(StorageErrorKind::Damaged, act));
            }
        };
        Ok((objects, folders, next))
    }
}

/// Where a listing stands.
enum Position {
    /// Behind this key; empty: at the first.
    After(String),
    /// Where the endpoint's token says.
    Token(String),
    End,
}

#[async_trait]
impl ReadStorage for S3Storage {
    fn address(&self) -> String {
        self.inner.context.address.clone()
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let after = after.to_owned();
        let state = (self.inner.clone(), prefix.to_owned(), Position::After(after.clone()));
        stream::unfold(state, |(inner, prefix, position)| async move {
            if matches!(position, Position::End) {
                return None;
            }
            // A page that broke is asked for again: starting over would show objects twice.
            let page = inner.retry.run(|| inner.page(&prefix, None, &position)).await;
            let (items, position) = match page {
                Ok((objects, _, next)) => (objects.into_iter().map(Ok).collect(), next),
                Err(error) => (vec![Err(error)], Position::End),
            };
            Some((stream::iter(items), (inner, prefix, position)))
        })
        .flatten()
        // Not every endpoint knows `start-after`.
        .try_filter(move |object| std::future::ready(object.key.as_str() > after.as_str()))
        .boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        check_folder(prefix)?;
        let mut listing = Listing::default();
        let mut position = Position::After(String::new());
        loop {
            let (objects, folders, next) = self.inner.page(prefix, Some("/"), &position).await?;
            listing.objects.extend(objects);
            listing.folders.extend(folders);
            position = next;
            if matches!(position, Position::End) {
                listing.objects.sort_by(|one, other| one.key.cmp(&other.key));
                listing.folders.sort();
                return Ok(listing);
            }
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        check_key(key)?;
        let inner = &self.inner;
        let address = inner.address_of(key);
        if let Some(range) = &range {
            check_order(&address, range)?;
            if range.is_empty() {
                let meta = inner.head(key).await?;
                return if range.end > meta.size {
                    Err(too_short(&address, range, meta.size))
                } else {
                    Ok(stream::empty().boxed())
                };
            }
        }
        let request = inner.client.get_object().bucket(&inner.bucket).key(inner.key(key));
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let answer = request.set_range(header).send().await;
        let answer = answer.map_err(|error| inner.context.map(format!("failed to read {address}"), error))?;
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok()).ok_or_else(|| {
            StorageError::new(
                StorageErrorKind::Other,
                format!("failed to read {address}: the endpoint did not say its length"),
            )
        })?;
        if let Some(range) = &range {
            let wanted = range.end - range.start;
            if answer.content_range().is_none() {
                // The whole object came: an endpoint or proxy that ignores ranges.
                let act = format!("failed to read a range of {address}: the endpoint ignores ranges");
                return Err(StorageError::new(StorageErrorKind::Unsupported, act));
            }
            if length < wanted {
                return Err(too_short(&address, range, range.start + length));
            }
        }
        Ok(exactly(body(answer.body, address.clone()), address, length))
    }
}

fn body(body: ByteStream, address: String) -> BoxStream<'static, Result<Bytes, StorageError>> {
    stream::unfold(Some((body, address)), |state| async move {
        let (mut body, address) = state?;
        let failed = |kind| StorageError::new(kind, format!("failed to read {address}: the connection broke"));
        match tokio::time::timeout(STALL_LIMIT, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(data))) => Some((Ok(data), Some((body, address)))),
            Ok(Some(Err(error))) => Some((Err(failed(StorageErrorKind::Unreachable).caused_by(error)), None)),
            Err(elapsed) => Some((Err(failed(StorageErrorKind::TimedOut).caused_by(elapsed)), None)),
        }
    })
    .boxed()
}
