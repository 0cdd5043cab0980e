//! The client protocol: what is asked, and what is answered. Pure: bytes in, bytes out.

use crate::jute::{JuteError, Reader, Writer};
use crate::znode::{Acl, Stat};

/// A frame may hold a list of children of any length; data is at most 1 MiB unless the server was told otherwise.
pub(crate) const MAX_FRAME: usize = 16 << 20;
/// Asked for; the server gives at most twenty of its ticks (40 s by default).
const SESSION_TIMEOUT_MS: i32 = 120_000;

pub(crate) const NO_NODE: i32 = -101;
pub(crate) const NO_AUTH: i32 = -102;
pub(crate) const NODE_EXISTS: i32 = -110;

/// A number that the server answers instead of a result, in words.
pub(crate) fn error_name(error: i32) -> &'static str {
    match error {
        -4 => "connection loss",
        -5 => "marshalling error",
        -6 => "unimplemented",
        -8 => "bad arguments",
        NO_NODE => "no node",
        NO_AUTH => "no authority",
        -103 => "bad version",
        -108 => "no children for ephemerals",
        NODE_EXISTS => "node exists",
        -111 => "not empty",
        -112 => "session expired",
        -113 => "invalid callback",
        -114 => "invalid ACL",
        -115 => "authentication failed",
        -119 => "not read-only",
        -124 => "request time-out",
        -125 => "quota exceeded",
        -127 => "throttled",
        _ => "an error that this plugin does not know",
    }
}

/// What is asked.
#[derive(Debug)]
pub(crate) enum Request<'request> {
    /// Brings a follower up to its leader.
    Sync,
    GetData(&'request str),
    GetAcl(&'request str),
    GetChildren(&'request str),
    Create(&'request str, Option<&'request [u8]>),
    SetData(&'request str, Option<&'request [u8]>),
    SetAcl(&'request str, &'request [Acl]),
    CloseSession,
}

impl Request<'_> {
    fn code(&self) -> i32 {
        match self {
            Self::Create(..) => 1,
            Self::GetData(_) => 4,
            Self::SetData(..) => 5,
            Self::GetAcl(_) => 6,
            Self::SetAcl(..) => 7,
            Self::Sync => 9,
            Self::GetChildren(_) => 12,
            Self::CloseSession => -11,
        }
    }

    /// With its header, without its frame.
    pub(crate) fn write(&self, xid: i32, writer: &mut Writer) {
        writer.int(xid).int(self.code());
        match self {
            Self::Sync => {
                writer.string("/");
            }
            // No watch.
            Self::GetData(path) | Self::GetChildren(path) => {
                writer.string(path).bool(false);
            }
            Self::GetAcl(path) => {
                writer.string(path);
            }
            Self::Create(path, data) => {
                writer.string(path).buffer(*data);
                // Its own list is set last of all: it could forbid to create what belongs below.
                Acl::write_list(&Acl::open(), writer);
                // Persistent.
                writer.int(0);
            }
            Self::SetData(path, data) => {
                writer.string(path).buffer(*data).int(-1);
            }
            Self::SetAcl(path, acl) => {
                writer.string(path);
                Acl::write_list(acl, writer);
                writer.int(-1);
            }
            Self::CloseSession => {}
        }
    }
}

/// The first frame of every connection: a new session.
pub(crate) fn write_connect(writer: &mut Writer) {
    writer.int(0).long(0).int(SESSION_TIMEOUT_MS).long(0).buffer(Some(&[0; 16])).bool(false);
}

/// The answer to it: the session's timeout in milliseconds.
pub(crate) fn read_connected(frame: &[u8]) -> Result<u32, JuteError> {
    let mut reader = Reader(frame);
    reader.int()?;
    let timeout = reader.int()?;
    reader.long()?;
    reader.buffer()?;
    u32::try_from(timeout).ok().filter(|timeout| *timeout > 0).ok_or(JuteError("the server refused a session"))
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyHeader {
    pub(crate) xid: i32,
    pub(crate) zxid: i64,
    pub(crate) error: i32,
}

impl ReplyHeader {
    /// Of events and pings, which nobody asked for.
    pub(crate) fn is_unasked(self) -> bool {
        self.xid == -1 || self.xid == -2
    }
}

/// The head and what follows it.
pub(crate) fn read_reply(frame: &[u8]) -> Result<(ReplyHeader, &[u8]), JuteError> {
    let mut reader = Reader(frame);
    let header = ReplyHeader { xid: reader.int()?, zxid: reader.long()?, error: reader.int()? };
    Ok((header, reader.0))
}

/// Of `GetData`.
pub(crate) fn read_data(body: &[u8]) -> Result<(Option<Vec<u8>>, Stat), JuteError> {
    let mut reader = Reader(body);
    let data = reader.buffer()?.map(<[u8]>::to_vec);
    let stat = Stat::read(&mut reader)?;
    reader.end()?;
    Ok((data, stat))
}

/// Of `GetAcl`.
pub(crate) fn read_acl(body: &[u8]) -> Result<Vec<Acl>, JuteError> {
    let mut reader = Reader(body);
    let acl = Acl::read_list(&mut reader)?;
    Stat::read(&mut reader)?;
    reader.end()?;
    Ok(acl)
}

/// Of `GetChildren`: their names, each given to `each`.
pub(crate) fn read_children(body: &[u8], mut each: impl FnMut(&str)) -> Result<(), JuteError> {
    let mut reader = Reader(body);
    for _ in 0..reader.count()? {
        let name = reader.string()?;
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(JuteError("a child has a name that cannot be"));
        }
        each(name);
    }
    Stat::read(&mut reader)?;
    reader.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: &Request<'_>) -> Vec<u8> {
        let mut writer = Writer::default();
        request.write(7, &mut writer);
        writer.0
    }

    #[test]
    fn requests_have_the_bytes_that_zookeepers_client_sends() {
        assert_eq!(written(&Request::GetData("/a")), b"\0\0\0\x07\0\0\0\x04\0\0\0\x02/a\0");
        assert_eq!(written(&Request::CloseSession), b"\0\0\0\x07\xff\xff\xff\xf5");
        let create = Request::Create("/a", None);
        let expected = b"\0\0\0\x07\0\0\0\x01\0\0\0\x02/a\xff\xff\xff\xff\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone\0\0\0\0";
        assert_eq!(written(&create), expected);
        let mut connect = Writer::default();
        write_connect(&mut connect);
        assert_eq!(connect.0.len(), 4 + 8 + 4 + 8 + 4 + 16 + 1);
    }

    #[test]
    fn answers_that_cannot_be_are_errors() {
        assert!(read_connected(&[0; 12]).is_err());
        let mut refused = Writer::default();
        refused.int(0).int(0).long(0).buffer(Some(&[0; 16]));
        assert_eq!(read_connected(&refused.0), Err(JuteError("the server refused a session")));
        for name in ["", "a/b", ".."] {
            let mut children = Writer::default();
            children.int(1).string(name);
            Stat::default().write(&mut children);
            assert!(read_children(&children.0, |_| {}).is_err(), "{name}");
        }
        // A count that promises more than there is.
        assert!(read_children(&i32::MAX.to_be_bytes(), |_| {}).is_err());
    }
}
