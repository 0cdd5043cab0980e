//! Asks a server for a fresh dump in its data directory.

use redkeep_sdk::resp::Reply;
use redkeep_sdk::{Attribute, Error, Host, attribute, code};

/// Between two looks at the server, milliseconds.
const POLL: u32 = 200;
/// `LASTSAVE` has a resolution of one second: two saves in one second look like one, and are tried again after this,
/// milliseconds.
const NEXT_SECOND: u32 = 1100;
/// How often a save that seems not to have happened is tried.
const ATTEMPTS: usize = 3;
/// The start of a save is told through whole seconds, cut twice.
const CLOCK_SLACK: u64 = 2;

/// A save that the server has just made.
pub(crate) struct Saved {
    /// The dump in the data directory.
    pub(crate) path: String,
    /// The dump cannot have been begun before, seconds since the epoch by the server's clock.
    earliest: u64,
}

impl Saved {
    /// Refuses a dump that is not of this save: the directory may be another server's, or one that the server has left.
    /// `created_ms` is what the dump itself says (its field `ctime`).
    pub(crate) fn check(&self, host: &dyn Host, created_ms: Option<u64>) -> Result<(), Error> {
        if let Some(created) = created_ms.map(|created| created / 1000)
            && created >= self.earliest
        {
            if created <= last_save(host)? {
                return Ok(());
            }
            // A later save may have put its dump there and not have been noted yet.
            wait_until_idle(host)?;
            if created <= last_save(host)? {
                return Ok(());
            }
        }
        Err(Error::refused(
            format!("{} in the data directory is not the one that the server has just saved", self.path),
            "check --data-dir against CONFIG GET dir on the server",
        ))
    }
}

/// Saves, or joins a save that began after this call.
///
/// A save counts when `LASTSAVE` moved and `rdb_last_bgsave_status` is `ok`: the file alone could be an old one.
pub(crate) fn save(host: &dyn Host) -> Result<Saved, Error> {
    for _ in 0..ATTEMPTS {
        let before = last_save(host)?;
        start(host)?;
        let info = wait_until_idle(host)?;
        if attribute::find(&info, "rdb_last_bgsave_status") != Some("ok") {
            return Err(Error::new(
                code::SERVER_REPLY,
                "failed to save: the server says rdb_last_bgsave_status is not ok",
            )
            .with_help(
                "look for the reason in the server's log: most often its disk is full or memory for the fork is short",
            )
            .retryable());
        }
        let after = last_save(host)?;
        if after != before {
            let duration = attribute::find(&info, "rdb_last_bgsave_time_sec").and_then(|text| text.parse::<u64>().ok());
            let begun = duration.map_or(before, |duration| after.saturating_sub(duration));
            return Ok(Saved { path: dump_name(host)?, earliest: begun.saturating_sub(CLOCK_SLACK) });
        }
        host.sleep_ms(NEXT_SECOND)?;
    }
    Err(Error::new(code::SERVER_REPLY, "failed to save: LASTSAVE did not move").retryable())
}

fn last_save(host: &dyn Host) -> Result<u64, Error> {
    let reply = Reply::parse(&host.redis().command(&[b"LASTSAVE"])?)?;
    let seconds = reply.integer().and_then(|seconds| u64::try_from(seconds).ok());
    seconds.ok_or_else(|| Error::new(code::SERVER_REPLY, "failed to read the reply of LASTSAVE"))
}

/// Starts a save. One that runs already holds older data: it is waited for, unless it began after we found the server
/// idle.
fn start(host: &dyn Host) -> Result<(), Error> {
    let mut seen_idle = !is_saving(&host.redis().info(Some("persistence"))?);
    let mut told = false;
    loop {
        if seen_idle {
            match host.redis().command(&[b"BGSAVE"]) {
                Ok(_) => return Ok(()),
                // Another's save that began after the look: as good as ours.
                Err(error) if error.is(code::SERVER_REPLY) && error.message.contains("save already in progress") => {
                    return Ok(());
                }
                // An append-only file is being rewritten: the server takes one child at a time.
                Err(error) if error.is(code::SERVER_REPLY) && error.message.contains("child process is active") => {}
                Err(error) => return Err(error.during("failed to start BGSAVE")),
            }
        }
        if !told {
            told = true;
            host.info("waiting for the server's running save or rewrite to end");
        }
        host.sleep_ms(POLL)?;
        let info = host.redis().info(Some("persistence"))?;
        seen_idle = !is_saving(&info);
    }
}

fn is_saving(info: &[Attribute]) -> bool {
    attribute::find(info, "rdb_bgsave_in_progress") == Some("1")
}

fn wait_until_idle(host: &dyn Host) -> Result<Vec<Attribute>, Error> {
    loop {
        let info = host.redis().info(Some("persistence"))?;
        if !is_saving(&info) {
            return Ok(info);
        }
        host.sleep_ms(POLL)?;
    }
}

/// The dump's name in the data directory, by the server's configuration where it may be read.
fn dump_name(host: &dyn Host) -> Result<String, Error> {
    match host.redis().command(&[b"CONFIG", b"GET", b"dbfilename"]) {
        Ok(reply) => {
            let reply = Reply::parse(&reply)?;
            Ok(reply.elements().get(1).and_then(Reply::text).unwrap_or("dump.rdb").to_owned())
        }
        Err(error) if error.is(code::DENIED) || error.is(code::SERVER_REPLY) => {
            host.warn("the server's dbfilename may not be read: taking dump.rdb");
            Ok("dump.rdb".to_owned())
        }
        Err(error) => Err(error),
    }
}
