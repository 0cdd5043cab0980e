//! Nodes of a stream: a listpack of a master entry and the entries that follow it (redis `src/t_stream.c`).
//!
//! Nothing of a node is held but its bytes: a node may have millions of small fields.

use std::borrow::Cow;

use super::element::Element;
use super::packed::{Item, Listpack, PackedError, Stop};

/// Flags of an entry.
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// Names and values of an entry by turns, read from its node as they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields<'bytes> {
    /// The names, where they are the master entry's.
    names: Option<Listpack<'bytes>>,
    /// The values, or names and values.
    rest: Listpack<'bytes>,
    left: usize,
}

impl<'bytes> Iterator for Fields<'bytes> {
    type Item = Cow<'bytes, [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let source = match &mut self.names {
            // An odd number is left behind a name.
            Some(names) if self.left % 2 == 1 => names,
            _ => &mut self.rest,
        };
        // All of it was read before.
        source.next().ok().flatten().map(Item::text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// Tells the entries of a node with this key, those deleted left out, and returns how many they are.
pub(crate) fn tell(
    bytes: &[u8],
    (key_milliseconds, key_sequence): (u64, u64),
    told: &mut dyn FnMut(Element<'_>) -> Result<(), crate::Error>,
) -> Result<u64, Stop> {
    let mut node = Listpack::new(bytes)?;
    let (live, deleted, names) = (count(&mut node)?, count(&mut node)?, count(&mut node)?);
    let master = node;
    skip(&mut node, names)?;
    some(&mut node)?;
    let mut entries = 0;
    for _ in 0..live.saturating_add(deleted) {
        let flags = some(&mut node)?.integer()?;
        let (milliseconds, sequence) = (some(&mut node)?.integer()?, some(&mut node)?.integer()?);
        let same = flags & SAME_FIELDS != 0;
        let pairs = if same { names } else { count(&mut node)? };
        let rest = node;
        skip(&mut node, pairs)?;
        if !same {
            skip(&mut node, pairs)?;
        }
        some(&mut node)?;
        if flags & DELETED == 0 {
            let id = (key_milliseconds.wrapping_add_signed(milliseconds), key_sequence.wrapping_add_signed(sequence));
            // As many were just read.
            let left = usize::try_from(pairs).unwrap_or(usize::MAX).saturating_mul(2);
            told(Element::Entry { id, fields: Fields { names: same.then_some(master), rest, left } })?;
            entries += 1;
        }
    }
    if node.next()?.is_some() {
        return Err(PackedError("a stream node with more than its entries").into());
    }
    Ok(entries)
}

fn some<'bytes>(node: &mut Listpack<'bytes>) -> Result<Item<'bytes>, PackedError> {
    node.next()?.ok_or(PackedError("a stream node that is cut short"))
}

fn skip(node: &mut Listpack<'_>, items: u64) -> Result<(), PackedError> {
    (0..items).try_for_each(|_| some(node).map(drop))
}

fn count(node: &mut Listpack<'_>) -> Result<u64, PackedError> {
    u64::try_from(some(node)?.integer()?).map_err(|_| PackedError("a stream node with a negative count"))
}
