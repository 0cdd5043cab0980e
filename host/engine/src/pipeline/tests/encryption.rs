//! Keys: which fit, what is said of those that do not, and what is never said.

use std::path::PathBuf;
use std::sync::Arc;

use redkeep_core::encoding::Compression;
use redkeep_core::method::{ArtifactStore as _, code};
use redkeep_core::secret::Secret;
use redkeep_core::{Class, Classify as _};
use rstest::rstest;

use super::double::Double;
use super::support::{Cipher, IDENTITY, SMALL, Silent, capture, data, keys_for, read_back};
use crate::pipeline::{Keys, PipelineError, Recipients, StoredStore};

fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

#[rstest]
#[case::another_identity(Cipher::Age, Some(Cipher::Passphrase), "none of the keys fits")]
#[case::none(Cipher::Age, None, "no key was given")]
#[case::no_passphrase(Cipher::Passphrase, Some(Cipher::Age), "encrypted with a passphrase and none was given")]
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_refused_and_named(
    #[case] cipher: Cipher,
    #[case] have: Option<Cipher>,
    #[case] expected: &str,
) {
    let storage = Double::new();
    let (recipients, _) = keys_for(cipher);
    let encryption = recipients.as_ref().map(Recipients::record).unwrap();
    let record = capture(&storage, Compression::Zstd(1), recipients, SMALL, &data(3000, 1)).await;
    let keys = || have.map_or_else(Keys::none, |cipher| keys_for(cipher).1);
    let (back, end) = read_back(&storage, &record, keys()).await;
    let error = end.unwrap_err();
    assert!(back.is_empty());
    assert_eq!((error.code.as_str(), error.class()), (code::REFUSED, Class::Refused));
    let store = StoredStore::with_encryption(
        Arc::new(storage.clone()),
        vec![record.clone()],
        Vec::new(),
        Arc::new(keys()),
        Arc::new(Silent),
        Some(&encryption),
    );
    let error = store.check_keys().await.unwrap_err();
    assert_eq!(error.class(), Class::Refused);
    let text = error.to_string();
    assert!(text.contains(expected) && text.contains("dump.rdb"), "{text}");
    match encryption.recipients.first() {
        Some(recipient) => assert!(text.contains(recipient), "{text}"),
        None => assert!(text.contains("passphrase that it was made with"), "{text}"),
    }
    assert!(error.help().unwrap().contains("--identity"));
    // Damage of the first part is damage, whatever the keys.
    let mut bytes = storage.object(&record.key).to_vec();
    bytes[60] ^= 1;
    storage.set(&record.key, bytes);
    if have.is_some() {
        assert_eq!(store.check_keys().await.unwrap_err().class(), Class::Damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_passphrase_is_refused() {
    let storage = Double::new();
    let record = capture(&storage, Compression::None, keys_for(Cipher::Passphrase).0, SMALL, b"bytes").await;
    let wrong = Keys::read(&[], Some(Secret::new("battery staple"))).unwrap();
    let error = read_back(&storage, &record, wrong).await.1.unwrap_err();
    assert_eq!(error.code, code::REFUSED);
    assert!(error.message.contains("the passphrase is wrong"), "{error}");
    assert!(!error.message.contains("battery"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_keys_passes_with_the_right_key() {
    for cipher in [Cipher::Plain, Cipher::Age, Cipher::Passphrase] {
        let storage = Double::new();
        let (recipients, keys) = keys_for(cipher);
        let record = capture(&storage, Compression::Gzip(1), recipients, SMALL, &data(3000, 1)).await;
        super::support::stored(&storage, &record, keys).check_keys().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_recipients_can_read() {
    let other = age::x25519::Identity::generate();
    let identity: age::x25519::Identity = IDENTITY.parse().unwrap();
    let recipients = [other.to_public().to_string(), identity.to_public().to_string()];
    let storage = Double::new();
    let recipients = Recipients::parse(&recipients, None).unwrap();
    let record = capture(&storage, Compression::None, recipients, SMALL, b"bytes").await;
    let (back, end) = read_back(&storage, &record, keys_for(Cipher::Age).1).await;
    assert_eq!((back.as_slice(), end), (&b"bytes"[..], Ok(())));
}

#[rstest]
#[case::text("hello")]
#[case::empty("")]
#[case::short("age1qqqq")]
#[case::ssh("ssh-ed25519 AAAA")]
#[case::kind("ssh-dss AAAAB3NzaC1kc3MAAACBAP")]
fn what_is_no_public_key_is_a_usage_error(#[case] text: &str) {
    let error = Recipients::parse(&[text.to_owned()], None).unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    assert!(error.help().unwrap().contains("age1"), "{error}");
}

#[test]
fn recipients_and_a_passphrase_exclude_each_other() {
    let public = IDENTITY.parse::<age::x25519::Identity>().unwrap().to_public().to_string();
    let error = Recipients::parse(&[public], Some(&Secret::new("x"))).unwrap_err();
    assert!(matches!(error, PipelineError::RecipientsAndPassphrase));
    assert_eq!(error.class(), Class::Usage);
    assert!(matches!(Recipients::parse(&[], Some(&Secret::new(""))), Err(PipelineError::EmptyPassphrase)));
    assert!(Recipients::parse(&[], None).unwrap().is_none());
}

#[test]
fn secrets_are_never_shown() {
    let given_wrongly = Recipients::parse(&[IDENTITY.to_owned()], None).unwrap_err();
    let (_folder, broken) = file(&IDENTITY[..60]);
    let unreadable = Keys::read(&[broken], None).unwrap_err();
    let recipients = Recipients::parse(&[], Some(&Secret::new("hunter2-hunter2"))).unwrap();
    let (_folder, whole) = file(IDENTITY);
    let keys = Keys::read(&[whole], Some(Secret::new("hunter2-hunter2"))).unwrap();
    for text in [
        given_wrongly.chain(),
        format!("{given_wrongly:?}"),
        unreadable.chain(),
        format!("{unreadable:?}"),
        format!("{recipients:?}"),
        format!("{keys:?}"),
    ] {
        assert!(!text.contains("hunter2") && !text.contains("GFPYYSJZ"), "{text}");
    }
}

#[rstest]
#[case("not a key")]
#[case("")]
#[case("# only a comment\n")]
#[case("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")]
#[case("age-encryption.org/v1\n-> X25519 broken\n")]
fn what_is_no_identity_is_named_with_its_file(#[case] content: &str) {
    let (_folder, path) = file(content);
    let error = Keys::read(std::slice::from_ref(&path), Some(Secret::new("x"))).unwrap_err();
    assert_eq!(error.class(), Class::Usage, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    let missing = Keys::read(&["/nonexistent/key".into()], None).unwrap_err();
    assert!(missing.chain().contains("/nonexistent/key") && missing.chain().contains("No such file"));
}

#[test]
fn an_encrypted_identity_file_opens_with_its_passphrase_only() {
    use std::io::Write as _;
    let mut recipient = age::scrypt::Recipient::new("correct horse".to_owned().into());
    recipient.set_work_factor(2);
    for armored in [false, true] {
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap();
        let mut bytes = Vec::new();
        let format = if armored { age::armor::Format::AsciiArmor } else { age::armor::Format::Binary };
        let output = age::armor::ArmoredWriter::wrap_output(&mut bytes, format).unwrap();
        let mut writer = encryptor.wrap_output(output).unwrap();
        writer.write_all(IDENTITY.as_bytes()).unwrap();
        writer.finish().unwrap().finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.age");
        std::fs::write(&path, bytes).unwrap();
        let files = [path];
        Keys::read(&files, Some(Secret::new("correct horse"))).unwrap();
        for wrong in [None, Some(Secret::new("wrong"))] {
            let error = Keys::read(&files, wrong).unwrap_err();
            assert_eq!(error.class(), Class::Refused, "{error}");
            assert!(error.help().unwrap().contains("--passphrase-file"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_artifact_is_not_found() {
    let storage = Double::new();
    let record = capture(&storage, Compression::None, None, SMALL, b"bytes").await;
    let error = super::support::stored(&storage, &record, Keys::none()).open("other.rdb").await.err().unwrap();
    assert_eq!(error.code, code::NOT_FOUND);
    assert!(error.help().unwrap().contains("dump.rdb"));
}

#[test]
fn a_folder_of_identities_is_read_as_kubernetes_mounts_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let hidden = folder.path().join("..2026_11_27");
    std::fs::create_dir(&hidden).unwrap();
    let error = Keys::read(&[folder.path().to_owned()], None).unwrap_err();
    assert!(error.to_string().contains("the Secret is missing or empty"), "{error}");
    for name in ["old", "new"] {
        std::fs::write(hidden.join(name), IDENTITY).unwrap();
        std::os::unix::fs::symlink(hidden.join(name), folder.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&hidden, folder.path().join("..data")).unwrap();
    let keys = Keys::read(&[folder.path().to_owned()], None).unwrap();
    assert!(format!("{keys:?}").contains("identities: 2"), "{keys:?}");
}
