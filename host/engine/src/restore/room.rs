//! Whether the target has room for what is restored: where it certainly has not, that is refused before the first byte is fetched.

use redkeep_core::attribute::find;
use redkeep_core::manifest::{ArtifactRecord, Manifest, ShardRecord};
use redkeep_core::provider::ProviderError;
use redkeep_core::task::RestoreTask;
use redkeep_core::units::format_size;
use redkeep_core::{Attribute, Class};

/// A server's address and its `INFO`.
pub(super) type Info = (String, Vec<Attribute>);

/// Bytes that a shard takes in a directory: as its method plans it, which may lay out two copies; else what its artifacts hold.
pub(crate) fn on_disk(planned: &[Attribute], shard: &ShardRecord, artifacts: &[ArtifactRecord]) -> u64 {
    let own = artifacts.iter().filter(|artifact| artifact.shard == shard.name).map(|artifact| artifact.size);
    let held = own.fold(0, u64::saturating_add);
    find(planned, "target-bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(held)
}

/// Refuses a directory on a file system with less room. `free`: nothing where it does not say.
pub(crate) fn check_disk(directory: &str, needed: u64, free: Option<u64>) -> Result<(), ProviderError> {
    match free.filter(|free| *free < needed) {
        None => Ok(()),
        Some(free) => Err(ProviderError::new(
            Class::Refused,
            "DiskTooSmall",
            format!("the restore into {directory} takes {}, {} are free there", format_size(needed), format_size(free)),
        )
        .with_help("free space, or restore into a directory of a larger file system")),
    }
}

/// What is to be said of a live target's memory.
#[derive(Debug)]
pub(super) enum Memory {
    /// Nothing.
    Fits,
    /// It may not do.
    Doubtful(String),
    /// It cannot do.
    TooSmall(ProviderError),
}

/// Compares the memory that is left with the backup. A value takes no less memory than in an RDB file; what expired meanwhile, what
/// is filtered, and what replaces other keys takes less.
pub(super) fn memory(manifest: &Manifest, task: &RestoreTask, address: &str, infos: &[Info]) -> Memory {
    // Users are not put into a live server.
    let artifacts = || manifest.artifacts.iter().filter(|artifact| artifact.artifact_type != "acl");
    let size = artifacts().map(|artifact| artifact.size).fold(0, u64::saturating_add);
    let Some((limit, free)) = left(infos).filter(|(_, free)| *free < size) else { return Memory::Fits };
    let is_chosen = ["match", "db", "on-conflict"].iter().any(|name| task.parameters.contains_key(*name));
    let is_snapshot = artifacts().all(|artifact| artifact.artifact_type == "rdb");
    let expires = |shard: &ShardRecord| shard.facts.get("expires").is_none_or(|count| count != "0");
    let (limit, free, size) = (format_size(limit), format_size(free), format_size(size));
    if is_chosen || !is_snapshot || manifest.shards.iter().any(expires) {
        return Memory::Doubtful(format!(
            "the target {address} has {free} of its {limit} of memory left, the backup has {size}: it may not fit"
        ));
    }
    let message = format!(
        "the target {address} has {free} of its maxmemory of {limit} left, and the keys of the backup take at least {size}"
    );
    Memory::TooSmall(ProviderError::new(Class::Refused, "TargetTooSmall", message).with_help(
        "raise maxmemory (CONFIG SET maxmemory), restore into a larger server, or choose keys by --match or --db",
    ))
}

/// `maxmemory` of all primaries and what is left of it; nothing where one of them has no limit.
fn left(infos: &[Info]) -> Option<(u64, u64)> {
    let number = |info: &[Attribute], key: &str| find(info, key)?.parse::<u64>().ok();
    let each = infos.iter().map(|(_, info)| {
        let limit = number(info, "maxmemory").filter(|limit| *limit > 0)?;
        Some((limit, limit.saturating_sub(number(info, "used_memory")?)))
    });
    let sum = |sum: (u64, u64), (limit, free): (u64, u64)| (sum.0.saturating_add(limit), sum.1.saturating_add(free));
    let each = each.collect::<Option<Vec<_>>>()?;
    (!each.is_empty()).then(|| each.into_iter().fold((0, 0), sum))
}

/// Primaries that write their data out right now: until that ends, the system copies what a restore changes.
pub(super) fn saving(infos: &[Info]) -> Option<String> {
    let is_saving = |info: &[Attribute]| {
        let keys = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress"];
        keys.into_iter().any(|key| find(info, key) == Some("1"))
    };
    let addresses: Vec<&str> =
        infos.iter().filter(|(_, info)| is_saving(info)).map(|(address, _)| address.as_str()).collect();
    (!addresses.is_empty()).then(|| {
        format!(
            "a save is running on {}: until it ends, a restore takes up to twice the memory there",
            addresses.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use redkeep_core::Classify as _;
    use rstest::rstest;

    use super::*;
    use crate::testing::{into_server, restore_task};

    fn manifest(artifact_type: &str, expires: Option<&str>) -> Manifest {
        let facts: serde_json::Map<_, _> =
            expires.map(|count| ("expires".to_owned(), count.into())).into_iter().collect();
        let artifact = |shard: &str| {
            serde_json::json!({
                "shard": shard, "name": "dump.rdb", "type": artifact_type, "key": "k", "size": 500, "sha256": "",
                "storedSize": 1, "storedSha256": "", "compression": "none", "encrypted": false
            })
        };
        let shard = |name: &str| serde_json::json!({"name": name, "node": "n", "facts": facts});
        let text = serde_json::json!({
            "formatVersion": 1, "backupId": "20261121T091348Z-cache-x7k2p", "name": "cache", "namespace": "default",
            "cluster": "cache", "origin": "host:a", "attempt": "a1", "startedAt": "2026-11-21T09:13:48Z",
            "completedAt": "2026-11-21T09:14:00Z", "toolVersion": "redkeep 0.1.0",
            "method": {"name": "m", "version": "0", "digest": "00"}, "source": {"address": "redis://a", "mode": "cluster"},
            "shards": [shard("0"), shard("1")], "artifacts": [artifact("0"), artifact("1")]
        });
        Manifest::parse("m", text.to_string().as_bytes()).unwrap()
    }

    fn info(facts: &[(&str, u64)]) -> Info {
        ("a:1".to_owned(), facts.iter().map(|(key, value)| Attribute::new(*key, value)).collect())
    }

    #[rstest]
    #[case::no_limit(&[Some((0, 5000))], "fits")]
    #[case::not_said(&[None], "fits")]
    #[case::no_server(&[], "fits")]
    #[case::enough(&[Some((1500, 500))], "fits")]
    #[case::one_byte_less(&[Some((1500, 501))], "too small")]
    #[case::full_already(&[Some((1500, 1600))], "too small")]
    #[case::together_enough(&[Some((600, 100)), Some((600, 100))], "fits")]
    #[case::together_not(&[Some((600, 100)), Some((600, 101))], "too small")]
    #[case::one_without_limit(&[Some((600, 500)), Some((0, 0))], "fits")]
    fn what_is_left_of_the_memory_is_compared_with_the_backup(
        #[case] primaries: &[Option<(u64, u64)>],
        #[case] expected: &str,
    ) {
        let said = |(limit, used)| info(&[("maxmemory", limit), ("used_memory", used)]);
        let infos: Vec<Info> = primaries.iter().map(|memory| memory.map_or_else(|| info(&[]), said)).collect();
        let said = match memory(&manifest("rdb", Some("0")), &restore_task(into_server()), "redis://a", &infos) {
            Memory::Fits => "fits",
            Memory::Doubtful(warning) => panic!("{warning}"),
            Memory::TooSmall(error) => {
                assert_eq!((error.class(), error.reason()), (Class::Refused, "TargetTooSmall"));
                "too small"
            }
        };
        assert_eq!(said, expected);
    }

    #[rstest]
    #[case::keys_that_may_have_expired("rdb", Some("3"), None)]
    #[case::nothing_known_of_expiries("rdb", None, None)]
    #[case::commands_that_may_delete("aof", Some("0"), None)]
    #[case::some_keys("rdb", Some("0"), Some("match"))]
    #[case::one_database("rdb", Some("0"), Some("db"))]
    #[case::in_place_of_others("rdb", Some("0"), Some("on-conflict"))]
    fn where_it_may_be_enough_that_is_only_said(
        #[case] artifact_type: &str,
        #[case] expires: Option<&str>,
        #[case] parameter: Option<&str>,
    ) {
        let mut task = restore_task(into_server());
        task.parameters.extend(parameter.map(|name| (name.to_owned(), "x".into())));
        let infos = [info(&[("maxmemory", 600), ("used_memory", 500)])];
        match memory(&manifest(artifact_type, expires), &task, "redis://a", &infos) {
            Memory::Doubtful(warning) => assert!(warning.contains("100 B of its 600 B"), "{warning}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_running_save_is_said_with_its_server() {
        assert!(saving(&[info(&[("rdb_bgsave_in_progress", 0)]), info(&[])]).is_none());
        for key in ["rdb_bgsave_in_progress", "aof_rewrite_in_progress"] {
            let warning = saving(&[info(&[]), info(&[(key, 1)])]).unwrap();
            assert!(warning.contains("running on a:1:"), "{warning}");
        }
    }

    #[test]
    fn a_directory_needs_what_its_method_plans() {
        let manifest = manifest("rdb", None);
        let needed = |planned: &[Attribute]| on_disk(planned, &manifest.shards[0], &manifest.artifacts);
        assert_eq!(needed(&[]), 500, "the other shard's are not its");
        assert_eq!(needed(&[Attribute::new("target-bytes", 1000)]), 1000);
        check_disk("/data", 1000, Some(1000)).unwrap();
        check_disk("/data", 1000, None).unwrap();
        let error = check_disk("/data", 3 << 30, Some(1 << 30)).unwrap_err();
        assert_eq!((error.class(), error.reason()), (Class::Refused, "DiskTooSmall"));
        assert!(error.message.contains("3.0 GiB") && error.message.contains("1.0 GiB"), "{error}");
    }
}
