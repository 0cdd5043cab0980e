//! Whether a server's clock agrees with this machine's. Both decide about expiry times: the server when it writes them, this
//! machine when a command stream has relative ones (before 7.0) and when a live restore leaves out keys that have expired.

use std::sync::Arc;

use redkeep_core::Timestamp;
use redkeep_core::attribute::find;
use redkeep_core::provider::Providers;
use redkeep_core::redis::RedisServer;

/// Differences up to here are nobody's concern.
const TOLERANCE_MS: i64 = 5_000;

/// What one run has warned of: where this machine's clock is wrong, all servers differ alike, and one line says it.
#[derive(Default)]
pub(crate) struct Clocks {
    ahead: bool,
    behind: bool,
}

impl Clocks {
    /// What to warn of, if anything, and if not said yet. A server that does not tell its time (`INFO` has it since 6.2, and it may
    /// be renamed or forbidden) is none the worse for it.
    pub(crate) async fn warning(
        &mut self,
        providers: &Arc<dyn Providers>,
        address: &str,
        server: &dyn RedisServer,
    ) -> Option<String> {
        let before = providers.now();
        let info = server.info(Some("server")).await.ok()?;
        let after = providers.now();
        let micros = find(&info, "server_time_usec")?.parse().ok()?;
        let server = Timestamp::from_microsecond(micros).ok()?;
        let millis = difference(server, before, after)?;
        let (direction, said) = if millis > 0 { ("ahead of", &mut self.ahead) } else { ("behind", &mut self.behind) };
        if std::mem::replace(said, true) {
            return None;
        }
        let seconds = millis.unsigned_abs() / 1000;
        Some(format!(
            "the clock of {address} ({server:.0}) is {seconds} s {direction} this machine's ({after:.0}): keys may expire that much too \
             early or too late; set both by a time server"
        ))
    }
}

/// By how many milliseconds the server is ahead, where that is more than tolerable. It read its clock at some moment between
/// `before` and `after`: how long it took to answer is no difference.
fn difference(server: Timestamp, before: Timestamp, after: Timestamp) -> Option<i64> {
    let ahead = server.as_millisecond().saturating_sub(after.as_millisecond());
    let behind = before.as_millisecond().saturating_sub(server.as_millisecond());
    if ahead > TOLERANCE_MS {
        Some(ahead)
    } else if behind > TOLERANCE_MS {
        Some(-behind)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redkeep_core::Attribute;
    use rstest::rstest;

    use super::*;
    use crate::backup::backup;
    use crate::restore::restore;
    use crate::testing::{World, backup_task, into_server, restore_task, silent};

    #[rstest]
    #[case::the_same(100_000, 100_000, 100_001, None)]
    #[case::a_little_ahead(105_000, 100_000, 100_000, None)]
    #[case::a_little_behind(95_000, 100_000, 100_000, None)]
    #[case::ahead(106_000, 100_000, 100_000, Some(6_000))]
    #[case::behind(94_000, 100_000, 100_000, Some(-6_000))]
    #[case::it_took_long_to_answer(100_000, 100_000, 160_000, None)]
    #[case::it_was_asked_long_ago(160_000, 100_000, 160_000, None)]
    #[case::behind_and_slow(90_000, 100_000, 160_000, Some(-10_000))]
    #[case::this_clock_was_set_back_meanwhile(100_000, 100_000, 99_000, None)]
    fn only_a_difference_that_no_delay_explains_counts(
        #[case] server: i64,
        #[case] before: i64,
        #[case] after: i64,
        #[case] expected: Option<i64>,
    ) {
        let at = |millis| Timestamp::from_millisecond(millis).expect("a time");
        assert_eq!(difference(at(server), at(before), at(after)), expected);
    }

    #[tokio::test]
    async fn a_backup_and_a_live_restore_warn_of_a_clock_that_differs() {
        for (seconds, words) in [(90, Some("90 s ahead of")), (-90, Some("90 s behind")), (0, None)] {
            let world = World::new();
            let now = world.providers().now();
            let server = now.as_microsecond() + seconds * 1_000_000;
            *world.target_info.lock().unwrap() = vec![Attribute::new("server_time_usec", server)];
            let made = backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
            let manifest = made.result.manifest().unwrap();
            let restored = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap();
            for (warnings, address) in
                [(&made.warnings, "10.0.0.1:0"), (&manifest.warnings, "10.0.0.1:0"), (&restored.warnings, "primary-0")]
            {
                let said = warnings.iter().find(|warning| warning.starts_with(&format!("the clock of {address} (")));
                match words {
                    Some(words) => assert!(said.is_some_and(|said| said.contains(words)), "{warnings:?}"),
                    None => assert_eq!(said, None),
                }
            }
            // Of several servers the first is named.
            world.advance(Duration::from_secs(1));
            world.set_shards(&[("0", 1), ("1", 1)]);
            let made = backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
            let told = made.warnings.iter().filter(|warning| warning.starts_with("the clock of")).count();
            assert_eq!(told, usize::from(words.is_some()), "{:?}", made.warnings);
            // A server that keeps its time to itself is no reason to complain.
            world.advance(Duration::from_secs(1));
            *world.target_info.lock().unwrap() = Vec::new();
            backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
        }
    }
}
