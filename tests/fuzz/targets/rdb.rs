//! An RDB of anybody's making, whole and in small chunks: the same answer, no panic, no memory beyond the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redkeep_sdk::rdb::{DatasetFacts, Parser, Statistics, StatisticsOptions};

fn parse(bytes: &[u8], chunk: usize) -> Result<(), String> {
    let (mut parser, mut facts) = (Parser::new(), DatasetFacts::new());
    for piece in bytes.chunks(chunk.max(1)) {
        parser.push_all(piece, &mut facts).map_err(|error| error.to_string())?;
    }
    parser.finish().map_err(|error| error.to_string())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&chunk, file)) = bytes.split_first() else { return };
    assert_eq!(parse(file, file.len()).is_ok(), parse(file, usize::from(chunk)).is_ok());
    let (mut parser, mut statistics) =
        (Parser::new(), Statistics::new(StatisticsOptions { largest: 3, prefixes: true }));
    let _ = parser.push_all(file, &mut statistics);
});
