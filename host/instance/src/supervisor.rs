//! The one loop that owns Redis: it takes in what happens, asks `state` what follows, and does it.
//!
//! Nothing in it waits longer than [`CALL`] for Redis, and for nobody else at all: a primary must be able to fence itself
//! whatever hangs.

mod acts;
mod answers;
mod append_only;
mod renewals;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redkeep_core::managed::{Notice, Orders, Played, Refusal, Standing};
use redkeep_redis::resp::Value;
use rustix::process::Pid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::api::Cluster;
use crate::certificates::Certificates;
use crate::child::Running;
use crate::clock::{self, Moment};
use crate::config::Configuration;
use crate::ending::{Ending, Now};
use crate::error::InstanceError;
use crate::facts::Facts;
use crate::fence::Contacts;
use crate::files::{self, APPEND_ONLY, Appending, Load};
use crate::link::LinkError;
use crate::look::Knowledge;
use crate::memory;
use crate::passwords::Passwords;
use crate::program::Program;
use crate::settings::Settings;
use crate::state::State;
use append_only::OwedSave;

/// How long one command may take.
const CALL: Duration = Duration::from_secs(1);
/// How often it looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// A reading of `INFO` older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(3);
/// So many ends within so long are given up on: the kubelet backs off and shows why.
const MAX_ENDS: usize = 5;
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// How often Redis is told to end. The same signal again does not hurry it: it goes on saving and waiting for replicas.
const TERMINATE_EVERY: Duration = Duration::from_secs(1);
/// How long an end is told about.
const REMEMBER: Duration = Duration::from_secs(300);
/// Who is no primary may be silent for long: flushing and loading a copy blocks old releases.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Redis was asked for `INFO`.
    Answered { process: String, at: Moment, answer: Result<Value, LinkError> },
    /// A child has ended.
    Ended { pid: Pid, status: String },
    /// The program is to end.
    Terminate,
    /// Somebody asks how it stands.
    Standing(oneshot::Sender<Standing>),
    /// The operator orders.
    Orders(Box<Orders>, oneshot::Sender<Result<Standing, Box<Refusal>>>),
    /// A peer or the operator tells of a decision, and asks for ours.
    Notice(Notice, oneshot::Sender<Notice>),
    /// The RedisCluster was read; `at`: when that was begun.
    ReadObject { at: Moment, cluster: Cluster },
    /// The Kubernetes API says that there is none, or that it may not be read any more: its namespace goes.
    NoObject,
    /// A peer was asked; `at`: when that was begun.
    Met { at: Moment, pod: String, notice: Notice },
}

/// Owns Redis.
pub(crate) struct Supervisor {
    settings: Arc<Settings>,
    program: Program,
    state: State,
    contacts: Contacts,
    running: Option<Running>,
    facts: Option<Facts>,
    /// What was written for the next start of the container.
    kept: Notice,
    last_answer: Moment,
    /// Readings begun before that are of before our last act.
    ignore_before: Moment,
    configuration: Configuration,
    owed_save: OwedSave,
    /// As it is to be noted for the next start, if it is not yet.
    owed_note: Option<Appending>,
    /// As it was noted last in this start.
    noted: Option<Appending>,
    /// What the present start was asked for.
    asked: Vec<(String, String)>,
    certificates: Certificates,
    passwords: Passwords,
    /// Writes may be paused.
    paused: bool,
    next_look: Moment,
    ends: VecDeque<Moment>,
    start_at: Moment,
    /// When Redis is told to end again: it refuses while it writes its first append-only file.
    terminate_at: Option<Moment>,
    kill_at: Option<Moment>,
    message: Option<(Moment, String)>,
    /// The program is to end.
    ending: Option<Ending>,
    /// The RedisCluster was there when it was looked at last.
    is_managed: bool,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    knowledge: watch::Sender<Knowledge>,
    beat: Arc<AtomicU64>,
}

impl Supervisor {
    pub(crate) fn new(
        settings: Arc<Settings>,
        program: Program,
        events: mpsc::Sender<Event>,
        inbox: mpsc::Receiver<Event>,
    ) -> Self {
        let mut state = State::new(&settings.pod, settings.instances);
        if let Some(notice) = memory::recall(&settings.run) {
            let _ = state.learn(&notice);
        }
        let passwords = Passwords::of(&settings.auth, settings.password_grace());
        let kept = state.notice();
        let knowledge = Knowledge { notice: kept.clone(), peers: Vec::new() };
        Self {
            settings,
            program,
            state,
            contacts: Contacts::default(),
            running: None,
            facts: None,
            kept,
            last_answer: Moment::ZERO,
            ignore_before: Moment::ZERO,
            configuration: Configuration::default(),
            owed_save: OwedSave::None,
            owed_note: None,
            noted: None,
            asked: Vec::new(),
            certificates: Certificates::default(),
            passwords,
            paused: false,
            next_look: Moment::ZERO,
            ends: VecDeque::new(),
            start_at: Moment::ZERO,
            terminate_at: None,
            kill_at: None,
            message: None,
            ending: None,
            is_managed: true,
            events,
            inbox,
            knowledge: watch::Sender::new(knowledge),
            beat: Arc::new(AtomicU64::new(0)),
        }
    }

    /// What peers are told, and who they are.
    pub(crate) fn knowledge(&self) -> watch::Receiver<Knowledge> {
        self.knowledge.subscribe()
    }

    /// When the loop last turned, in milliseconds.
    pub(crate) fn beat(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.beat)
    }

    /// Runs until the program is to end and Redis has ended.
    ///
    /// # Errors
    /// When Redis cannot be started or keeps ending.
    pub(crate) async fn run(mut self) -> Result<(), InstanceError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(event) = self.inbox.recv() => self.take_in(event).await?,
            }
            if self.turn().await? {
                return Ok(());
            }
        }
    }

    /// What time alone brings about; whether all is over.
    async fn turn(&mut self) -> Result<bool, InstanceError> {
        let now = clock::now();
        self.beat.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.state.must_fence(now, self.settings.fencing(), &self.contacts) {
            self.fence(now).await;
        }
        if self.running.is_none() {
            if self.ending.is_some() {
                return Ok(true);
            }
            if now >= self.start_at && self.state.may_start(&self.contacts) {
                self.start()?;
            }
        }
        self.go_on_with_hand_over().await;
        self.go_on_with_end();
        if self.terminate_at.is_some_and(|at| now >= at) {
            self.terminate(now);
        }
        self.kill_what_hangs();
        self.knowledge.send_if_modified(|known| {
            let new = Knowledge { notice: self.state.notice(), peers: self.state.peers().to_vec() };
            let modified = *known != new;
            *known = new;
            modified
        });
        Ok(false)
    }

    fn start(&mut self) -> Result<(), InstanceError> {
        let asked = self.settings.directives()?;
        let load = files::look(&self.settings.data, &asked, &self.program)?;
        let mut directives = asked.clone();
        if let Some(value) = load.appends() {
            let why = match load {
                Load::AofFirst => "what was appended last is in no RDB file: Redis loads it, then appends no more",
                _ => "there is an RDB file and no append-only file of now: Redis loads the one, then writes the other",
            };
            tracing::warn!("{why}");
            directives.retain(|(name, _)| name != APPEND_ONLY);
            directives.push((APPEND_ONLY.to_owned(), value.to_owned()));
        }
        self.note_start(load, &asked)?;
        self.certificates = Certificates::of(&self.settings.redis_tls);
        let password = self.passwords.start(clock::now())?;
        let running = Running::start(&self.settings, &self.program, &directives, password, &self.events)?;
        tracing::info!(pid = running.pid.as_raw_nonzero(), process = running.process, "started Redis as standby");
        self.state.started(running.process.clone());
        let configuration = Configuration::started(&asked);
        self.configuration = match load.appends() {
            Some(value) => configuration.at_first(APPEND_ONLY, value),
            None => configuration,
        };
        self.owed_save = OwedSave::None;
        self.last_answer = running.started;
        self.ignore_before = Moment::ZERO;
        self.facts = None;
        self.paused = false;
        self.terminate_at = None;
        self.kill_at = None;
        self.running = Some(running);
        Ok(())
    }

    async fn take_in(&mut self, event: Event) -> Result<(), InstanceError> {
        match event {
            Event::Answered { process, at, answer } => self.answered(&process, at, answer).await,
            Event::Ended { pid, status } => self.ended(pid, &status).await?,
            // The same signal again does not hurry it.
            Event::Terminate if self.ending.is_some() => {}
            Event::Terminate => {
                tracing::info!("told to end: a primary hands over first, then Redis saves and ends");
                let (now, peers) = (self.now(), self.state.peers().len());
                self.ending = Some(Ending::new(clock::now(), self.settings.grace(), now, peers));
            }
            Event::Standing(answer) => drop(answer.send(self.standing())),
            Event::Orders(orders, answer) => drop(answer.send(self.obey(&orders).await)),
            Event::Notice(notice, answer) => {
                self.learn(&notice, "a notice").await;
                let _ = answer.send(self.state.notice());
            }
            Event::ReadObject { at, cluster } => {
                self.state.resized(cluster.instances);
                self.learn(&cluster.notice, "the RedisCluster").await;
                self.contacts.object = self.contacts.object.max(Some(at));
                self.is_managed = !cluster.is_going;
            }
            Event::NoObject => self.is_managed = false,
            Event::Met { at, pod, notice } => {
                self.learn(&notice, &pod).await;
                let last = self.contacts.peers.entry(pod).or_insert(at);
                *last = at.max(*last);
            }
        }
        Ok(())
    }

    async fn learn(&mut self, notice: &Notice, from: &str) {
        let act = self.state.learn(notice);
        self.keep();
        if let Some(act) = act {
            tracing::warn!(
                epoch = notice.epoch,
                primary = notice.primary,
                from,
                "another is primary or will be: stepping down"
            );
            let _ = self.perform(act).await;
        }
    }

    /// Writes down what it knows, before anybody is told that it does.
    fn keep(&mut self) {
        let notice = self.state.notice();
        if notice == self.kept {
            return;
        }
        match memory::keep(&self.settings.run, &notice) {
            Ok(()) => self.kept = notice,
            Err(error) => tracing::warn!(error = error.chain(), "unable to write down the epoch"),
        }
    }

    async fn answered(&mut self, process: &str, at: Moment, answer: Result<Value, LinkError>) {
        if self.running.as_ref().is_none_or(|running| running.process != process) {
            return;
        }
        match answer {
            Ok(value) if at >= self.ignore_before => {
                self.last_answer = clock::now();
                let facts = Facts::parse(&value.text().unwrap_or_default(), at);
                let act = self.state.observe(&facts);
                self.facts = Some(facts);
                // A Redis that is being stopped is left alone.
                if let Some(act) = act.filter(|_| self.terminate_at.is_none()) {
                    tracing::warn!(?act, "Redis does not play what it was told, and is put right");
                    let _ = self.perform(act).await;
                }
                self.append_at_last().await;
                self.save_at_last().await;
                self.note_at_last();
                self.renew_certificates().await;
                self.renew_password().await;
            }
            Ok(_) | Err(LinkError::Refused(_)) => self.last_answer = clock::now(),
            Err(LinkError::Silent(_) | LinkError::Lost(_)) => return,
        }
        if let Some(running) = self.running.as_mut().filter(|running| !running.link.is_open()) {
            let _ = running.link.call(&["PING"], CALL).await;
        }
    }

    async fn ended(&mut self, pid: Pid, status: &str) -> Result<(), InstanceError> {
        if self.running.as_ref().is_none_or(|running| running.pid != pid) {
            return Ok(());
        }
        let Some(running) = self.running.take() else { return Ok(()) };
        // Children with which it was saving would write into the next one's files.
        running.kill();
        // Its last words may still be in the pipe.
        tokio::time::sleep(TICK).await;
        let (now, lines) = (clock::now(), running.tail.joined());
        self.state.ended();
        self.facts = None;
        self.terminate_at = None;
        self.kill_at = None;
        if self.ending.is_some() {
            tracing::info!(status, "Redis has ended");
            return Ok(());
        }
        if self.state.played() == Played::Fenced {
            tracing::warn!(status, "Redis has ended; it starts again when somebody is reached");
            return Ok(());
        }
        tracing::error!(status, "Redis ended by itself");
        self.say(now, format!("Redis ended with {status}: {lines}"));
        self.ends.push_back(now);
        self.ends.retain(|end| now.saturating_sub(*end) < ENDS_WITHIN);
        if self.ends.len() >= MAX_ENDS {
            return Err(InstanceError::KeepsEnding { times: self.ends.len(), status: status.to_owned(), lines });
        }
        self.start_at = if self.ends.len() > 1 { now + Duration::from_secs(1) } else { now };
        Ok(())
    }

    async fn fence(&mut self, now: Moment) {
        tracing::error!(
            seconds = self.settings.fencing_seconds,
            "reached neither the Kubernetes API nor every other instance: writes are refused and Redis is stopped"
        );
        let act = self.state.fence(now);
        self.say(now, "stopped Redis: neither the Kubernetes API nor every other instance was reached".to_owned());
        let _ = self.perform(act).await;
        if self.running.is_some() {
            self.terminate(now);
            self.kill_at = Some(now + self.settings.stop_grace());
        }
    }

    fn now(&self) -> Now {
        Now {
            played: self.state.played(),
            hands_over: self.state.hand_over.is_some(),
            handed_over: self.state.has_handed_over(),
            epoch: self.state.notice().epoch,
            is_managed: self.is_managed,
        }
    }

    /// Tells Redis to end once nothing is to be handed over any more.
    fn go_on_with_end(&mut self) {
        let (at, now) = (clock::now(), self.now());
        let may_stop = self.ending.as_mut().is_some_and(|ending| ending.may_stop(at, now));
        if may_stop && self.running.is_some() && self.terminate_at.is_none() {
            tracing::info!(role = now.played.as_str(), "Redis is told to save and to end");
            self.terminate(at);
        }
    }

    fn terminate(&mut self, now: Moment) {
        if let Some(running) = &self.running {
            running.terminate();
            self.terminate_at = Some(now + TERMINATE_EVERY);
        }
    }

    fn kill_what_hangs(&mut self) {
        let now = clock::now();
        let Some(running) = &self.running else { return };
        if self.kill_at.is_some_and(|at| now >= at) {
            tracing::warn!("Redis did not end in time and is killed");
            running.kill();
            self.kill_at = Some(now + self.settings.stop_grace());
        }
        // While it saves before its end it answers nobody.
        if self.ending.is_some() || self.kill_at.is_some() {
            return;
        }
        let fencing = self.settings.fencing();
        let patience = if self.state.played() == Played::Primary { fencing } else { PATIENCE.max(fencing * 10) };
        if now.saturating_sub(self.last_answer) >= patience {
            tracing::error!(seconds = patience.as_secs(), "Redis has not answered and is killed");
            running.kill();
            self.say(now, format!("Redis did not answer for {} s and was killed", patience.as_secs()));
            self.last_answer = now;
        }
    }

    fn say(&mut self, now: Moment, message: String) {
        self.message = Some((now, message.chars().take(1000).collect()));
    }

    /// What Redis said last, if that is not long ago.
    fn facts(&self) -> Option<&Facts> {
        let now = clock::now();
        self.facts.as_ref().filter(|facts| self.running.is_some() && now.saturating_sub(facts.at) < FRESH)
    }
}
