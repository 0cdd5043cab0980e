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
use crate::stored::{self, Form, Passing, Visitor};

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

/// Refuses commands that would reach other shards' keys.
pub(super) fn commands(host: &dyn Host, form: &Form) -> Result<(), Error> {
    let context = Context::of(host);
    if context.target() != "cluster" || context.get_or("shards", "1") == "1" {
        return Ok(());
    }
    let walked = stored::walk(host, form, "check", &mut Onlooker)?;
    match WHOLE_CLUSTER.iter().find(|name| walked.tally.by_name.contains_key(**name)) {
        None => Ok(()),
        Some(name) => Err(Error::refused(
            format!("the commands of this shard hold {name}, which would reach the keys of all shards"),
            "use a backup of the method rdb, or restore each shard into a data directory",
        )),
    }
}

struct Onlooker;

impl Visitor for Onlooker {}

/// Refuses commands that come after keys whose time has passed by now, of the snapshot or of a command before, or only warns where
/// the user takes that: a server that loads a file keeps such keys until all commands have run, which may have given them a new
/// expiry or none; a live server has them no more, and a command that writes to one makes it anew.
pub(super) fn expiries(host: &dyn Host, form: &Form, end: Option<&End>, rule: Expired) -> Result<(), Error> {
    let now_ms = host.now_ms();
    let expired = Rc::new(Cell::new(0));
    let wanted = Wanted::Contents(Box::new(ExpiredKeys { now_ms, count: Rc::clone(&expired) }));
    let mut commands = CommandsAfter { end, now_ms, expired: Rc::clone(&expired), expires: false, found: false };
    stored::walk_wanting(host, form, "check", &mut commands, wanted)?;
    if !commands.found {
        return Ok(());
    }
    let message = match expired.get() {
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

/// Whether a command before the end may depend on a key that has expired. Reads on only while none was found.
struct CommandsAfter<'end> {
    end: Option<&'end End>,
    now_ms: u64,
    /// Keys of the snapshot that have expired.
    expired: Rc<Cell<u64>>,
    /// Whether a command gave a time that has passed.
    expires: bool,
    found: bool,
}

impl Visitor for CommandsAfter<'_> {
    fn wants_words(&self) -> bool {
        true
    }

    fn event(&mut self, index: usize, scanner: &Scanner, event: &Event<'_>) {
        let Event::Command { name, end: position, .. } = *event else { return };
        let Some(words) = scanner.words().filter(|_| End::takes(self.end, index, position)) else { return };
        self.found |= (self.expires || self.expired.get() > 0) && expiry::depends(name, words);
        self.expires |= matches!(expiry::of(name, words), Some(Expiry::At(time)) if time <= self.now_ms);
    }

    fn chunk(&mut self, passing: &Passing<'_>, _bytes: &[u8]) -> Result<bool, Error> {
        Ok(!self.found && End::goes_on(self.end, passing.index, passing.content.position()))
    }
}
