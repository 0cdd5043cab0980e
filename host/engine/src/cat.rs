//! Cat: the plain bytes of one artifact, checked on their way.

use std::sync::Arc;

use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::manifest::ArtifactRecord;
use redkeep_core::method::ArtifactStore;
use redkeep_core::provider::Providers;
use redkeep_core::stream::Source;
use redkeep_core::task::{BackupSelector, StorageSpec};
use redkeep_core::{Class, Classify};

use crate::cancel;
use crate::error::EngineError;
use crate::events::{ShardEvents, TaskEvents, Warnings};
use crate::opened::OpenedBackup;

/// Which artifact.
#[derive(Clone, Debug)]
pub struct CatRequest {
    /// Where it lies.
    pub storage: StorageSpec,
    /// Of which backup.
    pub backup: BackupSelector,
    /// Its name, or `shard/name`; `None`: the only one.
    pub artifact: Option<String>,
    /// With what an encrypted backup is opened.
    pub keys: DecryptionKeys,
}

/// An artifact that can be read.
pub struct OpenArtifact {
    /// What the manifest says of it.
    pub record: ArtifactRecord,
    /// Its plain bytes. The end comes only after size and digest held.
    pub source: Box<dyn Source>,
}

/// No single artifact is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatError {
    /// No such artifact.
    #[error("the backup has no artifact `{given}`")]
    NotFound {
        /// What was asked for.
        given: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Several may be meant.
    #[error("the backup has several artifacts")]
    Several {
        /// What there is.
        known: Vec<String>,
    },
}

impl Classify for CatError {
    fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } => Class::NotFound,
            Self::Several { .. } => Class::Usage,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ArtifactNotFound",
            Self::Several { .. } => "ArtifactAmbiguous",
        }
    }

    fn help(&self) -> Option<String> {
        let (Self::NotFound { known, .. } | Self::Several { known }) = self;
        Some(format!("name one of: {}", known.join(", ")))
    }
}

/// Opens an artifact. Its bytes are read by the caller.
pub async fn open(
    request: &CatRequest,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<OpenArtifact, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(&request.storage).await?;
        let opened = OpenedBackup::open(storage, &request.backup, &request.keys, providers).await?;
        let record = choose(&opened.manifest.artifacts, request.artifact.as_deref())?.clone();
        let shard = opened.manifest.shards.iter().find(|shard| shard.name == record.shard);
        let Some(shard) = shard else {
            return Err(EngineError::Damaged {
                object: opened.address(),
                what: format!("it has no shard {}", record.shard),
            });
        };
        let shard_events = ShardEvents::new(shard.name.as_str(), events, &Arc::new(Warnings::default()));
        let store = opened.store(shard, shard_events);
        let act = format!("open {} of shard {}", record.name, record.shard);
        store.check_presence().await.map_err(EngineError::pipeline(&act))?;
        store.check_keys().await.map_err(EngineError::pipeline(&act))?;
        let source = store.open(record.name.as_str()).await.map_err(EngineError::method(act))?;
        Ok(OpenArtifact { record, source })
    })
    .await
}

fn choose<'a>(artifacts: &'a [ArtifactRecord], given: Option<&str>) -> Result<&'a ArtifactRecord, CatError> {
    let path = |artifact: &ArtifactRecord| format!("{}/{}", artifact.shard, artifact.name);
    let known = || artifacts.iter().map(path).collect();
    let matching: Vec<&ArtifactRecord> = artifacts
        .iter()
        .filter(|artifact| given.is_none_or(|given| artifact.name.as_str() == given || path(artifact) == given))
        .collect();
    match (matching.as_slice(), given) {
        ([only], _) => Ok(only),
        ([], given) => Err(CatError::NotFound { given: given.unwrap_or_default().to_owned(), known: known() }),
        _ => Err(CatError::Several { known: known() }),
    }
}
