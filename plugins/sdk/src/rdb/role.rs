//! What the [machine](super::machine) tells: the roles that strings and numbers have, and who listens.

use super::format::{Header, ValueType};
use crate::Error;

/// What a string, number or fixed field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    AuxName,
    AuxValue,
    Key,
    Library,
    Database,
    Keys,
    Expires,
    Idle,
    Frequency,
    ExpireSeconds,
    ExpireMilliseconds,
    /// Of a module's value.
    ModuleId,
    /// Of a module's data outside keys.
    ModuleAuxId,
    /// A string value, a member of a list or set; the member of a sorted set.
    Element,
    Field,
    Value,
    /// Eight bytes, little endian.
    Score,
    /// Text of a score, old.
    ScoreText,
    /// A whole value in one packed string.
    Packed,
    /// One node of a list: a ziplist.
    Ziplist,
    /// 1: plain, 2: listpack; then the node.
    Container,
    Node,
    /// Milliseconds; 0: none. Relative to `MinimumExpiry` + 1 where there is one.
    FieldExpiry,
    MinimumExpiry,
    StreamNodeKey,
    StreamListpack,
    StreamLength,
    StreamLast(Half),
    StreamFirst(Half),
    StreamMaxDeleted(Half),
    StreamAdded,
    GroupName,
    GroupLast(Half),
    GroupRead,
    PendingId,
    PendingTime,
    PendingCount,
    ConsumerName,
    ConsumerSeen,
    ConsumerActive,
    ConsumerPendingId,
    /// Skipped whoever listens.
    Ignored,
}

/// The halves of a stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Milliseconds,
    Sequence,
}

/// What the machine tells; every call may stop it.
pub(crate) trait Listener {
    /// Whether the decoded bytes of strings in this role are wanted.
    fn wants(&self, role: Role) -> bool;
    /// Whether what a value holds means nothing to it: strings, numbers and scores within are then passed over.
    fn skims(&self) -> bool {
        false
    }
    fn header(&mut self, _header: Header) -> Result<(), Error> {
        Ok(())
    }
    fn number(&mut self, role: Role, number: u64) -> Result<(), Error>;
    /// Bytes as they lie in the file.
    fn fixed(&mut self, role: Role, bytes: &[u8]) -> Result<(), Error>;
    /// A wanted string starts; `length` of its decoded bytes.
    fn text_begin(&mut self, role: Role, length: u64) -> Result<(), Error>;
    /// Decoded bytes of it.
    fn text(&mut self, role: Role, bytes: &[u8]) -> Result<(), Error>;
    fn text_end(&mut self, role: Role) -> Result<(), Error>;
    fn begin_value(&mut self, _kind: ValueType) -> Result<(), Error> {
        Ok(())
    }
}
