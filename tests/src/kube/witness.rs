//! Who takes writes, at every moment: a writer pinned to each pod, and the judgement on what they saw.
//!
//! A writer stays with the address that it has for as long as that answers: with an old primary too, of which Kubernetes
//! knows nothing any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

use super::TestNamespace;
use super::managed::{address, dial};

/// A pod that says nothing for so long is asked anew, at the address that it has by then.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(4);
/// After so many writes `WAIT` says how many replicas have them all.
const BATCH: u64 = 5;
/// For how many it waits at most.
pub const REPLICAS: u64 = 2;
/// How long `WAIT` waits, in milliseconds.
const WAIT_MS: u64 = 100;

/// A write that a pod acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Whose.
    pub pod: String,
    /// Which: key `w:NUMBER`.
    pub number: u64,
    /// When it was sent.
    pub sent: Instant,
    /// When it was acknowledged.
    pub acked: Instant,
    /// How many replicas confirmed it; 0 where nobody asked in time.
    pub confirmed: u64,
}

/// The writers, which run until this is dropped.
pub struct Witness {
    acks: Arc<Mutex<Vec<Ack>>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Witness {
    /// Starts one for each pod.
    pub fn start(namespace: &Arc<TestNamespace>, pods: impl IntoIterator<Item = String>, password: &str) -> Self {
        let (acks, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let numbers = Arc::new(AtomicU64::new(1));
        let writers = pods.into_iter().map(|pod| {
            let writer = Writer {
                namespace: Arc::clone(namespace),
                pod,
                password: password.to_owned(),
                numbers: Arc::clone(&numbers),
                acks: Arc::clone(&acks),
            };
            tokio::spawn(writer.run(Arc::clone(&stop)))
        });
        Self { writers: writers.collect(), acks, stop }
    }

    /// What was acknowledged since the last time, in the order of the acknowledgements.
    pub fn take(&self) -> Vec<Ack> {
        let mut acks = std::mem::take(&mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner));
        acks.sort_by_key(|ack| ack.acked);
        acks
    }

    /// Ends the writers, and waits until the last one has.
    pub async fn stop(mut self) -> Vec<Ack> {
        self.stop.store(true, Ordering::SeqCst);
        for writer in std::mem::take(&mut self.writers) {
            let _ = writer.await;
        }
        self.take()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Writer {
    namespace: Arc<TestNamespace>,
    pod: String,
    password: String,
    numbers: Arc<AtomicU64>,
    acks: Arc<Mutex<Vec<Ack>>>,
}

impl Writer {
    async fn run(self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            if let Ok(address) = address(&self.namespace, &self.pod).await
                && let Ok(connection) = dial(&address, &self.password, SILENCE).await
            {
                self.write(connection, &stop).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Writes until the connection breaks.
    async fn write(&self, mut connection: MultiplexedConnection, stop: &AtomicBool) {
        let mut batch: Vec<Ack> = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let number = self.numbers.fetch_add(1, Ordering::SeqCst);
            let sent = Instant::now();
            let mut command = redis::cmd("SET");
            command.arg(format!("w:{number}")).arg(number);
            match command.query_async::<()>(&mut connection).await {
                Ok(()) => {
                    batch.push(Ack { pod: self.pod.clone(), number, sent, acked: Instant::now(), confirmed: 0 });
                }
                // A replica, or one that has no grant.
                Err(error) if error.code() == Some("READONLY") || error.code() == Some("NOREPLICAS") => {
                    // What it acknowledged belongs to this reign, not to its next.
                    self.keep(&mut batch);
                }
                Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            if batch.len() as u64 >= BATCH {
                let mut wait = redis::cmd("WAIT");
                wait.arg(REPLICAS).arg(WAIT_MS);
                if let Ok(confirmed) = wait.query_async::<u64>(&mut connection).await {
                    for ack in &mut batch {
                        ack.confirmed = confirmed;
                    }
                }
                self.keep(&mut batch);
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.keep(&mut batch);
    }

    fn keep(&self, batch: &mut Vec<Ack>) {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).append(batch);
    }
}

/// A time in which one pod took writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Which pod.
    pub pod: String,
    /// Its first acknowledgement.
    pub first_acked: Instant,
    /// When the last write was sent that it acknowledged.
    pub last_sent: Instant,
    /// Its last acknowledgement.
    pub last_acked: Instant,
    /// Writes acknowledged.
    pub writes: usize,
}

/// Who took writes, one after the other, where each reigns at most once: within one failover, one switch-over.
///
/// # Errors
/// A write that one acknowledged, sent after another had acknowledged its first: two took writes at once.
pub fn reigns(acks: &[Ack]) -> Result<Vec<Reign>> {
    let mut by_pod: BTreeMap<&str, Reign> = BTreeMap::new();
    for ack in acks {
        let reign = by_pod.entry(&ack.pod).or_insert_with(|| Reign {
            pod: ack.pod.clone(),
            first_acked: ack.acked,
            last_sent: ack.sent,
            last_acked: ack.acked,
            writes: 0,
        });
        reign.first_acked = reign.first_acked.min(ack.acked);
        reign.last_sent = reign.last_sent.max(ack.sent);
        reign.last_acked = reign.last_acked.max(ack.acked);
        reign.writes += 1;
    }
    let mut reigns: Vec<Reign> = by_pod.into_values().collect();
    reigns.sort_by_key(|reign| reign.first_acked);
    for pair in reigns.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        ensure!(
            old.last_sent <= new.first_acked,
            "two took writes at once: {} acknowledged a write that was sent {:?} after {} had acknowledged its first",
            old.pod,
            old.last_sent.duration_since(new.first_acked),
            new.pod
        );
    }
    Ok(reigns)
}

/// Acknowledged writes that a server has not.
pub async fn lost(connection: &mut MultiplexedConnection, acks: &[Ack]) -> Result<Vec<Ack>> {
    let mut lost = Vec::new();
    for chunk in acks.chunks(1000) {
        let keys: Vec<String> = chunk.iter().map(|ack| format!("w:{}", ack.number)).collect();
        let values: Vec<Option<u64>> = redis::cmd("MGET").arg(&keys).query_async(connection).await?;
        let missing = chunk.iter().zip(values).filter(|(ack, value)| *value != Some(ack.number));
        lost.extend(missing.map(|(ack, _)| ack.clone()));
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(of: &[(&str, u64, u64)]) -> Vec<Ack> {
        let base = Instant::now();
        let at = |milliseconds| base + Duration::from_millis(milliseconds);
        let ack = |(number, (pod, sent, acked)): (usize, &(&str, u64, u64))| Ack {
            pod: (*pod).to_owned(),
            number: number as u64,
            sent: at(*sent),
            acked: at(*acked),
            confirmed: 0,
        };
        of.iter().enumerate().map(ack).collect()
    }

    #[test]
    fn one_after_the_other_is_as_it_should_be() {
        let found = reigns(&acks(&[("a", 0, 1), ("a", 2, 3), ("b", 4, 9), ("b", 10, 11)])).unwrap();
        let pods: Vec<&str> = found.iter().map(|reign| reign.pod.as_str()).collect();
        assert_eq!(pods, ["a", "b"]);
        assert_eq!(found[1].first_acked.duration_since(found[0].last_acked), Duration::from_millis(6));
        assert!(reigns(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_write_on_its_way_when_the_next_one_began_is_no_proof_of_two() {
        assert!(reigns(&acks(&[("a", 0, 1), ("a", 4, 9), ("b", 4, 5)])).is_ok());
    }

    #[test]
    fn two_at_once_are_found() {
        for acknowledged in [[("a", 0, 1), ("b", 4, 5), ("a", 6, 7)], [("b", 4, 5), ("a", 0, 1), ("a", 6, 90)]] {
            let error = reigns(&acks(&acknowledged)).unwrap_err().to_string();
            assert!(error.contains("two took writes at once: a acknowledged"), "{error}");
        }
    }
}
