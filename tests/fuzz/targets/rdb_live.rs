//! Values of anybody's making on their way into a live server, as the plugins send them: in any chunks the same, every element that
//! a value says it has, and no memory beyond a few times what must be held.
#![no_main]

mod commands;
mod memory;

use libfuzzer_sys::fuzz_target;
use redkeep_sdk::rdb::restore::{RestoreParameters, Restorer, Ttl};
use redkeep_sdk::rdb::{DatasetFacts, Element, Entry, Parser, ValueDecoder, ValueType, Visitor};
use redkeep_sdk::testing::{FakeHost, FakeRedis};
use redkeep_sdk::{Error, code};

/// Inputs that come to more than this are left alone: entries of a stream may repeat their names by thousands.
const MOST: usize = 2 << 20;

/// A key of the file.
struct Key {
    kind: ValueType,
    expires_at: Option<u64>,
    value: Vec<u8>,
}

#[derive(Default)]
struct Keys(Vec<Key>);

impl Visitor for Keys {
    fn wants_values(&self) -> bool {
        true
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        self.0.push(Key { kind: entry.kind, expires_at: entry.expires_at, value: Vec::new() });
        Ok(())
    }

    fn value(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.last_mut().expect("a key comes first").value.extend_from_slice(bytes);
        Ok(())
    }
}

/// What a value comes to, in order, as arguments of commands.
#[derive(Debug, Default, PartialEq)]
struct Contents {
    arguments: Vec<Vec<u8>>,
    entries: u64,
    /// Groups, consumers and pending entries of a stream.
    groups: [u64; 3],
    /// Whether fields of a hash had expired.
    gone: bool,
}

impl Contents {
    fn text(&mut self, bytes: &[u8]) {
        match self.arguments.last_mut() {
            Some(text) => text.extend_from_slice(bytes),
            None => self.arguments.push(bytes.to_vec()),
        }
    }

    /// Whether no key is left of it.
    fn is_gone(&self) -> bool {
        self.gone && self.arguments.is_empty()
    }

    fn arguments(&mut self, arguments: &[&[u8]]) {
        self.arguments.extend(arguments.iter().map(|argument| argument.to_vec()));
    }
}

fn decode(key: &Key, told: &mut dyn FnMut(Element<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let mut decoder = ValueDecoder::new(key.kind)?;
    decoder.push(&key.value, told)?;
    decoder.finish(told)
}

/// What a value holds for a server at this time; none where it cannot be decoded, or comes to too much.
fn contents(key: &Key, gone_until: u64) -> Option<Contents> {
    let (mut contents, mut size, mut elements) = (Contents::default(), 0, 0);
    let mut announced = None;
    decode(key, &mut |element| {
        elements += 1;
        match element {
            Element::Text(bytes) => contents.text(bytes),
            Element::Member(member) => contents.arguments(&[member]),
            Element::Scored { member, score } => contents.arguments(&[format!("{score:e}").as_bytes(), member]),
            Element::Field { expires_at, .. } if expires_at.is_some_and(|time| time <= gone_until) => {
                contents.gone = true
            }
            Element::Field { field, value, .. } => contents.arguments(&[field, value]),
            Element::Entry { id, fields } => {
                contents.entries += 1;
                contents.arguments(&[format!("{}-{}", id.0, id.1).as_bytes()]);
                for field in fields {
                    size += field.len();
                    contents.arguments(&[&field]);
                }
            }
            Element::Stream { length, .. } => announced = Some(length),
            Element::Group { .. } => contents.groups[0] += 1,
            Element::Consumer { .. } => contents.groups[1] += 1,
            Element::Pending { .. } => contents.groups[2] += 1,
        }
        size += 8;
        if size > MOST { Err(Error::new(code::INTERNAL, "too much")) } else { Ok(()) }
    })
    .ok()?;
    match announced {
        Some(length) => assert_eq!(length, contents.entries, "entries of a stream"),
        None => {
            let length = announced_length(key);
            assert!(length.is_none_or(|length| length == elements), "{elements} elements of {length:?}");
        }
    }
    if key.kind == ValueType::STRING {
        // An empty one is told by no element.
        contents.text(b"");
    }
    Some(contents)
}

/// How many elements a value of a plain encoding says it has.
fn announced_length(key: &Key) -> Option<u64> {
    let at = match key.kind.0 {
        1..=5 | 22 => 0,
        24 => 8,
        _ => return None,
    };
    match key.value[at..] {
        [first @ 0..=63, ..] => Some(first.into()),
        [first @ 64..=127, second, ..] => Some(u64::from(first & 63) << 8 | u64::from(second)),
        _ => None,
    }
}

/// Decoding holds a string or packed container, what one element comes to, and little else.
fn check_memory(key: &Key) {
    let compressed = key.value.contains(&0xc3);
    let (factor, more) = if compressed { (264, 256 << 10) } else { (1, 0) };
    let limit = 4 * factor * key.value.len() + more + (16 << 10);
    let mut left = MOST;
    let peak = memory::peak(|| {
        let _ = decode(key, &mut |_| {
            left = left.checked_sub(8).ok_or_else(|| Error::new(code::INTERNAL, "too much"))?;
            Ok(())
        });
    });
    assert!(peak <= limit, "{peak} bytes of memory for a value of {}, type {}", key.value.len(), key.kind.0);
}

/// What arrived under a key.
#[derive(Debug, PartialEq)]
enum Arrived {
    Whole(Vec<u8>),
    Rebuilt(Contents),
}

/// Runs the commands as far as it takes to know what arrived.
fn run(bytes: &[u8]) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    let mut rebuilt = Contents::default();
    for command in commands::read(bytes) {
        match (command[0], &command[1..]) {
            (b"RESTORE", [_, _, payload, ..]) => arrived.push(Arrived::Whole(payload[..payload.len() - 10].to_vec())),
            (b"DEL", _) => rebuilt = Contents::default(),
            (b"SET" | b"APPEND", [_, text]) => rebuilt.text(text),
            (b"RPUSH" | b"SADD" | b"ZADD" | b"HSET", [_, arguments @ ..]) => rebuilt.arguments(arguments),
            (b"XADD", [_, arguments @ ..]) => {
                rebuilt.entries += 1;
                rebuilt.arguments(arguments);
            }
            // Of a stream without entries.
            (b"XDEL", _) => {
                rebuilt.entries -= 1;
                rebuilt.arguments.clear();
            }
            (b"XGROUP", [b"CREATE", ..]) => rebuilt.groups[0] += 1,
            (b"XGROUP", [b"CREATECONSUMER", ..]) => rebuilt.groups[1] += 1,
            (b"XCLAIM", _) => rebuilt.groups[2] += 1,
            (b"RENAMENX", _) => arrived.push(Arrived::Rebuilt(std::mem::take(&mut rebuilt))),
            (b"SELECT" | b"XSETID" | b"PEXPIREAT" | b"HPEXPIREAT" | b"FUNCTION", _) => {}
            (other, _) => panic!("command {}", String::from_utf8_lossy(other)),
        }
    }
    arrived
}

fn restore(file: &[u8], chunk: usize, max_value: usize, ttl: Ttl) -> Result<Vec<u8>, Error> {
    let host = FakeHost::with_context("restore", &[("target", "server")]).with_redis(FakeRedis::default());
    let parameters = RestoreParameters { ttl: Some(ttl), ..RestoreParameters::default() };
    let mut restorer =
        Restorer::new(&host, &parameters)?.for_empty_target().with_second_pass().with_max_value(max_value);
    loop {
        let mut parser = Parser::new();
        for piece in file.chunks(chunk) {
            parser.push_all(piece, &mut restorer)?;
        }
        parser.finish()?;
        if !restorer.begin_second_pass() {
            break;
        }
    }
    restorer.finish()?;
    Ok(host.redis.expect("there").loaded.take())
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, chunk, input @ ..] = bytes else { return };
    let (choice, chunk) = (usize::from(*choice), usize::from(*chunk).max(1));
    // A value by its type, or a whole file.
    let file = match input {
        [kind, value @ ..] if choice % 2 == 0 => {
            [b"REDIS0012", &[*kind][..], b"\x03key", value, &[0xff], &[0; 8]].concat()
        }
        _ => input.to_vec(),
    };
    let max_value = [0, 0, 24, 8 << 20][choice / 2 % 4];
    let ttl = [Ttl::Keep, Ttl::Shift, Ttl::Persist, Ttl::Keep][choice / 8 % 4];

    let (mut keys, mut facts) = (Keys::default(), DatasetFacts::new());
    let _ = Parser::new().push_all(&file, &mut keys);
    let _ = Parser::new().push_all(&file, &mut facts);
    let gone_until = match ttl {
        Ttl::Keep => FakeHost::default().now_ms.get(),
        Ttl::Shift | Ttl::Persist => facts.created_ms().unwrap_or(0),
    };
    keys.0.iter().for_each(check_memory);
    keys.0.retain(|key| key.expires_at.is_none_or(|time| time > gone_until));
    let known: Vec<_> = keys.0.iter().map(|key| contents(key, gone_until)).collect();
    if known.iter().flatten().map(|known| known.arguments.iter().map(Vec::len).sum::<usize>()).sum::<usize>() > MOST {
        return;
    }

    let is_rebuilt = |key: &Key| {
        key.kind != ValueType::MODULE_2
            && (key.value.len() > max_value || (ttl != Ttl::Keep && key.kind.has_field_expiries()))
    };
    let whole = restore(&file, file.len().max(1), max_value, ttl);
    let pieces = restore(&file, chunk, max_value, ttl);
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?}, in pieces of {chunk} {pieces:?}");
    for sent in [whole, pieces].into_iter().flatten() {
        let mut arrived = run(&sent).into_iter();
        // What says that it cannot be held, by a length that compressed bytes give, goes whole in the second pass.
        let postponed = |(key, known): &(&Key, &Option<Contents>)| known.is_none() && is_rebuilt(key);
        let pairs = || keys.0.iter().zip(&known);
        let in_order = pairs().filter(|pair| !postponed(pair)).chain(pairs().filter(postponed));
        for (key, known) in in_order {
            match known {
                Some(known) if known.is_gone() && is_rebuilt(key) => {}
                known => match arrived.next().expect("a key for a key") {
                    Arrived::Whole(payload) => assert!(payload == [&[key.kind.0][..], &key.value].concat()),
                    Arrived::Rebuilt(rebuilt) => {
                        assert!(is_rebuilt(key));
                        let known = known.as_ref().expect("what arrived can be decoded");
                        assert_eq!((rebuilt.arguments, rebuilt.groups), (known.arguments.clone(), known.groups));
                    }
                },
            }
        }
        assert_eq!(arrived.next(), None);
    }
});
