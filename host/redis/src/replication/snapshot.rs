//! Takes the RDB out of its framing: exactly the file, from the magic to the CRC.
//!
//! Disk-based: `$<length>\r\n` and so many bytes. Diskless: `$EOF:<40 bytes>\r\n`, bytes without a length, the same 40
//! bytes. Keep-alive newlines come before. The mark is looked for everywhere, because commands may follow it at once.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// Length of the diskless end mark (`CONFIG_RUN_ID_SIZE` of Redis).
const MARK: usize = 40;
/// Longest framing line.
const MAX_LINE: usize = 128;

/// The framing is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// An error reply where the snapshot should begin.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("neither a length nor an end mark before the snapshot")]
    Unknown,
}

enum State {
    Line(Vec<u8>),
    Length(u64),
    Mark { mark: Box<[u8; MARK]>, held: usize },
    Ended,
}

/// Decodes one snapshot.
pub struct SnapshotDecoder {
    state: State,
    size: Option<u64>,
}

impl Default for SnapshotDecoder {
    fn default() -> Self {
        Self { state: State::Line(Vec::new()), size: None }
    }
}

impl SnapshotDecoder {
    /// The RDB's length, once the framing has said it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether the framing line has been read.
    pub fn has_begun(&self) -> bool {
        !matches!(self.state, State::Line(_))
    }

    /// Whether the last byte of the RDB has been given out.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Takes bytes of the link; appends RDB bytes to `out`. Returns what follows the snapshot: empty until it has ended.
    ///
    /// # Errors
    /// A framing that is not understood.
    pub fn push(&mut self, mut data: Bytes, out: &mut Vec<Bytes>) -> Result<Bytes, FramingError> {
        while !data.is_empty() {
            match &mut self.state {
                State::Line(line) => {
                    let end = memchr::memchr(b'\n', &data);
                    let taken = data.split_to(end.map_or(data.len(), |end| end + 1));
                    line.extend_from_slice(&taken);
                    if line.len() > MAX_LINE {
                        return Err(FramingError::Unknown);
                    }
                    if end.is_some() {
                        let line = std::mem::take(line);
                        self.begin(line.trim_ascii())?;
                    }
                }
                State::Length(remaining) => {
                    let taken = usize::try_from(*remaining).unwrap_or(usize::MAX).min(data.len());
                    out.push(data.split_to(taken));
                    *remaining -= taken as u64;
                    if *remaining == 0 {
                        self.state = State::Ended;
                    }
                }
                State::Mark { mark, held } => {
                    let mut ended = false;
                    data = until_mark(mark, held, data, out, &mut ended);
                    if ended {
                        self.state = State::Ended;
                    }
                }
                State::Ended => return Ok(data),
            }
        }
        Ok(data)
    }

    fn begin(&mut self, line: &[u8]) -> Result<(), FramingError> {
        if line.is_empty() {
            return Ok(()); // A keep-alive newline.
        }
        if let Some(text) = line.strip_prefix(b"-") {
            return Err(FramingError::Refused(String::from_utf8_lossy(text).into_owned()));
        }
        let framing = line.strip_prefix(b"$").ok_or(FramingError::Unknown)?;
        if let Some(mark) = framing.strip_prefix(b"EOF:") {
            let mark: [u8; MARK] = mark.try_into().map_err(|_| FramingError::Unknown)?;
            self.state = State::Mark { mark: Box::new(mark), held: 0 };
            return Ok(());
        }
        let length = std::str::from_utf8(framing).ok().and_then(|digits| digits.parse().ok());
        let length: u64 = length.ok_or(FramingError::Unknown)?;
        self.size = Some(length);
        self.state = if length == 0 { State::Ended } else { State::Length(length) };
        Ok(())
    }
}

/// Gives out everything before the mark. `held` bytes of the mark's beginning were the last bytes of what came before:
/// they are data only if the mark does not go on. Returns what follows the mark.
fn until_mark(mark: &[u8; MARK], held: &mut usize, mut data: Bytes, out: &mut Vec<Bytes>, ended: &mut bool) -> Bytes {
    if *held > 0 {
        // A mark that began in the last chunk lies whole in this window, or continues past the end of the data.
        let beginning = data.get(..data.len().min(MARK)).unwrap_or_default();
        let mut window = BytesMut::with_capacity(2 * MARK);
        window.extend_from_slice(mark.get(..*held).unwrap_or_default());
        window.extend_from_slice(beginning);
        if let Some(position) = memmem::find(&window, mark) {
            let used = position + MARK - *held;
            give(window.split_to(position).freeze(), out);
            *ended = true;
            return data.split_off(used);
        }
        if data.len() < MARK {
            let kept = longest_beginning(mark, &window);
            give(window.split_to(window.len() - kept).freeze(), out);
            *held = kept;
            return Bytes::new();
        }
        give(window.split_to(*held).freeze(), out);
        *held = 0;
    }
    if let Some(position) = memmem::find(&data, mark) {
        give(data.split_to(position), out);
        *ended = true;
        return data.split_off(MARK);
    }
    *held = longest_beginning(mark, &data);
    data.truncate(data.len() - *held);
    give(data, out);
    Bytes::new()
}

fn give(bytes: Bytes, out: &mut Vec<Bytes>) {
    if !bytes.is_empty() {
        out.push(bytes);
    }
}

/// How many bytes at the end of `data` are a beginning of the mark.
fn longest_beginning(mark: &[u8; MARK], data: &[u8]) -> usize {
    (1..MARK.min(data.len() + 1))
        .rev()
        .find(|length| mark.get(..*length).is_some_and(|beginning| data.ends_with(beginning)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(wire: &[u8], chunk: usize) -> (Vec<u8>, Vec<u8>, bool) {
        let (mut decoder, mut out, mut rest) = (SnapshotDecoder::default(), Vec::new(), Vec::new());
        for piece in wire.chunks(chunk) {
            rest.extend_from_slice(&decoder.push(Bytes::copy_from_slice(piece), &mut out).unwrap());
        }
        assert!(out.iter().all(|piece| !piece.is_empty()));
        (out.concat(), rest, decoder.has_ended())
    }

    proptest! {
        // Few letters, so that beginnings of the mark abound in the data and overlap with one another.
        #[test]
        fn diskless_framing_is_removed_wherever_chunks_end(
            mark in proptest::collection::vec(b'a'..=b'b', MARK),
            data in proptest::collection::vec(b'a'..=b'b', 0..300),
            cuts in proptest::collection::vec((0_usize..MARK, 0_usize..3), 0..4),
            rest in proptest::collection::vec(any::<u8>(), 0..60),
            newlines in 0_usize..4,
            chunk in 1_usize..130,
        ) {
            let mut data = data;
            for (length, letters) in cuts {
                data.extend_from_slice(&mark[..length]);
                data.extend(std::iter::repeat_n(b'c', letters));
            }
            // The real mark is random; data that holds it by chance, or makes it with its own beginning, cannot be told.
            let whole = [data.as_slice(), &mark].concat();
            prop_assume!(memmem::find(&whole, &mark) == Some(data.len()));
            let wire = [b"\n".repeat(newlines).as_slice(), b"$EOF:", &mark, b"\r\n", &whole, &rest].concat();
            prop_assert_eq!(decode(&wire, chunk), (data.clone(), rest, true));
            let cut = wire.len() - wire.len().min(1);
            let _ = decode(&wire[..cut], chunk);
        }

        #[test]
        fn disk_framing_is_removed_wherever_chunks_end(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            rest in proptest::collection::vec(any::<u8>(), 0..60),
            newlines in 0_usize..4,
            chunk in 1_usize..130,
        ) {
            let wire = [
                b"\n".repeat(newlines).as_slice(), format!("${}\r\n", data.len()).as_bytes(), &data, &rest,
            ].concat();
            prop_assert_eq!(decode(&wire, chunk), (data, rest, true));
        }
    }

    #[test]
    fn a_snapshot_cut_short_has_not_ended() {
        assert!(!decode(b"$5\r\nabcd", 3).2);
        let mark = "0123456789".repeat(4);
        assert!(!decode(format!("$EOF:{mark}\r\nREDIS{}", &mark[..39]).as_bytes(), 7).2);
    }

    #[test]
    fn other_framing_is_an_error() {
        for bad in ["+OK\r\n", "$EOF:short\r\n", "$x\r\n", "$-1\r\n", &"x".repeat(200)] {
            let pushed = SnapshotDecoder::default().push(Bytes::copy_from_slice(bad.as_bytes()), &mut Vec::new());
            assert_eq!(pushed, Err(FramingError::Unknown), "{bad}");
        }
        let pushed = SnapshotDecoder::default().push(Bytes::from_static(b"-ERR no\r\n"), &mut Vec::new());
        assert_eq!(pushed, Err(FramingError::Refused("ERR no".to_owned())));
    }
}
