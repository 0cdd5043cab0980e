//! Has the append-only file begun, or ended, when Redis has loaded what it had in the other form.

use super::Supervisor;
use crate::clock::{self, Moment};
use crate::files::APPEND_ONLY;

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
        let (read_at, has_saved) = (facts.at, facts.has_saved);
        match self.owed_save {
            // What ends saves first, as far as its `save` says; it is not held up.
            _ if self.ending.is_some() => {}
            OwedSave::Begun(at) if read_at > at && has_saved => {
                tracing::info!("what was appended is in an RDB file");
                self.owed_save = OwedSave::None;
            }
            OwedSave::Begun(at) if read_at > at => {
                let now = clock::now();
                self.say(now, "nothing is appended any more, and Redis failed to write an RDB file".to_owned());
                self.owed_save = OwedSave::From(now + SAVE_PAUSE);
            }
            OwedSave::From(at) if clock::now() >= at => {
                // Refused while another child works: the next reading tries again.
                if self.call(&["BGSAVE"]).await.is_ok() {
                    self.owed_save = OwedSave::Begun(clock::now());
                }
            }
            OwedSave::None | OwedSave::From(_) | OwedSave::Begun(_) => {}
        }
    }
}
