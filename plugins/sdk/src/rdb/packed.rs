//! Packed containers: listpack, ziplist, intset and zipmap, read from a whole string (redis `src/listpack.c`,
//! `ziplist.c`, `intset.c`, `zipmap.c`).
//!
//! Every size in them is checked against the bytes that are there; nothing is allocated from one.

use std::borrow::Cow;

/// Why a container is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedError(pub &'static str);

/// One element: bytes, or an integer that stands for its decimal text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'bytes> {
    Bytes(&'bytes [u8]),
    Integer(i64),
}

impl<'bytes> Item<'bytes> {
    /// The integer, also where it is written as text.
    pub(crate) fn integer(&self) -> Result<i64, PackedError> {
        match self {
            Self::Integer(number) => Ok(*number),
            Self::Bytes(bytes) => {
                let text = std::str::from_utf8(bytes).ok();
                text.and_then(|text| text.parse().ok()).ok_or(PackedError("text where a packed integer must be"))
            }
        }
    }

    /// The element's text.
    pub(crate) fn text(self) -> Cow<'bytes, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Integer(number) => Cow::Owned(number.to_string().into_bytes()),
        }
    }

    /// Appends the element's text.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        }
    }
}

type Found<'call> = &'call mut dyn FnMut(Item<'_>) -> Result<(), crate::Error>;

/// Why reading stopped: the container, or who was told.
pub(crate) enum Stop {
    Packed(PackedError),
    Told(crate::Error),
}

impl From<PackedError> for Stop {
    fn from(error: PackedError) -> Self {
        Self::Packed(error)
    }
}

impl From<crate::Error> for Stop {
    fn from(error: crate::Error) -> Self {
        Self::Told(error)
    }
}

fn take<'bytes>(bytes: &mut &'bytes [u8], length: usize) -> Result<&'bytes [u8], PackedError> {
    let (taken, rest) =
        bytes.split_at_checked(length).ok_or(PackedError("a packed element longer than its container"))?;
    *bytes = rest;
    Ok(taken)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Sign-extends a little-endian integer of one to eight bytes.
#[expect(clippy::cast_possible_wrap, reason = "the bits are the number's own")]
fn signed(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len();
    ((little_endian(bytes) << unused) as i64) >> unused
}

/// A listpack's elements one by one; a copy goes over them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listpack<'bytes> {
    rest: &'bytes [u8],
    declared: u64,
    count: u64,
}

impl<'bytes> Listpack<'bytes> {
    pub(crate) fn new(bytes: &'bytes [u8]) -> Result<Self, PackedError> {
        let total = little_endian(bytes.get(..4).ok_or(PackedError("a listpack without its head"))?);
        let declared = little_endian(bytes.get(4..6).ok_or(PackedError("a listpack without its head"))?);
        if total != bytes.len() as u64 {
            return Err(PackedError("a listpack whose length is not its own"));
        }
        Ok(Self { rest: &bytes[6..], declared, count: 0 })
    }

    /// The next element; none where the listpack ends as it must.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'bytes>>, PackedError> {
        let rest = &mut self.rest;
        let before = rest.len();
        let first = take(rest, 1)?[0];
        let item = match first {
            0xff => return self.end(),
            0..=0x7f => Item::Integer(i64::from(first)),
            0x80..=0xbf => Item::Bytes(take(rest, usize::from(first & 0x3f))?),
            0xc0..=0xdf => {
                let second = take(rest, 1)?[0];
                let number = i64::from(first & 0x1f) << 8 | i64::from(second);
                Item::Integer(if number >= 1 << 12 { number - (1 << 13) } else { number })
            }
            0xe0..=0xef => {
                let second = take(rest, 1)?[0];
                let length = usize::from(first & 0x0f) << 8 | usize::from(second);
                Item::Bytes(take(rest, length)?)
            }
            0xf0 => {
                let length = little_endian(take(rest, 4)?);
                let length =
                    usize::try_from(length).map_err(|_| PackedError("a packed element longer than its container"))?;
                Item::Bytes(take(rest, length)?)
            }
            0xf1 => Item::Integer(signed(take(rest, 2)?)),
            0xf2 => Item::Integer(signed(take(rest, 3)?)),
            0xf3 => Item::Integer(signed(take(rest, 4)?)),
            0xf4 => Item::Integer(signed(take(rest, 8)?)),
            _ => return Err(PackedError("a listpack element of an unknown kind")),
        };
        let size = before - rest.len();
        let back: &[u8] = take(rest, back_length_size(size))?;
        if back.iter().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f)) != size {
            return Err(PackedError("a listpack element whose back length is not its own"));
        }
        self.count += 1;
        Ok(Some(item))
    }

    fn end(&self) -> Result<Option<Item<'bytes>>, PackedError> {
        if !self.rest.is_empty() {
            return Err(PackedError("bytes after a listpack's end"));
        }
        // 65535 stands for "count them".
        if self.declared != 0xffff && self.declared != self.count {
            return Err(PackedError("a listpack whose count is not its own"));
        }
        Ok(None)
    }
}

/// Elements of a listpack.
pub(crate) fn listpack(bytes: &[u8], found: Found<'_>) -> Result<u64, Stop> {
    let mut listpack = Listpack::new(bytes)?;
    while let Some(item) = listpack.next()? {
        found(item)?;
    }
    Ok(listpack.count)
}

/// Bytes that a listpack's back length takes.
fn back_length_size(size: usize) -> usize {
    match size {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    }
}

/// Elements of a ziplist.
pub(crate) fn ziplist(bytes: &[u8], found: Found<'_>) -> Result<u64, Stop> {
    let total = little_endian(bytes.get(..4).ok_or(PackedError("a ziplist without its head"))?);
    let declared = little_endian(bytes.get(8..10).ok_or(PackedError("a ziplist without its head"))?);
    if total != bytes.len() as u64 {
        return Err(PackedError("a ziplist whose length is not its own").into());
    }
    let mut rest = &bytes[10..];
    let mut count = 0;
    let mut previous = 0;
    loop {
        let before = rest.len();
        let first = take(&mut rest, 1)?[0];
        if first == 0xff {
            break;
        }
        let previous_length = if first == 0xfe { little_endian(take(&mut rest, 4)?) } else { u64::from(first) };
        if previous_length != previous {
            return Err(PackedError("a ziplist element whose back length is not its own").into());
        }
        let first = take(&mut rest, 1)?[0];
        let item = match first {
            0..=0x3f => Item::Bytes(take(&mut rest, usize::from(first))?),
            0x40..=0x7f => {
                let second = take(&mut rest, 1)?[0];
                Item::Bytes(take(&mut rest, usize::from(first & 0x3f) << 8 | usize::from(second))?)
            }
            0x80 => {
                let length = take(&mut rest, 4)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                Item::Bytes(take(&mut rest, length)?)
            }
            0xc0 => Item::Integer(signed(take(&mut rest, 2)?)),
            0xd0 => Item::Integer(signed(take(&mut rest, 4)?)),
            0xe0 => Item::Integer(signed(take(&mut rest, 8)?)),
            0xf0 => Item::Integer(signed(take(&mut rest, 3)?)),
            0xfe => Item::Integer(signed(take(&mut rest, 1)?)),
            0xf1..=0xfd => Item::Integer(i64::from(first & 0x0f) - 1),
            _ => return Err(PackedError("a ziplist element of an unknown kind").into()),
        };
        previous = (before - rest.len()) as u64;
        count += 1;
        found(item)?;
    }
    if !rest.is_empty() {
        return Err(PackedError("bytes after a ziplist's end").into());
    }
    if declared != 0xffff && declared != count {
        return Err(PackedError("a ziplist whose count is not its own").into());
    }
    Ok(count)
}

/// Elements of an intset.
pub(crate) fn intset(bytes: &[u8], found: Found<'_>) -> Result<u64, Stop> {
    let (head, numbers) = bytes.split_at_checked(8).ok_or(PackedError("an intset without its head"))?;
    let (width, count) = (little_endian(&head[..4]), little_endian(&head[4..]));
    let size = match width {
        2 | 4 | 8 => usize::from(head[0]),
        _ => 0,
    };
    if size == 0 || width.checked_mul(count) != Some(numbers.len() as u64) {
        return Err(PackedError("an intset whose length is not its own").into());
    }
    for number in numbers.chunks_exact(size) {
        found(Item::Integer(signed(number)))?;
    }
    Ok(count)
}

/// Fields and values of a zipmap.
pub(crate) fn zipmap(bytes: &[u8], found: Found<'_>) -> Result<u64, Stop> {
    let mut rest = bytes.get(1..).ok_or(PackedError("a zipmap without its head"))?;
    let mut count = 0;
    loop {
        for part in 0..2 {
            let first = take(&mut rest, 1)?[0];
            let length = match first {
                0xff if part == 0 => {
                    return if rest.is_empty() {
                        Ok(count)
                    } else {
                        Err(PackedError("bytes after a zipmap's end").into())
                    };
                }
                254 => little_endian(take(&mut rest, 4)?),
                255 => return Err(PackedError("a zipmap field without its value").into()),
                length => u64::from(length),
            };
            let free = if part == 1 { usize::from(take(&mut rest, 1)?[0]) } else { 0 };
            let length =
                usize::try_from(length).map_err(|_| PackedError("a packed element longer than its container"))?;
            found(Item::Bytes(take(&mut rest, length)?))?;
            take(&mut rest, free)?;
            count += 1;
        }
    }
}
