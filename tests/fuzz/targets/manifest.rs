//! A manifest of anybody's making: read or refused, and what was read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redkeep_core::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse("manifest.json", bytes) {
        let again = Manifest::parse("manifest.json", &manifest.to_bytes()).expect("what was written is read");
        assert_eq!(manifest, again);
    }
});
