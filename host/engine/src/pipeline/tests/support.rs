//! Capturing and reading back in one call.

use std::sync::Arc;

use bytes::Bytes;
use rand::{RngCore as _, SeedableRng as _};
use redkeep_core::Attribute;
use redkeep_core::encoding::Compression;
use redkeep_core::layout::BackupFolder;
use redkeep_core::manifest::ArtifactRecord;
use redkeep_core::method::{ArtifactStore as _, LogLevel, MethodError, RunEvents};
use redkeep_core::secret::Secret;
use redkeep_core::stream::Source;

use super::double::Double;
use crate::pipeline::encode::Tuning;
use crate::pipeline::{CaptureOptions, CaptureStore, Keys, Recipients, StoredStore};

pub(super) const ATTEMPT: &str = "default/cluster/20261121T091348Z-b-x7k2p/a1/0/";
/// Small everything, so that little data crosses every border.
pub(super) const SMALL: Tuning = Tuning { part: 1000, frame: 300, chunk: 128, workers: 2 };

pub(super) struct Silent;

impl RunEvents for Silent {
    fn log(&self, _level: LogLevel, _message: &str, _fields: &[Attribute]) {}
    fn progress(&self, _phase: &str, _unit: &str, _done: u64, _total: Option<u64>) {}
}

pub(super) fn options(storage: &Double, compression: Compression, recipients: Option<Recipients>) -> CaptureOptions {
    let folder = BackupFolder::new(
        &"default".parse().unwrap(),
        &"cluster".parse().unwrap(),
        &"20261121T091348Z-b-x7k2p".parse().unwrap(),
    );
    CaptureOptions {
        storage: Arc::new(storage.clone()),
        folder,
        attempt: "a1".parse().unwrap(),
        shard: "0".parse().unwrap(),
        compression,
        recipients: recipients.map(Arc::new),
        spool: None,
        limit_rate: None,
        hold_limit: None,
        events: Arc::new(Silent),
    }
}

/// How a test encrypts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cipher {
    Plain,
    Age,
    Passphrase,
}

pub(super) const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

/// Recipients and the keys that fit.
pub(super) fn keys_for(cipher: Cipher) -> (Option<Recipients>, Keys) {
    match cipher {
        Cipher::Plain => (None, Keys::none()),
        Cipher::Age => {
            let identity: age::x25519::Identity = IDENTITY.parse().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("key");
            std::fs::write(&file, IDENTITY).unwrap();
            let recipients = Recipients::parse(&[identity.to_public().to_string()], None).unwrap();
            (recipients, Keys::read(&[file], None).unwrap())
        }
        Cipher::Passphrase => {
            let secret = Secret::new("correct horse");
            let recipients = Recipients::parse(&[], Some(&secret)).unwrap();
            (recipients.map(|recipients| recipients.with_work_factor(2)), Keys::read(&[], Some(secret)).unwrap())
        }
    }
}

/// Half random, half repetitive.
pub(super) fn data(size: usize, seed: u64) -> Vec<u8> {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut bytes = vec![0; size];
    random.fill_bytes(&mut bytes);
    for (index, chunk) in bytes.chunks_mut(64).enumerate() {
        if index % 2 == 0 {
            chunk.fill(b'k');
        }
    }
    bytes
}

/// Writes one artifact `dump.rdb` in pieces of these sizes (in turn).
pub(super) async fn write(store: &CaptureStore, plain: &[u8], pieces: &[usize]) -> Result<(), MethodError> {
    let mut sink = store.create("dump.rdb", vec![Attribute::new("type", "rdb")]).await?;
    let mut rest = Bytes::copy_from_slice(plain);
    let mut sizes = pieces.iter().cycle();
    while !rest.is_empty() {
        let size = (*sizes.next().unwrap()).clamp(1, rest.len());
        sink.write(rest.split_to(size)).await?;
    }
    let artifact = sink.finish(vec![Attribute::new("rdb-version", 11)]).await?;
    assert_eq!(artifact.size, plain.len() as u64);
    Ok(())
}

pub(super) async fn capture(
    storage: &Double,
    compression: Compression,
    recipients: Option<Recipients>,
    tuning: Tuning,
    plain: &[u8],
) -> ArtifactRecord {
    let store = CaptureStore::with_tuning(options(storage, compression, recipients), tuning);
    write(&store, plain, &[300]).await.unwrap();
    store.records().await.unwrap().remove(0)
}

/// Reads to the end; what came until then, and how it ended.
pub(super) async fn drain(source: &mut dyn Source) -> (Vec<u8>, Result<(), MethodError>) {
    let mut bytes = Vec::new();
    loop {
        match source.read(1 << 20).await {
            Ok(chunk) if chunk.is_empty() => return (bytes, Ok(())),
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

pub(super) async fn read_back(
    storage: &Double,
    record: &ArtifactRecord,
    keys: Keys,
) -> (Vec<u8>, Result<(), MethodError>) {
    let store = stored(storage, record, keys);
    match store.open(record.name.as_str()).await {
        Ok(mut source) => drain(source.as_mut()).await,
        Err(error) => (Vec::new(), Err(error)),
    }
}

pub(super) fn stored(storage: &Double, record: &ArtifactRecord, keys: Keys) -> Arc<StoredStore> {
    StoredStore::new(Arc::new(storage.clone()), vec![record.clone()], Vec::new(), Arc::new(keys), Arc::new(Silent))
}
