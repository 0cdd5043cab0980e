//! Restores into an empty live server or cluster: the snapshot as the SDK's `RESTORE` commands, then the commands as they are.
//! Values that can be neither held nor rebuilt take a second pass over the snapshot, before the commands.
//!
//! The commands may be anything (`FLUSHALL`, `SWAPDB`, transactions over many keys), so only an empty target of the same mode takes
//! them (REDIS.md 3). That it is empty is the host's check.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use redkeep_sdk::rdb::restore::{RestoreParameters, Restorer, check_modules, check_target};
use redkeep_sdk::rdb::{self, Checksum, Entry, Header};
use redkeep_sdk::{Attribute, Context, Error, Facts, Host, attribute, code};

use super::cut::End;
use super::expiry::{self, Expiry};
use super::trim::Trim;
use crate::scanner::{Event, Scanner};
use crate::snapshot::Wanted;
use crate::stored::{self, Form, Passing, Visitor};

/// Commands without a key: the host sends them to every primary, also to those that hold another shard's keys by then.
const WHOLE_CLUSTER: [&str; 5] = ["FLUSHALL", "FLUSHDB", "SWAPDB", "FUNCTION", "SCRIPT"];

/// Refuses a target that the commands do not fit.
pub(super) fn check(host: &dyn Host, context: &Context, facts: &[Attribute]) -> Result<(), Error> {
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
    check_modules(host, facts, &RestoreParameters::default())
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

/// Refuses commands that come after keys whose time has passed by now, of the snapshot or of a command before: a server that loads
/// a file keeps such keys until all commands have run, which may have given them a new expiry or none; a live server has them no
/// more, and a command that writes to one makes it anew. Read before anything is written.
fn check_expiries(host: &dyn Host, form: &Form, end: Option<&End>, now_ms: u64) -> Result<(), Error> {
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
    Err(Error::refused(
        message,
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
        let Some(words) = scanner.words().filter(|_| is_wanted(self.end, index, position)) else { return };
        self.found |= (self.expires || self.expired.get() > 0) && expiry::depends(name, words);
        self.expires |= matches!(expiry::of(name, words), Some(Expiry::At(time)) if time <= self.now_ms);
    }

    fn chunk(&mut self, passing: &Passing<'_>, _bytes: &[u8]) -> Result<bool, Error> {
        let (index, position) = (passing.index, passing.content.position());
        Ok(!self.found && self.end.is_none_or(|end| (index, position) < (end.index, end.position)))
    }
}

/// Whether a command that ends there lies before the end.
fn is_wanted(end: Option<&End>, index: usize, position: u64) -> bool {
    end.is_none_or(|end| (index, position) <= (end.index, end.position))
}

pub(super) fn restore(host: &dyn Host, form: &Form, end: Option<&End>) -> Result<Facts, Error> {
    check_commands(host, form)?;
    let now_ms = host.now_ms();
    check_expiries(host, form, end, now_ms)?;
    let restorer = Restorer::new(host, &RestoreParameters::default())?.for_empty_target().with_second_pass();
    let restorer = Rc::new(RefCell::new(restorer));
    let times = Rc::new(Cell::new(Times { now_ms, next_ms: None, relative: false }));
    let pass = || -> Result<Live<'_>, Error> {
        let mut live = Live {
            restorer: Rc::clone(&restorer),
            times: Rc::clone(&times),
            trim: Trim::new(end, true),
            end,
            depends: false,
            postponed: false,
        };
        let visitor = SharedRestorer { restorer: Rc::clone(&restorer), times: Rc::clone(&times) };
        stored::walk_wanting(host, form, "restore", &mut live, Wanted::Contents(Box::new(visitor)))?;
        Ok(live)
    };
    let mut live = pass()?;
    if live.postponed {
        host.info("values that can be neither held nor rebuilt go whole, in a second pass");
        live = pass()?;
    }
    let Live { trim, depends, restorer: shared, .. } = live;
    drop(shared);
    let restorer =
        Rc::into_inner(restorer).ok_or_else(|| Error::new(code::INTERNAL, "the restorer is still in use"))?;
    let (_, mut facts) = restorer.into_inner().finish()?;
    facts.set("commands", trim.commands());
    // A file is loaded without expiring anything until its end; a live server expires at once.
    if depends && times.get().may_have_passed(host.now_ms()) {
        host.warn(
            "keys whose expiry has passed by now were gone while the commands ran: a command that wrote to one of them may have made \
             it anew, without expiry; a restore into a data directory is exact",
        );
    }
    Ok(facts)
}

/// Expiries that lay ahead when the restore began.
#[derive(Clone, Copy)]
struct Times {
    now_ms: u64,
    /// The next one.
    next_ms: Option<u64>,
    /// Whether there are any that count from when their command ran.
    relative: bool,
}

impl Times {
    fn with(self, expiry: Expiry) -> Self {
        match expiry {
            // What had passed by then was held against the commands already.
            Expiry::At(time) if time <= self.now_ms => self,
            Expiry::At(time) => Self { next_ms: Some(self.next_ms.map_or(time, |next| next.min(time))), ..self },
            Expiry::Relative => Self { relative: true, ..self },
        }
    }

    fn may_have_passed(self, now_ms: u64) -> bool {
        self.relative || self.next_ms.is_some_and(|next| next <= now_ms)
    }
}

/// Sends the commands; the snapshot goes to the same restorer by way of the parser.
struct Live<'run> {
    restorer: Rc<RefCell<Restorer<'run>>>,
    times: Rc<Cell<Times>>,
    trim: Trim<'run>,
    end: Option<&'run End>,
    /// Whether there was a command that may depend on the keys there.
    depends: bool,
    /// Whether values of the snapshot wait for another pass. No command was sent then.
    postponed: bool,
}

impl Visitor for Live<'_> {
    fn wants_words(&self) -> bool {
        true
    }

    fn event(&mut self, index: usize, scanner: &Scanner, event: &Event<'_>) {
        if let Event::Command { name, end: position, .. } = *event
            && let Some(words) = scanner.words().filter(|_| is_wanted(self.end, index, position))
        {
            self.depends |= expiry::depends(name, words);
            if let Some(expiry) = expiry::of(name, words) {
                self.times.set(self.times.get().with(expiry));
            }
        }
        self.trim.event(index, event);
    }

    fn chunk(&mut self, passing: &Passing<'_>, bytes: &[u8]) -> Result<bool, Error> {
        let (pieces, more) = self.trim.pieces(passing, bytes);
        if !passing.content.is_in_commands() {
            return Ok(more);
        }
        // The commands may be about any key, so all of the snapshot goes before them.
        if self.restorer.borrow_mut().begin_second_pass() {
            self.postponed = true;
            return Ok(false);
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

struct SharedRestorer<'run> {
    restorer: Rc<RefCell<Restorer<'run>>>,
    times: Rc<Cell<Times>>,
}

impl rdb::Visitor for SharedRestorer<'_> {
    fn wants_keys(&self) -> bool {
        self.restorer.borrow().wants_keys()
    }

    fn wants_values(&self) -> bool {
        self.restorer.borrow().wants_values()
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        self.restorer.borrow_mut().header(header)
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.restorer.borrow_mut().aux(name, value)
    }

    fn database(&mut self, number: u64) -> Result<(), Error> {
        self.restorer.borrow_mut().database(number)
    }

    fn library(&mut self, code: &[u8], length: u64) -> Result<(), Error> {
        self.restorer.borrow_mut().library(code, length)
    }

    fn module(&mut self, id: u64) -> Result<(), Error> {
        self.restorer.borrow_mut().module(id)
    }

    fn module_aux(&mut self, id: u64) -> Result<(), Error> {
        self.restorer.borrow_mut().module_aux(id)
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        if let Some(time) = entry.expires_at {
            self.times.set(self.times.get().with(Expiry::At(time)));
        }
        self.restorer.borrow_mut().key(entry)
    }

    fn value(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.restorer.borrow_mut().value(bytes)
    }

    fn value_end(&mut self, length: u64) -> Result<(), Error> {
        self.restorer.borrow_mut().value_end(length)
    }

    fn end(&mut self, checksum: Checksum) -> Result<(), Error> {
        self.restorer.borrow_mut().end(checksum)
    }
}
