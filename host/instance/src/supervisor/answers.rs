//! What the operator is answered: how it stands, and whether its orders were obeyed.

use redkeep_core::managed::{Orders, Played, Refusal, Role, Standing};

use super::renewals::{CERTIFICATE, PASSWORD};
use super::{REMEMBER, Supervisor};
use crate::clock;
use crate::state::{Act, Refused};

impl Supervisor {
    pub(super) fn standing(&self) -> Standing {
        let now = clock::now();
        let mut standing = self.state.standing(self.facts());
        let message = self.message.as_ref();
        standing.message = message
            .filter(|(at, _)| !standing.serving || now.saturating_sub(*at) < REMEMBER)
            .map(|(_, message)| message.clone());
        standing.ending = self.ending.is_some();
        standing.restart_for = self.configuration.restart_for();
        standing.refused_config = self.configuration.refused();
        let refused = self.certificates.refused().map(|words| (CERTIFICATE.to_owned(), words.clone()));
        standing.refused_config.extend(refused);
        standing.refused_config.extend(self.passwords.failed().map(|words| (PASSWORD.to_owned(), words.clone())));
        if standing.version.is_empty() {
            standing.version.clone_from(&self.program.version);
            standing.server.clone_from(&self.program.server);
        }
        standing
    }

    /// Obeys orders: what takes rights away first, then the configuration, then the rest.
    pub(super) async fn obey(&mut self, orders: &Orders) -> Result<Standing, Box<Refusal>> {
        let facts = self.facts().cloned();
        let was_primary = self.state.played() == Played::Primary;
        let obeyed = self.state.order(orders, facts.as_ref());
        self.keep();
        let mut refused = obeyed.refused;
        let (first, then): (Vec<Act>, Vec<Act>) = obeyed.acts.into_iter().partition(|act| *act == Act::RefuseWrites);
        for act in first {
            // One that takes no writes and saves for its end has nothing to refuse; asked while it saves it would not answer, and
            // be killed with all that it has not saved yet.
            if self.terminate_at.is_some() && !was_primary {
                continue;
            }
            let _ = self.perform(act).await;
        }
        if refused.is_none() {
            if self.ending.is_none() {
                self.configure(&orders.config).await;
            } else if !self.may_obey_at_the_end(&orders.role) {
                refused = Some(Refused::new("NotServing", "the instance is ending"));
            }
        }
        if refused.is_none() {
            for act in then {
                if let Err(why) = self.perform(act).await {
                    refused = Some(why);
                    break;
                }
            }
        }
        let role = self.state.played().as_str();
        match refused {
            None => {
                tracing::debug!(epoch = orders.epoch, role, "obeyed");
                Ok(self.standing())
            }
            Some(Refused { reason, message }) => {
                tracing::warn!(epoch = orders.epoch, ordered = ?orders.role, reason, message, "refused orders");
                Err(Box::new(Refusal { reason: reason.to_owned(), message, standing: self.standing() }))
            }
        }
    }

    /// One that is to end takes no grant, but stays primary and hands over until Redis is told to end.
    fn may_obey_at_the_end(&self, role: &Role) -> bool {
        match role {
            Role::Primary => self.state.played() == Played::Primary && self.terminate_at.is_none(),
            Role::HandOver { .. } => self.terminate_at.is_none(),
            Role::Standby | Role::Replica { .. } => true,
        }
    }
}
