//! Figures, not assertions: `cargo test --release -p redkeep-sdk --test rdb_speed -- --ignored --nocapture`.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "prints what it measures")]

use std::time::Instant;

use redkeep_sdk::rdb::{self, DatasetFacts, Parser, Statistics, StatisticsOptions, Visitor};

fn measure<V: Visitor>(what: &str, file: &[u8], visitor: &mut V) {
    let start = Instant::now();
    let mut parser = Parser::new();
    for chunk in file.chunks(256 << 10) {
        parser.push_all(chunk, visitor).expect("sound");
    }
    parser.finish().expect("whole");
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = file.len() as f64 / seconds / 1e6;
    println!("{what}: {} MB in {seconds:.3} s, {rate:.0} MB/s", file.len() / 1_000_000);
}

/// A file of strings of this size.
fn strings(count: u32, size: u32) -> Vec<u8> {
    let mut file = b"REDIS0010\xfe\x00".to_vec();
    let value = vec![b'v'; size as usize];
    for number in 0..count {
        let key = format!("key:{number:010}");
        file.push(0);
        file.push(u8::try_from(key.len()).expect("short"));
        file.extend(key.as_bytes());
        file.push(0x80);
        file.extend(size.to_be_bytes());
        file.extend(&value);
    }
    file.push(0xff);
    let mut digest = rdb::checksum();
    digest.update(&file);
    file.extend(digest.finalize().to_le_bytes());
    file
}

#[test]
#[ignore = "prints figures"]
fn speed_of_the_parser() {
    for (count, size) in [(2_000_000, 20), (200_000, 1000), (500, 1 << 20)] {
        let file = strings(count, size);
        measure(&format!("facts, {count} strings of {size}"), &file, &mut DatasetFacts::new());
        let options = StatisticsOptions { largest: 10, prefixes: true };
        measure(&format!("statistics, {count} strings of {size}"), &file, &mut Statistics::new(options));
    }
}
