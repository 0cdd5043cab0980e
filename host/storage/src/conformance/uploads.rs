//! Checks of objects of unknown length.

use std::time::Duration;

use bytes::Bytes;
use redkeep_core::storage::{StorageErrorKind, Upload};

use super::{Bench, Checked, ensure, expect_kind, pattern, told};

const MIB: usize = 1024 * 1024;
/// How long an abort that nobody waits for may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn begin(bench: &Bench, name: &str) -> Result<Box<dyn Upload>, String> {
    bench.storage.create(&bench.key(name)).await.map_err(told)
}

async fn write_all(upload: &mut Box<dyn Upload>, mut data: Bytes, piece: usize) -> Checked {
    while !data.is_empty() {
        upload.write(data.split_to(piece.min(data.len()))).await.map_err(told)?;
    }
    Ok(())
}

async fn upload_and_read(bench: &Bench, name: &str, size: usize, piece: usize) -> Checked {
    let data = pattern(size, size as u64);
    let mut upload = begin(bench, name).await?;
    let before = upload.remaining();
    write_all(&mut upload, data.clone(), piece).await?;
    ensure!(
        before == u64::MAX || upload.remaining() == before - size as u64,
        "{size} bytes: remaining() does not fall by them"
    );
    let meta = upload.finish().await.map_err(told)?;
    ensure!(meta.size == size as u64 && meta.key == bench.key(name), "{size} bytes: finished as {meta:?}");
    let read = bench.read(name, None).await.map_err(told)?;
    ensure!(read == data, "{size} bytes came back as {}, or changed", read.len());
    Ok(())
}

pub(super) async fn uploads_of_every_size_come_back(bench: Bench) -> Checked {
    for size in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 40 * MIB] {
        upload_and_read(&bench, &format!("{size}"), size, MIB).await?;
    }
    Ok(())
}

pub(super) async fn an_upload_in_small_pieces_comes_back(bench: Bench) -> Checked {
    upload_and_read(&bench, "odd", 9 * MIB + 7, 10_007).await?;
    upload_and_read(&bench, "at-once", 20 * MIB + 7, 30 * MIB).await
}

pub(super) async fn an_upload_replaces_what_was_there_only_when_it_ends(bench: Bench) -> Checked {
    bench.put("a", "old").await?;
    let mut upload = begin(&bench, "a").await?;
    write_all(&mut upload, pattern(9 * MIB, 1), MIB).await?;
    let read = bench.read("a", None).await.map_err(told)?;
    ensure!(read == b"old", "it is visible before its end");
    upload.finish().await.map_err(told)?;
    let read = bench.read("a", None).await.map_err(told)?;
    ensure!(read == pattern(9 * MIB, 1), "it is not there after its end");
    Ok(())
}

async fn nothing_there(bench: &Bench) -> Checked {
    let names = bench.names().await?;
    ensure!(names.is_empty(), "visible: {names:?}");
    if !bench.abilities.unfinished_uploads {
        return Ok(());
    }
    let unfinished = bench.storage.unfinished_uploads(&bench.folder).await.map_err(told)?;
    ensure!(unfinished.is_empty(), "unfinished: {unfinished:?}");
    Ok(())
}

pub(super) async fn an_aborted_upload_leaves_nothing(bench: Bench) -> Checked {
    // Something stands elsewhere, so that the storage itself is there.
    bench.storage.put("conformance/other", "x".into()).await.map_err(told)?;
    for size in [0, 1, 9 * MIB, 30 * MIB] {
        let mut upload = begin(&bench, "a").await?;
        write_all(&mut upload, pattern(size, 1), MIB).await?;
        upload.abort().await.map_err(told)?;
        nothing_there(&bench).await.map_err(|seen| format!("after {size} bytes: {seen}"))?;
    }
    expect_kind("head", bench.storage.head(&bench.key("a")).await, StorageErrorKind::NotFound)
}

pub(super) async fn a_dropped_upload_leaves_nothing_visible(bench: Bench) -> Checked {
    bench.storage.put("conformance/other", "x".into()).await.map_err(told)?;
    for size in [0, 1, 9 * MIB, 30 * MIB] {
        let mut upload = begin(&bench, "a").await?;
        write_all(&mut upload, pattern(size, 1), MIB).await?;
        drop(upload);
        let names = bench.names().await?;
        ensure!(names.is_empty(), "visible after {size} bytes: {names:?}");
    }
    // The abort runs on by itself.
    let waited = tokio::time::timeout(PATIENCE, async {
        while nothing_there(&bench).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if waited.await.is_err() { nothing_there(&bench).await } else { Ok(()) }
}

pub(super) async fn an_unfinished_upload_is_listed_and_can_be_aborted(bench: Bench) -> Checked {
    if !bench.abilities.unfinished_uploads {
        return Ok(());
    }
    bench.storage.put("conformance/other", "x".into()).await.map_err(told)?;
    let mut upload = begin(&bench, "b/a").await?;
    write_all(&mut upload, pattern(17 * MIB, 1), MIB).await?;
    // As a kill would leave it.
    std::mem::forget(upload);
    let found = bench.storage.unfinished_uploads(&bench.folder).await.map_err(told)?;
    ensure!(found.len() == 1, "listed: {found:?}");
    let elsewhere = bench.storage.unfinished_uploads("conformance/elsewhere/").await.map_err(told)?;
    ensure!(elsewhere.is_empty(), "listed under another folder: {elsewhere:?}");
    for unfinished in &found {
        ensure!(unfinished.key == bench.key("b/a"), "listed as {}", unfinished.key);
        ensure!(unfinished.started.as_second() > 1_600_000_000, "begun at {}", unfinished.started);
        let written = bench.storage.last_written(unfinished).await.map_err(told)?;
        ensure!(written >= unfinished.started, "begun at {}, written at {written}", unfinished.started);
        bench.storage.abort_unfinished(unfinished).await.map_err(told)?;
        bench.storage.abort_unfinished(unfinished).await.map_err(|error| format!("aborted again: {}", told(error)))?;
    }
    // Parts of it are still on their way and may land after the abort, as those of a live process may for `prune`.
    let waited = tokio::time::timeout(PATIENCE, async {
        while nothing_there(&bench).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for unfinished in bench.storage.unfinished_uploads(&bench.folder).await.unwrap_or_default() {
                let _ = bench.storage.abort_unfinished(&unfinished).await;
            }
        }
    });
    if waited.await.is_err() { nothing_there(&bench).await } else { Ok(()) }
}

pub(super) async fn uploads_at_once_do_not_disturb_each_other(bench: Bench) -> Checked {
    let uploads = (0..4_usize).map(|number| {
        let bench = bench.clone();
        async move { upload_and_read(&bench, &format!("u{number}"), 9 * MIB + number, 300_000).await }
    });
    futures::future::try_join_all(uploads).await.map(drop)
}
