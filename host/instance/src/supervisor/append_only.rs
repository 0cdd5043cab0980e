//! Has the append-only file begun, or ended, when Redis has loaded what it had in the other form.

use super::Supervisor;
use crate::clock::{self, Moment};
use crate::error::InstanceError;
use crate::files::{self, APPEND_ONLY, Appending, Saved};
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

impl OwedSave {
    /// After `appendonly` got this value.
    pub(super) fn after(value: &str) -> Self {
        if value == "no" { Self::From(Moment::ZERO) } else { Self::None }
    }
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

    /// Has an RDB file written where one is owed.
    pub(super) async fn save_at_last(&mut self) {
        let Some(facts) = self.facts.as_ref().filter(|facts| !facts.loading && !facts.saving) else { return };
        let read_at = facts.at;
        match self.owed_save {
            // What ends saves first, as far as its `save` says; it is not held up.
            _ if self.ending.is_some() => {}
            OwedSave::Begun(at, before) if read_at > at => {
                // Whatever Redis says of it: `FLUSHALL` and a copy from a primary end the child that writes without a word.
                let why = match self.saved() {
                    Ok(saved) if saved.is_some() && saved != before => self.note(Appending::Off).err(),
                    Ok(_) => Some("Redis failed to write an RDB file".to_owned()),
                    Err(error) => Some(error.chain()),
                };
                self.owed_save = OwedSave::None;
                if let Some(why) = why {
                    let now = clock::now();
                    self.say(now, format!("nothing is appended any more, and no RDB file says so yet: {why}"));
                    self.owed_save = OwedSave::From(now + SAVE_PAUSE);
                } else {
                    tracing::info!("what was appended is in an RDB file");
                }
            }
            OwedSave::From(at) if clock::now() >= at => {
                let (begun, before) = (clock::now(), self.saved().unwrap_or_default());
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

    /// Notes that the append-only file which Redis was told to write is whole.
    pub(super) fn note_at_last(&mut self) {
        let is_whole = self.facts.as_ref().is_some_and(|facts| facts.appends && !facts.loading);
        if is_whole && self.appending == Appending::Off && self.configuration.applied(APPEND_ONLY) == Some("yes") {
            // Until it is, the time of its last whole writing tells it from an older one; the next reading tries again.
            if let Err(why) = self.note(Appending::On) {
                self.say(clock::now(), why);
            }
        }
    }

    fn note(&mut self, appending: Appending) -> Result<(), String> {
        files::note(&self.settings.data, appending).map_err(|error| error.chain())?;
        self.appending = appending;
        Ok(())
    }

    fn saved(&self) -> Result<Option<Saved>, InstanceError> {
        files::saved(&self.settings.data, &self.settings.directives()?)
    }
}
