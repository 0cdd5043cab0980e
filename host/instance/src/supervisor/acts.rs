//! Does to Redis what `state` decided.

use std::collections::BTreeMap;

use redkeep_core::managed::Peer;

use super::{CALL, Supervisor};
use crate::auth::chain;
use crate::clock::{self, Moment};
use crate::config::{self, Outcome};
use crate::facts::Facts;
use crate::files::APPEND_ONLY;
use crate::hand_over::{HandOver, PAUSE, Step};
use crate::link::LinkError;
use crate::state::{Act, NOBODY, Refused};

/// How often a hand-over looks at the replica's offset.
const LOOK: Moment = Moment::from_millis(50);

impl Supervisor {
    /// Does it. A demotion that Redis does not carry out at once kills it.
    pub(super) async fn perform(&mut self, act: Act) -> Result<(), Refused> {
        let done = match act {
            Act::HandOver(to) => return self.begin_hand_over(to).await,
            Act::RefuseWrites => {
                self.refuse_writes().await;
                Ok(())
            }
            Act::Promote => match self.call(&["REPLICAOF", "NO", "ONE"]).await {
                Ok(_) => {
                    self.state.promoted(clock::now());
                    tracing::info!(epoch = self.state.notice().epoch, "granted: takes writes");
                    Ok(())
                }
                Err(error) => {
                    // It may have obeyed and only answered late.
                    let act = self.state.step_down();
                    debug_assert_eq!(act, Act::RefuseWrites);
                    self.refuse_writes().await;
                    Err(failed("take writes", &error))
                }
            },
            Act::Follow(of) => match self.call(&["REPLICAOF", &of.ip, &of.redis_port.to_string()]).await {
                Ok(_) => {
                    tracing::info!(primary = of.pod, ip = of.ip, "follows");
                    self.state.followed(of);
                    Ok(())
                }
                Err(error) => Err(failed(&format!("follow {}", of.pod), &error)),
            },
        };
        self.unpause().await;
        self.read_again().await;
        done
    }

    async fn refuse_writes(&mut self) {
        let answer = self.call(&["REPLICAOF", NOBODY.0, &NOBODY.1.to_string()]).await;
        let Err(error) = answer else { return };
        // While it loads nobody can write, and what it plays then is put right as soon as it is read.
        if matches!(&error, LinkError::Refused(text) if text.starts_with("LOADING")) {
            return;
        }
        if let Some(running) = &self.running {
            tracing::error!(error = chain(&error), "Redis cannot be told to refuse writes and is killed");
            running.kill();
            self.say(clock::now(), format!("killed Redis: it could not be told to refuse writes ({})", chain(&error)));
        }
    }

    pub(super) async fn call(&mut self, arguments: &[&str]) -> Result<redkeep_redis::resp::Value, LinkError> {
        match &mut self.running {
            Some(running) => running.link.call(arguments, CALL).await,
            None => Err(LinkError::Lost(std::io::ErrorKind::NotConnected.into())),
        }
    }

    /// Reads `INFO` anew, so that what was read before the act misleads nobody.
    async fn read_again(&mut self) {
        let at = clock::now();
        self.ignore_before = at;
        if let Ok(value) = self.call(&["INFO"]).await {
            let facts = Facts::parse(&value.text().unwrap_or_default(), at);
            // What differs still is put right after the next reading.
            let _ = self.state.observe(&facts);
            self.facts = Some(facts);
        }
    }

    async fn unpause(&mut self) {
        if std::mem::take(&mut self.paused) {
            let _ = self.call(&["CLIENT", "UNPAUSE"]).await;
        }
    }

    async fn begin_hand_over(&mut self, to: Peer) -> Result<(), Refused> {
        self.read_again().await;
        let hindrance =
            self.facts().map_or(Some("Redis does not answer".to_owned()), |facts| HandOver::hindrance(&to, facts));
        if let Some(why) = hindrance {
            self.state.gave_up_hand_over(why.clone());
            return Err(Refused::new("Failed", why));
        }
        self.paused = true;
        if let Err(error) = self.call(&["CLIENT", "PAUSE", &PAUSE.as_millis().to_string(), "WRITE"]).await {
            self.unpause().await;
            let refused = failed("pause writes", &error);
            self.state.gave_up_hand_over(refused.message.clone());
            return Err(refused);
        }
        tracing::info!(to = to.pod, "writes are paused for a hand-over");
        self.state.hand_over = Some(HandOver { to, paused_at: clock::now() });
        self.next_look = Moment::ZERO;
        Ok(())
    }

    /// Looks whether the replica has everything; called at every turn.
    pub(super) async fn go_on_with_hand_over(&mut self) {
        let now = clock::now();
        // One that was told to end may not answer while it saves, and must not be killed for that.
        let is_due = now >= self.next_look && self.terminate_at.is_none();
        let Some(hand_over) = self.state.hand_over.clone().filter(|_| is_due) else { return };
        self.next_look = now + LOOK;
        let answer = self.call(&["INFO", "replication"]).await;
        // Decided as of now: reading may have taken its time.
        let step = match answer {
            Ok(value) => hand_over.step(clock::now(), &Facts::parse(&value.text().unwrap_or_default(), now)),
            Err(error) if clock::now().saturating_sub(hand_over.paused_at) >= crate::hand_over::WAIT => {
                Step::GiveUp(chain(&error))
            }
            Err(_) => Step::Wait,
        };
        match step {
            Step::Wait => {}
            Step::Done => {
                tracing::info!(to = hand_over.to.pod, "the replica has everything: handed over");
                let act = self.state.handed_over();
                let _ = self.perform(act).await;
            }
            Step::GiveUp(why) => {
                tracing::warn!(to = hand_over.to.pod, why, "gave up the hand-over: writes go on");
                self.state.gave_up_hand_over(why);
                self.unpause().await;
            }
        }
    }

    /// Changes what differs from the orders, as far as Redis can while it runs.
    pub(super) async fn configure(&mut self, wanted: &BTreeMap<String, String>) {
        for (name, value) in self.configuration.changes(wanted) {
            // The next orders try again.
            if self.set(&name, &value).await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn set(&mut self, name: &str, value: &str) -> Result<(), LinkError> {
        let mut before = None;
        if name == APPEND_ONLY {
            // One that is to end would refuse to until the file is written.
            if self.terminate_at.is_some() {
                return Ok(());
            }
            // 6.2 would write what it has loaded so far and take that for the whole; later releases would only say yes.
            let reply = self.call(&["INFO", "persistence"]).await?;
            let facts = Facts::parse(&reply.text().unwrap_or_default(), clock::now());
            let Ok(saved) = self.saved() else { return Ok(()) };
            before = saved;
            // An RDB file that is being written lacks what is appended since it was begun, and would be the newer one.
            if facts.loading || (facts.saving && value == "no") {
                return Ok(());
            }
        }
        let outcome = match self.call(&["CONFIG", "SET", name, value]).await {
            Ok(_) => Outcome::Set,
            // That says nothing of the directive.
            Err(LinkError::Refused(text)) if text.starts_with("BUSY") || text.starts_with("LOADING") => {
                return Err(LinkError::Refused(text));
            }
            Err(LinkError::Refused(text)) => {
                let known = self.call(&["CONFIG", "GET", name]).await;
                config::outcome_of(&text, known.is_ok_and(|reply| !reply.elements().is_empty()))
            }
            Err(error) => return Err(error),
        };
        tracing::info!(name, value, ?outcome, "configuration");
        let is_set = name == APPEND_ONLY && outcome == Outcome::Set;
        self.configuration.record(name, value, outcome);
        if is_set {
            self.append_only_set(value, before);
        }
        Ok(())
    }
}

fn failed(act: &str, error: &LinkError) -> Refused {
    let loading = matches!(error, LinkError::Refused(text) if text.starts_with("LOADING"));
    Refused::new(if loading { "NotServing" } else { "Failed" }, format!("failed to {act}: {}", chain(error)))
}
