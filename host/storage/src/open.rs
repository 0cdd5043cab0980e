//! From an address to a storage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redkeep_core::storage::{StorageError, StorageErrorKind, WriteStorage};
use redkeep_core::task::StorageSpec;

use crate::fs::FolderStorage;
use crate::layer::retry::{RetryLayer, RetryPolicy};
use crate::memory::MemoryStorage;
use crate::object_store::CloudStorage;
use crate::s3::S3Storage;

const SCHEMES: &str = "a storage is a folder, file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or memory://NAME";

/// The services that speak of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `s3://`
    S3,
    /// `gs://`
    Gcs,
    /// `az://`
    Azure,
}

/// A storage's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A folder of this machine.
    Folder(PathBuf),
    /// This process's memory, by name.
    Memory(String),
    /// A bucket, or a folder of one.
    Bucket {
        /// Where.
        service: Service,
        /// Bucket or container.
        bucket: String,
        /// Empty, or ending in `/`.
        prefix: String,
    },
}

impl Address {
    /// Takes apart what a user wrote.
    ///
    /// # Errors
    /// `Invalid`, with the valid forms.
    pub fn parse(url: &str) -> Result<Self, StorageError> {
        let invalid = |why: &str| {
            StorageError::new(StorageErrorKind::Invalid, format!("failed to use {url:?} as a storage: {why}"))
                .with_help(SCHEMES)
        };
        if url.is_empty() {
            return Err(invalid("it is empty"));
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            // A colon in a path is fine; `s3:bucket` or `c:\dir` is a mistake worth telling.
            if let Some((scheme, _)) = url.split_once(':')
                && matches!(scheme, "s3" | "gs" | "az" | "file" | "memory" | "http" | "https")
            {
                return Err(invalid("the scheme is not followed by ://"));
            }
            return Ok(Self::Folder(PathBuf::from(url)));
        };
        let bucket = |service| {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(invalid("the bucket is missing"));
            }
            if bucket.contains(['@', '?', '#', ' ', ':']) {
                return Err(invalid(
                    "the bucket's name cannot hold `@ ? # :`; credentials and endpoints are given apart",
                ));
            }
            let prefix = prefix.trim_matches('/');
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            crate::key::check_folder(&prefix)?;
            Ok(Self::Bucket { service, bucket: bucket.to_owned(), prefix })
        };
        match scheme {
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::Folder(PathBuf::from(path))),
                _ => Err(invalid("file:// is followed by an absolute path")),
            },
            "memory" if !rest.is_empty() => Ok(Self::Memory(rest.trim_end_matches('/').to_owned())),
            "memory" => Err(invalid("the name is missing")),
            "s3" => bucket(Service::S3),
            "gs" => bucket(Service::Gcs),
            "az" => bucket(Service::Azure),
            other => Err(invalid(&format!("the scheme {other}:// is not known"))),
        }
    }
}

/// Opens the storage of an address. Remote ones come with the retry layer. Nothing is written, and a storage that is not
/// there shows at its first use.
///
/// # Errors
/// `Invalid` for an address or option that cannot work, `Denied` for credentials that are missing.
pub async fn open(spec: &StorageSpec) -> Result<Arc<dyn WriteStorage>, StorageError> {
    let remote: Arc<dyn WriteStorage> = match Address::parse(&spec.url)? {
        Address::Folder(path) => return Ok(Arc::new(FolderStorage::new(path)?)),
        Address::Memory(name) => return Ok(Arc::new(MemoryStorage::named(&name))),
        Address::Bucket { service: Service::S3, .. } => Arc::new(S3Storage::open(spec).await?),
        Address::Bucket { .. } => Arc::new(CloudStorage::open(spec)?),
    };
    Ok(Arc::new(RetryLayer::new(remote, RetryPolicy::default())))
}

/// The bytes of a file of certificate authorities.
pub(crate) fn read_ca_file(path: &Path) -> Result<Vec<u8>, StorageError> {
    let act = || format!("failed to read the certificate authorities in {}", path.display());
    let pem = std::fs::read(path).map_err(|error| {
        StorageError::new(StorageErrorKind::Invalid, act()).caused_by(error).with_help("check the path after --s3-ca")
    })?;
    // The TLS library drops what it cannot read without a word; a connection that fails later would puzzle.
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(StorageError::new(StorageErrorKind::Invalid, format!("{}: it holds no PEM certificate", act()))
            .with_help("the file needs blocks that begin with -----BEGIN CERTIFICATE-----"));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn bucket(service: Service, bucket: &str, prefix: &str) -> Address {
        Address::Bucket { service, bucket: bucket.into(), prefix: prefix.into() }
    }

    #[rstest]
    #[case("/var/backups", Address::Folder("/var/backups".into()))]
    #[case("backups", Address::Folder("backups".into()))]
    #[case("./a:b", Address::Folder("./a:b".into()))]
    #[case("file:///var/backups", Address::Folder("/var/backups".into()))]
    #[case("memory://x", Address::Memory("x".into()))]
    #[case("s3://b", bucket(Service::S3, "b", ""))]
    #[case("s3://b/", bucket(Service::S3, "b", ""))]
    #[case("s3://b/p/q/", bucket(Service::S3, "b", "p/q/"))]
    #[case("gs://b/p", bucket(Service::Gcs, "b", "p/"))]
    #[case("az://c/p", bucket(Service::Azure, "c", "p/"))]
    fn an_address_is_taken_apart(#[case] url: &str, #[case] address: Address) {
        assert_eq!(Address::parse(url).unwrap(), address);
    }

    #[rstest]
    #[case("")]
    #[case("ftp://host/dir")]
    #[case("s3://")]
    #[case("s3:///p")]
    #[case("s3:bucket")]
    #[case("file://dir")]
    #[case("memory://")]
    #[case("s3://key:secret@bucket/p")]
    #[case("s3://b/../c")]
    fn a_wrong_address_is_refused(#[case] url: &str) {
        assert_eq!(Address::parse(url).unwrap_err().kind, StorageErrorKind::Invalid);
    }

    #[test]
    fn an_unknown_scheme_lists_the_valid_ones() {
        let help = Address::parse("ftp://x").unwrap_err().help.unwrap();
        assert!(["file://", "s3://", "gs://", "az://", "memory://"].iter().all(|scheme| help.contains(scheme)));
    }

    #[tokio::test]
    async fn a_memory_storage_is_shared_by_its_name() {
        let spec = StorageSpec { url: "memory://shared-by-name".into(), ..StorageSpec::default() };
        open(&spec).await.unwrap().put("a", "x".into()).await.unwrap();
        assert_eq!(open(&spec).await.unwrap().head("a").await.unwrap().size, 1);
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a certificate").unwrap();
        assert_eq!(read_ca_file(file.path()).unwrap_err().kind, StorageErrorKind::Invalid);
    }
}
