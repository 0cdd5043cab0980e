//! Whether the target's user may run what a restore writes: found out before the first key, for a denial in the middle leaves half
//! a data set. `RESTORE` is tried in a form that every server refuses; the others are asked for where it answers `ACL DRYRUN`
//! (7.0 on, and only to who may ask). Which keys a user may write to is not asked: those of the backup are not known yet.

use std::collections::BTreeSet;

use bytes::Bytes;
use redkeep_core::Class;
use redkeep_core::provider::{LiveTarget, ProviderError};
use redkeep_core::redis::{Command, RedisServer};

use super::Restore;
use crate::error::EngineError;

/// A value that no server takes: it lacks the version and the checksum. With it, `RESTORE` never writes.
const REFUSED: &[&str] = &["RESTORE", "redkeep-restore:{probe}", "0", ""];
/// What the keys of a snapshot take besides.
const SELECT: &[&str] = &["SELECT", "0"];
/// What functions take.
const FUNCTION: &[&str] = &["FUNCTION", "LOAD", "x"];
/// The writes that an append-only file is made of. It may lack some; one that has it, and cannot run it, stops in the middle, and
/// commands cannot go on from there.
const WRITES: [&[&str]; 34] = [
    &["SET", "k", "v"],
    &["APPEND", "k", "v"],
    &["SETRANGE", "k", "0", "v"],
    &["SETBIT", "k", "0", "1"],
    &["INCR", "k"],
    &["INCRBY", "k", "1"],
    &["DECR", "k"],
    &["MSET", "k", "v"],
    &["DEL", "k"],
    &["UNLINK", "k"],
    &["RENAME", "k", "l"],
    &["PEXPIREAT", "k", "1"],
    &["PERSIST", "k"],
    &["LPUSH", "k", "v"],
    &["RPUSH", "k", "v"],
    &["LPOP", "k"],
    &["RPOP", "k"],
    &["LSET", "k", "0", "v"],
    &["LREM", "k", "0", "v"],
    &["LTRIM", "k", "0", "1"],
    &["SADD", "k", "v"],
    &["SREM", "k", "v"],
    &["SMOVE", "k", "l", "v"],
    &["ZADD", "k", "1", "v"],
    &["ZREM", "k", "v"],
    &["ZINCRBY", "k", "1", "v"],
    &["HSET", "k", "f", "v"],
    &["HDEL", "k", "f"],
    &["HINCRBY", "k", "f", "1"],
    &["XADD", "k", "*", "f", "v"],
    &["XDEL", "k", "1-1"],
    &["PFADD", "k", "v"],
    &["MULTI"],
    &["EXEC"],
];

/// Refuses a target whose user may not run what is needed.
pub(super) async fn check(work: &Restore<'_>, target: &LiveTarget, append_only: bool) -> Result<(), EngineError> {
    let brings_functions =
        work.shards.iter().any(|shard| shard.facts.get("functions").is_some_and(|count| count != "0"));
    let is_chosen = ["match", "db"].iter().any(|name| work.task.parameters.contains_key(*name));
    let mut needed: Vec<&[&str]> = Vec::new();
    needed.extend((!target.cluster).then_some(SELECT));
    // A choice of keys leaves functions out.
    needed.extend((brings_functions && !is_chosen).then_some(FUNCTION));
    needed.extend(WRITES.iter().filter(|_| append_only));
    for (address, server) in &target.primaries {
        let user = user(server.as_ref()).await;
        let denied = denied(server.as_ref(), user.as_deref(), &needed).await;
        if denied.is_empty() {
            continue;
        }
        let list = |before: &str, between: &str| {
            denied.iter().map(|command| format!("{before}{command}")).collect::<Vec<_>>().join(between)
        };
        let name = user.as_deref().unwrap_or("USER");
        let who = user.as_deref().map_or_else(|| "its user".to_owned(), |user| format!("its user {user}"));
        return Err(ProviderError::new(
            Class::Refused,
            "TargetDenies",
            format!("the target {address} does not let {who} run {}", list("", ", ")),
        )
        .with_help(format!("allow it by ACL SETUSER {name} {}, or restore as another user", list("+", " ")))
        .into());
    }
    Ok(())
}

/// The commands that are denied, by name. What a server does not say is no denial.
async fn denied(server: &dyn RedisServer, user: Option<&str>, needed: &[&[&str]]) -> BTreeSet<String> {
    let mut denied = BTreeSet::new();
    let name = |words: &[&str]| words.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
    if let Err(error) = server.command(command(REFUSED)).await
        && is_denial(error.message.as_bytes())
    {
        denied.insert(name(REFUSED));
    }
    let Some(user) = user else { return denied };
    for words in needed {
        let asked = [&["ACL", "DRYRUN", user][..], words].concat();
        match server.command(command(&asked)).await {
            Ok(reply) if is_denial(&reply) => drop(denied.insert(name(words))),
            Ok(_) => {}
            // Before 7.0, or not for this user to ask.
            Err(_) => break,
        }
    }
    denied
}

/// Whom the connection is logged in as; a server before 6.0 has no users, and another may not say.
async fn user(server: &dyn RedisServer) -> Option<String> {
    let reply = server.command(command(&["ACL", "WHOAMI"])).await.ok()?;
    let text = String::from_utf8_lossy(&reply);
    text.strip_prefix('$')?.lines().nth(1).map(str::to_owned)
}

fn command(words: &[&str]) -> Command {
    words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// Whether a server says that a command may not be run at all, by an error or in answer to `DRYRUN`.
fn is_denial(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).contains("no permissions to run the")
}
