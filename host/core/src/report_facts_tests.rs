//! What the operator reads of a backup, from manifests of one and of many shards.

use rstest::rstest;

use super::*;

fn artifact(shard: &str, name: &str, kind: &str, stored: u64) -> ArtifactRecord {
    ArtifactRecord {
        shard: shard.parse().unwrap(),
        name: name.parse().unwrap(),
        artifact_type: kind.to_owned(),
        key: format!("default/cache/20261121T091348Z-cache-x7k2p/attempt/{shard}/{name}.zst"),
        objects: Vec::new(),
        size: 10 * stored,
        sha256: "p".repeat(64),
        stored_size: stored,
        stored_sha256: format!("{stored:064}"),
        compression: crate::encoding::Compression::DEFAULT,
        encrypted: false,
        parts: None,
        attributes: BTreeMap::new(),
    }
}

fn manifest(shards: usize, artifacts: &[(&str, &str, u64)]) -> Manifest {
    let names: Vec<String> = (0..shards).map(|shard| shard.to_string()).collect();
    Manifest {
        format_version: 1,
        backup_id: "20261121T091348Z-cache-x7k2p".parse().unwrap(),
        name: "cache".to_owned(),
        namespace: "default".parse().unwrap(),
        cluster: "cache".parse().unwrap(),
        origin: "host:a".to_owned(),
        attempt: "attempt".parse().unwrap(),
        started_at: "2026-11-21T09:13:48Z".parse().unwrap(),
        completed_at: "2026-11-21T09:14:48Z".parse().unwrap(),
        tool_version: "redkeep 0.1.0".to_owned(),
        method: crate::manifest::MethodRecord {
            name: "redis-aof".to_owned(),
            version: "0.1.0".to_owned(),
            digest: "d".repeat(64),
        },
        parameters: serde_json::Value::Null,
        source: crate::manifest::SourceRecord { address: "redis://a:1".to_owned(), mode: "nodes".to_owned() },
        shards: names
            .iter()
            .map(|name| ShardRecord {
                name: name.parse().unwrap(),
                node: format!("redis://10.0.0.{name}:6379"),
                slots: Vec::new(),
                facts: BTreeMap::from([("keys".to_owned(), "7".to_owned())]),
            })
            .collect(),
        artifacts: names
            .iter()
            .flat_map(|shard| artifacts.iter().map(move |(name, kind, stored)| artifact(shard, name, kind, *stored)))
            .collect(),
        facts: BTreeMap::from([("keys".to_owned(), (7 * shards).to_string())]),
        encryption: None,
        warnings: Vec::new(),
        parent: None,
        consistency: None,
    }
}

#[test]
fn one_shard_is_told_by_its_data_and_not_by_the_marks_beside_it() {
    let facts = of_backup(&manifest(1, &[("marks.json", "aof-marks", 900), ("dump.aof", "aof", 5)]), "s3://b/p/");
    for (key, value) in [
        (BACKUP_PATH, "s3://b/p/attempt/0/dump.aof.zst"),
        (BACKUP_STARTED, "2026-11-21T09:13:48Z"),
        (BACKUP_COMPLETED, "2026-11-21T09:14:48Z"),
        (ARTIFACT_TYPE, "aof"),
        (STORED_SHA256, &format!("{:064}", 5)),
        (NODE, "redis://10.0.0.0:6379"),
        (STORED_SIZE, "905"),
        (SIZE, "9050"),
        (KEYS, "7"),
        (SHARDS, "1"),
    ] {
        assert_eq!(facts.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[rstest]
#[case(2, 0)]
#[case(500, 500)]
fn many_shards_are_told_as_far_as_there_is_room(#[case] shards: usize, #[case] most_left_out: usize) {
    let facts = of_backup(&manifest(shards, &[("dump.rdb", "rdb", 5)]), "s3://b/p/");
    assert_eq!(facts.get(BACKUP_PATH).unwrap(), "s3://b/p/");
    assert!(!facts.contains_key(STORED_SHA256) && !facts.contains_key(NODE));
    assert_eq!(facts.get(KEYS).unwrap(), &(7 * shards).to_string());
    let told: Vec<ShardFact> = facts
        .iter()
        .filter(|(key, _)| key.strip_prefix(SHARD_PREFIX).is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .map(|(_, value)| value.parse().unwrap())
        .collect();
    let left_out: usize = facts.get(SHARDS_LEFT_OUT).map_or(0, |count| count.parse().unwrap());
    assert_eq!(told.len() + left_out, shards);
    assert!(left_out <= most_left_out && told.len() >= 2.min(shards));
    assert!(told.iter().all(|shard| shard.keys == Some(7) && shard.stored_size == 5 && shard.stored_sha256.is_some()));
    assert!(serde_json::to_vec(&facts).unwrap().len() < crate::task::MAX_REPORT_BYTES - 500);
}

#[test]
fn a_shard_in_one_line_is_read_back() {
    let fact = ShardFact { node: "unix:///a b".to_owned(), keys: None, size: 1, stored_size: 2, stored_sha256: None };
    assert_eq!(fact.to_string(), "node=unix:///a%20b size=1 stored=2");
    assert_eq!(fact.to_string().parse(), Ok(fact));
    for bad in ["", "node=a", "node=a size=x stored=1", "size=1 stored=1"] {
        assert!(bad.parse::<ShardFact>().is_err(), "{bad}");
    }
}

#[test]
fn a_plan_says_first_what_goes_and_why() {
    use crate::retention::Reason;
    let decision = |number: usize, keep: bool| Decision {
        backup: crate::catalog::BackupRef {
            namespace: "default".parse().unwrap(),
            cluster: "cache".parse().unwrap(),
            backup_id: format!("20261121T{number:06}Z-cache-x7k2p").parse().unwrap(),
        },
        started_at: crate::Timestamp::UNIX_EPOCH,
        stored_size: 1,
        keep,
        reasons: if keep { vec![Reason::Pinned, Reason::NewestVerified] } else { vec![Reason::NotKept] },
    };
    let facts = of_plan(&[decision(1, true), decision(2, false)]);
    assert_eq!(
        facts,
        BTreeMap::from([
            (
                "plan-20261121T000001Z-cache-x7k2p".to_owned(),
                "keep: pinned, newest verified backup of its cluster".to_owned()
            ),
            ("plan-20261121T000002Z-cache-x7k2p".to_owned(), "delete: no rule keeps it".to_owned()),
        ])
    );
    let many: Vec<Decision> = (0..5_000).map(|number| decision(number, number >= 10)).collect();
    let facts = of_plan(&many);
    let left_out: usize = facts[PLAN_LEFT_OUT].parse().unwrap();
    assert_eq!(facts.len() - 1 + left_out, 5_000);
    assert_eq!(facts.values().filter(|fate| fate.starts_with("delete")).count(), 10);
    assert!(serde_json::to_vec(&facts).unwrap().len() < 2_400);
}
