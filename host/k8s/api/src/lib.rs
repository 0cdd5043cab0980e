//! The custom resources of group `redis.io/v1`: types, validation rules, conditions, labels. Data only.
//!
//! What the API server can refuse is refused there, by CEL ([`cel`]); what it cannot (does the cluster exist, is the date
//! possible) is for the controllers, which answer with the condition [`conditions::ACCEPTED`].

#![expect(clippy::doc_markdown, reason = "field docs become descriptions in the definitions, read without Markdown")]
#![expect(clippy::struct_field_names, reason = "retention rules are called as the command line's options")]
#![expect(unreachable_pub, reason = "the schema's derive repeats each struct inside a function")]

pub mod backup_method;
pub mod backup_storage;
pub mod cel;
pub mod common;
pub mod conditions;
pub mod destination;
pub mod endpoint;
pub mod labels;
pub mod redis_backup;
pub mod redis_cluster;
pub mod redis_cluster_status;
pub mod redis_restore;
pub mod redis_scheduled_backup;
pub mod run;
mod schema;

pub use backup_method::{BackupMethod, BackupMethodSpec, BackupMethodStatus};
pub use backup_storage::{BackupStorage, BackupStorageSpec, BackupStorageStatus};
pub use redis_backup::{RedisBackup, RedisBackupSpec, RedisBackupStatus};
pub use redis_cluster::{RedisCluster, RedisClusterSpec};
pub use redis_cluster_status::RedisClusterStatus;
pub use redis_restore::{RedisRestore, RedisRestoreSpec, RedisRestoreStatus};
pub use redis_scheduled_backup::{RedisScheduledBackup, RedisScheduledBackupSpec, RedisScheduledBackupStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The group of every kind here.
pub const GROUP: &str = "redis.io";
/// Its one version.
pub const VERSION: &str = "v1";

/// The definitions as they are installed. (`Kind::crd()` lacks what only the whole schema can be given: maxima
/// everywhere, immutability.)
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    vec![
        schema::finish(RedisBackup::crd(), &["deletionPolicy", "pin"]),
        schema::finish(RedisScheduledBackup::crd(), schema::MUTABLE),
        schema::finish(RedisRestore::crd(), &[]),
        schema::finish(RedisCluster::crd(), schema::MUTABLE),
        schema::finish(BackupStorage::crd(), schema::MUTABLE),
        schema::finish(BackupMethod::crd(), schema::MUTABLE),
    ]
}

#[cfg(test)]
mod tests;
