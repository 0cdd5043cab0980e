//! What a znode is: its path, its state, who may do what with it, its data.

use crate::jute::{JuteError, Reader, Writer};

/// ZooKeeper's own subtree (quotas, configuration), which is the ensemble's and not the data's.
pub(crate) const SYSTEM: &str = "/zookeeper";
/// The state that the server keeps of a znode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) czxid: i64,
    pub(crate) mzxid: i64,
    pub(crate) ctime: i64,
    pub(crate) mtime: i64,
    pub(crate) version: i32,
    pub(crate) cversion: i32,
    pub(crate) aversion: i32,
    pub(crate) ephemeral_owner: i64,
    pub(crate) data_length: i32,
    pub(crate) num_children: i32,
    pub(crate) pzxid: i64,
}

impl Stat {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, JuteError> {
        Ok(Self {
            czxid: reader.long()?,
            mzxid: reader.long()?,
            ctime: reader.long()?,
            mtime: reader.long()?,
            version: reader.int()?,
            cversion: reader.int()?,
            aversion: reader.int()?,
            ephemeral_owner: reader.long()?,
            data_length: reader.int()?,
            num_children: reader.int()?,
            pzxid: reader.long()?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.long(self.czxid).long(self.mzxid).long(self.ctime).long(self.mtime);
        writer.int(self.version).int(self.cversion).int(self.aversion).long(self.ephemeral_owner);
        writer.int(self.data_length).int(self.num_children).long(self.pzxid);
    }

    /// Whether it lives only as long as its session. (Of containers and znodes with a time to live the server says 0.)
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.ephemeral_owner != 0
    }
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    /// Read 1, write 2, create 4, delete 8, admin 16.
    pub(crate) permissions: i32,
    pub(crate) scheme: String,
    pub(crate) id: String,
}

impl Acl {
    /// Everything for everybody: what a znode has unless told otherwise.
    pub(crate) fn open() -> Vec<Self> {
        vec![Self { permissions: 31, scheme: "world".to_owned(), id: "anyone".to_owned() }]
    }

    pub(crate) fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, JuteError> {
        let mut list = Vec::new();
        for _ in 0..reader.count()? {
            let permissions = reader.int()?;
            let (scheme, id) = (reader.string()?.to_owned(), reader.string()?.to_owned());
            list.push(Self { permissions, scheme, id });
        }
        Ok(list)
    }

    pub(crate) fn write_list(list: &[Self], writer: &mut Writer) {
        writer.int(i32::try_from(list.len()).unwrap_or(i32::MAX));
        for acl in list {
            writer.int(acl.permissions).string(&acl.scheme).string(&acl.id);
        }
    }
}

/// A znode, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Znode {
    pub(crate) path: String,
    pub(crate) stat: Stat,
    pub(crate) acl: Vec<Acl>,
    /// None is another thing than empty.
    pub(crate) data: Option<Vec<u8>>,
}

impl Znode {
    /// Whether it is ZooKeeper's own.
    pub(crate) fn is_system(&self) -> bool {
        self.path.strip_prefix(SYSTEM).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether its name ends in the ten digits that a server appends to sequential names.
    pub(crate) fn is_sequential(&self) -> bool {
        let digits = self.path.bytes().rev().take_while(u8::is_ascii_digit).count();
        digits >= 10
    }
}

/// `child` below `parent`, as a path.
pub(crate) fn join(parent: &str, child: &str) -> String {
    if parent == "/" { format!("/{child}") } else { format!("{parent}/{child}") }
}

/// What the server itself demands of a path.
pub(crate) fn is_path(path: &str) -> bool {
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|name| !name.is_empty() && name != "." && name != "..") && !rest.contains('\0')
        })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/", true)]
    #[case("/a/b.c/käse", true)]
    #[case("", false)]
    #[case("a", false)]
    #[case("/a/", false)]
    #[case("//a", false)]
    #[case("/a/../b", false)]
    #[case("/a\0", false)]
    fn paths_are_what_the_server_takes(#[case] path: &str, #[case] good: bool) {
        assert_eq!(is_path(path), good);
    }

    #[test]
    fn the_servers_own_subtree_is_known() {
        let at = |path: &str| Znode { path: path.to_owned(), ..Znode::default() };
        assert!(at("/zookeeper").is_system() && at("/zookeeper/quota").is_system());
        assert!(!at("/zookeepers").is_system() && !at("/").is_system());
        assert!(at("/lock-0000000007").is_sequential() && !at("/lock-7").is_sequential());
        assert_eq!((join("/", "a"), join("/a", "b")), ("/a".to_owned(), "/a/b".to_owned()));
    }
}
