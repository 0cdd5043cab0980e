//! Looks every few seconds at the RedisCluster and at every peer, and tells the supervisor what it saw.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use redkeep_core::managed::{NOTICE_PATH, Notice, Peer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::api::Api;
use crate::auth::chain;
use crate::clock;
use crate::error::InstanceError;
use crate::https::{self, Question};
use crate::pinned::Identity;
use crate::settings::Settings;
use crate::supervisor::Event;

/// A notice has some 100 bytes.
const MAX_NOTICE: usize = 4 << 10;

/// What is passed on to peers, and who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Knowledge {
    pub(crate) notice: Notice,
    pub(crate) peers: Vec<Peer>,
}

/// Looks until it is dropped.
pub(crate) fn start(
    settings: Arc<Settings>,
    events: mpsc::Sender<Event>,
    knowledge: watch::Receiver<Knowledge>,
) -> Result<JoinHandle<()>, InstanceError> {
    let identity = Arc::new(Identity::read(&settings.identity)?);
    Ok(tokio::spawn(async move {
        let api = Api::new(&settings);
        let limit = settings.look_every();
        let mut ticks = tokio::time::interval(limit);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reachable = Changes::default();
        loop {
            ticks.tick().await;
            let known = knowledge.borrow().clone();
            let (object, peers) = tokio::join!(
                at_object(&api, limit, &events),
                join_all(known.peers.iter().map(|peer| at_peer(peer, &known, &identity, limit, &events))),
            );
            reachable.note("the Kubernetes API", object);
            for (peer, seen) in known.peers.iter().zip(peers) {
                reachable.note(&peer.pod, seen);
            }
        }
    }))
}

async fn at_object(api: &Api, limit: Duration, events: &mpsc::Sender<Event>) -> Result<(), String> {
    let at = clock::now();
    match api.cluster(limit).await {
        Ok(cluster) => {
            let _ = events.send(Event::ReadObject { at, cluster }).await;
            Ok(())
        }
        Err(error) => {
            if error.is_gone() {
                let _ = events.send(Event::NoObject).await;
            }
            Err(chain(&error))
        }
    }
}

async fn at_peer(
    peer: &Peer,
    known: &Knowledge,
    identity: &Identity,
    limit: Duration,
    events: &mpsc::Sender<Event>,
) -> Result<(), String> {
    let at = clock::now();
    let ip: IpAddr = peer.ip.parse().map_err(|_| format!("`{}` is no address", peer.ip))?;
    let body = serde_json::to_vec(&known.notice).map_err(|error| error.to_string())?;
    let question =
        Question { method: Method::PUT, path: NOTICE_PATH, token: identity.peer_token.expose(), body: Some(body) };
    let address = SocketAddr::new(ip, peer.instance_port);
    let (status, answer) = https::ask(address, Arc::clone(&identity.client), question, MAX_NOTICE, limit)
        .await
        .map_err(|error| chain(&error))?;
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    let notice: Notice = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    let _ = events.send(Event::Met { at, pod: peer.pod.clone(), notice }).await;
    Ok(())
}

/// Logs when somebody gets out of reach or comes back, not every look.
#[derive(Default)]
struct Changes(std::collections::BTreeMap<String, bool>);

impl Changes {
    fn note(&mut self, whom: &str, seen: Result<(), String>) {
        let before = self.0.insert(whom.to_owned(), seen.is_ok());
        match seen {
            Err(error) if before != Some(false) => tracing::warn!(whom, error, "unable to reach"),
            Ok(()) if before == Some(false) => tracing::info!(whom, "reached again"),
            _ => {}
        }
    }
}
