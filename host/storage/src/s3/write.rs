//! Small objects, the conditional put, and the listing of unfinished uploads.

use async_trait::async_trait;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use redkeep_core::storage::{
    PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload, Upload, WriteStorage,
};

use super::read::timestamp;
use super::{Inner, S3Storage};
use crate::key::{check_key, check_prefix};
use crate::multipart::MultipartUpload;

impl Inner {
    /// One PUT. `if_absent` sends `If-None-Match: *`.
    pub(super) async fn put(
        &self,
        key: &str,
        data: Bytes,
        if_absent: bool,
    ) -> Result<(), SdkError<PutObjectError, HttpResponse>> {
        let request = self.client.put_object().bucket(&self.bucket).key(self.key(key)).body(ByteStream::from(data));
        let request = if if_absent { request.if_none_match("*") } else { request };
        if self.unsigned_payload {
            request.customize().disable_payload_signing().send().await.map(drop)
        } else {
            request.send().await.map(drop)
        }
    }

    fn put_error(&self, key: &str, error: SdkError<PutObjectError, HttpResponse>) -> StorageError {
        self.context.map(format!("failed to write {}", self.address_of(key)), error)
    }

    pub(super) async fn put_object(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.put(key, data, false).await.map_err(|error| self.put_error(key, error))
    }
}

/// Whether the endpoint refuses the condition itself rather than the object.
fn refuses_conditions(error: &StorageError, status: Option<u16>) -> bool {
    error.kind == StorageErrorKind::Unsupported || (error.kind == StorageErrorKind::Other && status == Some(400))
}

#[async_trait]
impl WriteStorage for S3Storage {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        check_key(key)?;
        self.inner.put_object(key, data).await
    }

    /// Looks first, then puts with `If-None-Match: *`. An endpoint that ignores the condition is thereby no worse than
    /// look-then-put; one that refuses it gets look-then-put and a read-back, so that the later of two writers learns of
    /// the other. `storage probe` says which of these an endpoint is.
    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        check_key(key)?;
        match self.inner.head(key).await {
            Ok(_) => return Ok(PutOutcome::Exists),
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            // Without s3:ListBucket a missing object is "denied"; the put itself decides then.
            Err(error) if error.kind == StorageErrorKind::Denied => {}
            Err(error) => return Err(error),
        }
        let Err(error) = self.inner.put(key, data.clone(), true).await else { return Ok(PutOutcome::Created) };
        let status = error.raw_response().map(|response| response.status().as_u16());
        let error = self.inner.put_error(key, error);
        if error.kind == StorageErrorKind::AlreadyExists {
            return Ok(PutOutcome::Exists);
        }
        if !refuses_conditions(&error, status) {
            return Err(error);
        }
        tracing::warn!(storage = %self.inner.context.address, "the endpoint has no conditional put: looking before writing instead");
        // Only one that is seen to be missing may be written without the condition.
        match self.inner.head(key).await {
            Ok(_) => return Ok(PutOutcome::Exists),
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.inner.put_object(key, data.clone()).await?;
        let stored: Vec<Bytes> = self.get(key, None).await?.try_collect().await?;
        Ok(if stored.concat() == data { PutOutcome::Created } else { PutOutcome::Exists })
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        check_key(key)?;
        Ok(Box::new(MultipartUpload::new(self.inner.clone(), key.to_owned())))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        self.inner.delete(keys).await
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        check_prefix(prefix)?;
        let inner = &self.inner;
        let mut found = Vec::new();
        let mut markers = (None, None);
        loop {
            let request = inner.client.list_multipart_uploads().bucket(&inner.bucket).prefix(inner.key(prefix));
            let request = request.set_key_marker(markers.0.clone()).set_upload_id_marker(markers.1.clone());
            let act = || format!("failed to list unfinished uploads in {}", inner.address_of(prefix));
            let page = request.send().await.map_err(|error| inner.context.map(act(), error))?;
            for upload in page.uploads() {
                if let (Some(key), Some(id)) = (upload.key().and_then(|key| inner.relative(key)), upload.upload_id()) {
                    let started = timestamp(upload.initiated());
                    found.push(UnfinishedUpload { key: key.to_owned(), upload_id: id.to_owned(), started });
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated.unwrap_or(false) || next == markers || next.0.is_none() {
                return Ok(found);
            }
            markers = next;
        }
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        check_key(&upload.key)?;
        let inner = &self.inner;
        let mut last = upload.started;
        let mut marker = None;
        loop {
            let request = inner.client.list_parts().bucket(&inner.bucket).key(inner.key(&upload.key));
            let request = request.upload_id(&upload.upload_id).set_part_number_marker(marker.clone());
            let act = || format!("failed to look at the upload of {}", inner.address_of(&upload.key));
            let page = match request.send().await.map_err(|error| inner.context.map(act(), error)) {
                Ok(page) => page,
                // An endpoint that does not list parts: what is known is the beginning.
                Err(error) if error.kind == StorageErrorKind::Unsupported => return Ok(last),
                Err(error) => return Err(error),
            };
            last = page.parts().iter().map(|part| timestamp(part.last_modified())).fold(last, Timestamp::max);
            let next = page.next_part_number_marker;
            if !page.is_truncated.unwrap_or(false) || next == marker || next.is_none() {
                return Ok(last);
            }
            marker = next;
        }
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        check_key(&upload.key)?;
        self.inner.abort_upload(&upload.key, &upload.upload_id).await
    }
}
