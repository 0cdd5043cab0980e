//! Has the append-only file begun, or ended, when Redis has loaded what it had in the other form.

use std::path::Path;

use super::Supervisor;
use crate::clock::{self, Moment};
use crate::files::{self, APPEND_ONLY, Load};
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
    /// Begun then.
    Begun(Moment),
}

impl OwedSave {
    /// After `appendonly` got this value.
    pub(super) fn after(value: &str, data: &Path) -> Self {
        if value != "no" {
            return Self::None;
        }
        if let Err(error) = files::ended(data) {
            // Without it the append-only file stays what is loaded.
            tracing::error!(error = error.chain(), "unable to note that nothing is appended any more");
        }
        Self::From(Moment::ZERO)
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
            OwedSave::Begun(at) if read_at > at && self.is_saved() => {
                tracing::info!("what was appended is in an RDB file");
                self.owed_save = OwedSave::None;
            }
            // Whatever Redis says of it: `FLUSHALL` and a copy from a primary end the child that writes without a word.
            OwedSave::Begun(at) if read_at > at => {
                let now = clock::now();
                self.say(now, "nothing is appended any more, and Redis failed to write an RDB file".to_owned());
                self.owed_save = OwedSave::From(now + SAVE_PAUSE);
            }
            OwedSave::From(at) if clock::now() >= at => {
                let begun = clock::now();
                match self.call(&["BGSAVE"]).await {
                    // Another child works: the next reading tries again.
                    Err(LinkError::Refused(_)) => {}
                    // A large one forks for longer than it may answer.
                    Ok(_) | Err(_) => self.owed_save = OwedSave::Begun(begun),
                }
            }
            OwedSave::None | OwedSave::From(_) | OwedSave::Begun(_) => {}
        }
    }

    /// Whether a start with `appendonly no` would load an RDB file.
    fn is_saved(&self) -> bool {
        let load = self.settings.directives().and_then(|mut directives| {
            directives.push((APPEND_ONLY.to_owned(), "no".to_owned()));
            files::look(&self.settings.data, &directives, &self.program)
        });
        load.is_ok_and(|load| load == Load::AsTold)
    }
}
