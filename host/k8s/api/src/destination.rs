//! Where backups are kept: a bucket or a folder of a claim.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::CertificateAuthority;

/// A bucket, or a folder of a volume. Never a path of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["s3", "gcs", "azure", "folder"]))]
pub struct Destination {
    /// S3 and whatever speaks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Destination>,
    /// Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsDestination>,
    /// Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureDestination>,
    /// A folder of a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderDestination>,
}

/// S3 and whatever speaks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::only_with("ca", "endpoint"))]
pub struct S3Destination {
    /// The bucket; it must exist.
    #[schemars(extend("minLength" = 3, "maxLength" = 63, "pattern" = "^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// The prefix in it under which everything lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = cel::path())]
    #[schemars(extend("maxLength" = 512, "pattern" = "^[A-Za-z0-9._=+-]*(/[A-Za-z0-9._=+-]+)*/?$"))]
    pub path: String,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 64, "pattern" = "^[A-Za-z0-9-]+$"))]
    pub region: Option<String>,
    /// The endpoint, where it is not AWS; with `http://` the bucket's bytes and signatures travel in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = cel::http_endpoint_shape(), validation = cel::http_endpoint_host())]
    #[schemars(extend("minLength" = 8, "maxLength" = 256))]
    pub endpoint: Option<String>,
    /// The bucket in the path instead of the host name; by default so with an `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Certificate authorities of the endpoint, besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsDestination {
    /// The bucket; it must exist.
    #[schemars(extend("minLength" = 3, "maxLength" = 222, "pattern" = "^[a-z0-9][a-z0-9._-]*[a-z0-9]$"))]
    pub bucket: String,
    /// The prefix in it under which everything lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = cel::path())]
    #[schemars(extend("maxLength" = 512, "pattern" = "^[A-Za-z0-9._=+-]*(/[A-Za-z0-9._=+-]+)*/?$"))]
    pub path: String,
}

/// Azure Blob Storage. The account's name is among the credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureDestination {
    /// The container; it must exist.
    #[schemars(extend("minLength" = 3, "maxLength" = 63, "pattern" = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub container: String,
    /// The prefix in it under which everything lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = cel::path())]
    #[schemars(extend("maxLength" = 512, "pattern" = "^[A-Za-z0-9._=+-]*(/[A-Za-z0-9._=+-]+)*/?$"))]
    pub path: String,
}

/// A folder of a PersistentVolumeClaim of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FolderDestination {
    /// The claim's name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub claim: String,
    /// The folder in it, relative to its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = cel::path())]
    #[schemars(extend("maxLength" = 512, "pattern" = "^([A-Za-z0-9._=+-]+(/[A-Za-z0-9._=+-]+)*/?)?$"))]
    pub path: String,
}

/// What `kubectl` shows of a destination, and what a status says where: `s3://bucket/path`, `folder://claim/path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// S3.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A claim.
    Folder,
}

impl Destination {
    /// Which provider is set; none when the object got past the API server's rule.
    pub fn provider(&self) -> Option<Provider> {
        match self {
            Self { s3: Some(_), .. } => Some(Provider::S3),
            Self { gcs: Some(_), .. } => Some(Provider::Gcs),
            Self { azure: Some(_), .. } => Some(Provider::Azure),
            Self { folder: Some(_), .. } => Some(Provider::Folder),
            _ => None,
        }
    }
}
