//! Round trips against a ZooKeeper in memory: enough of a server to be captured from and restored into.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use redkeep_sdk::testing::{FakeHost, FakeSocket};
use redkeep_sdk::{Facts, Method, code};
use rstest::rstest;

use crate::Zookeeper;
use crate::jute::{Frames, Reader, Writer, frame};
use crate::znode::{Acl, Stat, Znode};

type Tree = Rc<RefCell<BTreeMap<String, Znode>>>;

fn znode(path: &str, owner: i64, data: Option<&[u8]>, acl: Vec<Acl>) -> (String, Znode) {
    let stat = Stat { ephemeral_owner: owner, version: 3, ..Stat::default() };
    (path.to_owned(), Znode { path: path.to_owned(), stat, acl, data: data.map(<[u8]>::to_vec) })
}

fn tree(znodes: impl IntoIterator<Item = (String, Znode)>) -> Tree {
    let root = znode("/", 0, Some(b""), Acl::open());
    let own = znode("/zookeeper", 0, Some(b""), Acl::open());
    Rc::new(RefCell::new([root, own].into_iter().chain(znodes).collect()))
}

fn children(tree: &BTreeMap<String, Znode>, path: &str) -> Vec<String> {
    let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
    let below = tree.keys().filter_map(|other| other.strip_prefix(&prefix));
    below.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned).collect()
}

/// One answer's error and body.
fn answer(tree: &Tree, code: i32, reader: &mut Reader<'_>) -> (i32, Writer) {
    let mut body = Writer::default();
    let path = if code == -11 { String::new() } else { reader.string().unwrap().to_owned() };
    let mut tree = tree.borrow_mut();
    let count = i32::try_from(children(&tree, &path).len()).unwrap();
    let Some(found) = tree.get_mut(&path) else {
        return match code {
            1 => {
                let data = reader.buffer().unwrap().map(<[u8]>::to_vec);
                let acl = Acl::read_list(reader).unwrap();
                assert_eq!(reader.int().unwrap(), 0);
                reader.end().unwrap();
                let parent = path.rsplit_once('/').map(|(parent, _)| if parent.is_empty() { "/" } else { parent });
                if !tree.contains_key(parent.unwrap()) {
                    return (-101, body);
                }
                body.string(&path);
                let (path, made) = znode(&path, 0, data.as_deref(), acl);
                tree.insert(path, made);
                (0, body)
            }
            -11 => (0, body),
            _ => (-101, body),
        };
    };
    let stat = Stat { num_children: count, ..found.stat.clone() };
    match code {
        1 => return (-110, body),
        9 => {
            body.string("/");
        }
        6 if found.acl.is_empty() => return (-102, body),
        6 => {
            Acl::write_list(&found.acl, &mut body);
            stat.write(&mut body);
        }
        4 => {
            body.buffer(found.data.as_deref());
            stat.write(&mut body);
        }
        5 => {
            found.data = reader.buffer().unwrap().map(<[u8]>::to_vec);
            stat.write(&mut body);
        }
        7 => {
            found.acl = Acl::read_list(reader).unwrap();
            stat.write(&mut body);
        }
        12 => {
            let names = children(&tree, &path);
            body.int(i32::try_from(names.len()).unwrap());
            for name in names {
                body.string(&name);
            }
            stat.write(&mut body);
        }
        other => panic!("request {other}"),
    }
    (0, body)
}

fn server(tree: &Tree) -> FakeSocket {
    let tree = Rc::clone(tree);
    FakeSocket::new(move || {
        let (tree, mut frames, mut connected) = (Rc::clone(&tree), Frames::new(1 << 24), false);
        Box::new(move |data| {
            frames.push(data);
            let mut out = Vec::new();
            while let Some(request) = frames.next_frame().unwrap() {
                if !connected {
                    connected = true;
                    frame(&mut out, |writer| {
                        writer.int(0).int(40_000).long(7).buffer(Some(&[0; 16])).bool(false);
                    });
                    // An event that nobody asked for.
                    frame(&mut out, |writer| {
                        writer.int(-1).long(-1).int(0).int(1).int(3).string("/x");
                    });
                    continue;
                }
                let mut reader = Reader(request);
                let (xid, code) = (reader.int().unwrap(), reader.int().unwrap());
                let (error, body) = answer(&tree, code, &mut reader);
                frame(&mut out, |writer| {
                    writer.int(xid).long(0x1_0000_0007).int(error);
                    if error == 0 {
                        writer.0.extend_from_slice(&body.0);
                    }
                });
            }
            Some(out)
        })
    })
}

fn host(run: &str, tree: &Tree, short_reads: usize) -> FakeHost {
    FakeHost::with_context(run, &[("target", "server")]).with_socket(server(tree).with_short_reads(short_reads))
}

fn digest() -> Vec<Acl> {
    vec![Acl { permissions: 31, scheme: "digest".into(), id: "bob:x".into() }]
}

fn sample() -> Tree {
    let many = (0..700).map(|number| znode(&format!("/many/{number:04}"), 0, Some(&[7; 30]), Acl::open()));
    tree(
        [
            znode("/many", 0, None, Acl::open()),
            znode("/a", 0, Some(&[0, 255, 13, 10]), digest()),
            znode("/a/empty", 0, Some(b""), Acl::open()),
            znode("/a/none", 0, None, Acl::open()),
            znode("/a/session", 0x100, Some(b"gone"), Acl::open()),
            znode("/a/lock-0000000042", 0, Some(b"x"), Acl::open()),
            znode("/a/large", 0, Some(&vec![9; 900_000]), digest()),
        ]
        .into_iter()
        .chain(many),
    )
}

fn captured(tree: &Tree, short_reads: usize) -> (FakeHost, Facts) {
    let host = host("capture", tree, short_reads);
    Zookeeper::plan(&host).unwrap();
    let facts = Zookeeper::capture(&host).unwrap();
    (host, facts)
}

fn restoring(backup: &FakeHost, target: &Tree, parameters: &str) -> FakeHost {
    let host = host("restore", target, 4096).with_parameters(parameters);
    *host.artifacts.borrow_mut() = backup.artifacts.borrow().clone();
    host
}

#[rstest]
#[case(7)]
#[case(4096)]
#[case(1 << 20)]
fn a_tree_comes_back_without_its_ephemerals(#[case] short_reads: usize) {
    let source = sample();
    let (backup, facts) = captured(&source, short_reads);
    assert_eq!(facts.get("znodes"), Some("709"));
    assert_eq!(facts.get("ephemerals"), Some("1"));
    assert_eq!((facts.get("first-zxid"), facts.get("last-zxid")), (Some("0x100000007"), Some("0x100000007")));
    let verified = Zookeeper::verify(&restoring(&backup, &tree([]), "{}")).unwrap();
    assert_eq!(verified, facts);

    let target = tree([]);
    let host = restoring(&backup, &target, "{}");
    Zookeeper::plan(&host).unwrap();
    let restored = Zookeeper::restore(&host).unwrap();
    assert_eq!((restored.get("created"), restored.get("left-out-ephemerals")), (Some("706"), Some("1")));
    source.borrow_mut().remove("/a/session");
    assert_eq!(*target.borrow(), *source.borrow());
    assert!(host.logged.borrow().iter().any(|(_, line)| line.contains("sequence number")));
}

#[test]
fn a_target_that_is_not_empty_is_refused_unless_it_may_be_replaced() {
    let (backup, _) = captured(&sample(), 4096);
    let target = tree([znode("/a", 0, Some(b"old"), Acl::open()), znode("/mine", 0, Some(b"m"), digest())]);
    let host = restoring(&backup, &target, "{}");
    let error = Zookeeper::plan(&host).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        (code::REFUSED, "the target is not empty: it has /a and 1 more")
    );
    assert!(error.detail("help").unwrap().contains("--on-conflict replace"));
    assert!(Zookeeper::restore(&host).is_err());
    assert_eq!(target.borrow().len(), 4);

    let host = restoring(&backup, &target, r#"{"on-conflict": "replace"}"#);
    let restored = Zookeeper::restore(&host).unwrap();
    assert_eq!((restored.get("created"), restored.get("replaced")), (Some("705"), Some("1")));
    let target = target.borrow();
    assert_eq!((target["/a"].data.as_deref(), &target["/a"].acl), (Some(&[0, 255, 13, 10][..]), &digest()));
    assert_eq!(target["/mine"].data.as_deref(), Some(&b"m"[..]));
}

#[test]
fn a_znode_that_may_not_be_read_fails_the_capture_and_is_named() {
    let source = tree([znode("/secret", 0, Some(b"s"), Vec::new())]);
    let host = host("capture", &source, 4096);
    let error = Zookeeper::capture(&host).unwrap_err();
    assert_eq!(error.code, code::SERVER_REPLY);
    assert!(error.message.contains("/secret") && error.message.contains("no authority"), "{error}");
    assert!(host.artifacts.borrow().is_empty());
}

#[test]
fn what_is_no_zookeeper_or_hangs_up_is_named() {
    let echo = FakeSocket::new(|| Box::new(|data| Some(data.to_ascii_uppercase())));
    let mut redis = FakeHost::with_context("capture", &[]);
    redis.socket = Some(FakeSocket::new(|| Box::new(|_| Some(b"-ERR unknown command\r\n".to_vec()))));
    let error = Zookeeper::capture(&redis).unwrap_err();
    assert!(error.message.contains("does not speak as ZooKeeper does"), "{error}");
    redis.socket = Some(echo);
    assert!(Zookeeper::capture(&redis).is_err());
    redis.socket = Some(FakeSocket::new(|| Box::new(|_| None)));
    let error = Zookeeper::capture(&redis).unwrap_err();
    assert!(error.retryable && error.message.contains("closed the connection"), "{error}");
}

#[test]
fn inspect_counts_and_names_the_largest() {
    let (backup, _) = captured(&sample(), 4096);
    let host = restoring(&backup, &tree([]), "{}");
    let answer: serde_json::Value =
        serde_json::from_str(&Zookeeper::inspect(&host, r#"{"largest": 2, "prefixes": true}"#).unwrap()).unwrap();
    assert_eq!(answer["znodes"], 709);
    assert_eq!(answer["largest"][0], serde_json::json!({"path": "/a/large", "bytes": 900_000}));
    assert_eq!(answer["largest"].as_array().unwrap().len(), 2);
    let many = answer["prefixes"].as_array().unwrap().iter().find(|one| one["prefix"] == "/many").unwrap();
    assert_eq!((&many["znodes"], &many["bytes"]), (&701.into(), &21_000.into()));
}
