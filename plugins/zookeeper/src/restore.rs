//! Creates the tree in another ensemble: znodes first, parents before children, then their access control lists.
//!
//! The lists come last because one could forbid to create what belongs below; until then the new znodes are open to all
//! who reach the ensemble. Ephemerals belong to sessions that are not there, `/zookeeper` to the ensemble itself: both
//! are left out.

use std::collections::VecDeque;

use redkeep_sdk::{Error, Facts, Host, Level, code, parameters};

use crate::artifact;
use crate::client::{Client, strange};
use crate::parameters::{OnConflict, Parameters};
use crate::protocol::{self, NO_NODE, NODE_EXISTS, Request};
use crate::znode::{Acl, SYSTEM, Znode};

/// Requests, and bytes of their data, that wait for their answers.
const WINDOW: usize = 256;
const WINDOW_BYTES: usize = 4 << 20;

/// Refuses a target that is not empty, unless told otherwise; else says what would be done.
pub(crate) fn plan(host: &dyn Host) -> Result<Facts, Error> {
    let mut client = Client::connect(host)?;
    let facts = check(host, &mut client);
    client.close()?;
    facts
}

fn check(host: &dyn Host, client: &mut Client) -> Result<Facts, Error> {
    let Parameters { on_conflict, .. } = parameters::of(host)?;
    let body = client.ask(&Request::GetChildren("/"))?.expect("list the target's znodes")?;
    let mut there = Vec::new();
    protocol::read_children(&body, |name| {
        if format!("/{name}") != SYSTEM {
            there.push(name.to_owned());
        }
    })
    .map_err(strange)?;
    if let Some(first) = there.first()
        && on_conflict == OnConflict::Fail
    {
        let more = if there.len() > 1 { format!(" and {} more", there.len() - 1) } else { String::new() };
        return Err(Error::refused(
            format!("the target is not empty: it has /{first}{more}"),
            "restore into an empty ensemble, or give --on-conflict replace to overwrite what the backup has",
        ));
    }
    let mut facts = Facts::new();
    facts.set("way", if there.is_empty() { "create" } else { "create-or-replace" });
    Ok(facts)
}

/// What was done.
#[derive(Debug, Default)]
struct Tally {
    created: u64,
    replaced: u64,
    lists: u64,
    ephemerals: u64,
    system: u64,
    sequential: u64,
}

pub(crate) fn restore(host: &dyn Host) -> Result<Facts, Error> {
    let parameters: Parameters = parameters::of(host)?;
    let mut client = Client::connect(host)?;
    check(host, &mut client)?;
    let mut writer = Writer { client, parameters, waiting: VecDeque::new(), bytes: 0, tally: Tally::default() };
    artifact::read(host, "znodes", |znode| writer.create(znode))?;
    writer.settle(0, 0)?;
    artifact::read(host, "acl", |znode| writer.set_acl(&znode))?;
    writer.settle(0, 0)?;
    let Writer { client, tally, .. } = writer;
    client.close()?;
    if tally.ephemerals > 0 {
        host.log(
            Level::Info,
            &format!("{} ephemeral znodes were left out: their sessions are gone", tally.ephemerals),
            &[],
        );
    }
    if tally.sequential > 0 {
        host.warn(&format!(
            "{} znodes have names with a sequence number, and the target counts anew: new sequential znodes beside them \
             may get smaller numbers than theirs",
            tally.sequential
        ));
    }
    let mut facts = Facts::new();
    facts.set("created", tally.created).set("replaced", tally.replaced).set("access-control-lists", tally.lists);
    facts.set("left-out-ephemerals", tally.ephemerals).set("left-out-system", tally.system);
    Ok(facts)
}

/// What becomes of a znode that is there already.
enum IfThere {
    /// The restore fails.
    Fail,
    /// It gets this data.
    Replace(Option<Vec<u8>>),
}

/// A request that has no answer yet.
enum Waiting {
    Create(String, IfThere, usize),
    SetData(String, usize),
    SetAcl(String),
}

struct Writer {
    client: Client,
    parameters: Parameters,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    tally: Tally,
}

impl Writer {
    fn create(&mut self, znode: Znode) -> Result<(), Error> {
        if znode.is_system() {
            self.tally.system += 1;
            return Ok(());
        }
        if znode.stat.is_ephemeral() {
            self.tally.ephemerals += 1;
            return Ok(());
        }
        if znode.is_sequential() {
            self.tally.sequential += 1;
        }
        let length = znode.data.as_ref().map_or(0, Vec::len);
        self.settle(WINDOW - 1, WINDOW_BYTES.saturating_sub(length))?;
        if znode.path == "/" {
            // It is always there.
            return self.set_data(znode.path, znode.data.as_deref());
        }
        self.client.send(&Request::Create(&znode.path, znode.data.as_deref()))?;
        let if_there = match self.parameters.on_conflict {
            OnConflict::Replace => IfThere::Replace(znode.data),
            OnConflict::Fail => IfThere::Fail,
        };
        self.waiting.push_back(Waiting::Create(znode.path, if_there, length));
        self.bytes += length;
        Ok(())
    }

    fn set_data(&mut self, path: String, data: Option<&[u8]>) -> Result<(), Error> {
        self.client.send(&Request::SetData(&path, data))?;
        let length = data.map_or(0, <[u8]>::len);
        self.waiting.push_back(Waiting::SetData(path, length));
        self.bytes += length;
        Ok(())
    }

    /// A new znode is open to all; one that was there may have any list.
    fn set_acl(&mut self, znode: &Znode) -> Result<(), Error> {
        let is_set = self.parameters.on_conflict == OnConflict::Fail && znode.acl == Acl::open();
        if is_set || znode.is_system() || znode.stat.is_ephemeral() {
            return Ok(());
        }
        self.settle(WINDOW - 1, WINDOW_BYTES)?;
        self.client.send(&Request::SetAcl(&znode.path, &znode.acl))?;
        self.waiting.push_back(Waiting::SetAcl(znode.path.clone()));
        Ok(())
    }

    /// Takes answers until no more than so many requests and bytes wait for theirs.
    fn settle(&mut self, requests: usize, bytes: usize) -> Result<(), Error> {
        while self.waiting.len() > requests || self.bytes > bytes {
            let Some(waiting) = self.waiting.pop_front() else { return Ok(()) };
            let reply = self.client.receive()?;
            match waiting {
                Waiting::Create(path, if_there, length) => {
                    self.bytes -= length;
                    match (reply.error, if_there) {
                        (NODE_EXISTS, IfThere::Replace(data)) => {
                            self.tally.replaced += 1;
                            self.set_data(path, data.as_deref())?;
                        }
                        (NO_NODE, _) => {
                            return Err(Error::new(
                                code::TARGET_IO,
                                format!("failed to create {path}: its parent is gone"),
                            )
                            .with_help("nothing else may write to the target while it is restored"));
                        }
                        _ => {
                            reply.expect(&format!("create {path}"))?;
                            self.tally.created += 1;
                        }
                    }
                }
                Waiting::SetData(path, length) => {
                    self.bytes -= length;
                    reply.expect(&format!("write {path}"))?;
                }
                Waiting::SetAcl(path) => {
                    reply.expect(&format!("set the access control list of {path}"))?;
                    self.tally.lists += 1;
                }
            }
        }
        Ok(())
    }
}
