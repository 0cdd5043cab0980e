//! Restores into an empty live server or cluster: the snapshot as the SDK's `RESTORE` commands, then the commands as they are.
//! Values that can be neither held nor rebuilt take a second pass over the snapshot, before the commands.
//!
//! The commands may be anything (`FLUSHALL`, `SWAPDB`, transactions over many keys), so only an empty target of the same mode takes
//! them (REDIS.md 3). That it is empty is the host's check. What is refused, `check` refuses in the plan; keys that expire between the
//! plan and a shard's turn are no reason to stop halfway, and warned of.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use redkeep_sdk::rdb::restore::{RestoreParameters, Restorer};
use redkeep_sdk::rdb::{self, Checksum, Entry, Header};
use redkeep_sdk::{Error, Facts, Host, code};

use super::cut::End;
use super::expiry::{self, Expiry};
use super::trim::Trim;
use crate::scanner::{Event, Scanner};
use crate::snapshot::Wanted;
use crate::stored::{self, Form, Passing, Visitor};

pub(super) fn restore(host: &dyn Host, form: &Form, end: Option<&End>) -> Result<Facts, Error> {
    let restorer = Restorer::new(host, &RestoreParameters::default())?.for_empty_target().with_second_pass();
    let restorer = Rc::new(RefCell::new(restorer));
    let times = Rc::new(Cell::new(Times::default()));
    let pass = || -> Result<Live<'_>, Error> {
        times.set(Times::default());
        let mut live = Live {
            restorer: Rc::clone(&restorer),
            times: Rc::clone(&times),
            trim: Trim::new(true),
            exposed: None,
            postponed: false,
        };
        let visitor = SharedRestorer { restorer: Rc::clone(&restorer), times: Rc::clone(&times) };
        let wanted = Wanted::Contents(Box::new(visitor));
        let walked = stored::walk_up_to(host, form, "restore", &mut live, wanted, end.map(|end| end.place))?;
        if !live.postponed {
            walked.check_end()?;
        }
        Ok(live)
    };
    let mut live = pass()?;
    if live.postponed {
        host.info("values that can be neither held nor rebuilt go whole, in a second pass");
        live = pass()?;
    }
    let Live { trim, exposed, restorer: shared, .. } = live;
    drop(shared);
    let restorer =
        Rc::into_inner(restorer).ok_or_else(|| Error::new(code::INTERNAL, "the restorer is still in use"))?;
    let (_, mut facts) = restorer.into_inner().finish()?;
    facts.set("commands", trim.commands());
    // A file is loaded without expiring anything until its end; a live server expires at once.
    if exposed.is_some_and(|times: Times| times.may_have_passed(host.now_ms())) {
        host.warn(
            "keys or fields of hashes whose expiry has passed by now may have been gone while the commands ran: a command that wrote to \
             one of them may have made it anew, without expiry; a restore into a data directory is exact",
        );
    }
    Ok(facts)
}

/// The expiries given so far, by the snapshot and by commands.
#[derive(Clone, Copy, Default)]
struct Times {
    /// The earliest.
    earliest_ms: Option<u64>,
    /// Whether there are any that count from when their command ran, or that are not known.
    relative: bool,
}

impl Times {
    fn with(self, expiry: Expiry) -> Self {
        match expiry {
            Expiry::At(time) => {
                Self { earliest_ms: Some(self.earliest_ms.map_or(time, |earliest| earliest.min(time))), ..self }
            }
            Expiry::Relative => Self { relative: true, ..self },
        }
    }

    fn may_have_passed(self, now_ms: u64) -> bool {
        self.relative || self.earliest_ms.is_some_and(|earliest| earliest <= now_ms)
    }
}

/// Sends the commands; the snapshot goes to the same restorer by way of the parser.
struct Live<'run> {
    restorer: Rc<RefCell<Restorer<'run>>>,
    times: Rc<Cell<Times>>,
    trim: Trim,
    /// The expiries given before the last command that may depend on the keys there.
    exposed: Option<Times>,
    /// Whether values of the snapshot wait for another pass. No command was sent then.
    postponed: bool,
}

impl Visitor for Live<'_> {
    fn wants_words(&self) -> bool {
        true
    }

    fn event(&mut self, _index: usize, scanner: &Scanner, event: &Event<'_>) {
        if let Event::Command { name, .. } = *event
            && let Some(words) = scanner.words()
        {
            if expiry::depends(name, words) {
                self.exposed = Some(self.times.get());
            }
            if let Some(expiry) = expiry::of(name, words) {
                self.times.set(self.times.get().with(expiry));
            }
        }
        self.trim.event(event);
    }

    fn chunk(&mut self, passing: &Passing<'_>, bytes: &[u8]) -> Result<(), Error> {
        let pieces = self.trim.pieces(passing, bytes);
        if !passing.content.is_in_commands() {
            return Ok(());
        }
        // The commands may be about any key, so all of the snapshot goes before them.
        if self.restorer.borrow_mut().begin_second_pass() {
            self.postponed = true;
            return Ok(());
        }
        let preamble_end = passing.content.preamble_end();
        for (position, piece) in pieces {
            let before = usize::try_from(preamble_end.saturating_sub(position)).unwrap_or(usize::MAX);
            let commands = piece.get(before..).unwrap_or_default();
            if !commands.is_empty() {
                self.restorer.borrow_mut().write_commands(commands)?;
            }
        }
        Ok(())
    }

    fn has_enough(&self) -> bool {
        self.postponed
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
        // Their times lie in the value, which passes as it is.
        if entry.kind.has_field_expiries() {
            self.times.set(self.times.get().with(Expiry::Relative));
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
