//! The sink behind `load`: write commands in any chunking, checked, pipelined, routed by slot, their replies counted.
//!
//! Commands pass as slices of what was written; one longer than 1 MiB streams through. The first error that is not
//! tolerated stops the load with the exact count of what took effect.

mod denied;
mod lane;
mod replies;
pub(crate) mod slots;
mod table;

use std::collections::HashSet;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::Attribute;
use redkeep_core::attribute::{find, merge};
use redkeep_core::method::{MethodError, code};
use redkeep_core::stream::{Artifact, Sink};

use crate::command_scanner::{CommandScanner, HOLD, LargeCommand, Scan};
use crate::connection::Node;
use crate::error::reply_help;
use crate::resp::{push_bulk, push_header};
use lane::Lane;
use replies::{Special, Tally};
use slots::{SLOTS, slot_of};
use table::CommandTable;

/// How the SDK's names of values under way begin (`plugins/sdk/src/rdb/rebuild.rs`): what becomes of their renaming decides
/// whether a key was restored.
const TEMPORARY: &[u8] = b"redkeep-restore:{";

/// Of every slot, the lane that serves it.
pub(crate) type SlotMap = Vec<Option<u16>>;

/// A load into one server.
pub(crate) async fn open_standalone(node: &Node, options: &[Attribute]) -> Result<Box<dyn Sink>, MethodError> {
    open(std::slice::from_ref(node), None, options).await
}

/// A load into the primaries of a cluster.
pub(crate) async fn open_cluster(
    primaries: &[Node],
    slots: SlotMap,
    options: &[Attribute],
) -> Result<Box<dyn Sink>, MethodError> {
    debug_assert_eq!(slots.len(), SLOTS);
    open(primaries, Some(slots), options).await
}

async fn open(nodes: &[Node], slots: Option<SlotMap>, options: &[Attribute]) -> Result<Box<dyn Sink>, MethodError> {
    let tolerated: Vec<String> = find(options, "tolerate")
        .unwrap_or_default()
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let mut lanes = Vec::with_capacity(nodes.len());
    let mut table = None;
    for node in nodes {
        let mut connection = node.connect().await?;
        if table.is_none() {
            table = Some(CommandTable::read(&mut connection, node).await?);
        }
        lanes.push(Lane::new(connection, tolerated.clone()));
    }
    let node =
        nodes.first().ok_or_else(|| MethodError::new(code::REFUSED, "failed to load: the target has no server"))?;
    Ok(Box::new(LoadSink {
        node: node.clone(),
        table: table.unwrap_or_default(),
        lanes,
        slots,
        buffer: BytesMut::new(),
        scanner: CommandScanner::default(),
        large: None,
        transaction: None,
        proven_databases: HashSet::new(),
        written: 0,
        dropped: 0,
        is_of_keys: true,
        failure: None,
    }))
}

/// A cluster's `MULTI` that waits for its first key, and then for its `EXEC`.
#[derive(Default)]
struct Transaction {
    slot: Option<(u16, usize)>,
}

struct Large {
    command: LargeCommand,
    lane: usize,
}

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Lane(usize),
    Everywhere,
    /// Nowhere: it has no meaning for this target, and counts as done.
    Nowhere,
}

struct LoadSink {
    node: Node,
    table: CommandTable,
    lanes: Vec<Lane>,
    slots: Option<SlotMap>,
    buffer: BytesMut,
    scanner: CommandScanner,
    large: Option<Large>,
    transaction: Option<Transaction>,
    /// Databases that a `SELECT` has reached: until its reply is seen, nothing may follow it, for it would go elsewhere.
    proven_databases: HashSet<Vec<u8>>,
    written: u64,
    dropped: u64,
    /// Whether every command so far is one of those by which a snapshot's keys are restored, so that keys can be counted.
    is_of_keys: bool,
    failure: Option<MethodError>,
}

/// What is known of a command when its first bytes have come.
struct Head {
    route: Route,
    special: Option<Special>,
    /// Its name as sent, where that differs from how it was written.
    renamed: Option<Bytes>,
    barrier: Option<Vec<u8>>,
}

fn denied(message: impl Into<String>) -> MethodError {
    MethodError::new(code::DENIED, message)
}

impl LoadSink {
    /// Looks at the command that begins at `position`; `whole`: all of it is there.
    fn head(&mut self, position: usize, whole: bool) -> Result<Head, MethodError> {
        let rest = self.buffer.get(position..).unwrap_or_default();
        let too_long =
            || MethodError::new(code::REFUSED, "failed to load: a command's name or key is longer than 1 MiB");
        let name = self.scanner.argument(rest, 0).ok_or_else(too_long)?;
        let Some(facts) = self.table.get(name) else {
            let name = String::from_utf8_lossy(name.get(..name.len().min(60)).unwrap_or_default()).to_ascii_uppercase();
            let help = if matches!(name.as_str(), "EVAL" | "EVALSHA") {
                "scripts of a backup are not run on a live server: restore into a data directory"
            } else {
                "the backup holds a command that only a forged or damaged file has, or one that this target does not know: \
                 if you trust its source, restore into a server of the source's release"
            };
            return Err(denied(format!("failed to load: {name} is no write command of the target")).with_help(help));
        };
        let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
        let renamed = if self.node.renamed.is_empty() {
            None
        } else {
            let known = String::from_utf8_lossy(name);
            Some(self.node.name_of(&known)).filter(|sent| sent.as_ref() != name)
        };
        let special = if is(b"MULTI") {
            Some(Special::Multi)
        } else if is(b"EXEC") {
            Some(Special::Exec)
        } else {
            let naming = (is(b"RENAME") || is(b"RENAMENX"))
                && self.scanner.argument(rest, 1).is_some_and(|from| from.starts_with(TEMPORARY));
            let is_step = || {
                let key = if facts.first_key == 0 { None } else { self.scanner.argument(rest, facts.first_key) };
                key.is_some_and(|key| key.starts_with(TEMPORARY))
            };
            if naming {
                Some(Special::Naming)
            } else if is(b"SELECT") || is(b"FUNCTION") || is_step() {
                Some(Special::Beside)
            } else {
                self.is_of_keys &= is(b"RESTORE");
                None
            }
        };
        self.is_of_keys &= !matches!(special, Some(Special::Multi | Special::Exec));
        let select = is(b"SELECT");
        let Some(slots) = &self.slots else {
            let barrier = (select && whole).then(|| self.scanner.argument(rest, 1).unwrap_or_default().to_vec());
            let barrier = barrier.filter(|database| !self.proven_databases.contains(database));
            return Ok(Head { route: Route::Lane(0), special, renamed, barrier });
        };
        let head = |route| Head { route, special, renamed, barrier: None };
        if select {
            let database = self.scanner.argument(rest, 1).unwrap_or_default();
            if database != b"0" {
                let database = String::from_utf8_lossy(database).into_owned();
                return Err(MethodError::new(
                    code::REFUSED,
                    format!("failed to load: a cluster has no database {database}"),
                )
                .with_help("restore only database 0, or into database 0 (--db N:0)"));
            }
            return Ok(head(Route::Nowhere));
        }
        match special {
            Some(Special::Multi) => {
                self.transaction = Some(Transaction::default());
                return Ok(head(Route::Nowhere));
            }
            Some(Special::Exec) => {
                let lane = self.transaction.take().and_then(|transaction| transaction.slot);
                return Ok(head(lane.map_or(Route::Nowhere, |(_, lane)| Route::Lane(lane))));
            }
            _ => {}
        }
        if facts.first_key == 0 || facts.first_key >= self.scanner.count() {
            if self.transaction.is_some() {
                return Err(MethodError::new(
                    code::REFUSED,
                    "failed to load: a command without a key in a transaction of a cluster",
                ));
            }
            return Ok(head(Route::Everywhere));
        }
        let slot = slot_of(self.scanner.argument(rest, facts.first_key).ok_or_else(too_long)?);
        let lane =
            slots.get(usize::from(slot)).copied().flatten().map(usize::from).ok_or_else(|| {
                MethodError::new(code::REFUSED, format!("failed to load: no primary serves slot {slot}"))
            })?;
        Ok(head(Route::Lane(lane)))
    }

    /// Binds a cluster's transaction to the slot of its first key; true: `MULTI` must be sent first.
    fn bind_transaction(&mut self, slot: u16, lane: usize) -> Result<bool, MethodError> {
        match &mut self.transaction {
            None => Ok(false),
            Some(transaction) => match transaction.slot {
                None => {
                    transaction.slot = Some((slot, lane));
                    Ok(true)
                }
                Some((bound, _)) if bound == slot => Ok(false),
                Some((bound, _)) => Err(MethodError::new(
                    code::REFUSED,
                    format!("failed to load: a transaction has keys of the slots {bound} and {slot}, which a cluster refuses"),
                )
                .with_help("restore into a single server, or the RDB part alone")),
            },
        }
    }

    async fn process(&mut self) -> Result<(), MethodError> {
        let mut passed = 0;
        let mut commands = 0;
        loop {
            if let Some(mut large) = self.large.take() {
                let (taken, ended) = large.command.push(&self.buffer).map_err(broken)?;
                let piece = self.buffer.split_to(taken).freeze();
                if ended {
                    self.give(large.lane, piece, 1).await?;
                } else {
                    self.give(large.lane, piece, 0).await?;
                    self.large = Some(large);
                    return Ok(());
                }
            }
            let rest = self.buffer.get(passed..).unwrap_or_default();
            let scan = self.scanner.scan(rest).map_err(broken)?;
            let length = match scan {
                Scan::Complete(length) => length,
                Scan::Incomplete if rest.len() < HOLD => break,
                Scan::Incomplete => {
                    let run = self.buffer.split_to(passed).freeze();
                    self.give(0, run, std::mem::take(&mut commands)).await?;
                    passed = 0;
                    self.begin_large().await?;
                    continue;
                }
            };
            let head = self.head(passed, true)?;
            let simple = self.slots.is_none() && head.renamed.is_none() && head.barrier.is_none();
            if simple {
                if let Some(special) = head.special {
                    // Its number counts from what has been given, so the run before it goes first.
                    let run = self.buffer.split_to(passed).freeze();
                    self.give(0, run, std::mem::take(&mut commands)).await?;
                    passed = 0;
                    if let Some(lane) = self.lanes.first() {
                        lane.expect(special);
                    }
                }
                passed += length;
                commands += 1;
                continue;
            }
            let run = self.buffer.split_to(passed).freeze();
            self.give(0, run, std::mem::take(&mut commands)).await?;
            passed = 0;
            let slot = self.slot_of_scanned(0);
            let command = self.buffer.split_to(length).freeze();
            self.one(head, slot, command).await?;
        }
        let run = self.buffer.split_to(passed).freeze();
        self.give(0, run, commands).await
    }

    /// The slot of the first key of the command scanned at `position`.
    fn slot_of_scanned(&self, position: usize) -> Option<u16> {
        let rest = self.buffer.get(position..)?;
        let first_key = self.table.get(self.scanner.argument(rest, 0)?)?.first_key;
        if first_key == 0 { None } else { self.scanner.argument(rest, first_key).map(slot_of) }
    }

    /// Sends one whole command.
    async fn one(&mut self, head: Head, slot: Option<u16>, command: Bytes) -> Result<(), MethodError> {
        let bytes = match &head.renamed {
            None => command,
            Some(name) => {
                let mut renamed = BytesMut::with_capacity(command.len() + name.len());
                self.scanner.scan(&command).map_err(broken)?;
                push_header(&mut renamed, b'*', self.scanner.count());
                push_bulk(&mut renamed, name);
                let rest = self.scanner.argument_end(0).and_then(|end| command.get(end..));
                renamed.extend_from_slice(rest.unwrap_or_default());
                renamed.freeze()
            }
        };
        match head.route {
            Route::Nowhere => {
                // A transaction's own words are counted with its EXEC, which here never comes.
                if head.special != Some(Special::Multi) {
                    self.dropped += if head.special == Some(Special::Exec) { 2 } else { 1 };
                }
            }
            Route::Everywhere => {
                for index in 0..self.lanes.len() {
                    let special = if index > 0 { Some(Special::Uncounted) } else { head.special };
                    if let (Some(special), Some(lane)) = (special, self.lanes.get(index)) {
                        lane.expect(special);
                    }
                    self.give(index, bytes.clone(), 1).await?;
                }
            }
            Route::Lane(index) => {
                if self.slots.is_some()
                    && let Some(slot) = slot
                    && self.bind_transaction(slot, index)?
                {
                    self.send_multi(index).await?;
                }
                if let (Some(special), Some(lane)) = (head.special, self.lanes.get(index)) {
                    lane.expect(special);
                }
                self.give(index, bytes, 1).await?;
            }
        }
        if let (Some(database), Some(lane)) = (head.barrier, self.lanes.first_mut()) {
            let settled = lane.settle().await;
            if !settled || lane.has_failed() {
                return Err(self.stopped().await);
            }
            self.proven_databases.insert(database);
        }
        Ok(())
    }

    async fn send_multi(&mut self, index: usize) -> Result<(), MethodError> {
        let mut bytes = BytesMut::new();
        crate::resp::encode_command(&[self.node.name_of("MULTI")], &mut bytes);
        if let Some(lane) = self.lanes.get(index) {
            lane.expect(Special::Multi);
        }
        self.give(index, bytes.freeze(), 1).await
    }

    /// The command at the beginning of the buffer is too large to be held.
    async fn begin_large(&mut self) -> Result<(), MethodError> {
        let head = self.head(0, false)?;
        let slot = self.slot_of_scanned(0);
        let Route::Lane(lane) = head.route else {
            return Err(MethodError::new(
                code::REFUSED,
                "failed to load: a command longer than 1 MiB that goes to every primary",
            ));
        };
        if head.renamed.is_some() {
            return Err(MethodError::new(code::REFUSED, "failed to load: a renamed command longer than 1 MiB"));
        }
        if self.slots.is_some()
            && let Some(slot) = slot
            && self.bind_transaction(slot, lane)?
        {
            self.send_multi(lane).await?;
        }
        if let (Some(special), Some(lane)) = (head.special, self.lanes.get(lane)) {
            lane.expect(special);
        }
        self.large = Some(Large { command: LargeCommand::new(), lane });
        Ok(())
    }

    /// Gives bytes to a lane, with which so many commands end.
    async fn give(&mut self, lane: usize, bytes: Bytes, commands: u64) -> Result<(), MethodError> {
        let clustered = self.slots.is_some();
        let given = match self.lanes.get_mut(lane) {
            None => false,
            Some(_) if bytes.is_empty() => true,
            Some(lane) => {
                // A cluster's commands are small pieces of many runs: gathered per primary.
                if clustered && bytes.len() < HOLD / 4 {
                    lane.give_slice(&bytes, commands).await
                } else {
                    lane.give(bytes, commands).await
                }
            }
        };
        if given { Ok(()) } else { Err(self.stopped().await) }
    }

    /// What became of everything so far.
    fn tally(&self) -> Tally {
        let mut tally = Tally { applied: self.dropped, ..Tally::default() };
        self.lanes.iter().for_each(|lane| tally.join(&lane.tally()));
        tally
    }

    /// The error of a load that cannot go on, once every command on its way has been answered.
    async fn stopped(&mut self) -> MethodError {
        for lane in &mut self.lanes {
            lane.settle().await;
        }
        let tally = self.tally();
        let mut error = if let Some(text) = &tally.fatal {
            let error = MethodError::new(code::SERVER_REPLY, format!("failed to load: the target answered `{text}`"));
            let user = self.node.login.username.as_deref().unwrap_or("default");
            match denied::help(text, user).or_else(|| reply_help(text).map(str::to_owned)) {
                Some(help) => error.with_help(help),
                None => error,
            }
        } else {
            let why = self.lanes.iter().find_map(Lane::ended).unwrap_or_else(|| "the connection was lost".to_owned());
            MethodError::new(code::TARGET_IO, format!("failed to load into {}: {why}", self.node.address)).with_help(
                "see the target's log (it may have been stopped, run out of memory, or refused a value above proto-max-bulk-len)",
            )
        };
        error.details.extend(self.counts(&tally));
        error
    }

    /// What became of the commands, and of a snapshot how many keys were written.
    fn counts(&self, tally: &Tally) -> Vec<Attribute> {
        let mut attributes = vec![Attribute::new("commands", tally.applied), Attribute::new("errors", tally.errors)];
        if self.is_of_keys {
            // What was sent nowhere counts as applied, and made no key.
            let keys = tally.applied.saturating_sub(tally.beside).saturating_sub(self.dropped);
            attributes.push(Attribute::new("keys-written", keys));
        }
        attributes.extend(tally.first_error.as_ref().map(|text| Attribute::new("first-error", text)));
        attributes
    }
}

fn broken(error: crate::resp::RespError) -> MethodError {
    MethodError::new(code::DAMAGED, format!("failed to load: what was written is no RESP command: {error}"))
}

#[async_trait]
impl Sink for LoadSink {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.written += data.len() as u64;
        if self.buffer.is_empty() {
            self.buffer = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        } else {
            self.buffer.extend_from_slice(&data);
        }
        let mut outcome = if self.lanes.iter().any(Lane::has_failed) { Err(self.stopped().await) } else { Ok(()) };
        if outcome.is_ok() {
            outcome = self.process().await;
        }
        if let Err(mut error) = outcome {
            if find(&error.details, "commands").is_none() {
                // Refused by us: what was on its way is counted all the same.
                for lane in &mut self.lanes {
                    lane.settle().await;
                }
                error.details.extend(self.counts(&self.tally()));
            }
            self.failure = Some(error.clone());
            return Err(error);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut settled = true;
        for lane in &mut self.lanes {
            settled &= lane.settle().await;
        }
        if !settled || self.lanes.iter().any(Lane::has_failed) {
            return Err(self.stopped().await);
        }
        let tally = self.tally();
        if !self.buffer.is_empty() || self.large.is_some() {
            let mut error = MethodError::new(code::DAMAGED, "failed to load: the last command is cut short");
            error.details.extend(self.counts(&tally));
            return Err(error);
        }
        let attributes = merge(&attributes, &self.counts(&tally));
        Ok(Artifact { name: "load".to_owned(), size: self.written, sha256: String::new(), attributes })
    }
}
