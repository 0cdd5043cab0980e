//! What is stored opens with ordinary tools, and keys made by them work here (`docs/format.md`, "By hand").

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use redkeep_core::encoding::Compression;
use redkeep_core::secret::Secret;
use rstest::rstest;

use super::double::Double;
use super::support::{SMALL, capture, data, read_back};
use crate::pipeline::encode::Tuning;
use crate::pipeline::{Keys, Recipients};

/// Whether a tool is there. In CI it must be.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--help").stdin(Stdio::null()).output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is not installed");
    if !found {
        println!("skipped: {tool} is not installed");
    }
    found
}

fn pipe(tool: &str, arguments: &[&str], input: Vec<u8>) -> Vec<u8> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn decompress(compression: Compression, bytes: Vec<u8>) -> Vec<u8> {
    match compression {
        Compression::None => bytes,
        Compression::Gzip(_) => pipe("gzip", &["-d", "-c"], bytes),
        Compression::Zstd(_) => pipe("zstd", &["-d", "-c"], bytes),
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn ordinary_tools_decompress(
    #[values(Compression::Gzip(6), Compression::Zstd(1), Compression::Zstd(19))] compression: Compression,
    #[values(0, 1, 5_000_000)] size: usize,
) {
    if !has("gzip") || !has("zstd") {
        return;
    }
    let storage = Double::new();
    let plain = data(size, 5);
    let record = capture(&storage, compression, None, Tuning::of(compression), &plain).await;
    assert!(decompress(compression, storage.object(&record.key).to_vec()) == plain);
}

/// An age key pair made by `age-keygen`, or an ssh one made by `ssh-keygen`.
fn key_pair(folder: &Path, kind: &str, passphrase: &str) -> String {
    let file = folder.join("key");
    let path = file.to_str().unwrap();
    if kind == "age" {
        let made = Command::new("age-keygen").args(["-o", path]).output().unwrap();
        assert!(made.status.success());
        return String::from_utf8(pipe("age-keygen", &["-y", path], Vec::new())).unwrap();
    }
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-b", "2048", "-N", passphrase, "-C", "a comment", "-f", path])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::read_to_string(folder.join("key.pub")).unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn age_opens_what_is_stored_and_its_keys_work_here(
    #[values("age", "ed25519", "rsa")] kind: &str,
    #[values(Compression::None, Compression::Zstd(1), Compression::Gzip(6))] compression: Compression,
) {
    if !has("age") || !has("age-keygen") || (kind != "age" && !has("ssh-keygen")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let public = key_pair(folder.path(), kind, "");
    let recipients = Recipients::parse(&[public], None).unwrap();
    let storage = Double::new();
    let plain = data(3_000_000, 5);
    let record = capture(&storage, compression, recipients, Tuning::of(compression), &plain).await;
    let key = folder.path().join("key");
    let opened = pipe("age", &["-d", "-i", key.to_str().unwrap()], storage.object(&record.key).to_vec());
    assert!(decompress(compression, opened) == plain);
    let keys = Keys::read(&[key], None).unwrap();
    let (back, end) = read_back(&storage, &record, keys).await;
    assert_eq!((back == plain, end), (true, Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_key_with_a_passphrase_needs_it() {
    if !has("ssh-keygen") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let public = key_pair(folder.path(), "ed25519", "correct horse");
    let storage = Double::new();
    let recipients = Recipients::parse(&[public], None).unwrap();
    let record = capture(&storage, Compression::None, recipients, SMALL, b"bytes").await;
    let files = [folder.path().join("key")];
    for wrong in [None, Some(Secret::new("wrong"))] {
        let error = Keys::read(&files, wrong).unwrap_err();
        assert_eq!(redkeep_core::Classify::class(&error), redkeep_core::Class::Refused);
    }
    let keys = Keys::read(&files, Some(Secret::new("correct horse"))).unwrap();
    assert_eq!(read_back(&storage, &record, keys).await, (b"bytes".to_vec(), Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_objects_are_one_after_the_other() {
    if !has("zstd") {
        return;
    }
    let storage = Double::new();
    storage.0.room.store(2600, std::sync::atomic::Ordering::SeqCst);
    let plain = data(20_000, 5);
    let record = capture(&storage, Compression::Zstd(1), None, SMALL, &plain).await;
    assert!(record.objects.len() > 2);
    assert_eq!(record.objects[1].key, format!("{}.object-0002", record.key));
    let joined: Vec<u8> = record.objects.iter().flat_map(|object| storage.object(&object.key).to_vec()).collect();
    assert!(decompress(record.compression, joined) == plain);
}
