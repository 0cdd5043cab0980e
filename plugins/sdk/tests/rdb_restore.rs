//! The commands of a live restore, for values that no small fixture has: big strings and lists, modules, hostile
//! streams.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use proptest::prelude::*;
use redkeep_sdk::rdb::restore::{RestoreCounts, RestoreParameters, Restorer};
use redkeep_sdk::rdb::{DatasetFacts, Element, Parser, ValueDecoder, ValueType};
use redkeep_sdk::resp::{CommandScanner, RespError, Scanned};
use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Error, Facts, Level, code};

fn length(out: &mut Vec<u8>, length: usize) {
    out.push(0x80);
    out.extend(u32::try_from(length).expect("small").to_be_bytes());
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A file of one key.
fn file(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut file = b"REDIS0011\xfe\x00".to_vec();
    file.push(kind);
    text(&mut file, b"the key");
    file.extend_from_slice(value);
    file.push(0xff);
    file.extend([0; 8]);
    file
}

type Outcome = Result<(RestoreCounts, Facts, Vec<Vec<u8>>, u64), Error>;

/// Everything that a restore of two passes sends; `limit`: what the target takes in one argument.
fn restore_whole(file: &[u8], limit: &str) -> Result<(RestoreCounts, Vec<u8>), Error> {
    let answer = format!("*2\r\n$18\r\nproto-max-bulk-len\r\n${}\r\n{limit}\r\n", limit.len());
    let host = FakeHost::with_context("restore", &[("target", "server")]).with_redis(FakeRedis::default().with_script(
        move |command| Ok(if command[0] == b"CONFIG" { answer.clone().into_bytes() } else { b":0\r\n".to_vec() }),
    ));
    let mut restorer = Restorer::new(&host, &RestoreParameters::default())?.with_second_pass();
    let mut passes = 0;
    loop {
        let mut parser = Parser::new();
        for chunk in file.chunks(256 << 10) {
            parser.push_all(chunk, &mut restorer)?;
        }
        parser.finish()?;
        passes += 1;
        if !restorer.begin_second_pass() {
            break;
        }
    }
    assert!(passes <= 2);
    let (counts, _) = restorer.finish()?;
    let loaded = host.redis.as_ref().expect("there").loaded.borrow().clone();
    Ok((counts, loaded))
}

/// `RESTORE` of one value as a server takes it: the payload of `DUMP`.
fn restore_command(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut payload = [&[kind], value, &11_u16.to_le_bytes()].concat();
    let checksum = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);
    let mut digest = checksum.digest();
    digest.update(&payload);
    payload.extend(digest.finalize().to_le_bytes());
    let mut command = Vec::new();
    redkeep_sdk::resp::command(&mut command, &[b"RESTORE", b"the key", b"0", &payload]);
    command
}

#[test]
fn what_can_be_neither_held_nor_rebuilt_is_sent_whole_in_a_second_pass() {
    let mut hash = Vec::new();
    length(&mut hash, 2);
    for size in [9 << 20, 17 << 20] {
        text(&mut hash, b"field");
        text(&mut hash, &vec![b'h'; size]);
    }
    for (kind, value, before) in [(7, module(20 << 20), 0), (4, hash, 1)] {
        let file = file(kind, &value);
        let (counts, sent) = restore_whole(&file, "536870912").expect("restored");
        assert_eq!((counts.sent, counts.rebuilt), (1, 0), "type {kind}");
        assert!(sent.ends_with(&restore_command(kind, &value)), "type {kind}");
        // Of the hash, what was rebuilt until the field came that cannot be held: it was taken back.
        let begun =
            sent.windows(4).take(sent.len().saturating_sub(value.len() + 200)).filter(|name| *name == b"HSET").count();
        assert_eq!(begun, before, "type {kind}");
        let error = restore_whole(&file, "20000000").expect_err("too long");
        assert!(error.is(code::NOT_SUPPORTED) && error.message.contains("the key"), "{error}");
        assert!(error.message.contains(&value.len().to_string()), "{error}");
        assert!(error.detail("help").is_some_and(|help| help.contains("proto-max-bulk-len")));
    }
}

/// What a restore sends: the counts, every command's name, and the longest command's bytes.
fn restore(file: &[u8]) -> Outcome {
    let host = FakeHost::with_context("restore", &[("target", "server")])
        .with_redis(FakeRedis::default().with_script(|_| Ok(b":0\r\n".to_vec())));
    let mut restorer = Restorer::new(&host, &RestoreParameters::default())?;
    let mut parser = Parser::new();
    for chunk in file.chunks(256 << 10) {
        parser.push_all(chunk, &mut restorer)?;
    }
    parser.finish()?;
    let (counts, facts) = restorer.finish()?;
    let loaded = host.redis.as_ref().expect("there").loaded.borrow();
    let (mut names, mut longest) = (Vec::new(), 0);
    let mut scanner = CommandScanner::new(0);
    scanner.push::<RespError>(&loaded, |found| {
        let Scanned::Command { start, end, name, .. } = found else { panic!("no command") };
        names.push(name.to_vec());
        longest = longest.max(end - start);
        Ok(())
    })?;
    scanner.finish()?;
    Ok((counts, facts, names, longest))
}

#[test]
fn a_string_above_the_limit_is_appended_in_pieces_and_one_at_it_is_restored() {
    let mut value = Vec::new();
    text(&mut value, &vec![b'x'; 40 << 20]);
    let (counts, facts, names, longest) = restore(&file(0, &value)).expect("restored");
    assert_eq!((counts.sent, counts.rebuilt, facts.get("keys-rebuilt")), (1, 1, Some("1")));
    assert!(longest < (1 << 20) + 200, "a command of {longest} bytes");
    assert_eq!(names[..3], [&b"SELECT"[..], b"DEL", b"APPEND"]);
    assert_eq!(names[names.len() - 2..], [&b"RENAMENX"[..], b"DEL"]);
    let mut value = Vec::new();
    text(&mut value, &vec![b'x'; (8 << 20) - 5]);
    let (counts, _, names, _) = restore(&file(0, &value)).expect("restored");
    assert_eq!((counts.rebuilt, names), (0, vec![b"SELECT".to_vec(), b"RESTORE".to_vec()]));
}

#[test]
fn a_rebuilt_value_has_its_expiry_before_its_name() {
    // Set afterwards, the expiry would fall on a key that a client has made meanwhile.
    let mut value = Vec::new();
    text(&mut value, &vec![b'x'; 9 << 20]);
    let plain = file(0, &value);
    let (head, key) = plain.split_at(b"REDIS0011\xfe\x00".len());
    let with_expiry = [head, b"\xfc", &4_000_000_000_000_u64.to_le_bytes(), key].concat();
    let (counts, _, names, _) = restore(&with_expiry).expect("restored");
    assert_eq!(counts.rebuilt, 1);
    assert_eq!(names[names.len() - 3..], [&b"PEXPIREAT"[..], b"RENAMENX", b"DEL"]);
}

#[test]
fn a_rebuilt_hash_loses_its_expired_fields_and_without_any_left_counts_as_expired() {
    // 24: the earliest expiry, then each field after its own, 0 for none, else 1 more than what it is later.
    let hash = |expiries: &[u8]| {
        let mut value = 1_u64.to_le_bytes().to_vec();
        length(&mut value, expiries.len());
        for expiry in expiries {
            value.push(*expiry);
            text(&mut value, b"field");
            text(&mut value, &vec![b'x'; 5 << 20]);
        }
        value
    };
    let (counts, _, names, _) = restore(&file(24, &hash(&[1, 2]))).expect("restored");
    assert_eq!((counts.sent, counts.expired, counts.rebuilt), (0, 1, 0));
    assert_eq!(names, [&b"SELECT"[..], b"DEL"]);
    let (counts, _, names, _) = restore(&file(24, &hash(&[1, 0]))).expect("restored");
    assert_eq!((counts.sent, counts.expired, counts.rebuilt), (1, 0, 1));
    assert_eq!(names, [&b"SELECT"[..], b"DEL", b"HSET", b"RENAMENX", b"DEL"]);
}

#[test]
fn a_compressed_string_of_a_hundred_megabytes_comes_out_in_small_pieces() {
    // One literal, then references of 264 bytes each to the byte before.
    const REFERENCES: usize = 400_000;
    let plain = 1 + 264 * REFERENCES;
    let mut head = vec![0xc3];
    length(&mut head, 2 + 3 * REFERENCES);
    length(&mut head, plain);
    head.extend([0, b'z']);
    let (mut sum, mut longest) = (0, 0);
    let mut told = |element: Element<'_>| {
        let Element::Text(bytes) = element else { panic!("no text") };
        sum += bytes.len();
        longest = longest.max(bytes.len());
        Ok(())
    };
    let mut decoder = ValueDecoder::new(ValueType::STRING).expect("no module");
    decoder.push(&head, &mut told).expect("sound");
    let references = [0xe0, 255, 0].repeat(REFERENCES / 100);
    for _ in 0..100 {
        decoder.push(&references, &mut told).expect("sound");
    }
    decoder.finish(&mut told).expect("whole");
    assert_eq!(sum, plain);
    assert!(longest < 40_000, "a piece of {longest} bytes");
}

#[test]
fn a_list_above_the_limit_is_pushed_in_batches() {
    let mut value = Vec::new();
    length(&mut value, 300_000);
    for number in 0..300_000 {
        text(&mut value, format!("element {number} of a long list, with some padding").as_bytes());
    }
    let (counts, _, names, longest) = restore(&file(1, &value)).expect("restored");
    assert_eq!((counts.sent, counts.rebuilt), (1, 1));
    assert!(longest < 80 << 10, "a command of {longest} bytes");
    assert!(names.iter().filter(|name| *name == b"RPUSH").count() > 200);
}

#[test]
fn large_elements_pass_on_their_own_and_in_order() {
    let mut value = Vec::new();
    length(&mut value, 5);
    for size in [10, 6 << 20, 10, 5 << 20, 70_000] {
        text(&mut value, &vec![b'e'; size]);
    }
    let (counts, _, names, longest) = restore(&file(1, &value)).expect("restored");
    assert_eq!(counts.rebuilt, 1);
    assert_eq!(names.iter().filter(|name| *name == b"RPUSH").count(), 5);
    assert!(longest < (6 << 20) + 200, "a command of {longest} bytes");
}

/// A value of the module ReJSON-RL with a string of this size.
fn module(size: usize) -> Vec<u8> {
    // Nine characters of six bits, and a version.
    let id = b"ReJSON-RL".iter().fold(0_u64, |id, byte| {
        let place = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        id << 6 | place.iter().position(|known| known == byte).expect("a character") as u64
    }) << 10
        | 3;
    let mut value = vec![0x81];
    value.extend(id.to_be_bytes());
    value.extend([2, 7, 4]);
    value.extend(1.5_f64.to_le_bytes());
    value.push(5);
    text(&mut value, &vec![b'j'; size]);
    value.push(0);
    value
}

#[test]
fn a_modules_value_is_sent_whole_or_refused_by_its_modules_name() {
    let (counts, _, names, _) = restore(&file(7, &module(9 << 20))).expect("restored");
    assert_eq!((counts.rebuilt, names), (0, vec![b"SELECT".to_vec(), b"RESTORE".to_vec()]));
    let error = restore(&file(7, &module(30 << 20))).expect_err("too big");
    assert!(error.is(code::NOT_SUPPORTED) && error.message.contains("ReJSON-RL"), "{error}");
    let mut facts = DatasetFacts::new();
    Parser::new().push_all(&file(7, &module(10)), &mut facts).expect("sound");
    assert_eq!(facts.facts().get("modules"), Some("ReJSON-RL"));
}

#[rstest::rstest]
#[case::everything(&[], true)]
#[case::chosen_keys(&["the*"], false)]
fn what_a_module_keeps_outside_keys_is_told_once_as_left_out(#[case] patterns: &[&str], #[case] told: bool) {
    // Before the keys and after them: its number, the moment (2, before or after), a string, the end.
    let mut aux = vec![247];
    aux.extend(&module(0)[..9]);
    aux.extend([2, 1, 5]);
    text(&mut aux, b"an index");
    aux.push(0);
    let mut plain = Vec::new();
    text(&mut plain, b"value");
    let one_key = file(0, &plain);
    let (end, start) = (one_key.len() - 9, 9);
    let bytes = [&one_key[..start], &aux, &one_key[start..end], &aux, &one_key[end..]].concat();
    let host = FakeHost::with_context("restore", &[("target", "server")]).with_redis(FakeRedis::default());
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let parameters = RestoreParameters { patterns, ..RestoreParameters::default() };
    let mut restorer = Restorer::new(&host, &parameters).expect("opened");
    Parser::new().push_all(&bytes, &mut restorer).expect("sound");
    let (counts, _) = restorer.finish().expect("restored");
    assert_eq!(counts.sent, 1);
    let logged = host.logged.borrow();
    assert_eq!(logged.len(), usize::from(told), "{logged:?}");
    assert!(
        logged.iter().all(|(level, line)| {
            *level == Level::Warn && line.contains("ReJSON-RL") && line.contains("--target-dir")
        })
    );
    // No value needs the module.
    let mut facts = DatasetFacts::new();
    Parser::new().push_all(&bytes, &mut facts).expect("sound");
    assert_eq!(facts.facts().get("modules"), None);
}

#[test]
fn an_element_that_cannot_be_held_is_refused_by_its_size() {
    let mut value = Vec::new();
    length(&mut value, 1);
    length(&mut value, 600 << 20);
    value.extend(vec![b'x'; 9 << 20]);
    let error = restore(&file(1, &value)).expect_err("too big");
    assert!(error.is(code::NOT_SUPPORTED) && error.message.contains("629145600"), "{error}");
    assert!(error.message.contains("the key"), "{error}");
}

/// A node of a stream with one entry: its counts, then flags, both parts of the id, a field, its value and the entry's length.
fn node(counts: [u8; 2], entries: usize) -> Vec<u8> {
    let mut items = counts.to_vec();
    items.extend([0, 0]);
    items.extend([0, 0, 0, 1, 7, 8, 5].repeat(entries));
    let mut listpack = vec![0; 4];
    listpack.extend(u16::try_from(items.len()).expect("few").to_le_bytes());
    listpack.extend(items.iter().flat_map(|item| [*item, 1]));
    listpack.push(0xff);
    let size = u32::try_from(listpack.len()).expect("small");
    listpack[..4].copy_from_slice(&size.to_le_bytes());
    let mut bytes = vec![1, 16];
    bytes.extend([0; 16]);
    text(&mut bytes, &listpack);
    bytes
}

/// Of a group: its name, last id, the pending entries 0-0 and on, and consumers, which have those.
fn group_of(pending: u8, consumers: &[&[u8]]) -> Vec<u8> {
    let id = |number: u8| [0, 0, 0, 0, 0, 0, 0, number, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = vec![1, 1, b'g', 0, 0, pending];
    for number in 0..pending {
        bytes.extend(id(number));
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
    bytes.push(u8::try_from(consumers.len()).expect("few"));
    for (name, owned) in (b'a'..).zip(consumers) {
        bytes.extend([1, name, 0, 0, 0, 0, 0, 0, 0, 0, u8::try_from(owned.len()).expect("few")]);
        bytes.extend(owned.iter().flat_map(|number| id(*number)));
    }
    bytes
}

#[rstest::rstest]
#[case::whole(node([1, 0], 1), 1, group_of(1, &[&[0]]), None)]
#[case::no_entry_that_it_says_it_has(vec![0], 1, vec![0], Some("a stream whose length is not its own"))]
#[case::an_entry_more(node([1, 0], 1), 0, vec![0], Some("a stream whose length is not its own"))]
#[case::a_node_with_more(node([1, 0], 2), 1, vec![0], Some("more than its entries"))]
#[case::a_node_with_less(node([1, 1], 1), 1, vec![0], Some("cut short"))]
#[case::a_pending_entry_of_no_consumer(node([1, 0], 1), 1, group_of(1, &[]), Some("that no consumer has"))]
#[case::one_of_two_and_the_other_of_none(node([1, 0], 1), 1, group_of(2, &[&[0], &[0]]), Some("that is consumed twice"))]
#[case::twice_of_one(node([1, 0], 1), 1, group_of(2, &[&[1, 1]]), Some("that is consumed twice"))]
#[case::one_that_its_group_has_not(node([1, 0], 1), 1, group_of(1, &[&[1]]), Some("that its group does not have"))]
fn a_stream_that_does_not_hold_what_it_says_is_damaged(
    #[case] nodes: Vec<u8>,
    #[case] length: u8,
    #[case] groups: Vec<u8>,
    #[case] expected: Option<&str>,
) {
    let value = [nodes, vec![length, 0, 0], groups].concat();
    let (mut fields, mut pending) = (Vec::new(), 0);
    let mut told = |element: Element<'_>| {
        match element {
            Element::Entry { fields: told, .. } => fields.extend(told.map(std::borrow::Cow::into_owned)),
            Element::Pending { .. } => pending += 1,
            _ => {}
        }
        Ok(())
    };
    let mut decoder = ValueDecoder::new(ValueType::STREAM).expect("no module");
    let result = decoder.push(&value, &mut told).and_then(|()| decoder.finish(&mut told));
    match expected {
        None => {
            result.expect("sound");
            assert_eq!((fields, pending), (vec![b"7".to_vec(), b"8".to_vec()], 1));
        }
        Some(reason) => {
            let error = result.expect_err("damaged");
            assert!(error.is(code::DAMAGED) && error.message.contains(reason), "{error}");
        }
    }
}

#[rstest::rstest]
#[case::entries_that_are_there(200_000, &[], false)]
#[case::one_that_was_trimmed_away(200_000, &[0, 1, 2], true)]
#[case::one_that_was_deleted_from_among_them(200_000, &[1], true)]
#[case::a_deleted_one_that_was_not_pending(200_000, &[2, 150_000], false)]
fn a_pending_entry_that_no_command_makes_takes_its_stream_along_whole(
    #[case] entries: u64,
    #[case] gone: &[u64],
    #[case] whole: bool,
) {
    // Large enough to be rebuilt; pending are 0-0 and 1-0.
    let mut nodes = Vec::new();
    for number in (0..entries).filter(|number| !gone.contains(number)) {
        let mut node = node([1, 0], 1).split_off(1);
        node[1..9].copy_from_slice(&number.to_be_bytes());
        nodes.extend(node);
    }
    let left = usize::try_from(entries).expect("few") - gone.len();
    let mut value = Vec::new();
    length(&mut value, left);
    value.extend(nodes);
    length(&mut value, left);
    value.extend([&[0, 0], &group_of(2, &[&[0], &[1]])[..]].concat());
    let (counts, sent) = restore_whole(&file(15, &value), "536870912").expect("restored");
    let claims = sent.windows(6).filter(|name| *name == b"XCLAIM").count();
    // What was claimed before the first that is gone went with the temporary key.
    assert_eq!((counts.rebuilt, claims == 2), if whole { (0, false) } else { (1, true) });
    assert_eq!(sent.ends_with(&restore_command(15, &value)), whole);
}

fn fixture() -> Vec<u8> {
    include_bytes!("fixtures/redis-8.2.rdb").to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chunking_sends_the_same_commands(sizes in proptest::collection::vec(1_usize..9000, 1..200)) {
        let send = |sizes: &[usize]| {
            let host = FakeHost::with_context("restore", &[("target", "server")]).with_redis(FakeRedis::default());
            let mut restorer = Restorer::new(&host, &RestoreParameters::default()).expect("opened");
            let mut parser = Parser::new();
            let file = fixture();
            let mut rest = &file[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at(rest.len().min(*size));
                parser.push_all(chunk, &mut restorer).expect("sound");
                rest = after;
            }
            parser.finish().expect("whole");
            restorer.finish().expect("sent");
            host.redis.as_ref().expect("there").loaded.borrow().clone()
        };
        prop_assert_eq!(send(&sizes), send(&[usize::MAX]));
    }

    #[test]
    fn any_bytes_after_a_header_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1_usize..40) {
        let file = [b"REDIS0012", &bytes[..]].concat();
        let mut facts = DatasetFacts::new();
        let mut parser = Parser::new();
        for chunk in file.chunks(chunk) {
            if parser.push_all(chunk, &mut facts).is_err() {
                break;
            }
        }
    }
}
