//! A task of anybody's making: read or refused, and what was read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redkeep_core::task::TaskSpec;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(spec) = serde_json::from_slice::<TaskSpec>(bytes) {
        let text = serde_json::to_vec(&spec).expect("a task can be written");
        assert_eq!(spec, serde_json::from_slice(&text).expect("what was written is read"));
    }
});
