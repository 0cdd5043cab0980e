//! The numbers of the format: magics, value types, opcodes, versions, checksum (redis `src/rdb.h`, 6.2 to 8.2; Valkey
//! 8.1).

use super::crc64::Crc64;

/// A running CRC64 as at the end of an RDB file and of a `DUMP` payload.
pub fn checksum() -> Crc64 {
    Crc64::default()
}

/// Whose format it is: numbers above those that both share mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic {
    /// `REDIS0001` to `REDIS0012`; Valkey up to 8.1 writes `REDIS0011`.
    Redis,
    /// `VALKEY080` and on.
    Valkey,
}

impl Magic {
    /// The text in the file and in the fact `rdb-magic`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "REDIS",
            Self::Valkey => "VALKEY",
        }
    }
}

/// The first nine bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose format it is.
    pub magic: Magic,
    /// The RDB version.
    pub version: u16,
}

/// The newest RDB version of Redis that the parser knows (7.4 to 8.2).
const NEWEST_REDIS: u16 = 12;
/// The one version with Valkey's own magic that the parser reads, as far as it shares types with Redis.
pub(crate) const VALKEY_9: u16 = 80;

impl Header {
    /// Length in bytes.
    pub(crate) const LENGTH: usize = 9;

    /// Reads the header; the error says what is wrong, and whether it is merely too new.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, (String, bool)> {
        let number = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u16>().ok())
        };
        let (magic, version) = if let Some(digits) = bytes.strip_prefix(b"REDIS") {
            (Magic::Redis, number(digits))
        } else if let Some(digits) = bytes.strip_prefix(b"VALKEY") {
            (Magic::Valkey, number(digits))
        } else {
            return Err(("no RDB: it starts neither with REDIS nor with VALKEY".to_owned(), false));
        };
        let version = version.ok_or_else(|| ("an RDB version that is no number".to_owned(), false))?;
        let known = match magic {
            Magic::Redis => (1..=NEWEST_REDIS).contains(&version),
            Magic::Valkey => version == VALKEY_9,
        };
        if !known {
            return Err((format!("RDB version {} {version}, which this plugin does not know", magic.name()), true));
        }
        Ok(Self { magic, version })
    }
}

/// A value's type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueType(pub u8);

impl ValueType {
    /// A string.
    pub const STRING: Self = Self(0);
    /// A list of strings (up to RDB 6).
    pub const LIST: Self = Self(1);
    /// A set of strings.
    pub const SET: Self = Self(2);
    /// A sorted set with scores as text.
    pub const ZSET: Self = Self(3);
    /// A hash of strings.
    pub const HASH: Self = Self(4);
    /// A sorted set with binary scores.
    pub const ZSET_2: Self = Self(5);
    /// A module's value.
    pub const MODULE_2: Self = Self(7);
    /// A hash as a zipmap (up to RDB 3).
    pub const HASH_ZIPMAP: Self = Self(9);
    /// A list as a ziplist.
    pub const LIST_ZIPLIST: Self = Self(10);
    /// A set of integers.
    pub const SET_INTSET: Self = Self(11);
    /// A sorted set as a ziplist.
    pub const ZSET_ZIPLIST: Self = Self(12);
    /// A hash as a ziplist.
    pub const HASH_ZIPLIST: Self = Self(13);
    /// A list of ziplists.
    pub const LIST_QUICKLIST: Self = Self(14);
    /// A stream.
    pub const STREAM: Self = Self(15);
    /// A hash as a listpack.
    pub const HASH_LISTPACK: Self = Self(16);
    /// A sorted set as a listpack.
    pub const ZSET_LISTPACK: Self = Self(17);
    /// A list of listpacks and plain nodes.
    pub const LIST_QUICKLIST_2: Self = Self(18);
    /// A stream with first id, deletions and entries added.
    pub const STREAM_2: Self = Self(19);
    /// A set as a listpack.
    pub const SET_LISTPACK: Self = Self(20);
    /// A stream whose consumers have an active time.
    pub const STREAM_3: Self = Self(21);
    /// A hash whose fields expire, before the release of 7.4.
    pub const HASH_METADATA_PRE_GA: Self = Self(22);
    /// The same as a listpack.
    pub const HASH_LISTPACK_EX_PRE_GA: Self = Self(23);
    /// A hash whose fields expire; Redis only.
    pub const HASH_METADATA: Self = Self(24);
    /// The same as a listpack; Redis only.
    pub const HASH_LISTPACK_EX: Self = Self(25);

    /// Whether it is a hash whose fields may expire, each at a time of its own.
    pub fn has_field_expiries(self) -> bool {
        matches!(self.0, 22..=25)
    }

    /// Whether the parser knows the type in files with this magic. 6 (a module's value without opcodes) cannot be
    /// skipped.
    pub fn is_known(self, magic: Magic) -> bool {
        match self.0 {
            0..=5 | 7 | 9..=21 => true,
            22..=25 => magic == Magic::Redis,
            _ => false,
        }
    }

    /// The type as the server's `TYPE` names it; a module's value is `module`.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "string",
            1 | 10 | 14 | 18 => "list",
            2 | 11 | 20 => "set",
            3 | 5 | 12 | 17 => "zset",
            4 | 9 | 13 | 16 | 22..=25 => "hash",
            15 | 19 | 21 => "stream",
            _ => "module",
        }
    }
}

/// The highest RDB version that a server's version loads, where it is known: Redis 6.2 9, 7.0 10, 7.2 11, 7.4 to 8.2
/// 12; Valkey 7.2 to 8.x 11, 9 80 (which reads 11 as well).
pub fn rdb_version_of_server(name: &str, version: &str) -> Option<u16> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let major = numbers.next()??;
    let minor = numbers.next().flatten();
    if name.eq_ignore_ascii_case("valkey") {
        return Some(if major >= 9 { VALKEY_9 } else { 11 });
    }
    match (major, minor) {
        (0..=4, _) => Some(8),
        (5..=6, _) => Some(9),
        // `7` alone may be any of them: the oldest is the safe answer.
        (7, None | Some(0 | 1)) => Some(10),
        (7, Some(2 | 3)) => Some(11),
        (7..=8, _) => Some(12),
        // Newer servers read at least what the newest known reads.
        _ => Some(NEWEST_REDIS),
    }
}

/// A module's name of nine characters, from the upper 54 bits of its id.
pub fn module_name(id: u64) -> String {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9).map(|place| char::from(CHARACTERS[(id >> (10 + 6 * (8 - place)) & 63) as usize])).collect()
}

pub(crate) mod opcode {
    //! Bytes that stand where a value's type may stand.
    pub(crate) const SLOT_INFO: u8 = 244;
    pub(crate) const FUNCTION_2: u8 = 245;
    pub(crate) const FUNCTION_PRE_GA: u8 = 246;
    pub(crate) const MODULE_AUX: u8 = 247;
    pub(crate) const IDLE: u8 = 248;
    pub(crate) const FREQUENCY: u8 = 249;
    pub(crate) const AUX: u8 = 250;
    pub(crate) const RESIZE_DATABASE: u8 = 251;
    pub(crate) const EXPIRE_MILLISECONDS: u8 = 252;
    pub(crate) const EXPIRE_SECONDS: u8 = 253;
    pub(crate) const SELECT_DATABASE: u8 = 254;
    pub(crate) const END: u8 = 255;
}
