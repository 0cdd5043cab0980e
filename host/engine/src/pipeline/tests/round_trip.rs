//! What was captured comes back, however it was cut up and encoded.

use std::sync::Arc;

use proptest::prelude::*;
use redkeep_core::encoding::Compression;
use redkeep_core::method::ArtifactStore as _;
use rstest::rstest;
use sha2::{Digest as _, Sha256};

use super::double::Double;
use super::support::{ATTEMPT, Cipher, SMALL, capture, data, drain, keys_for, options, read_back, stored, write};
use crate::pipeline::encode::Tuning;
use crate::pipeline::{CaptureStore, Keys, digest, verify_stored};

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Gzip(6)), Just(Compression::Zstd(1))]
}

fn cipher() -> impl Strategy<Value = Cipher> {
    prop_oneof![Just(Cipher::Plain), Just(Cipher::Age), Just(Cipher::Passphrase)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn any_bytes_in_any_chunks_come_back(
        compression in compression(),
        cipher in cipher(),
        size in 0_usize..6000,
        pieces in prop::collection::vec(1_usize..700, 1..6),
        room in prop_oneof![Just(u64::MAX), Just(2500_u64)],
        seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let storage = Double::new();
            storage.0.room.store(room, std::sync::atomic::Ordering::SeqCst);
            let plain = data(size, seed);
            let (recipients, keys) = keys_for(cipher);
            let store = CaptureStore::with_tuning(options(&storage, compression, recipients), SMALL);
            write(&store, &plain, &pieces).await.unwrap();
            let record = store.records().await.unwrap().remove(0);
            assert_eq!(record.size, plain.len() as u64);
            assert_eq!(record.sha256, digest::to_hex(&digest::finish(Sha256::new().chain_update(&plain))));
            assert_eq!(record.encrypted, cipher != Cipher::Plain);
            if room != u64::MAX && record.stored_size > 2500 {
                assert!(record.objects.len() > 1);
            }
            verify_stored(Arc::new(storage.clone()), &record, &|_| ()).await.unwrap();
            stored(&storage, &record, Keys::none()).check_presence().await.unwrap();
            let (back, end) = read_back(&storage, &record, keys).await;
            assert_eq!(end, Ok(()));
            assert!(back == plain);
        });
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn borders_of_chunks_frames_and_parts_do_not_matter(
    #[values(Compression::None, Compression::Gzip(1), Compression::Zstd(1))] compression: Compression,
    #[values(Cipher::Plain, Cipher::Age)] cipher: Cipher,
) {
    for size in [0, 1, 127, 128, 129, 299, 300, 301, 999, 1000, 1001, 3000] {
        let storage = Double::new();
        let plain = data(size, 7);
        let (recipients, keys) = keys_for(cipher);
        let record = capture(&storage, compression, recipients, SMALL, &plain).await;
        let (back, end) = read_back(&storage, &record, keys).await;
        assert_eq!((back == plain, end), (true, Ok(())), "{size}");
    }
}

#[rstest]
#[case(Compression::None, 8 << 20)]
#[case(Compression::Gzip(1), 1 << 20)]
#[case(Compression::Zstd(1), 2 << 20)]
#[tokio::test(flavor = "multi_thread")]
async fn large_artifacts_are_cut_into_parts_that_decode_alone(#[case] compression: Compression, #[case] slack: u64) {
    use std::io::Read as _;
    let storage = Double::new();
    let plain = data(20 << 20, 1);
    let record = capture(&storage, compression, None, Tuning::of(compression), &plain).await;
    let table = record.parts.clone().unwrap();
    assert!(table.count >= 2, "{}", table.count);
    assert_eq!(table.key, format!("{}.parts.json", record.key));
    let bytes = storage.object(&table.key);
    let parts = crate::pipeline::part_table::parse("a", &bytes, table.count, record.stored_size).unwrap();
    let object = storage.object(&record.key);
    for part in parts {
        assert!(part.size <= (8 << 20) + slack + slack / 100 + 1024);
        let range = usize::try_from(part.offset).unwrap()..usize::try_from(part.offset + part.size).unwrap();
        let mut alone = Vec::new();
        let mut stored = &object[range];
        match compression {
            Compression::None => stored.read_to_end(&mut alone).unwrap(),
            Compression::Gzip(_) => crate::pipeline::frame::gunzip(stored).read_to_end(&mut alone).unwrap(),
            Compression::Zstd(_) => zstd::Decoder::new(stored).unwrap().read_to_end(&mut alone).unwrap(),
        };
        let (offset, size) = part.plain.unwrap();
        let offset = usize::try_from(offset).unwrap();
        assert!(alone == plain[offset..offset + usize::try_from(size).unwrap()]);
    }
    let (back, end) = read_back(&storage, &record, Keys::none()).await;
    assert_eq!((back == plain, end), (true, Ok(())));
    let counted = std::sync::atomic::AtomicU64::new(0);
    let count = |read| counted.store(read, std::sync::atomic::Ordering::SeqCst);
    verify_stored(Arc::new(storage.clone()), &record, &count).await.unwrap();
    assert_eq!(counted.into_inner(), record.stored_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_records_are_as_the_format_says() {
    let storage = Double::new();
    let (recipients, _) = keys_for(Cipher::Age);
    let record = capture(&storage, Compression::Zstd(1), recipients, SMALL, b"bytes").await;
    assert_eq!(record.key, format!("{ATTEMPT}dump.rdb.zst.age"));
    assert_eq!(record.artifact_type, "rdb");
    assert_eq!(record.attributes["rdb-version"], "11");
    assert!(record.objects.is_empty());
    assert_eq!(record.parts, None);
    assert_eq!(storage.keys(), [record.key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_listed_in_the_order_in_which_they_were_finished() {
    let storage = Double::new();
    let store = CaptureStore::new(options(&storage, Compression::Zstd(1), None));
    let first = store.create("first", Vec::new()).await.unwrap();
    let mut second = store.create("second", Vec::new()).await.unwrap();
    second.write("second".into()).await.unwrap();
    second.finish(Vec::new()).await.unwrap();
    first.finish(Vec::new()).await.unwrap();
    let names: Vec<String> = store.list().await.unwrap().into_iter().map(|artifact| artifact.name).collect();
    assert_eq!(names, ["second", "first"]);
    let records = store.records().await.unwrap();
    assert_eq!(records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["second", "first"]);
    assert_eq!(records[1].artifact_type, "unknown");
    let mut source = store.open("second").await.unwrap();
    assert_eq!(source.size(), Some(6));
    assert_eq!(drain(source.as_mut()).await, (b"second".to_vec(), Ok(())));
    assert_eq!(source.position(), 6);
}
