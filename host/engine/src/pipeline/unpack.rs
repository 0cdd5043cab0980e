//! zstd frames back to plain bytes. What the crate's own reader fills must be cleared before.

use std::io::{self, BufRead};

use redkeep_core::stream::CHUNK;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::frame::ZSTD_WINDOW_LIMIT;

/// Decodes one frame after the other.
pub(crate) struct Unpacker<R> {
    stored: R,
    decoder: Decoder<'static>,
    /// Whether a frame is begun and not whole.
    inside: bool,
}

impl<R: BufRead> Unpacker<R> {
    pub(crate) fn new(stored: R) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LIMIT))?;
        Ok(Self { stored, decoder, inside: false })
    }

    /// The next plain bytes, as many as there are up to a chunk; none at the end.
    ///
    /// # Errors
    /// What is no zstd, or ends inside a frame.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut plain = Vec::with_capacity(CHUNK);
        self.fill(&mut OutBuffer::around(&mut plain))?;
        Ok((!plain.is_empty()).then_some(plain))
    }

    fn fill(&mut self, output: &mut OutBuffer<'_, Vec<u8>>) -> io::Result<()> {
        while output.pos() < CHUNK {
            let filled = self.stored.fill_buf()?;
            let at_end = filled.is_empty();
            if at_end && !self.inside {
                break;
            }
            let before = output.pos();
            let mut input = InBuffer::around(filled);
            // At the end of the input too: the decoder may hold plain bytes back for which there was no room.
            self.inside = self.decoder.run(&mut input, output)? > 0;
            let used = input.pos();
            self.stored.consume(used);
            if at_end && self.inside && output.pos() == before {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read as _};

    use proptest::prelude::*;

    use super::*;

    fn unpacked(stored: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut unpacker = Unpacker::new(BufReader::with_capacity(step, stored))?;
        let mut plain = Vec::new();
        while let Some(bytes) = unpacker.next()? {
            assert!(!bytes.is_empty() && bytes.len() <= CHUNK);
            plain.extend(bytes);
        }
        Ok(plain)
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn frames_of_any_kind_are_decoded_in_any_steps() {
        let plain = [noise(5 << 20), vec![7; 20 << 20]].concat();
        let framed = |size: usize| -> Vec<u8> {
            plain.chunks(size).flat_map(|frame| zstd::bulk::compress(frame, 1).unwrap()).collect()
        };
        // As a stream writes it: one frame, which does not say its length.
        let streamed = zstd::stream::encode_all(&plain[..], 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &framed(1 << 20)].concat();
        for stored in [framed(2 << 20), framed(1 << 20), framed(30 << 20), streamed, skippable] {
            for step in [7000, 1 << 20] {
                assert!(unpacked(&stored, step).unwrap() == plain);
            }
            for end in [stored.len() - 1, stored.len() / 2] {
                assert!(unpacked(&stored[..end], 1 << 20).is_err(), "cut at {end} of {}", stored.len());
            }
            let longer = [&stored[..], b"and more"].concat();
            assert!(unpacked(&longer, 1 << 20).is_err());
        }
        assert!(unpacked(&[], 1).unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bytes_of_anybodys_making_are_decoded_as_by_a_reader_of_streams(
            bytes in proptest::collection::vec(any::<u8>(), 1..200), flip in any::<prop::sample::Index>(),
        ) {
            let mut stored = zstd::bulk::compress(&bytes, 1).unwrap();
            let at = flip.index(stored.len());
            stored[at] ^= 1;
            for stored in [bytes, stored] {
                let mut all = Vec::new();
                let read = zstd::stream::read::Decoder::new(&stored[..]).and_then(|mut reader| reader.read_to_end(&mut all));
                prop_assert_eq!(unpacked(&stored, 16).ok(), read.is_ok().then_some(all));
            }
        }
    }
}
