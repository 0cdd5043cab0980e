//! What a live target cannot take of a backup. All of it is found in the plan: the host plans every shard before the first key of
//! any of them is written.

use std::cell::Cell;
use std::rc::Rc;

use redkeep_sdk::rdb::restore::{RestoreParameters, check_modules, check_target};
use redkeep_sdk::rdb::{self, Entry};
use redkeep_sdk::{Attribute, Context, Error, Host, attribute};

use super::cut::End;
use super::expiry::{self, Expiry};
use crate::clock;
use crate::parameters::Expired;
use crate::scanner::{Event, Scanner};
use crate::snapshot::Wanted;
use crate::stored::{self, Form, Visitor};

/// Commands without a key: the host sends them to every primary, also to those that hold another shard's keys by then.
const WHOLE_CLUSTER: [&str; 5] = ["FLUSHALL", "FLUSHDB", "SWAPDB", "FUNCTION", "SCRIPT"];

/// Refuses a target that the commands do not fit.
pub(super) fn target(host: &dyn Host, context: &Context, facts: &[Attribute]) -> Result<(), Error> {
    let cluster = context.target() == "cluster";
    let mode = attribute::find(facts, "mode").unwrap_or("directory");
    if cluster != (mode == "cluster") {
        let target = if cluster { "a cluster" } else { "a single server" };
        return Err(Error::refused(
            format!("the commands of this backup (of mode {mode}) cannot be run on {target}"),
            "restore into a target of the source's mode, or use a backup of the method rdb",
        ));
    }
    check_target(context, facts, &RestoreParameters::default())?;
    check_modules(host, facts);
    Ok(())
}

/// Refuses commands, of those that are to be restored, that would reach other shards' keys; and those that come after keys whose
/// time has passed by now, of the snapshot or of a command before, or only warns where the user takes that: a server that loads a
/// file keeps such keys until all commands have run, which may have given them a new expiry or none; a live server has them no more,
/// and a command that writes to one makes it anew.
pub(super) fn commands(host: &dyn Host, form: &Form, end: Option<&End>, rule: Expired) -> Result<(), Error> {
    let context = Context::of(host);
    let now_ms = host.now_ms();
    let expired = Rc::new(Cell::new(0));
    let wanted = Wanted::Contents(Box::new(ExpiredKeys { now_ms, count: Rc::clone(&expired) }));
    let mut found = Found {
        many_shards: context.target() == "cluster" && context.get_or("shards", "1") != "1",
        rule,
        now_ms,
        expired: Rc::clone(&expired),
        expires: false,
        of_all_shards: None,
        late: false,
    };
    let walked = stored::walk_up_to(host, form, "check", &mut found, wanted, end.map(|end| end.place))?;
    if let Some(name) = found.of_all_shards {
        return Err(Error::refused(
            format!("the commands of this shard hold {name}, which would reach the keys of all shards"),
            "use a backup of the method rdb, or restore each shard into a data directory",
        ));
    }
    if found.late {
        expiries(host, form, expired.get(), rule)?;
    }
    walked.check_end()
}

/// Refuses, or warns, that commands come too late for keys that have expired, so many of them the snapshot's.
fn expiries(host: &dyn Host, form: &Form, expired: u64, rule: Expired) -> Result<(), Error> {
    let message = match expired {
        0 => "a command of this backup gives a key an expiry that has passed by now, and commands follow that may have prolonged \
              it or written to the key: on a live server it would be lost, or made anew without expiry"
            .to_owned(),
        keys => format!(
            "the snapshot of this backup holds {keys} keys whose expiry has passed by now, and commands follow that may have \
             prolonged it: on a live server these keys would be lost"
        ),
    };
    if rule == Expired::Warn {
        host.warn(&message);
        return Ok(());
    }
    // Where no command runs, none runs late.
    let without = match form {
        Form::Stream { marks: Some(name), .. } => {
            let first = stored::read_marks(host, name)?.first();
            let time = clock::rfc3339(first.time_ms);
            format!("; or leave out the commands by --until {} (the snapshot alone, of {time})", first.offset)
        }
        _ => String::new(),
    };
    let help = format!(
        "restore into a data directory by --target-dir, which is exact, and start a server on it; or take what becomes of such keys by \
         --param expired=warn{without}"
    );
    Err(Error::refused(message, help))
}

/// Counts keys of the snapshot that have expired.
struct ExpiredKeys {
    now_ms: u64,
    count: Rc<Cell<u64>>,
}

impl rdb::Visitor for ExpiredKeys {
    fn wants_keys(&self) -> bool {
        false
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        self.count.set(self.count.get() + u64::from(entry.expires_at.is_some_and(|time| time <= self.now_ms)));
        Ok(())
    }
}

/// What speaks against the commands. Reads on only while nothing was found that refuses.
struct Found {
    many_shards: bool,
    rule: Expired,
    now_ms: u64,
    /// Keys of the snapshot that have expired.
    expired: Rc<Cell<u64>>,
    /// Whether a command gave a time that has passed.
    expires: bool,
    /// A command that reaches other shards' keys.
    of_all_shards: Option<&'static str>,
    /// Whether a command may depend on a key that has expired.
    late: bool,
}

impl Visitor for Found {
    fn wants_words(&self) -> bool {
        true
    }

    fn event(&mut self, _index: usize, scanner: &Scanner, event: &Event<'_>) {
        let Event::Command { name, .. } = *event else { return };
        if self.many_shards && self.of_all_shards.is_none() {
            let known = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
            self.of_all_shards = WHOLE_CLUSTER.into_iter().find(known);
        }
        let Some(words) = scanner.words() else { return };
        self.late |= (self.expires || self.expired.get() > 0) && expiry::depends(name, words);
        self.expires |= matches!(expiry::of(name, words), Some(Expiry::At(time)) if time <= self.now_ms);
    }

    fn has_enough(&self) -> bool {
        self.of_all_shards.is_some() || (self.late && self.rule == Expired::Refuse && !self.many_shards)
    }
}
