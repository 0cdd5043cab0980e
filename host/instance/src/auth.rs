//! Who asks: the operator, by a token that the Kubernetes API vouches for, or a peer, by the token that all share.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redkeep_core::secret::Secret;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::clock::{self, Moment};

/// How long a good answer is believed, and a bad one.
const KEEP_GOOD: Duration = Duration::from_secs(60);
const KEEP_BAD: Duration = Duration::from_secs(10);
/// How many are remembered.
const MAX_KEPT: usize = 256;
/// How many questions go to the API at once: a stranger must not make us flood it.
const AT_ONCE: usize = 4;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 << 10;

type Hash = [u8; 32];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Operator,
    Peer,
}

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Nobody's token.
    Unknown,
    /// Somebody else's.
    Forbidden(String),
    /// It cannot be found out now.
    Unavailable,
}

/// Tells callers apart.
pub(crate) struct Gate {
    api: Api,
    operator: String,
    peer: Hash,
    kept: Mutex<HashMap<Hash, (Moment, Option<String>)>>,
    asking: Semaphore,
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

impl Gate {
    pub(crate) fn new(api: Api, operator: &str, peer_token: &Secret) -> Self {
        Self {
            api,
            operator: operator.to_owned(),
            peer: hash(peer_token.expose()),
            kept: Mutex::new(HashMap::new()),
            asking: Semaphore::new(AT_ONCE),
        }
    }

    /// Whose token that is.
    pub(crate) async fn caller(&self, token: &str) -> Result<Caller, Denied> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(Denied::Unknown);
        }
        // Hashes are compared, so the time it takes says nothing of the token.
        let hash = hash(token);
        if hash == self.peer {
            return Ok(Caller::Peer);
        }
        if let Some(user) = self.remembered(&hash, clock::now()) {
            return self.judge(user);
        }
        let Ok(_permit) = self.asking.acquire().await else { return Err(Denied::Unavailable) };
        if let Some(user) = self.remembered(&hash, clock::now()) {
            return self.judge(user);
        }
        let asked = clock::now();
        match self.api.user_of(token, LIMIT).await {
            Ok(user) => {
                self.remember(hash, asked, user.clone());
                self.judge(user)
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "unable to check a token");
                Err(Denied::Unavailable)
            }
        }
    }

    fn judge(&self, user: Option<String>) -> Result<Caller, Denied> {
        match user {
            None => Err(Denied::Unknown),
            Some(user) if user == self.operator => Ok(Caller::Operator),
            Some(user) => Err(Denied::Forbidden(user)),
        }
    }

    #[expect(clippy::option_option, reason = "not remembered, or remembered as nobody's")]
    fn remembered(&self, hash: &Hash, now: Moment) -> Option<Option<String>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(hash).filter(|(asked, user)| is_fresh(*asked, user.as_ref(), now)).map(|(_, user)| user.clone())
    }

    fn remember(&self, hash: Hash, asked: Moment, user: Option<String>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (asked_then, user)| is_fresh(*asked_then, user.as_ref(), asked));
        if kept.len() < MAX_KEPT {
            kept.insert(hash, (asked, user));
        }
    }
}

fn is_fresh(asked: Moment, user: Option<&String>, now: Moment) -> bool {
    now.saturating_sub(asked) < if user.is_some() { KEEP_GOOD } else { KEEP_BAD }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
