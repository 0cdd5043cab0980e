//! The parser against files of real servers (`fixtures/*.rdb`, made by `fixtures/make.py`), whose `DUMP` of every key
//! was written beside them.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::PathBuf;

use redkeep_sdk::rdb::{
    self, Checksum, DatasetFacts, Entry, Parser, Statistics, StatisticsOptions, ValueDecoder, Visitor,
};
use redkeep_sdk::{Error, code};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const FILES: [&str; 6] = ["redis-6.2", "redis-7.0", "redis-8.2", "redis-8.2-raw", "redis-8.2-lru", "valkey-8.1"];

/// One key as the server's commands told of it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Told {
    database: u64,
    key: Vec<u8>,
    kind: String,
    expires: bool,
    payload_length: usize,
    payload_end: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn expected(name: &str) -> Vec<Told> {
    let text = String::from_utf8(fixture(&format!("{name}.dump"))).expect("text");
    let mut keys: Vec<Told> = text
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let key = parts[1].trim_start_matches('-');
            let key =
                (0..key.len() / 2).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).expect("hex")).collect();
            let (length, end) = parts[4].split_once(':').expect("length and end");
            Told {
                database: parts[0].parse().expect("number"),
                key,
                kind: parts[2].to_owned(),
                expires: parts[3] != "-1",
                payload_length: length.parse().expect("number"),
                payload_end: end.to_owned(),
            }
        })
        .collect();
    keys.sort();
    keys
}

/// Collects every key with the payload that `RESTORE` would get.
#[derive(Default)]
struct Collector {
    keys: Vec<Told>,
    values: Vec<(rdb::ValueType, Vec<u8>)>,
    value: Vec<u8>,
    version: u16,
    libraries: Vec<Vec<u8>>,
    idles: usize,
    frequencies: usize,
    checksum: Option<Checksum>,
}

impl Visitor for Collector {
    fn wants_values(&self) -> bool {
        true
    }
    fn header(&mut self, header: rdb::Header) -> Result<(), Error> {
        self.version = header.version;
        Ok(())
    }
    fn library(&mut self, code: &[u8], length: u64) -> Result<(), Error> {
        assert_eq!(code.len() as u64, length);
        self.libraries.push(code.to_vec());
        Ok(())
    }
    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        self.value = vec![entry.kind.0];
        self.idles += usize::from(entry.idle.is_some());
        self.frequencies += usize::from(entry.frequency.is_some());
        self.keys.push(Told {
            database: entry.database,
            key: entry.key.to_vec(),
            kind: entry.kind.name().to_owned(),
            expires: entry.expires_at.is_some(),
            payload_length: 0,
            payload_end: String::new(),
        });
        Ok(())
    }
    fn value(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.value.extend_from_slice(bytes);
        Ok(())
    }
    fn value_end(&mut self, length: u64) -> Result<(), Error> {
        assert_eq!(length, self.value.len() as u64 - 1);
        self.values.push((rdb::ValueType(self.value[0]), self.value[1..].to_vec()));
        self.value.extend(self.version.to_le_bytes());
        let mut digest = rdb::checksum();
        digest.update(&self.value);
        self.value.extend(digest.finalize().to_le_bytes());
        let told = self.keys.last_mut().expect("a key");
        told.payload_length = self.value.len();
        told.payload_end = hex(&self.value[self.value.len() - 10..]);
        Ok(())
    }
    fn end(&mut self, checksum: Checksum) -> Result<(), Error> {
        self.checksum = Some(checksum);
        Ok(())
    }
}

fn parse<V: Visitor>(bytes: &[u8], chunk: usize, visitor: &mut V) -> Result<(), Error> {
    let mut parser = Parser::new();
    for chunk in bytes.chunks(chunk) {
        parser.push_all(chunk, visitor)?;
    }
    parser.finish()
}

#[test]
fn every_value_has_the_payload_that_the_server_dumps() {
    for name in FILES {
        let bytes = fixture(&format!("{name}.rdb"));
        let expected = expected(name);
        for chunk in [1, 2, 3, 7, 19, 4096, bytes.len()] {
            let mut collector = Collector::default();
            parse(&bytes, chunk, &mut collector).unwrap_or_else(|error| panic!("{name} in chunks of {chunk}: {error}"));
            collector.keys.sort();
            assert_eq!(collector.keys, expected, "{name} in chunks of {chunk}");
            assert_eq!(collector.libraries.len(), if name == "redis-6.2" { 0 } else { 2 }, "{name}");
            let unchecked = name.ends_with("-raw");
            assert_eq!(collector.checksum, Some(if unchecked { Checksum::Unchecked } else { Checksum::Crc64 }));
            assert_eq!(collector.frequencies > 0, name.ends_with("-raw"), "{name}");
            assert_eq!(collector.idles > 0, name.ends_with("-lru"), "{name}");
        }
    }
}

#[test]
fn facts_and_statistics_agree_with_the_server() {
    for name in FILES {
        let bytes = fixture(&format!("{name}.rdb"));
        let expected = expected(name);
        let mut facts = DatasetFacts::new();
        parse(&bytes, 1000, &mut facts).expect("whole");
        let mut statistics = Statistics::new(StatisticsOptions { largest: 3, prefixes: true });
        parse(&bytes, 1000, &mut statistics).expect("whole");
        assert_eq!(statistics.facts(), facts.facts());
        let facts = facts.facts();
        assert_eq!(facts.get("keys"), Some(expected.len().to_string().as_str()));
        assert_eq!(facts.get("databases"), Some("0,3,15"));
        assert_eq!(facts.get("keys-db-3"), Some("2"));
        let expiring = expected.iter().filter(|told| told.expires).count();
        assert_eq!(facts.get("expires"), Some(expiring.to_string().as_str()));
        assert_eq!(
            facts.get("server-name"),
            Some(if name.starts_with("valkey") { "valkey" } else { "redis" }),
            "{name}"
        );
        let answer = statistics.json();
        let mut by_size = expected.clone();
        by_size.sort_by_key(|told| std::cmp::Reverse(told.payload_length));
        let largest: Vec<&str> =
            answer["largest"].as_array().expect("list").iter().filter_map(|entry| entry["name"].as_str()).collect();
        let wanted: Vec<String> =
            by_size[..3].iter().map(|told| String::from_utf8_lossy(&told.key).into_owned()).collect();
        assert_eq!(largest, wanted, "{name}");
        assert_eq!(answer["databases"]["3"]["keys"], 2);
        assert_eq!(answer["types"]["stream"]["keys"], 3);
        let prefixes = answer["prefixes"].as_array().expect("list");
        let integers = prefixes.iter().find(|entry| entry["prefix"] == "int:").expect("counted");
        assert_eq!(integers["keys"], 11);
    }
}

#[test]
fn a_file_cut_at_any_byte_is_an_error_with_its_offset() {
    for name in FILES {
        let bytes = fixture(&format!("{name}.rdb"));
        let mut parser = Parser::new();
        let mut facts = DatasetFacts::new();
        for (at, byte) in bytes.iter().enumerate() {
            let error = parser.finish().expect_err("not whole yet");
            assert_eq!((error.code.as_str(), error.detail("offset")), (code::DAMAGED, Some(at.to_string().as_str())));
            parser.push_all(std::slice::from_ref(byte), &mut facts).expect("sound");
        }
        assert_eq!(parser.finish(), Ok(()));
    }
}

#[test]
fn proven_bytes_are_parsed_whole_and_their_checksum_is_believed() {
    for name in FILES {
        let mut bytes = fixture(&format!("{name}.rdb"));
        let mut expected = DatasetFacts::new();
        parse(&bytes, 100, &mut expected).expect("sound");
        if expected.facts().get("checksum") == Some("crc64") {
            *bytes.last_mut().expect("a checksum") ^= 1;
        }
        let mut facts = DatasetFacts::new();
        let mut parser = Parser::of_proven_bytes();
        for chunk in bytes.chunks(100) {
            parser.push_all(chunk, &mut facts).expect("sound");
        }
        assert_eq!((parser.finish(), facts.facts()), (Ok(()), expected.facts()));
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let mut bytes = fixture("redis-7.0.rdb");
    let length = bytes.len();
    bytes.extend([b'a'; 40]);
    for chunk in [1, 100, bytes.len()] {
        let error = parse(&bytes, chunk, &mut DatasetFacts::new()).expect_err("a mark");
        assert_eq!(error.detail("offset"), Some(length.to_string().as_str()), "{error}");
    }
    // An append-only file goes on there: push says where.
    let mut parser = Parser::new();
    assert_eq!(parser.push(&bytes, &mut DatasetFacts::new()), Ok(length));
    assert_eq!(parser.push(b"*1", &mut DatasetFacts::new()), Ok(0));
}

#[test]
fn a_flipped_bit_never_panics_and_is_found_where_there_is_a_checksum() {
    for name in ["redis-6.2", "redis-8.2", "redis-8.2-raw"] {
        let whole = fixture(&format!("{name}.rdb"));
        // The big values are alike: the first and last bytes densely, some of the rest.
        let places = (9..1500)
            .chain((1500..whole.len() - 2000).step_by(2003))
            .chain(whole.len() - 2000..whole.len())
            .step_by(17);
        for place in places {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            let mut collector = Collector::default();
            let result = parse(&bytes, 8192, &mut collector);
            assert!(result.is_err() || name.ends_with("-raw"), "{name}: a flip at {place} passed");
            for (kind, value) in collector.values.iter().filter(|(_, value)| value.len() < 2000) {
                let _ = decode(*kind, value, 64);
            }
        }
    }
}

fn decode(kind: rdb::ValueType, value: &[u8], chunk: usize) -> Result<Vec<String>, Error> {
    let mut elements = Vec::new();
    let mut text = Vec::new();
    let mut decoder = ValueDecoder::new(kind)?;
    let mut told = |element: rdb::Element<'_>| {
        match element {
            rdb::Element::Text(bytes) => text.extend_from_slice(bytes),
            other => elements.push(format!("{other:?}")),
        }
        Ok(())
    };
    for chunk in value.chunks(chunk) {
        decoder.push(chunk, &mut told)?;
    }
    decoder.finish(&mut told)?;
    elements.push(format!("{text:?}"));
    Ok(elements)
}

#[test]
fn values_are_decoded_alike_in_any_chunks() {
    for name in FILES {
        let mut collector = Collector::default();
        parse(&fixture(&format!("{name}.rdb")), 65_536, &mut collector).expect("whole");
        for (kind, value) in &collector.values {
            let whole = decode(*kind, value, value.len()).unwrap_or_else(|error| panic!("{name} {kind:?}: {error}"));
            for chunk in [1, 5, 300] {
                assert_eq!(decode(*kind, value, chunk).as_ref(), Ok(&whole), "{name} {kind:?} in chunks of {chunk}");
            }
            for end in (0..value.len()).step_by(1 + value.len() / 50) {
                assert!(decode(*kind, &value[..end], 64).is_err(), "{name} {kind:?} cut at {end}");
            }
        }
    }
}

#[test]
fn hostile_lengths_allocate_nothing_and_unknown_numbers_are_named() {
    let most = [0x81, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let key = [1, b'k'];
    let file = |parts: &[&[u8]]| [b"REDIS0012", &parts.concat()[..]].concat();
    for bytes in [
        file(&[&[0], &most, &[0; 100]]),
        file(&[&[0], &key, &most, &[0; 100]]),
        file(&[&[0], &key, &[0xc3, 1], &most, &[0; 100]]),
        file(&[&[1], &key, &most, &[1, b'x'].repeat(100)]),
        file(&[&[15], &key, &most, &[0; 100]]),
        file(&[&[0xfa], &most, &[0; 100]]),
        file(&[&[0xf5], &most, &[0; 100]]),
        file(&[&[7], &key, &most, &[5], &most, &[0; 10]]),
        file(&[&[7], &key, &[1], &[1, 1].repeat(5000)]),
    ] {
        let error = parse(&bytes, 11, &mut Statistics::new(StatisticsOptions { largest: 1, prefixes: true }))
            .expect_err("hostile");
        assert_eq!(error.code, code::DAMAGED, "{error}");
    }
    for (bytes, offset, needle) in [
        (file(&[&[200]]), 9, "opcode 200"),
        (file(&[&[6], &key]), 9, "opcode 6"),
        (file(&[&[0], &[0x82]]), 10, "0x82"),
        (file(&[&[0], &[0xc4]]), 10, "encoding 4"),
        ([b"VALKEY080", &[22, 1, b'k'][..]].concat(), 9, "opcode 22"),
        (b"RUBBISH..".to_vec(), 0, "neither"),
    ] {
        for chunk in [1, 100] {
            let error = parse(&bytes, chunk, &mut Collector::default()).expect_err("unknown");
            assert_eq!(error.detail("offset"), Some(offset.to_string().as_str()), "{error}");
            assert!(error.message.contains(needle), "{error}");
        }
    }
    let error = parse(b"REDIS0099", 9, &mut Collector::default()).expect_err("too new");
    assert_eq!(error.code, code::NOT_SUPPORTED);
}
