//! Checks of small objects, listings and conditional puts.

use bytes::Bytes;
use futures::TryStreamExt as _;
use redkeep_core::storage::{PutOutcome, StorageErrorKind};

use super::{Bench, Checked, ensure, expect_kind, pattern, told};

pub(super) async fn a_put_is_read_back_and_replaced(bench: Bench) -> Checked {
    bench.put("a", "one").await?;
    let first = bench.storage.head(&bench.key("a")).await.map_err(told)?;
    ensure!(first.size == 3 && first.key == bench.key("a"), "head says {first:?}");
    ensure!(first.modified.as_second() > 1_600_000_000, "modified at {}", first.modified);
    bench.put("a", "other").await?;
    let read = bench.read("a", None).await.map_err(told)?;
    ensure!(read == b"other", "read {read:?}");
    let second = bench.storage.head(&bench.key("a")).await.map_err(told)?;
    ensure!(second.etag != first.etag || first.etag.is_none(), "the etag {:?} stayed", first.etag);
    Ok(())
}

pub(super) async fn an_empty_object_is_an_object(bench: Bench) -> Checked {
    bench.put("empty", "").await?;
    let head = bench.storage.head(&bench.key("empty")).await.map_err(told)?;
    ensure!(head.size == 0, "size {}", head.size);
    ensure!(bench.read("empty", None).await.map_err(told)?.is_empty(), "bytes came");
    ensure!(bench.read("empty", Some(0..0)).await.map_err(told)?.is_empty(), "bytes came for an empty range");
    let names = bench.names().await?;
    ensure!(names == ["empty"], "listed {names:?}");
    Ok(())
}

pub(super) async fn ranges_are_exact(bench: Bench) -> Checked {
    let data = pattern(100_000, 3);
    bench.put("a", data.clone()).await?;
    for (start, end) in
        [(0, 1), (0, 100_000), (99_999, 100_000), (1, 99_999), (65_536, 65_537), (5, 5), (100_000, 100_000)]
    {
        let read = bench.read("a", Some(start as u64..end as u64)).await.map_err(told)?;
        let expected = data.get(start..end).unwrap_or_default();
        ensure!(read == expected, "{start}..{end} gave {} bytes, not the right ones", read.len());
    }
    // A range that reaches past the end must not be shortened silently; it may fail at once or at the end of the body.
    for (start, end) in [(99_999, 100_001), (100_000, 100_001), (200_000, 200_001)] {
        expect_kind("a range past the end", bench.read("a", Some(start..end)).await, StorageErrorKind::Damaged)?;
    }
    Ok(())
}

pub(super) async fn what_is_missing_is_not_found(bench: Bench) -> Checked {
    // The storage itself is there.
    bench.put("there", "x").await?;
    let storage = &bench.storage;
    expect_kind("head", storage.head(&bench.key("missing")).await, StorageErrorKind::NotFound)?;
    expect_kind("get", storage.get(&bench.key("missing"), None).await.map(drop), StorageErrorKind::NotFound)?;
    expect_kind(
        "get a range",
        storage.get(&bench.key("missing"), Some(0..1)).await.map(drop),
        StorageErrorKind::NotFound,
    )?;
    expect_kind(
        "get an empty range",
        storage.get(&bench.key("missing"), Some(0..0)).await.map(drop),
        StorageErrorKind::NotFound,
    )?;
    if !bench.abilities.folders_are_not_objects {
        return Ok(());
    }
    expect_kind(
        "head of a folder",
        storage.head(bench.folder.trim_end_matches('/')).await,
        StorageErrorKind::NotFound,
    )?;
    expect_kind("head below an object", storage.head(&bench.key("there/below")).await, StorageErrorKind::NotFound)
}

pub(super) async fn deleting_what_is_gone_is_no_error(bench: Bench) -> Checked {
    bench.put("a", "x").await?;
    let keys = [bench.key("missing"), bench.key("a"), bench.key("no/such/folder")];
    bench.storage.delete(&keys).await.map_err(told)?;
    bench.storage.delete(&keys).await.map_err(told)?;
    bench.storage.delete(&[]).await.map_err(told)?;
    expect_kind("head", bench.storage.head(&bench.key("a")).await, StorageErrorKind::NotFound)
}

pub(super) async fn many_objects_are_deleted_at_once(bench: Bench) -> Checked {
    let mut keys = Vec::new();
    for number in 0..30 {
        let name = format!("{}/{number}", number % 3);
        bench.put(&name, "x").await?;
        keys.push(bench.key(&name));
    }
    bench.put("stays", "x").await?;
    keys.push(bench.key("missing"));
    bench.storage.delete(&keys).await.map_err(told)?;
    let names = bench.names().await?;
    ensure!(names == ["stays"], "left {names:?}");
    let listing = bench.storage.list_folder(&bench.folder).await.map_err(told)?;
    ensure!(listing.folders.is_empty(), "emptied folders are shown: {:?}", listing.folders);
    Ok(())
}

pub(super) async fn a_listing_is_in_order_and_keeps_to_its_prefix(bench: Bench) -> Checked {
    // `-` and `.` sort before `/`: an order by folders would differ from the order of keys.
    let names = ["a-b", "a/1", "a/b/2", "a/b/c/3", "ab/4", "b", "B"];
    for name in names {
        bench.put(name, name.to_owned()).await?;
    }
    let listed = bench.names().await?;
    ensure!(listed == ["B", "a-b", "a/1", "a/b/2", "a/b/c/3", "ab/4", "b"], "listed {listed:?}");
    let below = |prefix: &str| {
        let (bench, prefix) = (bench.clone(), bench.key(prefix));
        async move {
            let found = bench.list(&prefix).await?;
            Ok::<_, String>(
                found.into_iter().map(|meta| (meta.key.replace(&bench.folder, ""), meta.size)).collect::<Vec<_>>(),
            )
        }
    };
    let folder = below("a/").await?;
    ensure!(folder == [("a/1".into(), 3), ("a/b/2".into(), 5), ("a/b/c/3".into(), 7)], "under a/: {folder:?}");
    let beginning = below("a").await?;
    ensure!(beginning.len() == 5, "beginning with a: {beginning:?}");
    let part = below("a/b").await?;
    ensure!(part.len() == 2, "beginning with a/b: {part:?}");
    let none = below("zz/").await?;
    ensure!(none.is_empty(), "under a folder that is not there: {none:?}");
    let object = below("b/").await?;
    ensure!(object.is_empty(), "under an object: {object:?}");
    Ok(())
}

pub(super) async fn a_listing_begins_behind_a_key(bench: Bench) -> Checked {
    let names = ["B", "a-b", "a/1", "a/b/2", "a/b/c/3", "ab/4", "b"];
    for name in names {
        bench.put(name, "x").await?;
    }
    // Keys that are there, parts of them, and keys that are not: each says only where to begin.
    for after in ["A", "B", "a", "a-b", "a/0", "a/1", "a/b", "a/b/2", "a/b/c/3", "a/zz", "ab", "ab/4", "b", "c"] {
        let listed = bench.storage.list_after(&bench.folder, &bench.key(after)).map_ok(|meta| meta.key);
        let listed: Vec<String> = listed.try_collect().await.map_err(told)?;
        let expected: Vec<String> = names.iter().filter(|name| **name > after).map(|name| bench.key(name)).collect();
        ensure!(listed == expected, "after {after}: {listed:?}");
    }
    let listed = bench.storage.list_after(&bench.key("a/b"), &bench.key("a/b/2")).map_ok(|meta| meta.key);
    let listed: Vec<String> = listed.try_collect().await.map_err(told)?;
    ensure!(listed == [bench.key("a/b/c/3")], "within a prefix: {listed:?}");
    Ok(())
}

pub(super) async fn a_folder_lists_one_level(bench: Bench) -> Checked {
    for name in ["x", "a/1", "a/b/2", "ab/3", "a-b/4"] {
        bench.put(name, "1").await?;
    }
    let listing = bench.storage.list_folder(&bench.folder).await.map_err(told)?;
    let keys: Vec<_> = listing.objects.iter().map(|meta| meta.key.as_str()).collect();
    ensure!(keys == [bench.key("x")], "objects {keys:?}");
    let expected = [bench.key("a-b/"), bench.key("a/"), bench.key("ab/")];
    ensure!(listing.folders == expected, "folders {:?}", listing.folders);
    let listing = bench.storage.list_folder(&bench.key("a/")).await.map_err(told)?;
    ensure!(listing.objects.len() == 1 && listing.folders == [bench.key("a/b/")], "under a/: {listing:?}");
    let root = bench.storage.list_folder("").await.map_err(told)?;
    ensure!(root.folders.contains(&"conformance/".to_owned()), "at the top: {:?}", root.folders);
    Ok(())
}

pub(super) async fn a_missing_folder_is_empty(bench: Bench) -> Checked {
    bench.put("a", "x").await?;
    let listing = bench.storage.list_folder(&bench.key("no/such/")).await.map_err(told)?;
    ensure!(listing.objects.is_empty() && listing.folders.is_empty(), "{listing:?}");
    let listed = bench.list(&bench.key("no/such/")).await?;
    ensure!(listed.is_empty(), "{listed:?}");
    expect_kind("a folder without its /", bench.storage.list_folder("conformance").await, StorageErrorKind::Invalid)
}

/// More than one page of 1,000.
pub(super) async fn a_long_listing_is_whole(bench: Bench) -> Checked {
    const COUNT: usize = 1_100;
    let puts = (0..COUNT).map(|number| {
        let bench = bench.clone();
        async move { bench.put(&format!("{}/{number:05}", number / 100), "x").await }
    });
    let puts: Vec<_> = puts.collect();
    let mut puts = puts.into_iter();
    loop {
        let batch: Vec<_> = puts.by_ref().take(16).collect();
        if batch.is_empty() {
            break;
        }
        futures::future::try_join_all(batch).await?;
    }
    let names = bench.names().await?;
    ensure!(names.len() == COUNT, "{} of {COUNT} listed", names.len());
    ensure!(names.is_sorted(), "not in order");
    let listing = bench.storage.list_folder(&bench.folder).await.map_err(told)?;
    ensure!(listing.folders.len() == COUNT.div_ceil(100), "{} folders", listing.folders.len());
    Ok(())
}

pub(super) async fn keys_that_lead_elsewhere_are_refused(bench: Bench) -> Checked {
    let storage = &bench.storage;
    for key in ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", "ä", "a b", "a\nb", ".redkeep-tmp/x"] {
        expect_kind(key, storage.put(key, "x".into()).await, StorageErrorKind::Invalid)?;
        expect_kind(key, storage.put_if_absent(key, "x".into()).await, StorageErrorKind::Invalid)?;
        expect_kind(key, storage.create(key).await.map(drop), StorageErrorKind::Invalid)?;
        expect_kind(key, storage.get(key, None).await.map(drop), StorageErrorKind::Invalid)?;
        expect_kind(key, storage.head(key).await, StorageErrorKind::Invalid)?;
        expect_kind(key, storage.delete(&[key.to_owned()]).await, StorageErrorKind::Invalid)?;
    }
    Ok(())
}

pub(super) async fn only_the_first_put_if_absent_creates(bench: Bench) -> Checked {
    let key = bench.key("once");
    let first = bench.storage.put_if_absent(&key, "first".into()).await.map_err(told)?;
    ensure!(first == PutOutcome::Created, "the first: {first:?}");
    let second = bench.storage.put_if_absent(&key, "second".into()).await.map_err(told)?;
    ensure!(second == PutOutcome::Exists, "the second: {second:?}");
    let read = bench.read("once", None).await.map_err(told)?;
    ensure!(read == b"first", "the second replaced it");
    bench.storage.delete(std::slice::from_ref(&key)).await.map_err(told)?;
    let third = bench.storage.put_if_absent(&key, "third".into()).await.map_err(told)?;
    ensure!(third == PutOutcome::Created, "after a delete: {third:?}");
    Ok(())
}

pub(super) async fn of_many_writers_exactly_one_creates(bench: Bench) -> Checked {
    if !bench.abilities.conditional_put {
        return Ok(());
    }
    for round in 0..5 {
        let name = format!("race-{round}");
        let writers = (0..16_u8).map(|writer| {
            let (storage, key) = (bench.storage.clone(), bench.key(&name));
            async move {
                let data = Bytes::from(vec![writer; 2_000]);
                storage.put_if_absent(&key, data).await.map(|outcome| (writer, outcome)).map_err(told)
            }
        });
        let outcomes = futures::future::try_join_all(writers).await?;
        let winners: Vec<u8> =
            outcomes.iter().filter(|(_, outcome)| *outcome == PutOutcome::Created).map(|(writer, _)| *writer).collect();
        ensure!(winners.len() == 1, "round {round}: {} writers created it", winners.len());
        let read = bench.read(&name, None).await.map_err(told)?;
        ensure!(
            winners.first().is_some_and(|winner| read == vec![*winner; 2_000]),
            "round {round}: it is not the winner's"
        );
    }
    Ok(())
}

pub(super) async fn calls_at_once_do_not_disturb_each_other(bench: Bench) -> Checked {
    let workers = (0..12_usize).map(|worker| {
        let bench = bench.clone();
        async move {
            let name = format!("w{worker}/object");
            let data = pattern(10_000 + worker, worker as u64);
            for _ in 0..5 {
                bench.put(&name, data.clone()).await?;
                let read = bench.read(&name, None).await.map_err(told)?;
                ensure!(read == data, "worker {worker} read something else");
                // The folder goes with its object and comes again with the next.
                bench.storage.delete(&[bench.key(&name)]).await.map_err(told)?;
            }
            Ok(())
        }
    });
    futures::future::try_join_all(workers).await.map(drop)
}
