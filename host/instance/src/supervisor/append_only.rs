//! Has the append-only file begun, or ended, when Redis has loaded what it had in the other form.

use super::Supervisor;
use crate::clock::{self, Moment};
use crate::error::InstanceError;
use crate::files::{self, APPEND_ONLY, Appending, Load, Saved};
use crate::link::LinkError;

/// How long after an RDB file could not be written it is tried again.
const SAVE_PAUSE: Moment = Moment::from_secs(10);

/// An RDB file that is to be written because nothing is appended any more: what was appended so far would be all there is at the
/// next start, and older than what was acknowledged since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OwedSave {
    #[default]
    None,
    /// Not before.
    From(Moment),
    /// Begun then, when this one was there.
    Begun(Moment, Option<Saved>),
}

impl Supervisor {
    /// Has the append-only file written of which there was none when Redis was started, or that one no more which was loaded
    /// though it should not be.
    pub(super) async fn append_at_last(&mut self) {
        if self.facts.as_ref().is_none_or(|facts| facts.loading) || self.ending.is_some() {
            return;
        }
        if let Some(value) = self.configuration.pending(APPEND_ONLY) {
            // The next reading tries again.
            let _ = self.set(APPEND_ONLY, &value).await;
        }
    }

    /// Notes what is about to be started.
    ///
    /// # Errors
    /// When it cannot be noted that Redis is to append: an RDB file would be taken for the newer one. On a full disk the other notes
    /// that may be there are true still.
    pub(super) fn note_start(&mut self, load: Load, asked: &[(String, String)]) -> Result<(), InstanceError> {
        self.asked = asked.to_vec();
        self.owed_note = None;
        self.noted = None;
        let data = &self.settings.data;
        // What was left is the last as long as no RDB file is written.
        if load == Load::AofFirst && matches!(files::noted(data)?, Some(Appending::Leaving(_))) {
            return Ok(());
        }
        let appending = load.appending(asked);
        match files::note(data, appending) {
            Err(error) if appending == Appending::On => Err(error),
            Err(error) => {
                tracing::warn!(error = error.chain(), "unable to note which file is written");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// `appendonly` got this value; `before`: the RDB file before that.
    pub(super) fn append_only_set(&mut self, value: &str, before: Option<Saved>) {
        let is_left = value == "no";
        self.owed_note = is_left.then_some(Appending::Leaving(before));
        self.owed_save = if is_left { OwedSave::From(Moment::ZERO) } else { OwedSave::None };
        self.note_at_last();
    }

    /// Has an RDB file written where one is owed.
    pub(super) async fn save_at_last(&mut self) {
        let Some(facts) = self.facts.as_ref().filter(|facts| !facts.loading && !facts.saving) else { return };
        let read_at = facts.at;
        match self.owed_save {
            // What ends saves first, as far as its `save` says; it is not held up.
            _ if self.ending.is_some() => {}
            OwedSave::Begun(at, before) if read_at > at => {
                // Whatever Redis says of it: `FLUSHALL` and a copy from a primary end the child that writes without a word.
                if self.saved().is_ok_and(|saved| saved.is_some() && saved != before) {
                    tracing::info!("what was appended is in an RDB file");
                    self.owed_save = OwedSave::None;
                    self.owed_note = Some(Appending::Off);
                } else {
                    let now = clock::now();
                    self.say(now, "nothing is appended any more, and Redis failed to write an RDB file".to_owned());
                    self.owed_save = OwedSave::From(now + SAVE_PAUSE);
                }
            }
            OwedSave::From(at) if clock::now() >= at => {
                let begun = clock::now();
                let Ok(before) = self.saved() else {
                    self.owed_save = OwedSave::From(begun + SAVE_PAUSE);
                    return;
                };
                match self.call(&["BGSAVE"]).await {
                    // Another child works: the next reading tries again.
                    Err(LinkError::Refused(_)) => {}
                    // A large one forks for longer than it may answer.
                    Ok(_) | Err(_) => self.owed_save = OwedSave::Begun(begun, before),
                }
            }
            OwedSave::None | OwedSave::From(_) | OwedSave::Begun(..) => {}
        }
    }

    /// Notes what is owed, and that the append-only file which Redis was told to write is whole.
    pub(super) fn note_at_last(&mut self) {
        let is_whole = self.facts.as_ref().is_some_and(|facts| facts.appends && !facts.loading);
        let is_on = is_whole && self.configuration.applied(APPEND_ONLY) == Some("yes");
        let Some(appending) = self.owed_note.or(is_on.then_some(Appending::On)) else { return };
        if self.noted == Some(appending) {
            return;
        }
        match files::note(&self.settings.data, appending) {
            Ok(()) => {
                self.noted = Some(appending);
                self.owed_note = None;
            }
            // The next reading tries again.
            Err(error) => self.say(clock::now(), error.chain()),
        }
    }

    /// The RDB file that is there.
    pub(super) fn saved(&self) -> Result<Option<Saved>, InstanceError> {
        files::saved(&self.settings.data, &self.asked)
    }
}
