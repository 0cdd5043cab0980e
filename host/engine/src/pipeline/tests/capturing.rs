//! Captures that do not end well leave nothing; slow storage is bounded in memory and in time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::RngCore as _;
use redkeep_core::Attribute;
use redkeep_core::Classify as _;
use redkeep_core::encoding::Compression;
use redkeep_core::method::{ArtifactStore as _, code};
use redkeep_core::stream::CHUNK;
use rstest::rstest;

use super::double::Double;
use super::support::{ATTEMPT, Cipher, SMALL, data, keys_for, options, read_back, write};
use crate::pipeline::encode::Tuning;
use crate::pipeline::{CaptureStore, Keys, PipelineError};

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn whichever_storage_call_fails_nothing_is_left(
    #[values(false, true)] spool: bool,
    #[values(Compression::None, Compression::Zstd(1))] compression: Compression,
    #[values(Cipher::Plain, Cipher::Age)] cipher: Cipher,
) {
    let folder = tempfile::tempdir().unwrap();
    let plain = data(6000, 1);
    let mut failures = 0;
    for number in 0.. {
        let storage = Double::new();
        storage.0.room.store(2600, Ordering::SeqCst);
        storage.fail_call(number);
        let mut options = options(&storage, compression, keys_for(cipher).0);
        options.spool = spool.then(|| folder.path().to_owned());
        let store = CaptureStore::with_tuning(options, SMALL);
        let written = write(&store, &plain, &[300]).await;
        let records = store.records().await;
        if !storage.has_failed() {
            written.unwrap();
            assert_eq!(records.unwrap().len(), 1);
            break;
        }
        failures += 1;
        if let Err(error) = &written {
            assert_eq!(error.code, code::SINK_IO, "{error}");
            assert!(error.retryable && error.message.contains("injected"), "{error}");
        }
        match records {
            Err(error) => assert_eq!(error.reason(), "StorageUnreachable", "{error}"),
            // The very first call failed: no artifact was begun.
            Ok(records) => assert!(records.is_empty() && number == 0 && written.is_err()),
        }
        assert!(spool || written.is_err());
        store.abort().await;
        assert!(storage.is_empty(), "call {number} left {:?}", storage.keys());
    }
    assert!(failures > 10);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_dropped_leaves_nothing_and_the_rest_stays() {
    let storage = Double::new();
    let store = CaptureStore::with_tuning(options(&storage, Compression::Zstd(1), None), SMALL);
    let mut dropped = store.create("dropped.rdb", Vec::new()).await.unwrap();
    dropped.write(data(5000, 1).into()).await.unwrap();
    let error = store.records().await.unwrap_err();
    assert!(matches!(&error, PipelineError::Unfinished { names } if names == &["dropped.rdb"]), "{error}");
    drop(dropped);
    write(&store, b"kept", &[4]).await.unwrap();
    let records = store.records().await.unwrap();
    assert_eq!(records.len(), 1);
    // Cleaning up runs behind.
    while !storage.0.uploads.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(storage.keys(), [format!("{ATTEMPT}dump.rdb.zst")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_stops_open_uploads_and_deletes_finished_ones() {
    let storage = Double::new();
    let store = CaptureStore::with_tuning(options(&storage, Compression::None, None), SMALL);
    storage.set("default/cluster/20261121T091348Z-b-x7k2p/a2/0/dump.rdb", "another attempt");
    write(&store, &data(6000, 1), &[100]).await.unwrap();
    let mut open = store.create("open.rdb", Vec::new()).await.unwrap();
    open.write(data(3000, 1).into()).await.unwrap();
    store.abort().await;
    assert_eq!(storage.keys(), ["default/cluster/20261121T091348Z-b-x7k2p/a2/0/dump.rdb"]);
    assert!(storage.0.uploads.lock().unwrap().is_empty());
    assert_eq!(open.finish(Vec::new()).await.unwrap_err().code, code::CANCELLED);
    assert_eq!(store.create("late.rdb", Vec::new()).await.err().unwrap().code, code::CANCELLED);
    assert!(matches!(store.records().await, Err(PipelineError::Cancelled)));
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_does_not_wait_for_a_storage_that_hangs() {
    let storage = Double::new();
    storage.hold();
    let store = CaptureStore::with_tuning(options(&storage, Compression::None, None), SMALL);
    let mut sink = store.create("dump.rdb", Vec::new()).await.unwrap();
    sink.write(Bytes::from(data(500, 1))).await.unwrap();
    store.abort().await;
    assert!(storage.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_refused_unless_encrypted() {
    let secret = || vec![Attribute::new("type", "acl"), Attribute::new("secret", "yes")];
    let storage = Double::new();
    let store = CaptureStore::new(options(&storage, Compression::None, None));
    let error = store.create("users.acl", secret()).await.err().unwrap();
    assert_eq!(error.code, code::REFUSED);
    assert!(error.help().unwrap().contains("--recipient"));
    let late = store.create("late.acl", Vec::new()).await.unwrap();
    assert_eq!(late.finish(secret()).await.unwrap_err().code, code::REFUSED);
    store.abort().await;
    assert!(storage.is_empty());

    let store = CaptureStore::new(options(&storage, Compression::None, keys_for(Cipher::Age).0));
    store.create("users.acl", secret()).await.unwrap().finish(Vec::new()).await.unwrap();
    assert_eq!(store.records().await.unwrap()[0].attributes["secret"], "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_collide_are_refused() {
    let storage = Double::new();
    let store = CaptureStore::new(options(&storage, Compression::None, None));
    let _first = store.create("dump.rdb", Vec::new()).await.unwrap();
    for name in ["dump.rdb", "DUMP.rdb", "x.parts.json", "dump.rdb.object-0002", "", "..", "a/b", ".x"] {
        let error = store.create(name, Vec::new()).await.err().unwrap();
        assert_eq!(error.code, code::INVALID_PARAMETERS, "{name}");
    }
}

/// Writes until nothing more is taken, and says how much was.
async fn fill(store: &CaptureStore) -> u64 {
    let mut sink = store.create("dump.rdb", Vec::new()).await.unwrap();
    let mut taken = 0;
    loop {
        // Nothing that compresses, so that what was taken is what is held.
        let mut chunk = vec![0; CHUNK];
        rand::rng().fill_bytes(&mut chunk);
        match tokio::time::timeout(Duration::from_millis(700), sink.write(chunk.into())).await {
            Ok(result) => result.unwrap(),
            Err(_) => return taken,
        }
        taken += CHUNK as u64;
    }
}

#[rstest]
#[case(Compression::None, Cipher::Plain, 6)]
#[case(Compression::Zstd(1), Cipher::Plain, 16)]
#[case(Compression::Zstd(1), Cipher::Age, 16)]
#[case(Compression::Gzip(6), Cipher::Age, 16)]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_bounded(
    #[case] compression: Compression,
    #[case] cipher: Cipher,
    #[case] mebibytes: u64,
) {
    let storage = Double::new();
    storage.hold();
    let mut tuning = Tuning::of(compression);
    tuning.workers = 2;
    let store = CaptureStore::with_tuning(options(&storage, compression, keys_for(cipher).0), tuning);
    let taken = fill(&store).await;
    assert_eq!(storage.0.written.load(Ordering::SeqCst), 0);
    assert!(taken <= mebibytes << 20, "{taken} bytes in flight");
    store.abort().await;
    assert!(storage.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_holds_the_server_for_too_long_ends_the_capture() {
    let storage = Double::new();
    storage.hold();
    let mut options = options(&storage, Compression::None, None);
    options.hold_limit = Some(Duration::from_millis(300));
    let store = CaptureStore::new(options);
    let mut sink = store.create("dump.rdb", Vec::new()).await.unwrap();
    let chunk = Bytes::from(data(CHUNK, 1));
    let error = loop {
        if let Err(error) = sink.write(chunk.clone()).await {
            break error;
        }
    };
    assert_eq!(error.code, code::SINK_IO);
    assert!(error.message.contains("held the server"), "{error}");
    assert!(error.help().unwrap().contains("--spool"));
    drop(sink);
    assert_eq!(store.records().await.unwrap_err().reason(), "HoldLimit");
    store.abort().await;
    assert!(storage.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_slow_is_not_held_against_storage() {
    let storage = Double::new();
    let mut options = options(&storage, Compression::Gzip(9), None);
    options.hold_limit = Some(Duration::ZERO);
    let store = CaptureStore::with_tuning(options, Tuning { workers: 1, ..Tuning::of(Compression::Gzip(9)) });
    // Compression is the slow one here: writes wait, and none of it counts.
    write(&store, &data(3 << 20, 1), &[CHUNK]).await.unwrap();
    store.records().await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_frees_the_server_while_storage_hangs(#[values(Cipher::Plain, Cipher::Age)] cipher: Cipher) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Double::new();
    storage.hold();
    let plain = data(9 << 20, 1);
    let (recipients, keys) = keys_for(cipher);
    let mut options = options(&storage, Compression::None, recipients);
    options.spool = Some(folder.path().to_owned());
    options.hold_limit = Some(Duration::ZERO);
    let store = CaptureStore::new(options);
    write(&store, &plain, &[CHUNK]).await.unwrap();
    assert_eq!(storage.0.written.load(Ordering::SeqCst), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the spool file has no name");
    storage.release();
    let record = store.records().await.unwrap().remove(0);
    assert!(record.parts.is_some());
    let (back, end) = read_back(&storage, &record, keys).await;
    assert_eq!((back == plain, end), (true, Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_cannot_be_written_is_named() {
    let storage = Double::new();
    let mut options = options(&storage, Compression::None, None);
    options.spool = Some("/nonexistent/spool".into());
    let error = CaptureStore::new(options).create("dump.rdb", Vec::new()).await.err().unwrap();
    assert_eq!(error.code, code::SINK_IO);
    assert!(error.message.contains("/nonexistent/spool") && error.help().unwrap().contains("--spool"), "{error}");
    assert!(storage.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_lets_everything_through_in_the_end() {
    let storage = Double::new();
    let mut options = options(&storage, Compression::None, None);
    options.limit_rate = Some(4 << 20);
    let store = CaptureStore::new(options);
    let started = std::time::Instant::now();
    write(&store, &data(2 << 20, 1), &[CHUNK]).await.unwrap();
    // A lower bound: sleeping longer than asked is the machine's affair.
    assert!(started.elapsed() >= Duration::from_millis(490));
    let record = store.records().await.unwrap().remove(0);
    assert_eq!(read_back(&storage, &record, Keys::none()).await.1, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_back_in_the_same_run_needs_no_encryption() {
    let storage = Double::new();
    let store = CaptureStore::new(options(&storage, Compression::None, keys_for(Cipher::Age).0));
    write(&store, b"bytes", &[2]).await.unwrap();
    assert_eq!(store.open("dump.rdb").await.err().unwrap().code, code::NOT_SUPPORTED);
}
