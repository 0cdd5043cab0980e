//! Has Redis take what was exchanged in its Secrets while it runs.

use std::sync::PoisonError;

use redkeep_core::managed::Played;
use redkeep_core::secret::Secret;

use super::Supervisor;
use crate::clock;
use crate::link::LinkError;
use crate::passwords::Login;

/// The directive that makes Redis read its certificates.
pub(super) const CERTIFICATE: &str = "tls-cert-file";
/// The directive of the password.
pub(super) const PASSWORD: &str = "requirepass";

impl Supervisor {
    /// Has Redis read its certificates when there are others. Connections that are there keep theirs.
    pub(super) async fn renew_certificates(&mut self) {
        let Some(files) = self.certificates.renewed(clock::now()).filter(|_| self.ending.is_none()) else { return };
        let certificate = self.settings.redis_tls.join("tls.crt").display().to_string();
        // To be told one file makes Redis read all of them.
        let refused = match self.call(&["CONFIG", "SET", CERTIFICATE, &certificate]).await {
            Ok(_) => None,
            Err(LinkError::Refused(words)) => Some(words),
            // The next look tries again.
            Err(_) => return,
        };
        match &refused {
            None => tracing::info!("the certificates were renewed"),
            Some(words) => {
                tracing::error!(words, "Redis does not take the renewed certificates and keeps those before");
            }
        }
        self.certificates.told(files, refused, clock::now());
    }

    /// Has Redis take the password that its Secret holds now, and the former one for a while. Connections that are there go on.
    pub(super) async fn renew_password(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let follows = self.state.played() == Played::Replica;
        let is_cut_off = self.facts.as_ref().is_some_and(|facts| follows && !facts.link_up && !facts.syncing);
        let Some(login) = self.passwords.due(clock::now(), is_cut_off) else { return };
        let refused = match self.log_in_with(&login).await {
            Ok(()) => None,
            Err(LinkError::Refused(text)) if !text.starts_with("LOADING") && !text.starts_with("BUSY") => {
                Some(login.redacted(text))
            }
            // The next look tries again.
            Err(_) => return,
        };
        if let Some(words) = &refused {
            tracing::error!(words, "Redis does not take the password of the Secret");
        }
        self.passwords.tell(login, refused, clock::now());
    }

    /// At every moment Redis takes the password that this instance uses.
    async fn log_in_with(&mut self, login: &Login) -> Result<(), LinkError> {
        let before = self.passwords.told().cloned();
        let is_taken = |one: &Login| one.password == login.password && one.former == login.former;
        if !before.as_ref().is_some_and(is_taken) {
            let word = |password: &Secret| format!(">{}", password.expose());
            let (password, former) = (word(&login.password), login.former.as_ref().map(word));
            let mut both = vec!["ACL", "SETUSER", "default", &password];
            both.extend(former.as_deref());
            // Those that it takes already stay.
            self.call(&both).await?;
            if let Some(running) = &self.running {
                *running.password.lock().unwrap_or_else(PoisonError::into_inner) = Some(login.password.clone());
            }
            if former.is_none() {
                // To set `requirepass` to what it is would leave the others.
                self.call(&["ACL", "SETUSER", "default", "resetpass", &password]).await?;
                self.call(&["CONFIG", "SET", PASSWORD, login.password.expose()]).await?;
            }
            tracing::info!(takes_former = former.is_some(), "takes the password of the Secret");
        }
        if before.is_none_or(|one| one.shown != login.shown) {
            self.call(&["CONFIG", "SET", "masterauth", login.shown.expose()]).await?;
        }
        Ok(())
    }
}
