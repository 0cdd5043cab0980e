//! The payload of an age file: chunks of 64 KiB, each sealed by ChaCha20-Poly1305 under a number of its own, the last one marked
//! (`https://age-encryption.org/v1`, "Payload").
//!
//! The header, with all that keys are about, is age's. Its readers and writers of payloads copy every chunk three times and
//! wipe it, which takes as long as the cipher: here chunks are opened and sealed where they lie.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, BufRead, Read};
use std::ops::Range;

use age::secrecy::ExposeSecret as _;
use age_core::format::{FileKey, Stanza};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Plain bytes of a chunk; only the last may have fewer.
pub(crate) const PLAIN: usize = 64 << 10;
/// What sealing adds to each.
const TAG: usize = 16;
/// Sealed bytes of a whole chunk.
pub(crate) const SEALED: usize = PLAIN + TAG;
/// Bytes between header and payload, from which with the file's key the payload's comes.
const SALT: usize = 16;

/// Opens or seals the chunks of one payload, in order.
pub(crate) struct Payload {
    key: LessSafeKey,
    next: u64,
}

impl Payload {
    /// The payload behind a header that ends with its salt.
    pub(crate) fn new(file_key: &FileKey, header: &[u8]) -> Option<Self> {
        let salt: &[u8; SALT] = header.last_chunk()?;
        let key = age_core::primitives::hkdf(salt, b"payload", file_key.expose_secret());
        Some(Self { key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?), next: 0 })
    }

    /// Eleven bytes of number and one that marks the last chunk.
    fn nonce(&mut self, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.next.to_be_bytes());
        nonce[11] = is_last.into();
        // 2^64 chunks are more than there will ever be.
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Opens whole chunks where they lie, and says where their plain bytes are. `is_last`: nothing follows.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn open(&mut self, sealed: &mut [u8], is_last: bool) -> Result<Vec<Range<usize>>, &'static str> {
        const CUT: &str = "it is cut short";
        let count = sealed.len().div_ceil(SEALED);
        if count == 0 && is_last {
            return Err(CUT);
        }
        let mut plain = Vec::with_capacity(count);
        for (index, chunk) in sealed.chunks_mut(SEALED).enumerate() {
            let is_first = self.next == 0;
            let length = chunk.len().checked_sub(TAG).ok_or(CUT)?;
            let nonce = self.nonce(is_last && index + 1 == count);
            self.key.open_in_place(nonce, Aad::empty(), chunk).map_err(|_| "a chunk does not open")?;
            if length == 0 && !is_first {
                return Err("its last chunk is empty");
            }
            plain.push(index * SEALED..index * SEALED + length);
        }
        Ok(plain)
    }

    /// Seals the next chunk where it lies; the tag belongs behind it. `None` for one that is too long.
    pub(crate) fn seal(&mut self, plain: &mut [u8], is_last: bool) -> Option<impl AsRef<[u8]> + use<>> {
        if plain.len() > PLAIN {
            return None;
        }
        let nonce = self.nonce(is_last);
        self.key.seal_in_place_separate_tag(nonce, Aad::empty(), plain).ok()
    }
}

/// A recipient whose file key is kept.
pub(crate) struct KeepingRecipient<'a> {
    pub(crate) inner: &'a dyn age::Recipient,
    pub(crate) kept: &'a RefCell<Option<FileKey>>,
}

impl age::Recipient for KeepingRecipient<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        *self.kept.borrow_mut() = Some(copy(file_key));
        self.inner.wrap_file_key(file_key)
    }
}

/// An identity whose file key is kept.
pub(crate) struct Keeping<'a> {
    pub(crate) inner: &'a dyn age::Identity,
    pub(crate) kept: &'a RefCell<Option<FileKey>>,
}

impl Keeping<'_> {
    fn keep(&self, result: Option<Result<FileKey, age::DecryptError>>) -> Option<Result<FileKey, age::DecryptError>> {
        if let Some(Ok(key)) = &result {
            *self.kept.borrow_mut() = Some(copy(key));
        }
        result
    }
}

fn copy(key: &FileKey) -> FileKey {
    FileKey::init_with_mut(|bytes| bytes.copy_from_slice(key.expose_secret()))
}

impl age::Identity for Keeping<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        self.keep(self.inner.unwrap_stanza(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, age::DecryptError>> {
        self.keep(self.inner.unwrap_stanzas(stanzas))
    }
}

/// A reader, and the last bytes that were taken from it: behind a header they are the salt.
pub(crate) struct Remembering<R> {
    inner: R,
    last: Vec<u8>,
}

impl<R> Remembering<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, last: Vec::new() }
    }

    /// What decrypts the rest of the file, once its header was read and gave this key.
    pub(crate) fn payload(&self, file_key: &FileKey) -> Option<Payload> {
        Payload::new(file_key, &self.last)
    }
}

fn remember(last: &mut Vec<u8>, taken: &[u8]) {
    last.extend_from_slice(taken);
    let before = last.len().saturating_sub(SALT);
    last.drain(..before);
}

impl<R: Read> Read for Remembering<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        remember(&mut self.last, buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Remembering<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What was filled is still there, so that this reads nothing.
        if let Ok(filled) = self.inner.fill_buf() {
            remember(&mut self.last, filled.get(..amount).unwrap_or_default());
        }
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn identity() -> age::x25519::Identity {
        age::x25519::Identity::generate()
    }

    /// As age itself writes it.
    fn sealed(identity: &age::x25519::Identity, plain: &[u8]) -> Vec<u8> {
        let recipient = identity.to_public();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap();
        let mut writer = encryptor.wrap_output(Vec::new()).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    /// Opens a file by so many chunks at a time.
    fn opened(identity: &age::x25519::Identity, file: &[u8], chunks: usize) -> Result<Vec<u8>, &'static str> {
        let mut input = Remembering::new(Cursor::new(file));
        let kept = RefCell::new(None);
        let decryptor = age::Decryptor::new_buffered(&mut input).unwrap();
        let keeping = Keeping { inner: identity, kept: &kept };
        drop(decryptor.decrypt(std::iter::once(&keeping as &dyn age::Identity)).unwrap());
        let mut payload = input.payload(kept.borrow().as_ref().unwrap()).unwrap();
        let mut rest = Vec::new();
        input.read_to_end(&mut rest).unwrap();
        let mut plain = Vec::new();
        let mut rest = &mut rest[..];
        loop {
            let (now, later) = rest.split_at_mut(rest.len().min(chunks * SEALED));
            for range in payload.open(now, later.is_empty())? {
                plain.extend_from_slice(&now[range]);
            }
            if later.is_empty() {
                return Ok(plain);
            }
            rest = later;
        }
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
    }

    #[rstest]
    fn what_age_sealed_is_opened(
        #[values(0, 1, PLAIN - 1, PLAIN, PLAIN + 1, 4 * PLAIN, 9 * PLAIN + 7)] length: usize,
        #[values(1, 4)] chunks: usize,
    ) {
        let identity = identity();
        assert_eq!(opened(&identity, &sealed(&identity, &bytes(length)), chunks), Ok(bytes(length)));
    }

    #[rstest]
    fn age_opens_what_is_sealed(#[values(0, 1, PLAIN, 2 * PLAIN, 2 * PLAIN + 1)] length: usize) {
        let (identity, kept) = (identity(), RefCell::new(None));
        let recipient = identity.to_public();
        let keeping = KeepingRecipient { inner: &recipient, kept: &kept };
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&keeping as &dyn age::Recipient)).unwrap();
        let mut file = Vec::new();
        drop(encryptor.wrap_output(&mut file).unwrap());
        let mut payload = Payload::new(kept.borrow().as_ref().unwrap(), &file).unwrap();
        let plain = bytes(length);
        let chunks: Vec<&[u8]> = if plain.is_empty() { vec![&[]] } else { plain.chunks(PLAIN).collect() };
        for (index, chunk) in chunks.iter().enumerate() {
            let mut sealed = chunk.to_vec();
            let tag = payload.seal(&mut sealed, index + 1 == chunks.len()).unwrap();
            file.extend(sealed);
            file.extend_from_slice(tag.as_ref());
        }
        assert!(payload.seal(&mut vec![0; PLAIN + 1], true).is_none());
        assert_eq!(age::decrypt(&identity, &file).unwrap(), plain);
    }

    #[test]
    fn a_payload_that_is_not_whole_is_not_opened() {
        let identity = identity();
        let file = sealed(&identity, &bytes(2 * PLAIN));
        let header = file.len() - 2 * SEALED;
        for (end, said) in [
            (header, "it is cut short"),
            (header + 5, "it is cut short"),
            (header + SEALED, "a chunk does not open"),
            (header + SEALED + 5, "it is cut short"),
            (file.len() - 1, "a chunk does not open"),
        ] {
            for chunks in [1, 4] {
                assert_eq!(opened(&identity, &file[..end], chunks), Err(said), "{end} of {}", file.len());
            }
        }
        let mut swapped = file[..header].to_vec();
        swapped.extend_from_slice(&file[header + SEALED..]);
        swapped.extend_from_slice(&file[header..header + SEALED]);
        assert_eq!(opened(&identity, &swapped, 4), Err("a chunk does not open"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn no_bit_can_be_turned(at in 0_usize..PLAIN + 100, bit in 0_u8..8) {
            let identity = identity();
            let mut file = sealed(&identity, &bytes(PLAIN + 100 - TAG - TAG));
            let header = file.len() - (PLAIN + 100);
            file[header + at] ^= 1 << bit;
            prop_assert_eq!(opened(&identity, &file, 4), Err("a chunk does not open"));
        }
    }
}
