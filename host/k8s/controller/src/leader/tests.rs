use super::*;
use crate::testing::{FakeApi, SettableClock};
use rstest::rstest;
use serde_json::json;

const LEASE: Duration = Duration::from_secs(15);

fn spec(holder: &str, seconds: Option<i32>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: seconds,
        lease_transitions: Some(4),
        ..LeaseSpec::default()
    }
}

#[rstest]
#[case::free(None, 0, Claim::Take)]
#[case::given_back(Some(spec("", Some(1))), 0, Claim::Take)]
#[case::ours(Some(spec("me", Some(15))), 1000, Claim::Renew)]
#[case::held_by_another(Some(spec("other", Some(15))), 15, Claim::Wait)]
#[case::another_died(Some(spec("other", Some(15))), 16, Claim::Take)]
#[case::another_promised_longer(Some(spec("other", Some(60))), 16, Claim::Wait)]
#[case::another_promised_nothing(Some(spec("other", None)), 16, Claim::Take)]
fn a_lease_is_taken_only_when_nobody_lives(
    #[case] spec: Option<LeaseSpec>,
    #[case] seconds: u64,
    #[case] expected: Claim,
) {
    assert_eq!(claim(spec.as_ref(), "me", Duration::from_secs(seconds), LEASE), expected);
}

#[test]
fn transitions_count_changes_of_the_holder_only() {
    let now = "2026-11-27T12:00:00Z".parse().unwrap();
    assert_eq!(held(None, "me", LEASE, now).lease_transitions, Some(0));
    assert_eq!(held(Some(&spec("other", Some(15))), "me", LEASE, now).lease_transitions, Some(5));
    let renewed = held(Some(&spec("me", Some(15))), "me", LEASE, now);
    assert_eq!(renewed.lease_transitions, Some(4));
}

fn leader(fake: &FakeApi, identity: &str) -> Leader {
    let clock = Arc::new(SettableClock::at("2026-11-27T12:00:00Z"));
    // Long enough for a busy machine, short enough to wait for.
    let settings = LeaderSettings {
        lease: Duration::from_secs(4),
        renew_deadline: Duration::from_secs(3),
        retry: Duration::from_millis(100),
        ..LeaderSettings::new("redkeep-system", identity)
    };
    Leader::new(fake.client(), settings, clock)
}

fn holder(fake: &FakeApi) -> String {
    let lease = fake.get("Lease", "redkeep-system", "redkeep-operator").unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn only_one_leads_and_the_next_one_begins_when_it_is_released() {
    let fake = FakeApi::new();
    let (mut first, mut second) = (leader(&fake, "first"), leader(&fake, "second"));
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    assert!(first.acquire(&stop_first).await);
    assert!(!second.attempt().await.unwrap());
    let holding = async {
        let ended = first.hold(&stop_first).await;
        assert_eq!(ended, Ended::Released);
    };
    let waiting = async {
        // Longer than the lease: the first one renews it.
        assert!(timeout(Duration::from_secs(6), second.acquire(&stop_second)).await.is_err());
        assert_eq!(holder(&fake), "first");
        stop_first.cancel();
        assert!(second.acquire(&stop_second).await);
    };
    tokio::join!(holding, waiting);
    assert_eq!(holder(&fake), "second");
}

#[tokio::test]
async fn a_dead_leader_is_followed_after_its_lease() {
    let fake = FakeApi::new();
    let (mut first, mut second) = (leader(&fake, "first"), leader(&fake, "second"));
    let shutdown = CancellationToken::new();
    assert!(first.acquire(&shutdown).await);
    assert!(!second.attempt().await.unwrap(), "its last word still counts");
    assert!(second.acquire(&shutdown).await);
    // The first one wakes up and must see that it leads no more.
    assert_eq!(first.hold(&shutdown).await, Ended::Lost);
    assert_eq!(holder(&fake), "second");
}

#[tokio::test]
async fn a_leader_that_cannot_renew_gives_up_before_its_lease_runs_out() {
    let fake = FakeApi::new();
    let mut first = leader(&fake, "first");
    let shutdown = CancellationToken::new();
    assert!(first.acquire(&shutdown).await);
    fake.fail_when(|call| call.path.contains("leases").then(|| (500, "InternalError", "etcd is gone".to_owned())));
    let mut second = leader(&fake, "second");
    assert_eq!(first.hold(&shutdown).await, Ended::Lost);
    fake.heal();
    assert!(!second.attempt().await.unwrap(), "whoever comes now still has the lease to wait for");
}

#[tokio::test]
async fn a_short_failure_costs_nothing() {
    let fake = FakeApi::new();
    let mut first = leader(&fake, "first");
    let shutdown = CancellationToken::new();
    assert!(first.acquire(&shutdown).await);
    fake.fail_when(|call| call.path.contains("leases").then(|| (500, "InternalError", "busy".to_owned())));
    let heal = async {
        sleep(Duration::from_millis(300)).await;
        fake.heal();
        sleep(Duration::from_secs(4)).await;
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(first.hold(&shutdown), heal);
    assert_eq!(ended, Ended::Released);
    assert_eq!(holder(&fake), "");
}

#[tokio::test]
async fn a_lease_that_somebody_deleted_is_made_again() {
    let fake = FakeApi::new();
    let mut first = leader(&fake, "first");
    assert!(first.attempt().await.unwrap());
    fake.remove("Lease", "redkeep-system", "redkeep-operator");
    assert!(first.attempt().await.unwrap());
    assert_eq!(holder(&fake), "first");
    let writes = fake.writes();
    assert_eq!(writes.last().unwrap().body["spec"]["leaseTransitions"], json!(0));
}
