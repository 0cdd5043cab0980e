//! Jute, ZooKeeper's serialization: big-endian numbers, length-prefixed bytes. Both the wire and our artifact are made of it.

/// Why bytes are not what they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JuteError(pub(crate) &'static str);

impl std::fmt::Display for JuteError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for JuteError {}

const SHORT: JuteError = JuteError("a record is cut short");

/// Appends values.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.byte(value.into())
    }

    pub(crate) fn int(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn long(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Bytes; none is length -1, which is another thing than empty.
    pub(crate) fn buffer(&mut self, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(bytes) => {
                // What comes in is bounded by a frame, far below 2 GiB.
                self.int(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                self.0.extend_from_slice(bytes);
                self
            }
            None => self.int(-1),
        }
    }

    pub(crate) fn string(&mut self, value: &str) -> &mut Self {
        self.buffer(Some(value.as_bytes()))
    }
}

/// Reads values from one record.
#[derive(Debug)]
pub(crate) struct Reader<'bytes>(pub(crate) &'bytes [u8]);

impl<'bytes> Reader<'bytes> {
    fn take(&mut self, count: usize) -> Result<&'bytes [u8], JuteError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], JuteError> {
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, JuteError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn int(&mut self) -> Result<i32, JuteError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn long(&mut self) -> Result<i64, JuteError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn buffer(&mut self) -> Result<Option<&'bytes [u8]>, JuteError> {
        match self.int()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| JuteError("a length is negative"))?;
                self.take(length).map(Some)
            }
        }
    }

    pub(crate) fn string(&mut self) -> Result<&'bytes str, JuteError> {
        let bytes = self.buffer()?.unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| JuteError("a text is not UTF-8"))
    }

    /// How many elements follow; none (-1) reads as nought. Elements are read one by one: a hostile count allocates nothing.
    pub(crate) fn count(&mut self) -> Result<usize, JuteError> {
        match self.int()? {
            -1 => Ok(0),
            count => usize::try_from(count).map_err(|_| JuteError("a count is negative")),
        }
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), JuteError> {
        if self.0.is_empty() { Ok(()) } else { Err(JuteError("bytes are left after a record")) }
    }
}

/// Cuts a stream into frames: four bytes of length, then so many bytes.
#[derive(Debug)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
    start: usize,
    limit: usize,
}

impl Frames {
    /// Frames of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, limit }
    }

    /// Takes what came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length.
    ///
    /// # Errors
    /// A length that is negative or above the limit.
    pub(crate) fn next_frame(&mut self) -> Result<Option<&[u8]>, JuteError> {
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        let Some((head, rest)) = waiting.split_first_chunk::<4>() else { return Ok(None) };
        let length =
            usize::try_from(i32::from_be_bytes(*head)).map_err(|_| JuteError("a frame's length is negative"))?;
        if length > self.limit {
            return Err(JuteError("a frame is longer than any may be"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let begin = self.start + 4;
        self.start = begin + length;
        Ok(self.buffer.get(begin..begin + length))
    }

    /// Whether nothing is left of a frame that has begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}

/// A frame around what `write` appends.
pub(crate) fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer)) {
    let start = out.len();
    let mut writer = Writer(std::mem::take(out));
    writer.int(0);
    write(&mut writer);
    *out = writer.0;
    let length = i32::try_from(out.len() - start - 4).unwrap_or(i32::MAX);
    if let Some(head) = out.get_mut(start..start + 4) {
        head.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    proptest! {
        #[test]
        fn values_come_back(int: i32, long: i64, bytes: Option<Vec<u8>>, text: String) {
            let mut writer = Writer::default();
            writer.int(int).long(long).buffer(bytes.as_deref()).string(&text).byte(7);
            let mut reader = Reader(&writer.0);
            prop_assert_eq!(reader.int(), Ok(int));
            prop_assert_eq!(reader.long(), Ok(long));
            prop_assert_eq!(reader.buffer(), Ok(bytes.as_deref()));
            prop_assert_eq!(reader.string(), Ok(text.as_str()));
            prop_assert_eq!(reader.byte(), Ok(7));
            prop_assert_eq!(reader.end(), Ok(()));
            for length in 0..writer.0.len() {
                let mut reader = Reader(&writer.0[..length]);
                let read = reader.int().and_then(|_| reader.long()).and_then(|_| reader.buffer().map(drop))
                    .and_then(|()| reader.string().map(drop)).and_then(|()| reader.byte());
                prop_assert!(read.is_err(), "{} of {}", length, writer.0.len());
            }
        }

        #[test]
        fn frames_come_back_in_any_chunking(frames: Vec<Vec<u8>>, chunk in 1usize..40) {
            let mut bytes = Vec::new();
            for one in &frames {
                frame(&mut bytes, |writer| writer.0.extend_from_slice(one));
            }
            let mut reader = Frames::new(1 << 20);
            let mut read = Vec::new();
            for part in bytes.chunks(chunk) {
                reader.push(part);
                while let Some(one) = reader.next_frame().unwrap() {
                    read.push(one.to_vec());
                }
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn whatever_comes_there_is_an_answer(bytes: Vec<u8>) {
            let mut frames = Frames::new(64);
            frames.push(&bytes);
            while let Ok(Some(one)) = frames.next_frame() {
                let _ = Reader(one).buffer();
                let _ = Reader(one).string();
                let _ = Reader(one).count();
            }
        }
    }

    #[rstest]
    #[case(&[0x80, 0, 0, 0])]
    #[case(&[0, 0, 0, 65])]
    fn a_frame_that_cannot_be_is_an_error_before_it_is_there(#[case] head: &[u8]) {
        let mut frames = Frames::new(64);
        frames.push(head);
        assert!(frames.next_frame().is_err());
    }
}
