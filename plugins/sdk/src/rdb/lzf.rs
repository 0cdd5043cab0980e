//! LZF (liblzf's format, which Redis uses), decompressed as a stream: a reference reaches back 8 KiB at the most, so a
//! string of any size passes in constant memory.

/// How far back a reference reaches, in bytes.
const WINDOW: usize = 1 << 13;
/// Output held beyond the window before it is handed out.
const FLUSH: usize = 32 << 10;

#[derive(Clone, Copy, Debug)]
enum State {
    Control,
    Literal(usize),
    LongReference { high: usize },
    Reference { high: usize, length: usize },
}

/// The decompressor of one string.
#[derive(Debug)]
pub struct Lzf {
    state: State,
    /// The window, then what was not yet handed out.
    output: Vec<u8>,
    handed_out: usize,
    /// Bytes that must still come out.
    missing: u64,
}

impl Lzf {
    /// For a string that is `length` bytes long once decompressed. Allocates nothing for it.
    pub fn new(length: u64) -> Self {
        Self { state: State::Control, output: Vec::new(), handed_out: 0, missing: length }
    }

    /// Takes compressed bytes; plain bytes go to `out` in pieces of some 32 KiB.
    ///
    /// # Errors
    /// What is wrong, where the bytes are no LZF or make more than the string's length.
    pub fn push<E: From<&'static str>>(
        &mut self,
        mut input: &[u8],
        out: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                State::Control => {
                    input = rest;
                    let control = usize::from(byte);
                    self.state = match control >> 5 {
                        0 => State::Literal(control + 1),
                        7 => State::LongReference { high: (control & 31) << 8 },
                        length => State::Reference { high: (control & 31) << 8, length: length + 2 },
                    };
                }
                State::Literal(length) => {
                    let taken = length.min(input.len());
                    let (literal, rest) = input.split_at(taken);
                    self.reserve(taken)?;
                    self.output.extend_from_slice(literal);
                    input = rest;
                    self.state = if taken == length { State::Control } else { State::Literal(length - taken) };
                }
                State::LongReference { high } => {
                    input = rest;
                    self.state = State::Reference { high, length: usize::from(byte) + 9 };
                }
                State::Reference { high, length } => {
                    input = rest;
                    let distance = high + usize::from(byte) + 1;
                    let Some(start) = self.output.len().checked_sub(distance) else {
                        return Err("an LZF reference in front of the string".into());
                    };
                    self.reserve(length)?;
                    // A reference may overlap what it makes: what stands from its start on is then repeated, twice as
                    // much each time.
                    let mut missing = length;
                    while missing > 0 {
                        let taken = missing.min(self.output.len() - start);
                        self.output.extend_from_within(start..start + taken);
                        missing -= taken;
                    }
                    self.state = State::Control;
                }
            }
            if self.output.len() - self.handed_out >= FLUSH {
                self.hand_out(out)?;
            }
        }
        Ok(())
    }

    /// The end of the compressed bytes.
    ///
    /// # Errors
    /// What is wrong, where they end too early.
    pub fn finish<E: From<&'static str>>(&mut self, out: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.hand_out(out)?;
        if self.missing > 0 || !matches!(self.state, State::Control) {
            return Err("an LZF string that ends before its length".into());
        }
        Ok(())
    }

    fn reserve(&mut self, length: usize) -> Result<(), &'static str> {
        self.missing = self.missing.checked_sub(length as u64).ok_or("an LZF string longer than its length")?;
        Ok(())
    }

    fn hand_out<E>(&mut self, out: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        out(&self.output[self.handed_out..])?;
        let surplus = self.output.len().saturating_sub(WINDOW);
        self.output.drain(..surplus);
        self.handed_out = self.output.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Fault(&'static str);
    impl From<&'static str> for Fault {
        fn from(reason: &'static str) -> Self {
            Self(reason)
        }
    }

    fn decompress(bytes: &[u8], length: u64, chunk: usize) -> Result<Vec<u8>, Fault> {
        let mut plain = Vec::new();
        let mut lzf = Lzf::new(length);
        let mut out = |bytes: &[u8]| {
            plain.extend_from_slice(bytes);
            Ok::<(), Fault>(())
        };
        for chunk in bytes.chunks(chunk) {
            lzf.push(chunk, &mut out)?;
        }
        lzf.finish(&mut out)?;
        Ok(plain)
    }

    #[test]
    fn literals_and_overlapping_references_are_expanded_in_any_chunks() {
        // "ab", then 2+9-2=9+… bytes from one back.
        let bytes = [1, b'a', b'b', 7 << 5, 91, 0, 1 << 5, 101];
        let mut expected = b"ab".to_vec();
        expected.extend([b'b'; 100]);
        expected.extend(b"abb");
        for chunk in 1..=bytes.len() {
            assert_eq!(decompress(&bytes, 105, chunk), Ok(expected.clone()));
        }
    }

    #[test]
    fn a_long_string_passes_through_the_window() {
        let mut bytes = vec![0, b'x'];
        bytes.extend([7 << 5, 255, 0].repeat(1000));
        assert_eq!(decompress(&bytes, 1 + 264_000, 7), Ok(vec![b'x'; 264_001]));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert!(decompress(&[1 << 5, 0], 3, 1).is_err());
        assert!(decompress(&[0, b'x', 7 << 5, 255, 0], 10, 9).is_err());
        assert!(decompress(&[0, b'x'], 2, 9).is_err());
        assert!(decompress(&[5, b'x'], 1, 9).is_err());
    }
}
