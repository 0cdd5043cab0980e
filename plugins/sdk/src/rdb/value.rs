//! What is inside one value: its elements, whatever its encoding, read from the value's bytes in any chunks.

use super::RdbError;
use super::carry::Carry;
use super::element::Element;
use super::format::ValueType;
use super::machine::{Fault, Machine, Step};
use super::node;
use super::packed::{self, Item, PackedError, Stop};
use super::role::{Half, Listener, Role};
use crate::{Error, code};

/// The longest element, and the longest packed container, that is held at once: 16 MiB.
const MAX_HELD: u64 = 16 << 20;
/// The most pending entries of one consumer group that are held.
const MAX_PENDING: usize = 1 << 20;

/// Decodes one value: [`ValueDecoder::push`] its bytes, then [`ValueDecoder::finish`].
pub struct ValueDecoder {
    machine: Machine,
    carry: Carry,
    offset: u64,
    state: State,
}

#[derive(Default)]
struct State {
    kind: u8,
    held: Vec<u8>,
    /// How long the string will be that is being held.
    announced: u64,
    first: Vec<u8>,
    container: u64,
    minimum_expiry: Option<u64>,
    field_expiry: u64,
    node_key: (u64, u64),
    half: u64,
    /// Entries told, and how many the stream says it has.
    entries: u64,
    length: u64,
    last: (u64, u64),
    max_deleted: (u64, u64),
    told_stream: bool,
    added: Option<u64>,
    group: Vec<u8>,
    group_last: (u64, u64),
    group_told: bool,
    group_read: Option<u64>,
    consumer: Vec<u8>,
    pending: Vec<Pending>,
    /// Which of them a consumer has, as far as told; beside them, for a flag in each would cost eight bytes.
    has_owner: Vec<bool>,
}

impl State {
    /// Grows by doubling, but never beyond what is announced: a field and its value of the largest size are held at once.
    fn hold(&mut self, bytes: &[u8]) {
        let needed = self.held.len() + bytes.len();
        if needed > self.held.capacity() {
            let announced = usize::try_from(self.announced).unwrap_or(usize::MAX);
            let capacity = (2 * self.held.capacity()).min(announced).max(needed);
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(bytes);
    }
}

struct Pending {
    id: (u64, u64),
    delivered_at: u64,
    deliveries: u64,
}

impl ValueDecoder {
    /// A decoder of values of this type.
    ///
    /// # Errors
    /// "not-supported" for a module's value: only its module understands it.
    pub fn new(kind: ValueType) -> Result<Self, Error> {
        if kind == ValueType::MODULE_2 {
            return Err(Error::new(code::NOT_SUPPORTED, "a module's value cannot be taken apart"));
        }
        let state = State { kind: kind.0, ..State::default() };
        Ok(Self { machine: Machine::value(kind)?, carry: Carry::default(), offset: 0, state })
    }

    /// Takes bytes of the value and tells the elements that end in them.
    ///
    /// # Errors
    /// "damaged" with the offset in the value, "not-supported" for an element above 16 MiB, or what `told` returned.
    pub fn push(&mut self, chunk: &[u8], told: &mut dyn FnMut(Element<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let mut at = 0;
        while !self.machine.is_done() {
            let carried = self.carry.len() as u64;
            let place = self.offset + at as u64 - carried;
            let mut listener = ElementListener { state: &mut self.state, told: &mut *told, place };
            match self.carry.step(&mut self.machine, &chunk[at..], &mut listener) {
                Ok(Step::Used(used)) => at += used,
                Ok(Step::More) => {
                    self.offset += chunk.len() as u64;
                    return Ok(());
                }
                Ok(_) => {}
                Err(Fault::Listener(error)) => return Err(error),
                Err(Fault::Input(error)) => return Err(RdbError { offset: place, ..error }.into()),
            }
        }
        self.offset += at as u64;
        if at < chunk.len() {
            return Err(RdbError::new(self.offset, "bytes after the value").into());
        }
        Ok(())
    }

    /// The end of the value's bytes.
    pub fn finish(&mut self, told: &mut dyn FnMut(Element<'_>) -> Result<(), Error>) -> Result<(), Error> {
        if !self.machine.is_done() {
            return Err(RdbError::new(self.offset, "a value cut short").into());
        }
        // A stream without groups, and a group without consumers, are told here at the latest.
        let mut listener = ElementListener { state: &mut self.state, told, place: self.offset };
        listener.tell_stream()?;
        listener.end_group()
    }
}

struct ElementListener<'decoder, 'told> {
    state: &'decoder mut State,
    told: &'told mut dyn FnMut(Element<'_>) -> Result<(), Error>,
    place: u64,
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A stream id as sixteen bytes in network order.
fn stream_id(bytes: &[u8]) -> Result<(u64, u64), PackedError> {
    let (Some(milliseconds), Some(sequence)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) else {
        return Err(PackedError("a stream id that is none"));
    };
    Ok((u64::from_be_bytes(*milliseconds), u64::from_be_bytes(*sequence)))
}

impl ElementListener<'_, '_> {
    fn damaged(&self, reason: &str) -> Error {
        RdbError::new(self.place, reason).into()
    }

    fn packed<T>(&self, result: Result<T, Stop>) -> Result<T, Error> {
        result.map_err(|stop| match stop {
            Stop::Packed(error) => self.damaged(error.0),
            Stop::Told(error) => error,
        })
    }

    fn tell_stream(&mut self) -> Result<(), Error> {
        let state = &mut *self.state;
        if !matches!(state.kind, 15 | 19 | 21) || state.told_stream {
            return Ok(());
        }
        state.told_stream = true;
        if state.entries != state.length {
            return Err(self.damaged("a stream whose length is not its own"));
        }
        let history = state.added.map(|added| (state.max_deleted, added));
        (self.told)(Element::Stream { length: state.length, last: state.last, history })
    }

    fn tell_group(&mut self) -> Result<(), Error> {
        let state = &mut *self.state;
        if state.group_told || !matches!(state.kind, 15 | 19 | 21) || state.group_read.is_none() {
            return Ok(());
        }
        state.group_told = true;
        // All bits set: the server does not know.
        let read = state.group_read.filter(|read| *read != u64::MAX && state.kind != 15);
        (self.told)(Element::Group { name: &state.group, last: state.group_last, read })
    }

    fn end_group(&mut self) -> Result<(), Error> {
        if self.state.has_owner.contains(&false) {
            return Err(self.damaged("a group's pending entry that no consumer has"));
        }
        self.tell_group()
    }

    /// A container whose elements are members, or pairs, or triples.
    fn tell_container(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.state.held);
        let kind = self.state.kind;
        let result = match kind {
            10 => packed::ziplist(&bytes, &mut |item| self.member(item)),
            11 => packed::intset(&bytes, &mut |item| self.member(item)),
            20 => packed::listpack(&bytes, &mut |item| self.member(item)),
            9 | 12 | 13 | 16 | 17 | 23 | 25 => {
                let mut parts: Vec<Vec<u8>> = Vec::new();
                let size = if matches!(kind, 23 | 25) { 3 } else { 2 };
                let mut each = |item: Item<'_>| {
                    let mut text = Vec::new();
                    item.append_to(&mut text);
                    parts.push(text);
                    if parts.len() < size {
                        return Ok(());
                    }
                    self.tell_parts(&parts)?;
                    parts.clear();
                    Ok(())
                };
                let result = match kind {
                    9 => packed::zipmap(&bytes, &mut each),
                    12 | 13 => packed::ziplist(&bytes, &mut each),
                    _ => packed::listpack(&bytes, &mut each),
                };
                if result.is_ok() && !parts.is_empty() {
                    return Err(self.damaged("a packed container with half an element"));
                }
                result
            }
            _ => return Err(self.damaged("a packed container where none may be")),
        };
        self.packed(result)?;
        self.state.held = bytes;
        Ok(())
    }

    fn member(&mut self, item: Item<'_>) -> Result<(), Error> {
        match item {
            Item::Bytes(bytes) => (self.told)(Element::Member(bytes)),
            Item::Integer(number) => (self.told)(Element::Member(number.to_string().as_bytes())),
        }
    }

    fn tell_parts(&mut self, parts: &[Vec<u8>]) -> Result<(), Error> {
        match (self.state.kind, parts) {
            (12 | 17, [member, score]) => {
                let score = parse_score(score).ok_or_else(|| self.damaged("a score that is no number"))?;
                (self.told)(Element::Scored { member, score })
            }
            (_, [field, value]) => (self.told)(Element::Field { field, value, expires_at: None }),
            (_, [field, value, expiry]) => {
                let expiry = std::str::from_utf8(expiry).ok().and_then(|text| text.parse::<u64>().ok());
                let expiry = expiry.ok_or_else(|| self.damaged("a field's expiry that is no number"))?;
                (self.told)(Element::Field { field, value, expires_at: (expiry != 0).then_some(expiry) })
            }
            _ => Ok(()),
        }
    }

    fn tell_stream_node(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.state.held);
        let result = node::tell(&bytes, self.state.node_key, &mut *self.told);
        self.state.entries += self.packed(result)?;
        self.state.held = bytes;
        Ok(())
    }
}

fn parse_score(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Listener for ElementListener<'_, '_> {
    fn wants(&self, role: Role) -> bool {
        role != Role::Ignored
    }

    fn number(&mut self, role: Role, number: u64) -> Result<(), Error> {
        let state = &mut *self.state;
        match role {
            Role::Container => state.container = number,
            Role::FieldExpiry => state.field_expiry = number,
            Role::StreamLength => state.length = number,
            Role::StreamLast(Half::Milliseconds) | Role::StreamMaxDeleted(Half::Milliseconds) => state.half = number,
            Role::StreamLast(Half::Sequence) => state.last = (state.half, number),
            Role::StreamMaxDeleted(Half::Sequence) => state.max_deleted = (state.half, number),
            Role::StreamAdded => state.added = Some(number),
            Role::GroupLast(Half::Milliseconds) => state.group_last.0 = number,
            Role::GroupLast(Half::Sequence) => {
                state.group_last.1 = number;
                if state.kind == 15 {
                    state.group_read = Some(u64::MAX);
                }
            }
            Role::GroupRead => state.group_read = Some(number),
            Role::PendingCount => {
                if let Some(pending) = state.pending.last_mut() {
                    pending.deliveries = number;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn fixed(&mut self, role: Role, bytes: &[u8]) -> Result<(), Error> {
        match role {
            Role::Score => {
                let score = f64::from_bits(little_endian(bytes));
                return (self.told)(Element::Scored { member: &self.state.held, score });
            }
            Role::ScoreText => {
                let score = parse_score(bytes).ok_or_else(|| self.damaged("a score that is no number"))?;
                return (self.told)(Element::Scored { member: &self.state.held, score });
            }
            Role::MinimumExpiry => self.state.minimum_expiry = Some(little_endian(bytes)),
            Role::PendingId => {
                let id = stream_id(bytes).map_err(|error| self.damaged(error.0))?;
                if self.state.pending.len() >= MAX_PENDING {
                    let message = format!("more than {MAX_PENDING} pending entries in one consumer group");
                    return Err(Error::new(code::NOT_SUPPORTED, message));
                }
                self.state.pending.push(Pending { id, delivered_at: 0, deliveries: 0 });
                self.state.has_owner.push(false);
            }
            Role::PendingTime => {
                if let Some(pending) = self.state.pending.last_mut() {
                    pending.delivered_at = little_endian(bytes);
                }
            }
            Role::ConsumerPendingId => {
                let id = stream_id(bytes).map_err(|error| self.damaged(error.0))?;
                let known = self.state.pending.binary_search_by_key(&id, |pending| pending.id);
                let known =
                    known.map_err(|_| self.damaged("a consumer's pending entry that its group does not have"))?;
                if std::mem::replace(&mut self.state.has_owner[known], true) {
                    return Err(self.damaged("a pending entry that is consumed twice"));
                }
                let state = &*self.state;
                let Pending { delivered_at, deliveries, .. } = state.pending[known];
                let (group, consumer) = (&state.group, &state.consumer);
                return (self.told)(Element::Pending { group, consumer, id, delivered_at, deliveries });
            }
            _ => {}
        }
        Ok(())
    }

    fn text_begin(&mut self, role: Role, length: u64) -> Result<(), Error> {
        self.state.held.clear();
        self.state.announced = length;
        let streamed = role == Role::Element && self.state.kind == 0;
        if length > MAX_HELD && !streamed {
            let message =
                format!("an element of {length} bytes inside a value, more than the {MAX_HELD} that can be held");
            return Err(Error::new(code::NOT_SUPPORTED, message).with_help("restore into a data directory instead"));
        }
        Ok(())
    }

    fn text(&mut self, _role: Role, bytes: &[u8]) -> Result<(), Error> {
        if self.state.kind == 0 {
            return (self.told)(Element::Text(bytes));
        }
        self.state.hold(bytes);
        Ok(())
    }

    fn text_end(&mut self, role: Role) -> Result<(), Error> {
        let state = &mut *self.state;
        match role {
            // The member of a sorted set waits for its score.
            Role::Element if matches!(state.kind, 1 | 2) => (self.told)(Element::Member(&state.held)),
            Role::Field => {
                std::mem::swap(&mut state.first, &mut state.held);
                Ok(())
            }
            Role::Value => {
                let expiry = std::mem::take(&mut state.field_expiry);
                let absolute = match state.minimum_expiry {
                    Some(minimum) => minimum.wrapping_add(expiry).wrapping_sub(1),
                    None => expiry,
                };
                let expires_at = (expiry != 0).then_some(absolute);
                (self.told)(Element::Field { field: &state.first, value: &state.held, expires_at })
            }
            Role::Packed => self.tell_container(),
            Role::Ziplist => {
                let bytes = std::mem::take(&mut state.held);
                let result = packed::ziplist(&bytes, &mut |item| self.member(item));
                self.packed(result).map(drop)
            }
            Role::Node => match state.container {
                1 => (self.told)(Element::Member(&state.held)),
                2 => {
                    let bytes = std::mem::take(&mut state.held);
                    let result = packed::listpack(&bytes, &mut |item| self.member(item));
                    self.packed(result).map(drop)
                }
                _ => Err(self.damaged("a list node of an unknown kind")),
            },
            Role::StreamNodeKey => {
                if state.held.len() != 16 {
                    return Err(self.damaged("a stream node whose key is no id"));
                }
                let key = stream_id(&state.held);
                state.node_key = key.map_err(|error| Error::from(RdbError::new(self.place, error.0)))?;
                Ok(())
            }
            Role::StreamListpack => self.tell_stream_node(),
            Role::GroupName => {
                self.tell_stream()?;
                self.end_group()?;
                let state = &mut *self.state;
                std::mem::swap(&mut state.group, &mut state.held);
                state.group_told = false;
                state.group_read = None;
                state.pending.clear();
                state.has_owner.clear();
                Ok(())
            }
            Role::ConsumerName => {
                self.tell_group()?;
                let state = &mut *self.state;
                std::mem::swap(&mut state.consumer, &mut state.held);
                (self.told)(Element::Consumer { group: &state.group, name: &state.consumer })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_takes_no_more_than_was_announced() {
        let mut state = State { announced: MAX_HELD - 1, ..State::default() };
        for piece in vec![b'x'; 16 << 20][1..].chunks(250_000) {
            state.hold(piece);
        }
        assert_eq!((state.held.len() as u64, state.held.capacity() as u64), (MAX_HELD - 1, MAX_HELD - 1));
    }
}
