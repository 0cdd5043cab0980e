//! Walks the tree, breadth first, with many requests on their way at a time.
//!
//! What is held: the names that are still to be asked for (a budget, beyond which the walk goes deep before wide), and
//! one znode's data. The tree may change under the walk: every znode is whole as it was at one moment between
//! `first-zxid` and `last-zxid`.

use std::collections::VecDeque;
use std::rc::Rc;

use redkeep_sdk::{Error, Facts, Host, Progress, code};

use crate::artifact::TreeWriter;
use crate::client::{Client, strange};
use crate::protocol::{self, NO_NODE, Request};
use crate::znode::{Acl, Znode, join};

/// Requests that wait for their answers.
const WINDOW: usize = 256;
/// Bytes of names held before the walk turns from wide to deep.
const WIDE: usize = 8 << 20;

/// The children of one znode, as one text: a name takes its length and one byte.
struct Siblings {
    parent: Rc<str>,
    names: String,
    next: usize,
}

/// What is still to be asked for.
struct Frontier {
    siblings: VecDeque<Siblings>,
    held: usize,
}

impl Frontier {
    fn new() -> Self {
        Self { siblings: VecDeque::new(), held: 0 }
    }

    fn push(&mut self, parent: Rc<str>, names: String) {
        if !names.is_empty() {
            self.held += names.len() + parent.len();
            self.siblings.push_back(Siblings { parent, names, next: 0 });
        }
    }

    fn pop(&mut self) -> Option<Rc<str>> {
        let deep = self.held > WIDE;
        let siblings = if deep { self.siblings.back_mut() } else { self.siblings.front_mut() }?;
        let rest = siblings.names.get(siblings.next..).unwrap_or_default();
        let (name, _) = rest.split_once('/')?;
        let path = join(&siblings.parent, name).into();
        siblings.next += name.len() + 1;
        if siblings.next == siblings.names.len() {
            self.held -= siblings.names.len() + siblings.parent.len();
            if deep {
                self.siblings.pop_back()
            } else {
                self.siblings.pop_front()
            };
        }
        Some(path)
    }
}

/// What an answer will be about.
enum Asked {
    Acl(Rc<str>),
    Data(Rc<str>),
    Children(Rc<str>),
}

/// A session on a server that has caught up with its leader, and the transaction it stands at.
pub(crate) fn begin(host: &dyn Host) -> Result<(Client, i64), Error> {
    let mut client = Client::connect(host)?;
    let reply = client.ask(&Request::Sync)?;
    let zxid = reply.zxid;
    reply.expect("bring the server up to its leader")?;
    Ok((client, zxid))
}

/// What would be done.
pub(crate) fn plan(host: &dyn Host) -> Result<Facts, Error> {
    let (mut client, zxid) = begin(host)?;
    client.ask(&Request::GetData("/"))?.expect("read /")?;
    client.close()?;
    let mut facts = Facts::new();
    facts.set("way", "walk").set("zxid", format!("0x{zxid:x}"));
    Ok(facts)
}

pub(crate) fn capture(host: &dyn Host) -> Result<Facts, Error> {
    let (client, first_zxid) = begin(host)?;
    let mut walk = Walk {
        client,
        frontier: Frontier::new(),
        asked: VecDeque::new(),
        tree: TreeWriter::create(host)?,
        progress: Progress::new(host, "capture", None),
        acl: None,
        vanished: 0,
    };
    *walk.tree.counts() = crate::artifact::Counts { first_zxid, ..Default::default() };
    walk.visit("/".into())?;
    walk.go()?;
    let Walk { client, tree, vanished, .. } = walk;
    client.close()?;
    if vanished > 0 {
        host.info(&format!("{vanished} znodes were removed while the tree was read"));
    }
    tree.finish()
}

struct Walk<'host> {
    client: Client,
    frontier: Frontier,
    asked: VecDeque<Asked>,
    tree: TreeWriter,
    progress: Progress<'host>,
    /// Of the znode whose data is answered next.
    acl: Option<Vec<Acl>>,
    vanished: u64,
}

impl Walk<'_> {
    fn visit(&mut self, path: Rc<str>) -> Result<(), Error> {
        self.client.send(&Request::GetAcl(&path))?;
        self.client.send(&Request::GetData(&path))?;
        self.asked.push_back(Asked::Acl(Rc::clone(&path)));
        self.asked.push_back(Asked::Data(path));
        Ok(())
    }

    fn go(&mut self) -> Result<(), Error> {
        loop {
            while self.asked.len() < WINDOW
                && let Some(path) = self.frontier.pop()
            {
                self.visit(path)?;
            }
            let Some(asked) = self.asked.pop_front() else { return Ok(()) };
            let reply = self.client.receive()?;
            let last = &mut self.tree.counts().last_zxid;
            *last = reply.zxid.max(*last);
            let gone = reply.error == NO_NODE;
            match asked {
                Asked::Acl(_) if gone => self.acl = None,
                Asked::Acl(path) => {
                    let body = reply.expect(&format!("read the access control list of {path}"))?;
                    self.acl = Some(protocol::read_acl(&body).map_err(strange)?);
                }
                Asked::Data(path) => match self.acl.take() {
                    Some(acl) if !gone => self.take(path, acl, &reply.expect("read a znode")?)?,
                    // Removed and made again between the two answers: the walk does not see it, as if it had come later.
                    _ => self.vanished += 1,
                },
                Asked::Children(_) if gone => {}
                Asked::Children(path) => {
                    let body = reply.expect(&format!("list the children of {path}"))?;
                    let mut names = String::new();
                    protocol::read_children(&body, |name| {
                        names.push_str(name);
                        names.push('/');
                    })
                    .map_err(strange)?;
                    self.frontier.push(path, names);
                }
            }
        }
    }

    fn take(&mut self, path: Rc<str>, acl: Vec<Acl>, body: &[u8]) -> Result<(), Error> {
        let (data, stat) = protocol::read_data(body).map_err(strange)?;
        if stat.num_children > 0 && stat.is_ephemeral() {
            return Err(Error::new(code::SERVER_REPLY, format!("{path} is ephemeral and has children")));
        }
        if stat.num_children > 0 {
            self.client.send(&Request::GetChildren(&path))?;
            self.asked.push_back(Asked::Children(Rc::clone(&path)));
        }
        let bytes = self.tree.push(&Znode { path: path.as_ref().to_owned(), stat, acl, data })?;
        let znodes = self.tree.counts().znodes;
        self.progress.advance(bytes, znodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_gives_every_name_once_wide_first() {
        let mut frontier = Frontier::new();
        frontier.push("/".into(), "a/b/".into());
        frontier.push("/a".into(), "c/".into());
        frontier.push("/b".into(), String::new());
        let paths: Vec<Rc<str>> = std::iter::from_fn(|| frontier.pop()).collect();
        assert_eq!(paths, ["/a".into(), "/b".into(), Rc::<str>::from("/a/c")]);
        assert_eq!(frontier.held, 0);
    }

    #[test]
    fn a_wide_frontier_turns_deep_and_comes_back() {
        let mut frontier = Frontier::new();
        let long = "x".repeat(WIDE);
        frontier.push("/".into(), format!("{long}/y/"));
        frontier.push("/z".into(), "deep/".into());
        assert_eq!(frontier.pop().as_deref(), Some("/z/deep"));
        assert_eq!(frontier.pop().map(|path| path.len()), Some(WIDE + 1));
        assert_eq!(frontier.pop().as_deref(), Some("/y"));
        assert_eq!(frontier.pop(), None);
    }
}
