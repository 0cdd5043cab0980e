//! The parts of a value, whatever its encoding.

use super::node::Fields;

/// A part of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Element<'bytes> {
    /// More bytes of a string.
    Text(&'bytes [u8]),
    /// An element of a list, a member of a set.
    Member(&'bytes [u8]),
    /// A member of a sorted set.
    Scored {
        /// The member.
        member: &'bytes [u8],
        /// Its score.
        score: f64,
    },
    /// A field of a hash.
    Field {
        /// Its name.
        field: &'bytes [u8],
        /// Its value.
        value: &'bytes [u8],
        /// When it expires, milliseconds since the epoch.
        expires_at: Option<u64>,
    },
    /// An entry of a stream.
    Entry {
        /// Its id.
        id: (u64, u64),
        /// Names and values by turns.
        fields: Fields<'bytes>,
    },
    /// What a stream says of itself, after its entries.
    Stream {
        /// How many entries it has.
        length: u64,
        /// The last id.
        last: (u64, u64),
        /// The highest id deleted, and how many entries were ever added (7.0 and on).
        history: Option<((u64, u64), u64)>,
    },
    /// A consumer group.
    Group {
        /// Its name.
        name: &'bytes [u8],
        /// The last id delivered.
        last: (u64, u64),
        /// How many entries it read (7.0 and on; not always known).
        read: Option<u64>,
    },
    /// A consumer of the group before.
    Consumer {
        /// The group's name.
        group: &'bytes [u8],
        /// Its name.
        name: &'bytes [u8],
    },
    /// An entry that the consumer before has not acknowledged.
    Pending {
        /// The group's name.
        group: &'bytes [u8],
        /// The consumer's name.
        consumer: &'bytes [u8],
        /// The entry's id.
        id: (u64, u64),
        /// When it was delivered last, milliseconds since the epoch.
        delivered_at: u64,
        /// How often it was delivered.
        deliveries: u64,
    },
}
