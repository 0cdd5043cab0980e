//! The grammar of RDB as a stack machine that takes its input in any chunks.
//!
//! What comes next lies on a stack of [`Op`]s; each takes a few bytes (an *atom*) or starts a string, whose body passes
//! in slices. A count becomes [`Op::Repeat`], so no length in the input allocates anything, and the stack's depth is
//! that of the grammar.

use super::RdbError;
use super::format::{Header, Magic, ValueType, opcode};
use super::lzf::Lzf;
use super::role::{Half, Listener, Role};
use crate::Error;

/// What a count repeats.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Element,
    FieldValue,
    TextScored,
    Scored,
    Ziplist,
    Node,
    FieldExpiring,
    StreamNode,
    Group(u8),
    Pending,
    Consumer(u8),
    ConsumerPending,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Header,
    Record,
    Text(Role),
    Number(Role),
    Fixed(u8, Role),
    ScoreText,
    Count(Unit),
    Repeat(u64, Unit),
    /// A module's opcodes up to its end.
    ModuleItems,
    /// A number that must be this one.
    Expect(u64, &'static str),
    /// A number; 0 skips the text that would follow.
    OptionalText,
    BeginValue(ValueType),
    EndValue,
    Checksum,
}

/// What a step came to.
pub(crate) enum Step {
    /// It took so many bytes.
    Used(usize),
    /// The input ends inside an atom.
    More,
    /// A value's first byte is next.
    ValueBegins,
    /// A value's last byte was the one before.
    ValueEnded,
    /// The byte taken was the end's opcode.
    End,
    /// The file's checksum (none before RDB 5) in so many bytes; all is done.
    Checksum { found: Option<u64>, used: usize },
}

#[derive(Debug)]
struct Body {
    remaining: u64,
    role: Role,
    wanted: bool,
    lzf: Option<Lzf>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    stack: Vec<Op>,
    body: Option<Body>,
    magic: Magic,
    /// RDB files before version 5 have no checksum.
    has_checksum: bool,
    done: bool,
}

fn fault(reason: impl Into<String>) -> RdbError {
    // The caller knows the offset and puts it in.
    RdbError::new(0, reason)
}

/// Why a step failed: the input, or the listener.
pub(crate) enum Fault {
    Input(RdbError),
    Listener(Error),
}

impl From<RdbError> for Fault {
    fn from(error: RdbError) -> Self {
        Self::Input(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Listener(error)
    }
}

impl From<&'static str> for Fault {
    fn from(reason: &'static str) -> Self {
        Self::Input(fault(reason))
    }
}

impl Machine {
    /// For a whole file.
    pub(crate) fn file() -> Self {
        Self { stack: vec![Op::Header], body: None, magic: Magic::Redis, has_checksum: true, done: false }
    }

    /// For the bytes of one value.
    pub(crate) fn value(kind: ValueType) -> Result<Self, RdbError> {
        let mut machine =
            Self { stack: Vec::with_capacity(24), body: None, magic: Magic::Redis, has_checksum: true, done: false };
        machine.push_value(kind)?;
        Ok(machine)
    }

    /// Whether nothing may follow.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether only the checksum is missing, which does not count itself.
    pub(crate) fn expects_checksum(&self) -> bool {
        matches!(self.stack.last(), Some(Op::Checksum))
    }

    /// Takes what it can from the input: part of a string's body, or one atom.
    pub(crate) fn step<L: Listener>(&mut self, input: &[u8], listener: &mut L) -> Result<Step, Fault> {
        if let Some(body) = &mut self.body {
            if input.is_empty() {
                return Ok(Step::More);
            }
            let taken = usize::try_from(body.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
            let role = body.role;
            if body.wanted {
                let bytes = &input[..taken];
                match &mut body.lzf {
                    Some(lzf) => {
                        lzf.push(bytes, &mut |plain: &[u8]| listener.text(role, plain).map_err(Fault::from))?;
                    }
                    None => listener.text(role, bytes)?,
                }
            }
            body.remaining -= taken as u64;
            if body.remaining == 0 {
                let body = self.body.take();
                if let Some(Body { wanted: true, lzf, .. }) = body {
                    if let Some(mut lzf) = lzf {
                        lzf.finish(&mut |plain: &[u8]| listener.text(role, plain).map_err(Fault::from))?;
                    }
                    listener.text_end(role)?;
                }
            }
            return Ok(Step::Used(taken));
        }
        let Some(op) = self.stack.pop() else {
            self.done = true;
            return Ok(Step::ValueEnded);
        };
        let step = self.execute(op, input, listener)?;
        if matches!(step, Step::More) {
            self.stack.push(op);
        }
        Ok(step)
    }

    fn execute<L: Listener>(&mut self, op: Op, input: &[u8], listener: &mut L) -> Result<Step, Fault> {
        match op {
            Op::Text(role) => self.text(role, input, listener),
            Op::Repeat(count, unit) => {
                if listener.skims() {
                    let (skimmed, used) = skim(count, unit, input);
                    if skimmed > 0 {
                        self.stack.push(Op::Repeat(count - skimmed, unit));
                        return Ok(Step::Used(used));
                    }
                }
                if count > 0 {
                    self.stack.push(Op::Repeat(count - 1, unit));
                    self.push_unit(unit);
                }
                Ok(Step::Used(0))
            }
            Op::Record => self.record(input),
            Op::BeginValue(kind) => {
                listener.begin_value(kind)?;
                Ok(Step::ValueBegins)
            }
            Op::EndValue => Ok(Step::ValueEnded),
            Op::Number(role) => {
                let Some((number, used)) = length(input)? else { return Ok(Step::More) };
                listener.number(role, number)?;
                Ok(Step::Used(used))
            }
            Op::Count(unit) => {
                let Some((count, used)) = length(input)? else { return Ok(Step::More) };
                self.stack.push(Op::Repeat(count, unit));
                Ok(Step::Used(used))
            }
            Op::Fixed(size, role) => {
                let Some(bytes) = input.get(..usize::from(size)) else { return Ok(Step::More) };
                listener.fixed(role, bytes)?;
                Ok(Step::Used(bytes.len()))
            }
            Op::ScoreText => score_text(input, listener),
            Op::ModuleItems => {
                let Some((item, used)) = length(input)? else { return Ok(Step::More) };
                self.push_module_item(item)?;
                Ok(Step::Used(used))
            }
            Op::Expect(expected, what) => {
                let Some((number, used)) = length(input)? else { return Ok(Step::More) };
                if number != expected {
                    return Err(fault(format!("{what} is {number}, not {expected}")).into());
                }
                Ok(Step::Used(used))
            }
            Op::OptionalText => {
                let Some((number, used)) = length(input)? else { return Ok(Step::More) };
                if number != 0 {
                    self.stack.push(Op::Text(Role::Ignored));
                }
                Ok(Step::Used(used))
            }
            Op::Header => {
                let Some(bytes) = input.get(..Header::LENGTH) else { return Ok(Step::More) };
                let header =
                    Header::parse(bytes).map_err(|(reason, unsupported)| RdbError { unsupported, ..fault(reason) })?;
                self.magic = header.magic;
                self.has_checksum = header.version >= 5;
                listener.header(header)?;
                self.stack.push(Op::Record);
                Ok(Step::Used(bytes.len()))
            }
            Op::Checksum => {
                if !self.has_checksum {
                    self.done = true;
                    return Ok(Step::Checksum { found: None, used: 0 });
                }
                let Some(bytes) = input.first_chunk::<8>() else { return Ok(Step::More) };
                self.done = true;
                Ok(Step::Checksum { found: Some(u64::from_le_bytes(*bytes)), used: bytes.len() })
            }
        }
    }

    fn record(&mut self, input: &[u8]) -> Result<Step, Fault> {
        let Some(&byte) = input.first() else { return Ok(Step::More) };
        if byte == opcode::END {
            self.stack.push(Op::Checksum);
            return Ok(Step::End);
        }
        // What follows the record is the next record; the record's own parts go on top, the first one last.
        self.stack.push(Op::Record);
        match byte {
            opcode::AUX => self.stack.extend([Op::Text(Role::AuxValue), Op::Text(Role::AuxName)]),
            opcode::SELECT_DATABASE => self.stack.push(Op::Number(Role::Database)),
            opcode::RESIZE_DATABASE => self.stack.extend([Op::Number(Role::Expires), Op::Number(Role::Keys)]),
            opcode::EXPIRE_MILLISECONDS => self.stack.push(Op::Fixed(8, Role::ExpireMilliseconds)),
            opcode::EXPIRE_SECONDS => self.stack.push(Op::Fixed(4, Role::ExpireSeconds)),
            opcode::FREQUENCY => self.stack.push(Op::Fixed(1, Role::Frequency)),
            opcode::IDLE => self.stack.push(Op::Number(Role::Idle)),
            opcode::FUNCTION_2 => self.stack.push(Op::Text(Role::Library)),
            opcode::FUNCTION_PRE_GA => {
                self.stack.extend([
                    Op::Text(Role::Library),
                    Op::OptionalText,
                    Op::Text(Role::Ignored),
                    Op::Text(Role::Ignored),
                ]);
            }
            opcode::MODULE_AUX => self.stack.extend([
                Op::ModuleItems,
                Op::Number(Role::Ignored),
                Op::Expect(2, "the kind of a module's moment"),
                Op::Number(Role::ModuleAuxId),
            ]),
            opcode::SLOT_INFO if self.magic == Magic::Redis => {
                self.stack.extend([Op::Number(Role::Ignored); 3]);
            }
            kind if ValueType(kind).is_known(self.magic) => {
                self.stack.push(Op::EndValue);
                self.push_value(ValueType(kind))?;
                self.stack.extend([Op::BeginValue(ValueType(kind)), Op::Text(Role::Key)]);
            }
            unknown => {
                let reason = format!(
                    "value type or opcode {unknown}, which {} files of this version do not have",
                    self.magic.name()
                );
                return Err(fault(reason).into());
            }
        }
        Ok(Step::Used(1))
    }

    /// The head of a string: RDB's length, or a number, or LZF.
    fn text<L: Listener>(&mut self, role: Role, input: &[u8], listener: &mut L) -> Result<Step, Fault> {
        let Some(&first) = input.first() else { return Ok(Step::More) };
        let wanted = listener.wants(role);
        if !wanted && let Some(used) = whole_text(input) {
            return Ok(Step::Used(used));
        }
        if first >> 6 != 3 {
            let Some((length, used)) = length(input)? else { return Ok(Step::More) };
            if wanted {
                listener.text_begin(role, length)?;
            }
            if length > 0 {
                self.body = Some(Body { remaining: length, role, wanted, lzf: None });
            } else if wanted {
                listener.text_end(role)?;
            }
            return Ok(Step::Used(used));
        }
        let (number, used) = match (first & 63, input) {
            (0, [_, byte, ..]) => (i32::from(i8::from_le_bytes([*byte])), 2),
            (1, [_, low, high, ..]) => (i32::from(i16::from_le_bytes([*low, *high])), 3),
            (2, [_, a, b, c, d, ..]) => (i32::from_le_bytes([*a, *b, *c, *d]), 5),
            (3, [_, rest @ ..]) => {
                let Some((compressed, first_used)) = length(rest)? else { return Ok(Step::More) };
                let Some((plain, second_used)) = length(&rest[first_used..])? else { return Ok(Step::More) };
                if compressed == 0 || plain == 0 {
                    return Err("an empty LZF string".into());
                }
                if wanted {
                    listener.text_begin(role, plain)?;
                }
                self.body = Some(Body { remaining: compressed, role, wanted, lzf: wanted.then(|| Lzf::new(plain)) });
                return Ok(Step::Used(1 + first_used + second_used));
            }
            (0..=2, _) => return Ok(Step::More),
            (unknown, _) => return Err(fault(format!("string encoding {unknown}, which there is not")).into()),
        };
        if wanted {
            let text = number.to_string();
            listener.text_begin(role, text.len() as u64)?;
            listener.text(role, text.as_bytes())?;
            listener.text_end(role)?;
        }
        Ok(Step::Used(used))
    }

    fn push_value(&mut self, kind: ValueType) -> Result<(), RdbError> {
        let stack = &mut self.stack;
        match kind {
            ValueType::STRING => stack.push(Op::Text(Role::Element)),
            ValueType::LIST | ValueType::SET => stack.push(Op::Count(Unit::Element)),
            ValueType::ZSET => stack.push(Op::Count(Unit::TextScored)),
            ValueType::ZSET_2 => stack.push(Op::Count(Unit::Scored)),
            ValueType::HASH => stack.push(Op::Count(Unit::FieldValue)),
            ValueType::MODULE_2 => stack.extend([Op::ModuleItems, Op::Number(Role::ModuleId)]),
            ValueType(9..=13 | 16 | 17 | 20) | ValueType::HASH_LISTPACK_EX_PRE_GA => stack.push(Op::Text(Role::Packed)),
            ValueType::LIST_QUICKLIST => stack.push(Op::Count(Unit::Ziplist)),
            ValueType::LIST_QUICKLIST_2 => stack.push(Op::Count(Unit::Node)),
            ValueType::STREAM => self.push_stream(1),
            ValueType::STREAM_2 => self.push_stream(2),
            ValueType::STREAM_3 => self.push_stream(3),
            ValueType::HASH_METADATA_PRE_GA => stack.push(Op::Count(Unit::FieldExpiring)),
            ValueType::HASH_METADATA => {
                stack.extend([Op::Count(Unit::FieldExpiring), Op::Fixed(8, Role::MinimumExpiry)]);
            }
            ValueType::HASH_LISTPACK_EX => stack.extend([Op::Text(Role::Packed), Op::Fixed(8, Role::MinimumExpiry)]),
            ValueType(unknown) => return Err(fault(format!("value type {unknown}, which there is not"))),
        }
        Ok(())
    }

    fn push_stream(&mut self, version: u8) {
        let id = |role: fn(Half) -> Role| [Op::Number(role(Half::Sequence)), Op::Number(role(Half::Milliseconds))];
        self.stack.push(Op::Count(Unit::Group(version)));
        if version >= 2 {
            self.stack.push(Op::Number(Role::StreamAdded));
            self.stack.extend(id(Role::StreamMaxDeleted));
            self.stack.extend(id(Role::StreamFirst));
        }
        self.stack.extend(id(Role::StreamLast));
        self.stack.extend([Op::Number(Role::StreamLength), Op::Count(Unit::StreamNode)]);
    }

    fn push_unit(&mut self, unit: Unit) {
        let stack = &mut self.stack;
        match unit {
            Unit::Element => stack.push(Op::Text(Role::Element)),
            Unit::FieldValue => stack.extend([Op::Text(Role::Value), Op::Text(Role::Field)]),
            Unit::TextScored => stack.extend([Op::ScoreText, Op::Text(Role::Element)]),
            Unit::Scored => stack.extend([Op::Fixed(8, Role::Score), Op::Text(Role::Element)]),
            Unit::Ziplist => stack.push(Op::Text(Role::Ziplist)),
            Unit::Node => stack.extend([Op::Text(Role::Node), Op::Number(Role::Container)]),
            Unit::FieldExpiring => {
                stack.extend([Op::Text(Role::Value), Op::Text(Role::Field), Op::Number(Role::FieldExpiry)]);
            }
            Unit::StreamNode => stack.extend([Op::Text(Role::StreamListpack), Op::Text(Role::StreamNodeKey)]),
            Unit::Group(version) => {
                stack.extend([Op::Count(Unit::Consumer(version)), Op::Count(Unit::Pending)]);
                if version >= 2 {
                    stack.push(Op::Number(Role::GroupRead));
                }
                stack.extend([
                    Op::Number(Role::GroupLast(Half::Sequence)),
                    Op::Number(Role::GroupLast(Half::Milliseconds)),
                    Op::Text(Role::GroupName),
                ]);
            }
            Unit::Pending => stack.extend([
                Op::Number(Role::PendingCount),
                Op::Fixed(8, Role::PendingTime),
                Op::Fixed(16, Role::PendingId),
            ]),
            Unit::Consumer(version) => {
                stack.push(Op::Count(Unit::ConsumerPending));
                if version >= 3 {
                    stack.push(Op::Fixed(8, Role::ConsumerActive));
                }
                stack.extend([Op::Fixed(8, Role::ConsumerSeen), Op::Text(Role::ConsumerName)]);
            }
            Unit::ConsumerPending => stack.push(Op::Fixed(16, Role::ConsumerPendingId)),
        }
    }

    /// One of a module's opcodes: end, signed, unsigned, float, double, string.
    fn push_module_item(&mut self, item: u64) -> Result<(), RdbError> {
        let op = match item {
            0 => return Ok(()),
            1 | 2 => Op::Number(Role::Ignored),
            3 => Op::Fixed(4, Role::Ignored),
            4 => Op::Fixed(8, Role::Ignored),
            5 => Op::Text(Role::Ignored),
            unknown => return Err(fault(format!("module opcode {unknown}, which there is not"))),
        };
        self.stack.extend([Op::ModuleItems, op]);
        Ok(())
    }
}

/// A length: 6 or 14 bits, or 32 or 64 in network order.
fn length(input: &[u8]) -> Result<Option<(u64, usize)>, RdbError> {
    Ok(Some(match input {
        [first @ 0..=63, ..] => (u64::from(*first), 1),
        [first @ 64..=127, second, ..] => (u64::from(first & 63) << 8 | u64::from(*second), 2),
        [0x80, a, b, c, d, ..] => (u64::from(u32::from_be_bytes([*a, *b, *c, *d])), 5),
        [0x81, rest @ ..] => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 9),
            None => return Ok(None),
        },
        [first @ 0x82..=0xff, ..] => return Err(fault(format!("byte {first:#04x} where a length must be"))),
        // Nothing, or a head whose rest is missing.
        _ => return Ok(None),
    }))
}

/// Units that lie whole at the input's start, at most `count`: how many, in how many bytes. What is cut or wrong is left to
/// the machine, which knows where and why. Most of a file is this.
fn skim(count: u64, unit: Unit, input: &[u8]) -> (u64, usize) {
    // Numbers, then strings, then bytes.
    let (numbers, texts, fixed) = match unit {
        Unit::Element | Unit::Ziplist => (0, 1, 0),
        Unit::FieldValue | Unit::StreamNode => (0, 2, 0),
        Unit::Scored => (0, 1, 8),
        Unit::Node => (1, 1, 0),
        Unit::FieldExpiring => (1, 2, 0),
        Unit::ConsumerPending => (0, 0, 16),
        Unit::TextScored | Unit::Group(_) | Unit::Pending | Unit::Consumer(_) => return (0, 0),
    };
    let whole = |from: usize| {
        let mut rest = input.get(from..)?;
        for _ in 0..numbers {
            let (_, used) = length(rest).ok()??;
            rest = &rest[used..];
        }
        for _ in 0..texts {
            rest = &rest[whole_text(rest)?..];
        }
        Some(input.len() - rest.get(fixed..)?.len())
    };
    let (mut skimmed, mut at) = (0, 0);
    while skimmed < count {
        let Some(end) = whole(at) else { break };
        at = end;
        skimmed += 1;
    }
    (skimmed, at)
}

/// Bytes of a string, head and body, where all of it is there; `None` too where it is wrong.
#[inline]
fn whole_text(input: &[u8]) -> Option<usize> {
    let total = match input {
        [0xc0, ..] => 2,
        [0xc1, ..] => 3,
        [0xc2, ..] => 5,
        [0xc3, rest @ ..] => {
            let (compressed, first_used) = length(rest).ok()??;
            let (plain, second_used) = length(&rest[first_used..]).ok()??;
            if compressed == 0 || plain == 0 {
                return None;
            }
            (1 + first_used + second_used).checked_add(usize::try_from(compressed).ok()?)?
        }
        _ => {
            let (length, used) = length(input).ok()??;
            used.checked_add(usize::try_from(length).ok()?)?
        }
    };
    (total <= input.len()).then_some(total)
}

/// A score as text: its length in one byte, of which 253 to 255 stand for nan, inf and -inf.
fn score_text<L: Listener>(input: &[u8], listener: &mut L) -> Result<Step, Fault> {
    let Some(&size) = input.first() else { return Ok(Step::More) };
    let (text, used) = match size {
        253 => (&b"nan"[..], 1),
        254 => (&b"inf"[..], 1),
        255 => (&b"-inf"[..], 1),
        size => match input.get(1..=usize::from(size)) {
            Some(text) => (text, 1 + text.len()),
            None => return Ok(Step::More),
        },
    };
    listener.fixed(Role::ScoreText, text)?;
    Ok(Step::Used(used))
}
