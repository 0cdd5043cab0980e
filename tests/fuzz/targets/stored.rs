//! What else is read from a storage: part tables, the index, parts of a backup that wait for their commit, and keys. Read or refused,
//! and what was read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redkeep_core::catalog::{Place, place};
use redkeep_engine::fuzzing::{captured_part, index_lines, part_table};

fn again(bytes: &[u8], read: impl Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
    let Some(written) = read(bytes) else { return false };
    assert_eq!(read(&written).as_ref(), Some(&written), "{}", String::from_utf8_lossy(&written));
    true
}

/// What a manifest must say of a part table so that it can be right: how many parts, and how many bytes.
fn claims(bytes: &[u8]) -> (u64, u64) {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let parts = value["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let size = parts.iter().filter_map(|part| part["size"].as_u64()).fold(0, u64::wrapping_add);
    (parts.len() as u64, size)
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, input @ ..] = bytes else { return };
    match choice % 4 {
        0 => {
            let (count, size) = claims(input);
            if again(input, |bytes| part_table(bytes, count, size)) {
                assert_eq!(part_table(input, count + 1, size), None);
                assert_eq!(part_table(input, count, size + 1), None);
            }
        }
        1 => {
            again(input, index_lines);
        }
        2 => {
            again(input, captured_part);
        }
        _ => {
            let key = String::from_utf8_lossy(input);
            if let Place::Manifest(backup) | Place::Pin(backup) | Place::Artifact(backup) = place(&key) {
                assert!(key.starts_with(&backup.folder().prefix()), "{key}");
            }
        }
    }
});
