//! Digests in names and status.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// SHA-256 in lower-case hexadecimal: 64 digits, of which a name takes the first ones.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The first 16 digits of it.
pub(crate) fn short(bytes: &[u8]) -> String {
    let mut digest = sha256_hex(bytes);
    digest.truncate(16);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha256_with_every_leading_zero() {
        // FIPS 180-4, "abc"; and one whose first digit is 0.
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let zero = (0_u32..1000).map(|number| number.to_string()).find(|text| Sha256::digest(text)[0] < 16).unwrap();
        assert_eq!((short(zero.as_bytes()).len(), &short(zero.as_bytes())[..1]), (16, "0"));
    }
}
