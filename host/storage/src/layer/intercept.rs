//! One place that wraps every call of a storage, so that a layer only says what happens before, during and after one.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, UnfinishedUpload, Upload, WriteStorage,
};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// A listing at any depth; its span lives as long as the stream.
    List,
    /// A listing of one level.
    ListFolder,
    /// A look at one object.
    Head,
    /// A read; its span lives as long as the body and sees its bytes.
    Get,
    /// A small object, bytes seen.
    Put,
    /// The commit, bytes seen.
    PutIfAbsent,
    /// An upload; its span lives from its beginning to its end and sees its bytes.
    Upload,
    /// The end of an upload that makes it an object.
    Finish,
    /// The end of an upload that throws it away.
    Abort,
    /// A delete of any number of keys; the first is named.
    Delete,
    /// A listing of unfinished uploads.
    UnfinishedUploads,
    /// The end of somebody's unfinished upload.
    AbortUnfinished,
}

impl Operation {
    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::ListFolder => "list-folder",
            Self::Head => "head",
            Self::Get => "get",
            Self::Put => "put",
            Self::PutIfAbsent => "put-if-absent",
            Self::Upload => "upload",
            Self::Finish => "finish",
            Self::Abort => "abort",
            Self::Delete => "delete",
            Self::UnfinishedUploads => "unfinished-uploads",
            Self::AbortUnfinished => "abort-unfinished",
        }
    }
}

/// What a layer does at each call.
#[async_trait]
pub trait Intercept: Send + Sync + 'static {
    /// Before the call. An error keeps it from being made.
    async fn begin(&self, operation: Operation, key: &str) -> Result<Box<dyn Span>, StorageError>;
}

/// One call, from its beginning until it is dropped.
#[async_trait]
pub trait Span: Send {
    /// Bytes on their way in either direction; what is returned goes on instead. `None` ends a body here, silently, or
    /// swallows what is written.
    async fn data(&mut self, data: Bytes) -> Result<Option<Bytes>, StorageError> {
        Ok(Some(data))
    }

    /// The bytes handed on last were taken.
    fn taken(&mut self) {}

    /// The call (or body, or upload) ended well. An error here is told to the caller instead.
    async fn succeeded(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// It ended in this error.
    fn failed(&mut self, _error: &StorageError) {}
}

/// A storage with a layer on it.
pub struct Intercepted<I> {
    inner: Arc<dyn WriteStorage>,
    layer: Arc<I>,
}

impl<I> Clone for Intercepted<I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<I: Intercept> Intercepted<I> {
    /// Puts `layer` over `inner`.
    pub fn new(inner: Arc<dyn WriteStorage>, layer: Arc<I>) -> Self {
        Self { inner, layer }
    }

    /// One plain call.
    async fn call<T, Work>(&self, operation: Operation, key: &str, work: Work) -> Result<T, StorageError>
    where
        T: Send,
        Work: Future<Output = Result<T, StorageError>> + Send,
    {
        let mut span = self.layer.begin(operation, key).await?;
        conclude(span.as_mut(), work.await).await
    }
}

async fn conclude<T>(span: &mut dyn Span, result: Result<T, StorageError>) -> Result<T, StorageError> {
    match result {
        Ok(value) => span.succeeded().await.map(|()| value),
        Err(error) => {
            span.failed(&error);
            Err(error)
        }
    }
}

#[async_trait]
impl<I: Intercept> ReadStorage for Intercepted<I> {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn address_of(&self, key: &str) -> String {
        self.inner.address_of(key)
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let (storage, prefix, after) = (self.clone(), prefix.to_owned(), after.to_owned());
        let begin = async move {
            match storage.layer.begin(Operation::List, &prefix).await {
                Err(error) => stream::iter([Err(error)]).boxed(),
                Ok(span) => watch(span, storage.inner.list_after(&prefix, &after)),
            }
        };
        stream::once(begin).flatten().boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.call(Operation::ListFolder, prefix, self.inner.list_folder(prefix)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.call(Operation::Head, key, self.inner.head(key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        let mut span = self.layer.begin(Operation::Get, key).await?;
        let body = match self.inner.get(key, range).await {
            Ok(body) => body,
            Err(error) => {
                span.failed(&error);
                return Err(error);
            }
        };
        Ok(stream::unfold(Some((span, body)), |state| async move {
            let (mut span, mut body) = state?;
            let error = match body.next().await {
                None => return span.succeeded().await.err().map(|error| (Err(error), None)),
                Some(Ok(data)) => match span.data(data).await {
                    Ok(Some(data)) => {
                        span.taken();
                        return Some((Ok(data), Some((span, body))));
                    }
                    Ok(None) => return None,
                    Err(error) => error,
                },
                Some(Err(error)) => error,
            };
            span.failed(&error);
            Some((Err(error), None))
        })
        .boxed())
    }
}

/// A listing whose span ends with it.
fn watch(
    span: Box<dyn Span>,
    listing: BoxStream<'static, Result<ObjectMeta, StorageError>>,
) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
    stream::unfold(Some((span, listing)), |state| async move {
        let (mut span, mut listing) = state?;
        match listing.next().await {
            Some(Err(error)) => {
                span.failed(&error);
                Some((Err(error), None))
            }
            Some(item) => Some((item, Some((span, listing)))),
            None => span.succeeded().await.err().map(|error| (Err(error), None)),
        }
    })
    .boxed()
}

#[async_trait]
impl<I: Intercept> WriteStorage for Intercepted<I> {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        let mut span = self.layer.begin(Operation::Put, key).await?;
        let data = span.data(data).await?.unwrap_or_default();
        let result = self.inner.put(key, data).await;
        conclude(span.as_mut(), result).await
    }

    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        let mut span = self.layer.begin(Operation::PutIfAbsent, key).await?;
        let data = span.data(data).await?.unwrap_or_default();
        let result = self.inner.put_if_absent(key, data).await;
        conclude(span.as_mut(), result).await
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        let mut span = self.layer.begin(Operation::Upload, key).await?;
        match self.inner.create(key).await {
            Ok(inner) => Ok(Box::new(InterceptedUpload { storage: self.clone(), key: key.to_owned(), span, inner })),
            Err(error) => {
                span.failed(&error);
                Err(error)
            }
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        let first = keys.first().map(String::as_str).unwrap_or_default();
        self.call(Operation::Delete, first, self.inner.delete(keys)).await
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        self.call(Operation::UnfinishedUploads, prefix, self.inner.unfinished_uploads(prefix)).await
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        self.call(Operation::UnfinishedUploads, &upload.key, self.inner.last_written(upload)).await
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        self.call(Operation::AbortUnfinished, &upload.key, self.inner.abort_unfinished(upload)).await
    }
}

struct InterceptedUpload<I> {
    storage: Intercepted<I>,
    key: String,
    span: Box<dyn Span>,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl<I: Intercept> Upload for InterceptedUpload<I> {
    async fn write(&mut self, data: Bytes) -> Result<(), StorageError> {
        let written = match self.span.data(data).await {
            Ok(Some(data)) => self.inner.write(data).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match &written {
            Ok(()) => self.span.taken(),
            Err(error) => self.span.failed(error),
        }
        written
    }

    fn remaining(&self) -> u64 {
        self.inner.remaining()
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectMeta, StorageError> {
        let Self { storage, key, mut span, inner } = *self;
        let finished = storage.call(Operation::Finish, &key, inner.finish()).await;
        conclude(span.as_mut(), finished).await
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        let Self { storage, key, inner, .. } = *self;
        storage.call(Operation::Abort, &key, inner.abort()).await
    }
}
