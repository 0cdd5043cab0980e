use std::os::unix::fs::PermissionsExt;

use futures::TryStreamExt;

use super::*;
use crate::conformance;

fn folder() -> (tempfile::TempDir, FolderStorage) {
    let folder = tempfile::tempdir().unwrap();
    // One level below, so that the storage's own folder has to be made.
    let storage = FolderStorage::new(folder.path().join("deep/store")).unwrap();
    (folder, storage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_passes_the_suite() {
    let (_folder, storage) = folder();
    storage.put("first", "x".into()).await.unwrap();
    crate::test_servers::pass(Arc::new(storage), conformance::Abilities::default()).await;
}

#[tokio::test]
async fn a_missing_folder_is_an_error_to_readers_and_made_by_writers() {
    let (_folder, storage) = folder();
    let errors = [
        storage.list("").try_collect::<Vec<_>>().await.unwrap_err(),
        storage.list_folder("").await.unwrap_err(),
        storage.head("a").await.unwrap_err(),
        storage.get("a", None).await.map(drop).unwrap_err(),
        storage.unfinished_uploads("").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, StorageErrorKind::NotFound);
        assert!(error.to_string().contains("no such folder") && error.help.is_some(), "{error}");
    }
    assert_eq!(storage.put_if_absent("a/b", "x".into()).await.unwrap(), PutOutcome::Created);
    assert_eq!(storage.head("a/b").await.unwrap().size, 1);
}

#[tokio::test]
async fn a_file_as_storage_is_a_mistake() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let storage = FolderStorage::new(file.path()).unwrap();
    assert_eq!(storage.list_folder("").await.unwrap_err().kind, StorageErrorKind::Invalid);
    assert_eq!(storage.put("a", "x".into()).await.unwrap_err().kind, StorageErrorKind::Invalid);
}

#[tokio::test]
async fn symbolic_links_are_not_followed() {
    let (folder, storage) = folder();
    storage.put("inside/a", "x".into()).await.unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(&outside, storage.root().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), storage.root().join("inside/file-link")).unwrap();

    for key in ["link/secret", "inside/file-link"] {
        assert_eq!(storage.get(key, None).await.map(drop).unwrap_err().kind, StorageErrorKind::Denied, "{key}");
        assert_eq!(storage.put(key, "x".into()).await.unwrap_err().kind, StorageErrorKind::Denied, "{key}");
        assert!(storage.create(key).await.is_err(), "{key}");
        assert!(storage.put_if_absent(key, "x".into()).await.is_err(), "{key}");
        assert!(storage.delete(&[key.to_owned()]).await.is_err(), "{key}");
    }
    let listed: Vec<_> = storage.list("").try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|meta| meta.key.as_str()).collect::<Vec<_>>(), ["inside/a"]);
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"s");
}

#[tokio::test]
async fn a_link_that_appears_during_an_upload_is_not_followed() {
    let (folder, storage) = folder();
    let mut upload = storage.create("a/b").await.unwrap();
    upload.write("x".into()).await.unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, storage.root().join("a")).unwrap();
    assert!(upload.finish().await.is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_is_left_in_the_temporary_folder() {
    let (_folder, storage) = folder();
    storage.put("a", "x".into()).await.unwrap();
    storage.put_if_absent("a", "y".into()).await.unwrap();
    storage.put_if_absent("b", "y".into()).await.unwrap();
    let mut upload = storage.create("c").await.unwrap();
    upload.write(Bytes::from(vec![1; 3 << 20])).await.unwrap();
    drop(upload);
    let mut upload = storage.create("d").await.unwrap();
    upload.write("x".into()).await.unwrap();
    upload.finish().await.unwrap();
    let area = storage.root().join(crate::key::TEMPORARY_FOLDER);
    // A write that was on its way ends on its own thread.
    for _ in 0..200 {
        if std::fs::read_dir(&area).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("left: {:?}", std::fs::read_dir(&area).unwrap().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_is_damaged() {
    let (_folder, storage) = folder();
    storage.put("a", Bytes::from(vec![7; 5 << 20])).await.unwrap();
    let mut body = storage.get("a", None).await.unwrap();
    body.next().await.unwrap().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(storage.root().join("a")).unwrap();
    file.set_len(2 << 20).unwrap();
    let rest: Result<Vec<_>, _> = body.try_collect().await;
    assert_eq!(rest.unwrap_err().kind, StorageErrorKind::Damaged);
}

#[tokio::test]
async fn a_named_pipe_is_no_object_and_hangs_nobody() {
    let (_folder, storage) = folder();
    storage.put("a", "x".into()).await.unwrap();
    let pipe = storage.root().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert_eq!(storage.get("pipe", None).await.map(drop).unwrap_err().kind, StorageErrorKind::NotFound);
    assert_eq!(storage.list("").try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_folder_that_may_not_be_written_is_denied() {
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere but where the system says no; /proc does.
        let storage = FolderStorage::new("/proc/redkeep").unwrap();
        let error = storage.put("a", "x".into()).await.unwrap_err();
        assert!(matches!(error.kind, StorageErrorKind::Denied | StorageErrorKind::NotFound), "{error:?}");
        return;
    }
    let (_folder, storage) = folder();
    storage.put("a", "x".into()).await.unwrap();
    std::fs::set_permissions(storage.root(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = storage.put("b", "x".into()).await.unwrap_err();
    std::fs::set_permissions(storage.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(error.kind, StorageErrorKind::Denied);
    assert!(error.help.is_some());
}

#[tokio::test]
async fn a_full_disk_is_told_as_full_and_leaves_nothing() {
    // A file system of 1 MiB, where this user may mount one.
    let (_folder, storage) = folder();
    std::fs::create_dir_all(storage.root()).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(storage.root())
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: this user may not mount a file system");
        return;
    }
    let result = async {
        let mut upload = storage.create("a").await?;
        for _ in 0..8 {
            upload.write(Bytes::from(vec![1; 512 << 10])).await?;
        }
        upload.finish().await
    };
    let result = result.await;
    let listed = storage.list("").try_collect::<Vec<_>>().await;
    let unfinished = storage.unfinished_uploads("").await;
    let status = std::process::Command::new("umount").arg(storage.root()).status().unwrap();
    assert!(status.success());
    let error = result.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Full, "{error:?}");
    assert!(error.help.is_some());
    assert!(listed.unwrap().is_empty());
    assert!(unfinished.unwrap().is_empty());
}

#[test]
fn the_rename_of_file_systems_without_links_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other, target) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("t"));
    std::fs::write(&one, "1").unwrap();
    std::fs::write(&other, "2").unwrap();
    assert_eq!(place::rename_if_absent(&one, &target).unwrap(), PutOutcome::Created);
    assert_eq!(place::rename_if_absent(&other, &target).unwrap(), PutOutcome::Exists);
    assert_eq!(std::fs::read(&target).unwrap(), b"1");
    assert_eq!(std::fs::read(&other).unwrap(), b"2");
}

#[tokio::test]
async fn an_upload_aborted_by_another_process_does_not_appear() {
    let (_folder, storage) = folder();
    let mut upload = storage.create("a").await.unwrap();
    upload.write("x".into()).await.unwrap();
    for unfinished in storage.unfinished_uploads("").await.unwrap() {
        storage.abort_unfinished(&unfinished).await.unwrap();
    }
    assert_eq!(upload.finish().await.unwrap_err().kind, StorageErrorKind::NotFound);
    assert!(storage.list("").try_collect::<Vec<_>>().await.unwrap().is_empty());
}

#[tokio::test]
async fn aborting_takes_no_path_from_outside() {
    let (_folder, storage) = folder();
    storage.put("a", "x".into()).await.unwrap();
    let started = redkeep_core::Timestamp::UNIX_EPOCH;
    for id in ["..", "../a", "", "x/../../a"] {
        let upload = UnfinishedUpload { key: "a".into(), upload_id: id.into(), started };
        assert_eq!(storage.abort_unfinished(&upload).await.unwrap_err().kind, StorageErrorKind::Invalid, "{id}");
    }
    storage.head("a").await.unwrap();
}
