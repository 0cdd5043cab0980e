//! The S3 side of an upload; what is sent when is decided in `multipart`.

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use redkeep_core::storage::{ObjectMeta, StorageError, StorageErrorKind};

use super::Inner;
use crate::layer::retry::RetryPolicy;
use crate::multipart::Multipart;

impl Inner {
    fn upload_error(&self, key: &str) -> String {
        format!("failed to write {}", self.address_of(key))
    }

    /// Gone already is no error.
    pub(super) async fn abort_upload(&self, key: &str, id: &str) -> Result<(), StorageError> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(key)).upload_id(id);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = self.context.map(format!("failed to abort the upload of {}", self.address_of(key)), error);
                if error.kind == StorageErrorKind::NotFound { Ok(()) } else { Err(error) }
            }
        }
    }
}

#[async_trait]
impl Multipart for Inner {
    type Part = CompletedPart;

    fn address_of(&self, key: &str) -> String {
        Inner::address_of(self, key)
    }

    fn retry(&self) -> RetryPolicy {
        self.retry
    }

    async fn put_whole(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.put_object(key, data).await
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), StorageError> {
        self.abort_upload(key, id).await
    }

    async fn look(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.head(key).await
    }

    async fn begin(&self, key: &str) -> Result<String, StorageError> {
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let answer = request.send().await.map_err(|error| self.context.map(self.upload_error(key), error))?;
        let missing = || {
            StorageError::new(StorageErrorKind::Damaged, self.upload_error(key))
                .caused_by("the endpoint gave no upload id")
        };
        answer.upload_id.ok_or_else(missing)
    }

    async fn send(&self, key: &str, id: &str, number: u32, data: Bytes) -> Result<CompletedPart, StorageError> {
        let part_number = i32::try_from(number).unwrap_or(i32::MAX);
        let request = self.client.upload_part().bucket(&self.bucket).key(self.key(key)).upload_id(id);
        let request = request.part_number(part_number).body(ByteStream::from(data));
        let answer = if self.unsigned_payload {
            request.customize().disable_payload_signing().send().await
        } else {
            request.send().await
        };
        let answer = answer.map_err(|error| self.context.map(self.upload_error(key), error))?;
        Ok(CompletedPart::builder().part_number(part_number).set_e_tag(answer.e_tag).build())
    }

    async fn complete(&self, key: &str, id: &str, parts: Vec<CompletedPart>) -> Result<(), StorageError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let answer = request.upload_id(id).multipart_upload(parts).send().await;
        answer.map(drop).map_err(|error| self.context.map(format!("failed to finish {}", self.address_of(key)), error))
    }
}
