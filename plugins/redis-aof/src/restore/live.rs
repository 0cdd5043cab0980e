//! Restores into an empty live server or cluster: the snapshot as the SDK's `RESTORE` commands, then the commands as they are.
//!
//! The commands may be anything (`FLUSHALL`, `SWAPDB`, transactions over many keys), so only an empty target of the same mode takes
//! them (REDIS.md 3). That it is empty is the host's check.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use redkeep_sdk::rdb::restore::{RestoreParameters, Restorer, check_target};
use redkeep_sdk::rdb::{self, Checksum, Entry, Header};
use redkeep_sdk::{Attribute, Context, Error, Facts, Host, attribute, code};

use super::cut::End;
use super::trim::Trim;
use crate::scanner::{Event, Scanner};
use crate::snapshot::Wanted;
use crate::stored::{self, Form, Passing, Visitor};

/// Commands without a key: the host sends them to every primary, also to those that hold another shard's keys by then.
const WHOLE_CLUSTER: [&str; 5] = ["FLUSHALL", "FLUSHDB", "SWAPDB", "FUNCTION", "SCRIPT"];
/// Commands whose keys behave otherwise on a live server once their time has passed.
const EXPIRING: [&str; 8] = ["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "SETEX", "PSETEX", "GETEX", "HPEXPIREAT"];

/// Commands that touch no key.
const WITHOUT_EFFECT: [&str; 3] = ["SELECT", "MULTI", "EXEC"];

/// Bytes within which a snapshot is told from commands.
const MAGIC: u64 = 16;

/// Refuses a target that the commands do not fit.
pub(super) fn check(context: &Context, facts: &[Attribute]) -> Result<(), Error> {
    let cluster = context.target() == "cluster";
    let mode = attribute::find(facts, "mode").unwrap_or("directory");
    if cluster != (mode == "cluster") {
        let target = if cluster { "a cluster" } else { "a single server" };
        return Err(Error::refused(
            format!("the commands of this backup (of mode {mode}) cannot be run on {target}"),
            "restore into a target of the source's mode, or use a backup of the method rdb",
        ));
    }
    check_target(context, facts, &RestoreParameters::default())
}

/// Refuses commands that would reach other shards' keys. Read before anything is written.
fn check_commands(host: &dyn Host, form: &Form) -> Result<(), Error> {
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

/// Refuses commands behind a snapshot with keys whose time has passed by now: a server that loads a file keeps such keys
/// until the commands have run, which may have given them a new expiry or none; a live server has them no more. Read
/// before anything is written.
fn check_expiries(host: &dyn Host, form: &Form, end: Option<&End>) -> Result<(), Error> {
    let expired = Rc::new(Cell::new(0));
    let wanted = Wanted::Contents(Box::new(ExpiredKeys { now_ms: host.now_ms(), count: Rc::clone(&expired) }));
    let mut tail = FirstCommand { end, expired: Rc::clone(&expired), found: false };
    stored::walk_wanting(host, form, "check", &mut tail, wanted)?;
    if expired.get() == 0 || !tail.found {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "the snapshot of this backup holds {} keys whose expiry has passed by now, and commands follow that may have \
             prolonged it: on a live server these keys would be lost",
            expired.get()
        ),
        "restore into a data directory by --target-dir, which is exact, and start a server on it",
    ))
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

/// Whether a command before the end can touch a key. Reads on only while that matters.
struct FirstCommand<'end> {
    end: Option<&'end End>,
    expired: Rc<Cell<u64>>,
    found: bool,
}

impl Visitor for FirstCommand<'_> {
    fn event(&mut self, index: usize, _scanner: &Scanner, event: &Event<'_>) {
        let Event::Command { name, end: position, .. } = *event else { return };
        let wanted = self.end.is_none_or(|end| (index, position) <= (end.index, end.position));
        self.found |= wanted && !WITHOUT_EFFECT.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    }

    fn chunk(&mut self, passing: &Passing<'_>, _bytes: &[u8]) -> Result<bool, Error> {
        // Before its magic is whole a file may still turn out to begin with a snapshot.
        let in_commands = passing.content.is_in_commands() && passing.content.position() > MAGIC;
        Ok(!in_commands || (self.expired.get() > 0 && !self.found))
    }
}

pub(super) fn restore(host: &dyn Host, form: &Form, end: Option<&End>) -> Result<Facts, Error> {
    check_commands(host, form)?;
    check_expiries(host, form, end)?;
    let restorer = Rc::new(RefCell::new(Restorer::new(host, &RestoreParameters::default())?));
    let mut live = Live { restorer: Rc::clone(&restorer), trim: Trim::new(end, true), expiring: false };
    let wanted = Wanted::Contents(Box::new(SharedRestorer(Rc::clone(&restorer))));
    let walked = stored::walk_wanting(host, form, "restore", &mut live, wanted)?;
    drop(walked);
    let Live { trim, expiring, restorer: shared } = live;
    drop(shared);
    let restorer =
        Rc::into_inner(restorer).ok_or_else(|| Error::new(code::INTERNAL, "the restorer is still in use"))?;
    let (counts, mut facts) = restorer.into_inner().finish()?;
    facts.set("commands", trim.commands());
    // A file is loaded without expiring anything until its end; a live server expires at once.
    if trim.commands() > 1 && (counts.expired > 0 || expiring) {
        host.warn(
            "keys whose expiry has passed by now were gone while the commands ran: a command that wrote to one of them may have made \
             it anew, without expiry; a restore into a data directory is exact",
        );
    }
    Ok(facts)
}

/// Sends the commands; the snapshot goes to the same restorer by way of the parser.
struct Live<'run> {
    restorer: Rc<RefCell<Restorer<'run>>>,
    trim: Trim<'run>,
    expiring: bool,
}

impl Visitor for Live<'_> {
    fn event(&mut self, index: usize, _scanner: &Scanner, event: &Event<'_>) {
        if let Event::Command { name, .. } = event {
            self.expiring |= EXPIRING.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        }
        self.trim.event(index, event);
    }

    fn chunk(&mut self, passing: &Passing<'_>, bytes: &[u8]) -> Result<bool, Error> {
        let (pieces, more) = self.trim.pieces(passing, bytes);
        if !passing.content.is_in_commands() {
            return Ok(more);
        }
        let preamble_end = passing.content.preamble_end();
        for (position, piece) in pieces {
            let before = usize::try_from(preamble_end.saturating_sub(position)).unwrap_or(usize::MAX);
            let commands = piece.get(before..).unwrap_or_default();
            if !commands.is_empty() {
                self.restorer.borrow_mut().write_commands(commands)?;
            }
        }
        Ok(more)
    }
}

struct SharedRestorer<'run>(Rc<RefCell<Restorer<'run>>>);

impl rdb::Visitor for SharedRestorer<'_> {
    fn wants_keys(&self) -> bool {
        self.0.borrow().wants_keys()
    }

    fn wants_values(&self) -> bool {
        self.0.borrow().wants_values()
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        self.0.borrow_mut().header(header)
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.0.borrow_mut().aux(name, value)
    }

    fn database(&mut self, number: u64) -> Result<(), Error> {
        self.0.borrow_mut().database(number)
    }

    fn library(&mut self, code: &[u8], length: u64) -> Result<(), Error> {
        self.0.borrow_mut().library(code, length)
    }

    fn module(&mut self, id: u64) -> Result<(), Error> {
        self.0.borrow_mut().module(id)
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        self.0.borrow_mut().key(entry)
    }

    fn value(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.borrow_mut().value(bytes)
    }

    fn value_end(&mut self, length: u64) -> Result<(), Error> {
        self.0.borrow_mut().value_end(length)
    }

    fn end(&mut self, checksum: Checksum) -> Result<(), Error> {
        self.0.borrow_mut().end(checksum)
    }
}
