//! What can go wrong in a task, told apart by what the user must do about it.

use redkeep_core::classify::chain;
use redkeep_core::identifier::{BackupId, InvalidIdentifier};
use redkeep_core::manifest::ManifestError;
use redkeep_core::method::{MethodError, code};
use redkeep_core::provider::ProviderError;
use redkeep_core::restore_plan::Refusal;
use redkeep_core::selection::SelectionError;
use redkeep_core::storage::{StorageError, StorageErrorKind};
use redkeep_core::{Class, Classify};

use crate::cat::CatError;
use crate::pipeline::PipelineError;

/// A failure of a task. No variant prints its own source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A source, target, storage or method could not be had.
    #[error(transparent)]
    Provider(ProviderError),
    /// No single backup is meant.
    #[error(transparent)]
    Selection(Box<SelectionError>),
    /// A restore that is not even begun.
    #[error(transparent)]
    Refused(Refusal),
    /// A manifest that cannot be read.
    #[error(transparent)]
    Manifest(ManifestError),
    /// A name that cannot be part of a backup's id.
    #[error(transparent)]
    Name(InvalidIdentifier),
    /// No single artifact is meant.
    #[error(transparent)]
    Artifact(CatError),
    /// The storage failed.
    #[error("failed to {act}")]
    Storage {
        /// What was being done.
        act: String,
        /// Why.
        source: StorageError,
    },
    /// Artifacts could not be written or read.
    #[error("failed to {act}")]
    Pipeline {
        /// What was being done.
        act: String,
        /// Why.
        source: Box<PipelineError>,
    },
    /// The method failed.
    #[error("failed to {act}")]
    Method {
        /// What was being done, by which method.
        act: String,
        /// Why.
        source: MethodError,
    },
    /// The task's spec is of a newer version.
    #[error("the task has version {found}, this redkeep reads version {}", redkeep_core::task::SPEC_VERSION)]
    SpecVersion {
        /// Its version.
        found: u32,
    },
    /// The source cannot give what the method needs.
    #[error("the method {method} needs {needed}, which the source {address} does not have")]
    CapabilityMissing {
        /// The method.
        method: String,
        /// `a server connection` or `a data directory`.
        needed: &'static str,
        /// The source.
        address: String,
    },
    /// Capture ended well, and left nothing.
    #[error("the method {method} stored no artifact of shard {shard}")]
    NothingCaptured {
        /// The method.
        method: String,
        /// The shard.
        shard: String,
    },
    /// What was captured makes a manifest that nobody could read.
    #[error("the manifest could not be read back: {why}")]
    ManifestUnreadable {
        /// What is wrong with it.
        why: String,
    },
    /// The source moved during the backup.
    #[error("the source changed during the backup")]
    TopologyChanged {
        /// What moved.
        source: ProviderError,
    },
    /// What was captured is no longer stored when the backup is to be committed.
    #[error("the artifact {artifact} of shard {shard} is gone before the commit: pruned while the backup ran?")]
    ArtifactGone {
        /// The artifact.
        artifact: String,
        /// Its shard.
        shard: String,
        /// Which object, and what is there instead.
        source: Box<PipelineError>,
    },
    /// Another backup has this very id.
    #[error("another backup {backup_id} was stored meanwhile")]
    Conflict {
        /// The id.
        backup_id: BackupId,
    },
    /// The commit failed in a way that leaves open whether it took effect.
    #[error("failed to learn whether {manifest} was stored")]
    CommitUnclear {
        /// The manifest's address.
        manifest: String,
        /// How the commit failed.
        source: StorageError,
    },
    /// An object that does not fit where it lies.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Its address.
        object: String,
        /// What does not hold.
        what: String,
    },
    /// A second reading of artifacts found something else than the capture did.
    #[error("shard {shard} is damaged: {key} was {captured} when captured, and is {found} now")]
    FactsDiffer {
        /// The shard.
        shard: String,
        /// The fact.
        key: String,
        /// As the manifest has it.
        captured: String,
        /// As found.
        found: String,
    },
    /// A throw-away server loaded something else than was captured.
    #[error("a {server} started on the restored shard {shard} has {found} keys, the backup {captured}")]
    BootDiffers {
        /// The shard.
        shard: String,
        /// The server.
        server: String,
        /// Keys in the manifest.
        captured: u64,
        /// Keys loaded and expired.
        found: u64,
    },
    /// A live restore ended well, and keys are missing.
    #[error("the restore of shard {shard} ended with {found} keys of {captured}")]
    RestoreIncomplete {
        /// The shard.
        shard: String,
        /// Keys in the manifest.
        captured: u64,
        /// Keys restored, skipped and expired.
        found: u64,
    },
    /// A live restore stopped in the middle.
    #[error("the restore stopped half-way: {written}")]
    RestoreStopped {
        /// Exactly what was written.
        written: String,
        /// Whether anything was: unless it is known exactly that nothing was.
        touched: bool,
        /// What can be done with the target as it is now.
        next: String,
        /// Why.
        source: Box<EngineError>,
    },
    /// A pinned backup.
    #[error("the backup {backup_id} is pinned")]
    Pinned {
        /// Its id.
        backup_id: BackupId,
    },
    /// The only backup of its cluster.
    #[error("the backup {backup_id} is the last of {cluster}")]
    LastOfCluster {
        /// Its id.
        backup_id: BackupId,
        /// `namespace/cluster`.
        cluster: String,
    },
    /// A copy would meet another backup of the same id.
    #[error("{manifest} is there already, and is another backup")]
    CopyConflict {
        /// Address of the manifest at the destination.
        manifest: String,
    },
    /// Not all of many could be done.
    #[error("failed to {act}: {failed} of {total} failed")]
    Partly {
        /// What was being done.
        act: String,
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The first failure.
        source: Box<EngineError>,
    },
    /// A part of a backup that does not say of which.
    #[error("a part of a backup needs the backup's cluster and id")]
    PartUnnamed,
    /// A capture of one shard from a source that has more.
    #[error("a capture takes one shard, its source has {shards}")]
    PartOfMany {
        /// How many.
        shards: usize,
    },
    /// Parts that are not of one backup.
    #[error("the parts do not make one backup: {what}")]
    PartsDiffer {
        /// How they differ.
        what: String,
    },
    /// A storage that cannot hold backups.
    #[error("the storage {storage} does not do what backups need: {lacks}")]
    StorageUnusable {
        /// Its address.
        storage: String,
        /// What it does not do, and what was seen.
        lacks: String,
    },
    /// The newest backup is older than it may be.
    #[error("the newest backup of {cluster} is {age_seconds} s old, {limit_seconds} s are allowed")]
    TooOld {
        /// `namespace/cluster`.
        cluster: String,
        /// Its age.
        age_seconds: u64,
        /// The limit.
        limit_seconds: u64,
    },
    /// Every backup of a cluster is known to be damaged.
    #[error("the backup {backup} is not good ({what}), and its cluster has no other that is")]
    NoGoodBackup {
        /// The newest one.
        backup: String,
        /// What is known of it.
        what: String,
    },
    /// There is no backup whose age could be looked at.
    #[error("there is no backup in {storage}")]
    NoBackup {
        /// The storage, and the cluster where one was named.
        storage: String,
    },
    /// A backup that was verified and held, of which the storage takes no note.
    #[error("the backup is good, but the result of its verification could not be recorded beside it")]
    Unrecorded {
        /// Why.
        source: StorageError,
    },
    /// The answer of a plugin to an `inspect` is no JSON.
    #[error("failed to read what the method {method} answered")]
    Answer {
        /// The method.
        method: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A temporary directory could not be made.
    #[error("failed to make a temporary directory")]
    TemporaryDirectory {
        /// Why.
        source: std::io::Error,
    },
    /// Stopped from outside.
    #[error("the task was cancelled")]
    Cancelled,
    /// The task's deadline passed.
    #[error("the task's deadline passed")]
    Deadline,
}

impl EngineError {
    /// What was done when the storage failed.
    pub(crate) fn storage(act: impl Into<String>) -> impl FnOnce(StorageError) -> Self {
        let act = act.into();
        move |source| Self::Storage { act, source }
    }

    /// What was done when the pipeline failed.
    pub(crate) fn pipeline(act: impl Into<String>) -> impl FnOnce(PipelineError) -> Self {
        let act = act.into();
        move |source| Self::Pipeline { act, source: Box::new(source) }
    }

    /// What was done when the method failed.
    pub(crate) fn method(act: impl Into<String>) -> impl FnOnce(MethodError) -> Self {
        let act = act.into();
        move |source| Self::Method { act, source }
    }

    /// The innermost error that knows what to do, and what it knows.
    fn inner(&self) -> Option<&dyn Classify> {
        Some(match self {
            Self::Provider(error) | Self::TopologyChanged { source: error } => error,
            Self::Selection(error) => error.as_ref(),
            Self::Refused(error) => error,
            Self::Manifest(error) => error,
            Self::Artifact(error) => error,
            Self::Storage { source, .. } | Self::CommitUnclear { source, .. } | Self::Unrecorded { source } => source,
            Self::Pipeline { source, .. } => source.as_ref(),
            Self::Method { source, .. } => source,
            Self::RestoreStopped { source, .. } | Self::Partly { source, .. } => source.as_ref(),
            _ => return None,
        })
    }

    /// The error and everything below it in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl Classify for EngineError {
    fn class(&self) -> Class {
        match self {
            Self::Name(_) | Self::SpecVersion { .. } | Self::PartUnnamed => Class::Usage,
            Self::CapabilityMissing { .. }
            | Self::Pinned { .. }
            | Self::PartOfMany { .. }
            | Self::PartsDiffer { .. }
            | Self::LastOfCluster { .. }
            | Self::CopyConflict { .. } => Class::Refused,
            Self::Damaged { .. } | Self::FactsDiffer { .. } | Self::BootDiffers { .. } => Class::Damaged,
            // Whoever reads of damage or a refusal by the exit code alone takes the target for untouched.
            Self::RestoreStopped { source, touched: true, .. }
                if matches!(source.class(), Class::Damaged | Class::NotFound | Class::Refused | Class::Usage) =>
            {
                Class::Failed
            }
            // Whatever kept it from being known says nothing about the backup.
            Self::CommitUnclear { .. } | Self::Unrecorded { .. } => Class::Failed,
            // An artifact that is gone is damage of a backup that exists, not a backup that does not.
            Self::Pipeline { source, .. } if is_missing_artifact(source) => Class::Damaged,
            _ => self.inner().map_or(Class::Failed, Classify::class),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Name(_) => "InvalidName",
            Self::SpecVersion { .. } => "SpecVersion",
            Self::CapabilityMissing { .. } => "CapabilityMissing",
            Self::NothingCaptured { .. } => "NothingCaptured",
            Self::ManifestUnreadable { .. } => "ManifestUnreadable",
            Self::TopologyChanged { .. } => "TopologyChanged",
            Self::ArtifactGone { .. } => "ArtifactGone",
            Self::Conflict { .. } => "BackupConflict",
            Self::CommitUnclear { .. } => "CommitUnclear",
            Self::Damaged { .. } => "BackupDamaged",
            Self::FactsDiffer { .. } => "FactsDiffer",
            Self::BootDiffers { .. } => "BootDiffers",
            Self::RestoreIncomplete { .. } => "RestoreIncomplete",
            Self::RestoreStopped { source, .. } if source.reason() == "Cancelled" => "RestoreCancelled",
            Self::RestoreStopped { .. } => "RestoreStopped",
            Self::Pinned { .. } => "BackupPinned",
            Self::LastOfCluster { .. } => "LastBackup",
            Self::CopyConflict { .. } => "CopyConflict",
            Self::PartUnnamed => "PartUnnamed",
            Self::PartOfMany { .. } => "PartOfMany",
            Self::PartsDiffer { .. } => "PartsDiffer",
            Self::StorageUnusable { .. } => "StorageUnusable",
            Self::TooOld { .. } => "BackupTooOld",
            Self::NoGoodBackup { .. } => "NoGoodBackup",
            Self::NoBackup { .. } => "NoBackups",
            Self::Answer { .. } => "InvalidAnswer",
            Self::TemporaryDirectory { .. } => "TemporaryDirectory",
            Self::Cancelled => "Cancelled",
            Self::Deadline => "DeadlineExceeded",
            _ => self.inner().map_or("Failed", Classify::reason),
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Self::TopologyChanged { .. } | Self::Conflict { .. } | Self::CommitUnclear { .. } => true,
            _ => self.inner().is_some_and(Classify::retryable),
        }
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::Name(_) => "use letters, digits, `.`, `_` and `-`",
            Self::SpecVersion { .. } => "use a redkeep as new as the one that wrote the task",
            Self::CapabilityMissing { needed: "a data directory", .. } => {
                "give the server's data directory by --data-dir, or use a method that reads the server"
            }
            Self::CapabilityMissing { .. } => "give the server's URL by --source, or use a method that reads files",
            Self::NothingCaptured { .. } => "this is a defect of the plugin: tell its author; nothing was stored",
            Self::ManifestUnreadable { .. } => {
                "no backup was made: the plugin reported too much of artifacts or shards, tell its author"
            }
            Self::TopologyChanged { .. } => "run the backup again when slots and shards rest; nothing was stored",
            Self::ArtifactGone { .. } => {
                "nothing was stored: give `redkeep prune` a --grace longer than any backup runs, compare the clocks, back up again"
            }
            Self::Conflict { .. } => "run the backup again: it takes a new id",
            Self::CommitUnclear { .. } => {
                "look with `redkeep list` once the storage answers again: the backup is there whole, or not at all"
            }
            Self::Damaged { .. } | Self::FactsDiffer { .. } | Self::BootDiffers { .. } => {
                "this backup cannot be trusted: restore another one, or a copy of this one from elsewhere"
            }
            Self::RestoreIncomplete { .. } => {
                "the target lacks keys of the backup: restore again into an empty target, and report this"
            }
            Self::RestoreStopped { source, next, .. } => {
                let first = source.help().map(|help| help + "; then ").unwrap_or_default();
                return Some(format!("{first}{next}"));
            }
            Self::Pinned { .. } => "unpin it first (`redkeep unpin`), or use --force",
            Self::LastOfCluster { .. } => "make another backup first, or use --force",
            Self::CopyConflict { .. } => "copy to another prefix, or delete one of the two",
            Self::PartUnnamed => "give the task `cluster` and `backupId`",
            Self::PartOfMany { .. } => "name one server, and its own data directory",
            Self::PartsDiffer { .. } => "capture the shards that differ again, under one backup id",
            Self::StorageUnusable { .. } => "use another storage, or see what stands between redkeep and this one",
            Self::TooOld { .. } => "see why the backups stopped; `redkeep backup` makes one now",
            Self::NoGoodBackup { .. } => "make another backup now, then see what `redkeep verify` says of this one",
            Self::NoBackup { .. } => "check storage and --cluster; `redkeep backup` makes the first one",
            Self::Unrecorded { .. } => {
                "let redkeep write to the storage, or verify with --no-record: retention then knows nothing of it"
            }
            Self::Answer { .. } => "this is a defect of the plugin: tell its author",
            Self::TemporaryDirectory { .. } => "set TMPDIR to a folder with room for the plain backup",
            Self::Deadline => "give the task more time, or see what kept it",
            Self::Method { source, .. } if source.code == code::DENIED && source.help().is_none() => {
                "grant what the plugin asks for by --grant, if you trust it with that"
            }
            _ => return self.inner().and_then(Classify::help),
        };
        Some(text.to_owned())
    }
}

macro_rules! rewrap {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for EngineError {
            fn from(error: $from) -> Self {
                Self::$variant(error)
            }
        })*
    };
}
rewrap!(ProviderError => Provider, Refusal => Refused, ManifestError => Manifest, InvalidIdentifier => Name, CatError => Artifact);

impl From<SelectionError> for EngineError {
    fn from(error: SelectionError) -> Self {
        Self::Selection(Box::new(error))
    }
}

fn is_missing_artifact(error: &PipelineError) -> bool {
    matches!(error, PipelineError::Fetch { source, .. } if source.kind == StorageErrorKind::NotFound)
}
