//! The replication link of a capture, opened only where its snapshot holds what the primary had when the run began.
//!
//! A replica may lag, and one whose first synchronisation has just ended says `master_link_status:up` while it lacks all that was
//! written since its own snapshot: of a small dataset, everything. The method `aof` follows the stream up to the primary's offset; an
//! RDB has no stream, so that the replica is waited for.

use redkeep_sdk::{Context, Error, Host, Replication, code};

/// Seconds that a replica is waited for.
const PATIENCE: u32 = 60;
const SECOND_MS: u32 = 1000;

/// A link whose snapshot is at least as new as the primary was when this run began.
pub(super) fn open(host: &dyn Host, context: &Context) -> Result<Box<dyn Replication>, Error> {
    let wanted = context.number("primary-offset")?.unwrap_or(0);
    let mut seconds = 0;
    loop {
        let link = host.redis().replicate(true)?;
        let start = link.start_offset();
        if start >= wanted {
            return Ok(link);
        }
        // Closed before the wait: the server makes no snapshot for nobody.
        drop(link);
        host.info(&format!("the replica is at offset {start}, its primary was at {wanted}: waiting for it"));
        loop {
            if seconds == PATIENCE {
                return Err(Error::new(
                    code::TIMEOUT,
                    format!(
                        "failed to capture what the primary held: this replica was at offset {start} after {PATIENCE} s, the \
                         primary at {wanted} when this run began"
                    ),
                )
                .retryable()
                .with_help("check the link of this replica to its primary, or back up the primary (--node primary)"));
            }
            host.sleep_ms(SECOND_MS)?;
            seconds += 1;
            // Each link costs the server a snapshot: where it tells its offset, none is opened too early.
            if host.replication_offset().is_none_or(|offset| offset >= wanted) {
                break;
            }
        }
    }
}
