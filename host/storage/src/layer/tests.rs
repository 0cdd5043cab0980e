use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use redkeep_core::storage::{PutOutcome, ReadStorage, StorageError, StorageErrorKind, WriteStorage};

use super::delay::Delay;
use super::dry_run::DryRunLayer;
use super::fault::{Fault, FaultPlan};
use super::limit::Limit;
use super::metrics::{Metrics, StorageMetrics};
use super::prefix::PrefixLayer;
use super::retry::{RetryLayer, RetryPolicy};
use super::throttle::Throttle;
use super::{Intercepted, Operation};
use crate::MemoryStorage;
use crate::conformance::{Abilities, pattern};
use crate::test_servers::pass;

fn memory() -> Arc<dyn WriteStorage> {
    Arc::new(MemoryStorage::new("layers"))
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 5,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        ..RetryPolicy::default()
    }
}

fn retried(storage: Arc<dyn WriteStorage>) -> Arc<dyn WriteStorage> {
    Arc::new(RetryLayer::new(storage, quick()))
}

async fn read(
    storage: &Arc<dyn WriteStorage>,
    key: &str,
    range: Option<std::ops::Range<u64>>,
) -> Result<Vec<u8>, StorageError> {
    let parts: Vec<Bytes> = storage.get(key, range).await?.try_collect().await?;
    Ok(parts.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_layer_keeps_the_promises_of_the_storage_below() {
    let storage: Arc<dyn WriteStorage> = Arc::new(PrefixLayer::new(memory(), "a/folder/").unwrap());
    let storage: Arc<dyn WriteStorage> = Arc::new(Intercepted::new(storage, Arc::new(Limit::new(3))));
    let storage: Arc<dyn WriteStorage> = Arc::new(Intercepted::new(storage, Arc::new(Throttle::new(1 << 40))));
    let storage: Arc<dyn WriteStorage> =
        Arc::new(Intercepted::new(storage, Arc::new(Metrics::new(Arc::new(Counts::default())))));
    let delay = Delay { call: Duration::ZERO, data: Duration::ZERO };
    let storage: Arc<dyn WriteStorage> = Arc::new(Intercepted::new(storage, Arc::new(delay)));
    let storage = FaultPlan::new().over(storage);
    pass(retried(storage), Abilities::default()).await;
}

#[tokio::test]
async fn failures_that_may_pass_are_tried_again_and_others_are_not() {
    for (kind, calls) in
        [(StorageErrorKind::Busy, 3), (StorageErrorKind::Unreachable, 3), (StorageErrorKind::Denied, 1)]
    {
        let plan = FaultPlan::new().with(Fault::fail(kind).on(Operation::Put).times(2));
        let storage = retried(plan.over(memory()));
        assert_eq!(storage.put("a", "x".into()).await.is_ok(), calls == 3, "{kind:?}");
        assert_eq!(plan.count(Operation::Put), calls, "{kind:?}");
    }
}

#[tokio::test]
async fn trying_ends() {
    let plan = FaultPlan::new().with(Fault::fail(StorageErrorKind::Busy));
    let storage = retried(plan.over(memory()));
    assert_eq!(storage.head("a").await.unwrap_err().kind, StorageErrorKind::Busy);
    assert_eq!(plan.count(Operation::Head), quick().attempts as usize);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_known_to_be_ours() {
    let plan = FaultPlan::new()
        .with(Fault::fail(StorageErrorKind::Unreachable).on(Operation::PutIfAbsent).nth(1).after_the_act());
    let storage = retried(plan.over(memory()));
    assert_eq!(storage.put_if_absent("m", "ours".into()).await.unwrap(), PutOutcome::Created);
    assert_eq!((plan.struck(), plan.count(Operation::PutIfAbsent)), (1, 1), "it was put again blindly");
}

#[tokio::test]
async fn a_commit_that_failed_while_another_won_is_known_to_be_theirs() {
    let below = memory();
    below.put("m", "them".into()).await.unwrap();
    let plan = FaultPlan::new().with(Fault::fail(StorageErrorKind::Unreachable).on(Operation::PutIfAbsent).nth(1));
    let storage = retried(plan.over(below.clone()));
    assert_eq!(storage.put_if_absent("m", "ours".into()).await.unwrap(), PutOutcome::Exists);
    assert_eq!(read(&below, "m", None).await.unwrap(), b"them");
}

#[tokio::test]
async fn a_commit_that_did_not_arrive_is_tried_again() {
    let plan = FaultPlan::new().with(Fault::fail(StorageErrorKind::TimedOut).on(Operation::PutIfAbsent).times(2));
    let storage = retried(plan.over(memory()));
    assert_eq!(storage.put_if_absent("m", "ours".into()).await.unwrap(), PutOutcome::Created);
    assert_eq!(plan.count(Operation::PutIfAbsent), 3);
}

#[tokio::test]
async fn a_commit_that_cannot_be_settled_is_an_error_and_no_guess() {
    let plan = FaultPlan::new()
        .with(Fault::fail(StorageErrorKind::Unreachable).on(Operation::PutIfAbsent).after_the_act())
        .with(Fault::fail(StorageErrorKind::Unreachable).on(Operation::Head));
    let storage = retried(plan.over(memory()));
    assert_eq!(storage.put_if_absent("m", "x".into()).await.unwrap_err().kind, StorageErrorKind::Unreachable);
}

#[tokio::test]
async fn a_broken_body_is_read_on_where_it_broke() {
    let data = pattern(1_000_000, 4);
    for range in [None, Some(10..900_000_u32)] {
        let bytes = range.clone().map(|range| u64::from(range.start)..u64::from(range.end));
        let plan = FaultPlan::new()
            .with(Fault::fail(StorageErrorKind::Unreachable).on(Operation::Get).at_byte(300_000).times(2));
        let storage = retried(plan.over(memory()));
        storage.put("a", data.clone()).await.unwrap();
        let expected = range.clone().map_or(data.clone(), |range| data.slice(range.start as usize..range.end as usize));
        assert!(read(&storage, "a", bytes).await.unwrap() == expected);
        assert_eq!((plan.struck(), plan.count(Operation::Get)), (2, 3));
    }
}

#[tokio::test]
async fn a_listing_that_fails_at_first_is_begun_again() {
    let plan = FaultPlan::new().with(Fault::fail(StorageErrorKind::Busy).on(Operation::List).times(2));
    let storage = retried(plan.over(memory()));
    storage.put("a", "x".into()).await.unwrap();
    assert_eq!(storage.list("").try_collect::<Vec<_>>().await.unwrap().len(), 1);
    assert!(storage.list("zz").try_collect::<Vec<_>>().await.unwrap().is_empty());
}

#[tokio::test]
async fn faults_strike_where_the_plan_says() {
    let data = pattern(300_000, 4);
    let plan = FaultPlan::new()
        .with(Fault::truncate(100_000).on(Operation::Get).key("cut"))
        .with(Fault::corrupt(200_000).on(Operation::Get).key("flipped"))
        .with(Fault::truncate(70_000).on(Operation::Upload).key("short"))
        .with(Fault::fail(StorageErrorKind::Full).on(Operation::Upload).key("full").at_byte(150_000))
        .with(Fault::fail(StorageErrorKind::Denied).on(Operation::Delete).nth(2));
    let storage = plan.over(memory());
    for key in ["cut", "flipped", "sound"] {
        storage.put(key, data.clone()).await.unwrap();
    }
    assert!(read(&storage, "cut", None).await.unwrap() == data[..100_000]);
    let flipped = read(&storage, "flipped", None).await.unwrap();
    let differ: Vec<usize> = (0..data.len()).filter(|index| flipped[*index] != data[*index]).collect();
    assert_eq!(differ, [200_000]);
    assert!(read(&storage, "sound", None).await.unwrap() == data);

    let write = async |key: &str| {
        let mut upload = storage.create(key).await?;
        for piece in data.chunks(60_000) {
            upload.write(Bytes::copy_from_slice(piece)).await?;
        }
        upload.finish().await
    };
    assert_eq!(write("short").await.unwrap().size, 70_000);
    assert_eq!(write("full").await.unwrap_err().kind, StorageErrorKind::Full);
    storage.delete(&["x".to_owned()]).await.unwrap();
    assert_eq!(storage.delete(&["x".to_owned()]).await.unwrap_err().kind, StorageErrorKind::Denied);
    storage.delete(&["x".to_owned()]).await.unwrap();
    assert_eq!(plan.struck(), 5);
    plan.clear();
    assert!(read(&storage, "cut", None).await.unwrap() == data);
}

#[tokio::test]
async fn a_call_that_hangs_can_be_dropped() {
    let plan = FaultPlan::new().with(Fault::hang().on(Operation::Head));
    let storage = plan.over(memory());
    let hung = tokio::time::timeout(Duration::from_millis(20), storage.head("a")).await;
    assert!(hung.is_err());
    assert_eq!(plan.struck(), 1);
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_tells_the_truth() {
    let below = memory();
    below.put("there", "old".into()).await.unwrap();
    let storage: Arc<dyn WriteStorage> = Arc::new(DryRunLayer::new(below.clone()));
    storage.put("a", "x".into()).await.unwrap();
    storage.put("there", "new".into()).await.unwrap();
    assert_eq!(storage.put_if_absent("b", "x".into()).await.unwrap(), PutOutcome::Created);
    assert_eq!(storage.put_if_absent("there", "x".into()).await.unwrap(), PutOutcome::Exists);
    let mut upload = storage.create("c").await.unwrap();
    upload.write("12345".into()).await.unwrap();
    assert_eq!(upload.finish().await.unwrap().size, 5);
    storage.delete(&["there".to_owned()]).await.unwrap();
    let left: Vec<_> = below.list("").try_collect().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(read(&below, "there", None).await.unwrap(), b"old");
}

#[tokio::test]
async fn a_limit_bounds_open_bodies_and_a_copy_never_waits_for_itself() {
    let storage: Arc<dyn WriteStorage> = Arc::new(Intercepted::new(memory(), Arc::new(Limit::new(1))));
    storage.put("a", pattern(200_000, 1)).await.unwrap();
    let body = storage.get("a", None).await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(30), storage.get("a", None)).await;
    assert!(second.is_err(), "two bodies were open at once");
    let mut upload = storage.create("b").await.unwrap();
    let parts: Vec<Bytes> = body.try_collect().await.unwrap();
    for part in parts {
        upload.write(part).await.unwrap();
        storage.put("beside", "x".into()).await.unwrap();
    }
    upload.finish().await.unwrap();
    storage.get("b", None).await.map(drop).unwrap();
}

#[derive(Default)]
struct Counts {
    calls: Mutex<Vec<(Operation, &'static str)>>,
    bytes: Mutex<BTreeMap<Operation, u64>>,
}

impl StorageMetrics for Counts {
    fn call(&self, operation: Operation, outcome: &'static str, _elapsed: Duration) {
        self.calls.lock().unwrap().push((operation, outcome));
    }

    fn bytes(&self, operation: Operation, count: u64) {
        *self.bytes.lock().unwrap().entry(operation).or_default() += count;
    }
}

#[tokio::test]
async fn metrics_count_calls_outcomes_and_bytes() {
    let counts = Arc::new(Counts::default());
    let storage: Arc<dyn WriteStorage> = Arc::new(Intercepted::new(memory(), Arc::new(Metrics::new(counts.clone()))));
    storage.put("a", "12345".into()).await.unwrap();
    read(&storage, "a", None).await.unwrap();
    drop(storage.get("a", None).await.unwrap());
    storage.head("b").await.unwrap_err();
    let mut upload = storage.create("c").await.unwrap();
    upload.write("123".into()).await.unwrap();
    upload.finish().await.unwrap();
    let calls = counts.calls.lock().unwrap().clone();
    let expected = [
        (Operation::Put, "ok"),
        (Operation::Get, "ok"),
        (Operation::Get, "dropped"),
        (Operation::Head, "StorageNotFound"),
        (Operation::Finish, "ok"),
        (Operation::Upload, "ok"),
    ];
    assert_eq!(calls, expected);
    let bytes = counts.bytes.lock().unwrap();
    assert_eq!((bytes[&Operation::Put], bytes[&Operation::Get], bytes[&Operation::Upload]), (5, 5, 3));
}

#[tokio::test]
async fn a_prefix_stays_in_its_folder() {
    let below = memory();
    below.put("other", "x".into()).await.unwrap();
    let storage = PrefixLayer::new(below.clone(), "in/").unwrap();
    storage.put("a/b", "x".into()).await.unwrap();
    assert_eq!(storage.list("").try_collect::<Vec<_>>().await.unwrap()[0].key, "a/b");
    assert_eq!(storage.list_folder("").await.unwrap().folders, ["a/"]);
    assert!(storage.put("../other", "y".into()).await.is_err());
    assert_eq!(storage.address_of("a/b"), "memory://layers/in/a/b");
    assert!(PrefixLayer::new(below, "in").is_err());
}

/// Fails each time after `answer`, and counts the tries.
async fn tries_of(policy: RetryPolicy, answer: Duration) -> u32 {
    let mut tries = 0_u32;
    let outcome = policy
        .run(|| {
            tries += 1;
            async move {
                tokio::time::sleep(answer).await;
                Err::<(), _>(StorageError::new(StorageErrorKind::Unreachable, "connection refused"))
            }
        })
        .await;
    assert_eq!(outcome.unwrap_err().kind, StorageErrorKind::Unreachable);
    tries
}

#[tokio::test]
async fn a_storage_that_is_gone_is_given_up_when_patience_ends() {
    let patient = RetryPolicy { attempts: u32::MAX, patience: Duration::from_millis(50), ..quick() };
    assert!(tries_of(patient, Duration::ZERO).await > 1);
    // One that takes longer to fail than patience lasts has one more chance.
    assert_eq!(tries_of(patient, Duration::from_millis(200)).await, 2);
    assert_eq!(tries_of(quick(), Duration::ZERO).await, quick().attempts);
}
