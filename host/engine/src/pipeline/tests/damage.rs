//! Whatever happens to what is stored: never wrong bytes, never a clean end.

use std::sync::Arc;

use redkeep_core::encoding::Compression;
use redkeep_core::manifest::ArtifactRecord;
use redkeep_core::method::{ArtifactStore as _, code};
use redkeep_core::{Class, Classify as _};
use rstest::rstest;
use sha2::{Digest as _, Sha256};

use super::double::Double;
use super::support::{Cipher, SMALL, capture, data, drain, keys_for, read_back, stored};
use crate::pipeline::{Keys, digest, verify_stored};

async fn assert_damaged(storage: &Double, record: &ArtifactRecord, cipher: Cipher, plain: &[u8], what: &str) {
    let (back, end) = read_back(storage, record, keys_for(cipher).1).await;
    let error = end.expect_err(what);
    assert_eq!(error.code, code::DAMAGED, "{what}: {error}");
    assert!(error.message.contains("dump.rdb"), "{error}");
    assert!(plain.starts_with(&back), "{what}: wrong bytes were given");
    let error = verify_stored(Arc::new(storage.clone()), record, &|_| ()).await.expect_err(what);
    assert_eq!(error.class(), Class::Damaged, "{what}: {error}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_flip_of_any_byte_is_damage(
    #[values(Compression::None, Compression::Gzip(6), Compression::Zstd(1))] compression: Compression,
    #[values(Cipher::Plain, Cipher::Age)] cipher: Cipher,
) {
    let storage = Double::new();
    let plain = data(2600, 3);
    let record = capture(&storage, compression, keys_for(cipher).0, SMALL, &plain).await;
    assert!(record.parts.is_some());
    for key in storage.keys() {
        let whole = storage.object(&key);
        for index in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[index] ^= 1 << (index % 8);
            storage.set(&key, bytes);
            assert_damaged(&storage, &record, cipher, &plain, &format!("{key} byte {index}")).await;
        }
        storage.set(&key, whole);
    }
    assert_eq!(read_back(&storage, &record, keys_for(cipher).1).await.1, Ok(()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn objects_cut_short_or_grown_or_gone_are_damage(#[values(Cipher::Plain, Cipher::Age)] cipher: Cipher) {
    let storage = Double::new();
    let plain = data(2600, 3);
    storage.0.room.store(2200, std::sync::atomic::Ordering::SeqCst);
    let record = capture(&storage, Compression::None, keys_for(cipher).0, SMALL, &plain).await;
    assert!(record.objects.len() > 1 && storage.keys().len() == record.objects.len() + 1);
    for key in storage.keys() {
        let whole = storage.object(&key);
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            storage.set(&key, whole.slice(..length));
            assert_damaged(&storage, &record, cipher, &plain, &format!("{key} cut to {length}")).await;
            let error = stored(&storage, &record, Keys::none()).check_presence().await.unwrap_err();
            assert_eq!(error.class(), Class::Damaged);
        }
        storage.set(&key, [&whole[..], b"x"].concat());
        assert_damaged(&storage, &record, cipher, &plain, &format!("{key} grown")).await;
        storage.0.objects.lock().unwrap().remove(&key);
        assert_damaged(&storage, &record, cipher, &plain, &format!("{key} gone")).await;
        let error = stored(&storage, &record, Keys::none()).check_presence().await.unwrap_err();
        assert!(error.to_string().contains(&key) && error.to_string().contains("missing"), "{error}");
        storage.set(&key, whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_changed_places_are_damage() {
    let storage = Double::new();
    let plain = data(4000, 3);
    let record = capture(&storage, Compression::None, None, SMALL, &plain).await;
    let whole = storage.object(&record.key);
    let part = 1024;
    storage.set(&record.key, [&whole[part..2 * part], &whole[..part], &whole[2 * part..]].concat());
    assert_damaged(&storage, &record, Cipher::Plain, &plain, "swapped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_plain_bytes_than_the_manifest_says_never_pass() {
    // A bomb: a mebibyte of zeroes in a few bytes, whose manifest says ten.
    for compression in [Compression::Zstd(1), Compression::Gzip(6)] {
        let storage = Double::new();
        let mut record = capture(&storage, compression, None, SMALL, &vec![0; 1 << 20]).await;
        record.size = 10;
        let (back, end) = read_back(&storage, &record, Keys::none()).await;
        assert!(back.len() <= 10);
        assert_eq!(end.unwrap_err().code, code::DAMAGED);
        record.size = 2 << 20;
        let (_, end) = read_back(&storage, &record, Keys::none()).await;
        assert_eq!(end.unwrap_err().code, code::DAMAGED);
        record.size = 1 << 20;
        record.sha256 = digest::to_hex(&digest::finish(Sha256::new()));
        let (_, end) = read_back(&storage, &record, Keys::none()).await;
        assert_eq!(end.unwrap_err().code, code::DAMAGED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_the_manifest_calls_them_are_damage() {
    // Digests hold, the encoding does not: the manifest was made by something else.
    let storage = Double::new();
    let mut record = capture(&storage, Compression::None, None, SMALL, &data(900, 1)).await;
    for compression in [Compression::Zstd(1), Compression::Gzip(6)] {
        record.compression = compression;
        assert_eq!(read_back(&storage, &record, Keys::none()).await.1.unwrap_err().code, code::DAMAGED);
    }
    record.compression = Compression::None;
    record.encrypted = true;
    assert_eq!(read_back(&storage, &record, keys_for(Cipher::Age).1).await.1.unwrap_err().code, code::DAMAGED);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_contradict_themselves_are_damage() {
    let storage = Double::new();
    let record = capture(&storage, Compression::None, None, SMALL, &data(4000, 1)).await;
    let mut cases = Vec::new();
    let mut without = record.clone();
    without.parts = None;
    without.objects = [record.stored_objects(), record.stored_objects()].concat();
    without.stored_size *= 2;
    cases.push(without);
    let mut wrong_count = record.clone();
    wrong_count.parts.as_mut().unwrap().count += 1;
    cases.push(wrong_count);
    let mut huge = record.clone();
    huge.parts.as_mut().unwrap().size = u64::MAX;
    cases.push(huge);
    let mut sizes = record.clone();
    sizes.stored_size += 1;
    cases.push(sizes);
    for case in cases {
        let (_, end) = read_back(&storage, &case, Keys::none()).await;
        assert_eq!(end.unwrap_err().code, code::DAMAGED);
        assert!(verify_stored(Arc::new(storage.clone()), &case, &|_| ()).await.is_err());
    }
    let mut digest = record.clone();
    digest.stored_sha256 = "0".repeat(64);
    assert!(verify_stored(Arc::new(storage.clone()), &digest, &|_| ()).await.is_err());
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_is_an_error_of_the_source_and_no_damage(
    #[values(Cipher::Plain, Cipher::Age)] cipher: Cipher,
) {
    let storage = Double::new();
    let plain = data(4000, 3);
    let record = capture(&storage, Compression::Zstd(1), keys_for(cipher).0, SMALL, &plain).await;
    let mut failures = 0;
    for number in 0.. {
        storage.fail_call(number);
        let (back, end) = read_back(&storage, &record, keys_for(cipher).1).await;
        if !storage.has_failed() {
            assert_eq!((back == plain, end), (true, Ok(())));
            break;
        }
        let error = end.unwrap_err();
        assert_eq!(error.code, code::SOURCE_IO, "{error}");
        assert!(error.retryable && plain.starts_with(&back));
        storage.fail_call(number);
        let error = verify_stored(Arc::new(storage.clone()), &record, &|_| ()).await.unwrap_err();
        assert_eq!(error.class(), Class::Failed);
        failures += 1;
    }
    assert!(failures > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_every_read_says_it_again() {
    let storage = Double::new();
    let record = capture(&storage, Compression::None, None, SMALL, &data(4000, 3)).await;
    let mut bytes = storage.object(&record.key).to_vec();
    bytes[3000] ^= 1;
    storage.set(&record.key, bytes);
    let store = stored(&storage, &record, Keys::none());
    let mut source = store.open("dump.rdb").await.unwrap();
    let (_, first) = drain(source.as_mut()).await;
    let (_, second) = drain(source.as_mut()).await;
    assert!(first.is_err());
    assert_eq!(first, second);
}
