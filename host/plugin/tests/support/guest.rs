//! Guests in WebAssembly text: a core module whose exports all answer "ok, no facts", except those that a test writes.
//!
//! The layouts are the canonical ABI's: `result<_, error>` and `result<list<attribute>, error>` have their payload at 4,
//! those that hold a 64-bit number (`splice`, `finish`) at 8.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WIT: &str = include_str!("../../../../wit/v0.1/plugin.wit");
/// Where the static answers lie; texts follow.
const ANSWERS: u32 = 1024;
/// For answers of imports: `$ret` in the text.
const SCRATCH: u32 = 256;

/// A guest under construction.
pub(crate) struct Guest {
    wit: String,
    version: String,
    data: Vec<u8>,
    requests: Vec<String>,
    schema: String,
    name: String,
    described: Vec<(&'static str, &'static str)>,
    bodies: BTreeMap<&'static str, String>,
    globals: String,
    pages: u32,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            wit: WIT.to_owned(),
            version: "0.1.0".to_owned(),
            data: Vec::new(),
            requests: Vec::new(),
            schema: r#"{"type":"object"}"#.to_owned(),
            name: "test".to_owned(),
            described: Vec::new(),
            bodies: BTreeMap::new(),
            globals: String::new(),
            pages: 2,
        }
    }
}

impl Guest {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A guest whose `capture` runs this; what it leaves on the stack is the pointer to its answer (`$ok` for none).
    pub(crate) fn capture(body: impl FnOnce(&mut Self) -> String) -> Self {
        let mut guest = Self::default();
        let body = body(&mut guest);
        guest.export("capture", body)
    }

    /// A guest whose `capture` creates artifacts of ever new names, and after each runs this with the sink in `$a`.
    pub(crate) fn creating(then: &str) -> Self {
        Self::capture(|guest| {
            let (name, none) = (guest.words(&[0]), guest.attributes(&[]));
            // Four bits of the count in each of three letters: 4096 names.
            format!(
                "(loop $again
                   (i32.store (i32.const {name}) (i32.add (i32.const 0x61616161) (i32.or
                     (i32.and (local.get $c) (i32.const 15)) (i32.or
                     (i32.shl (i32.and (local.get $c) (i32.const 240)) (i32.const 4))
                     (i32.shl (i32.and (local.get $c) (i32.const 3840)) (i32.const 8))))))
                   (local.set $c (i32.add (local.get $c) (i32.const 1)))
                   (call $create (i32.const {name}) (i32.const 4) {none} (global.get $ret))
                   (local.set $a (i32.load offset=4 (global.get $ret)))
                   {then} (br $again)) (global.get $ok)"
            )
        })
    }

    pub(crate) fn export(mut self, name: &'static str, body: impl Into<String>) -> Self {
        self.bodies.insert(name, body.into());
        self
    }

    pub(crate) fn requests(mut self, requests: &[&str]) -> Self {
        self.requests = requests.iter().map(|&request| request.to_owned()).collect();
        self
    }

    pub(crate) fn schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }

    pub(crate) fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Attributes of its description.
    #[allow(dead_code, reason = "not every test that includes this file needs it")]
    pub(crate) fn described(mut self, attributes: &[(&'static str, &'static str)]) -> Self {
        self.described = attributes.to_vec();
        self
    }

    pub(crate) fn pages(mut self, pages: u32) -> Self {
        self.pages = pages;
        self
    }

    /// Fields of the module besides functions.
    pub(crate) fn module_fields(mut self, text: &str) -> Self {
        self.globals.push_str(text);
        self
    }

    /// Built against another text of the contract.
    pub(crate) fn contract(mut self, version: &str, change: impl FnOnce(String) -> String) -> Self {
        version.clone_into(&mut self.version);
        self.wit = change(self.wit.replace("@0.1.0", &format!("@{version}")));
        self
    }

    fn place(&mut self, bytes: &[u8]) -> u32 {
        while !self.data.len().is_multiple_of(8) {
            self.data.push(0);
        }
        let at = ANSWERS + 64 + u32::try_from(self.data.len()).unwrap();
        self.data.extend_from_slice(bytes);
        at
    }

    /// A text in the guest's memory, as the two operands that a call takes.
    pub(crate) fn text(&mut self, text: &str) -> String {
        let at = self.place(text.as_bytes());
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    pub(crate) fn words(&mut self, words: &[u32]) -> u32 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.place(&bytes)
    }

    /// A list of texts (`list<string>`, `list<list<u8>>`), as two operands.
    pub(crate) fn list(&mut self, texts: &[&str]) -> String {
        let (at, count) = self.list_at(texts);
        format!("(i32.const {at}) (i32.const {count})")
    }

    /// A list of commands, as two operands.
    pub(crate) fn commands(&mut self, commands: &[&[&str]]) -> String {
        let words: Vec<u32> = commands.iter().flat_map(|words| <[u32; 2]>::from(self.list_at(words))).collect();
        format!("(i32.const {}) (i32.const {})", self.words(&words), commands.len())
    }

    fn list_at(&mut self, texts: &[&str]) -> (u32, u32) {
        let mut words = Vec::new();
        for text in texts {
            words.extend([self.place(text.as_bytes()), u32::try_from(text.len()).unwrap()]);
        }
        (self.words(&words), u32::try_from(texts.len()).unwrap())
    }

    /// A list of attributes, as two operands.
    pub(crate) fn attributes(&mut self, attributes: &[(&str, &str)]) -> String {
        let texts: Vec<&str> = attributes.iter().flat_map(|(key, value)| [*key, *value]).collect();
        let (at, _) = self.list_at(&texts);
        format!("(i32.const {at}) (i32.const {})", attributes.len())
    }

    /// An answer with these facts, as the expression that an export leaves.
    pub(crate) fn facts(&mut self, facts: &[(&str, &str)]) -> String {
        let texts: Vec<&str> = facts.iter().flat_map(|(key, value)| [*key, *value]).collect();
        let (list, _) = self.list_at(&texts);
        let at = self.words(&[0, list, u32::try_from(facts.len()).unwrap()]);
        format!("(i32.const {at})")
    }

    /// An answer that is an error.
    pub(crate) fn error(&mut self, code: &str, message: &str) -> String {
        let (code_at, message_at) = (self.place(code.as_bytes()), self.place(message.as_bytes()));
        let length = |text: &str| u32::try_from(text.len()).unwrap();
        let at = self.words(&[1, code_at, length(code), message_at, length(message), 0, 8, 0]);
        format!("(i32.const {at})")
    }

    /// The component.
    pub(crate) fn build(mut self) -> Vec<u8> {
        let info = self.info();
        let text = self.module(info);
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut resolve = Resolve::default();
        resolve.push_str("plugin.wit", &self.wit).unwrap();
        let world = format!(
            "package redkeep:test; world guest {{ include redkeep:plugin/redis-method@{0}; include redkeep:plugin/socket-method@{0}; }}",
            self.version
        );
        let package = resolve.push_str("test.wit", &world).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
    }

    fn info(&mut self) -> u32 {
        let requests = self.requests.clone();
        let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
        let (requests_at, requests_count) = self.list_at(&requests);
        let texts: Vec<&str> = self.described.clone().into_iter().flat_map(|(key, value)| [key, value]).collect();
        let (described_at, _) = self.list_at(&texts);
        let described_count = u32::try_from(self.described.len()).unwrap();
        let mut words = Vec::new();
        for text in [self.name.clone(), "1.2.3".to_owned(), "A guest of the tests.".to_owned(), self.schema.clone()] {
            words.extend([self.place(text.as_bytes()), u32::try_from(text.len()).unwrap()]);
        }
        words.extend([requests_at, requests_count, described_at, described_count]);
        self.words(&words)
    }

    fn module(&self, info: u32) -> String {
        let version = &self.version;
        let mut text = String::from("(module\n");
        for (interface, name, label, signature) in IMPORTS {
            // Only what is used: the encoder leaves unused interfaces out of the component's imports.
            let calls = [format!("(call ${label} "), format!("(call ${label})")];
            if self.bodies.values().any(|body| calls.iter().any(|call| body.contains(call))) {
                let _ = writeln!(
                    text,
                    "(import \"redkeep:plugin/{interface}@{version}\" \"{name}\" (func ${label} {signature}))"
                );
            }
        }
        let _ = writeln!(text, "(memory (export \"memory\") {})", self.pages);
        let _ = writeln!(text, "(global $ok i32 (i32.const {ANSWERS})) (global $ret i32 (i32.const {SCRATCH}))");
        let _ = writeln!(text, "(global $heap (mut i32) (i32.const 65536)) {}", self.globals);
        let escaped: String = self.data.iter().fold(String::new(), |mut escaped, byte| {
            let _ = write!(escaped, "\\{byte:02x}");
            escaped
        });
        let _ = writeln!(text, "(data (i32.const {}) \"{escaped}\")", ANSWERS + 64);
        text.push_str(HELPERS);
        let answer = "(global.get $ok)".to_owned();
        for (name, parameters) in [
            ("validate", "(param i32 i32)"),
            ("plan", ""),
            ("capture", ""),
            ("restore", ""),
            ("verify", ""),
            ("inspect", "(param i32 i32)"),
        ] {
            let body = self.bodies.get(name).unwrap_or(&answer);
            let _ = writeln!(
                text,
                "(func (export \"redkeep:plugin/method@{version}#{name}\") {parameters} (result i32) {LOCALS} {body})"
            );
        }
        let describe = self.bodies.get("describe").cloned().unwrap_or_default();
        let _ = writeln!(
            text,
            "(func (export \"redkeep:plugin/method@{version}#describe\") (result i32) {LOCALS} {describe} (i32.const {info}))"
        );
        text.push(')');
        text
    }
}

const LOCALS: &str = "(local $a i32) (local $b i32) (local $c i32)";

/// `cabi_realloc` is a bump allocator that starts again at the heap's begin when the heap's end is reached: answers are
/// short-lived. `$failed` makes the answer of an import with a 64-bit payload one that an export can return.
const HELPERS: &str = r#"
(func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
  (if (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.mul (memory.size) (i32.const 65536)))
    (then
      (if (i32.le_u (i32.add (i32.const 65536) (local.get $size)) (i32.mul (memory.size) (i32.const 65536)))
        (then (local.set $at (i32.const 65536)))
        (else (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))))))
  (global.set $heap (i32.add (local.get $at) (local.get $size)))
  (local.get $at))
(func $failed (result i32)
  (i32.store8 (i32.add (global.get $ret) (i32.const 4)) (i32.const 1))
  (i32.add (global.get $ret) (i32.const 4)))
"#;

/// Interface, name, label, and signature in the canonical ABI.
const IMPORTS: [(&str, &str, &str, &str); 25] = [
    ("log", "write", "log", "(param i32 i32 i32 i32 i32)"),
    ("control", "sleep-ms", "sleep", "(param i32 i32)"),
    ("control", "now-ms", "now", "(result i64)"),
    // Of a later version of the contract.
    ("control", "new-ms", "new", "(result i64)"),
    ("control", "parameters", "parameters", "(param i32)"),
    ("control", "context", "context", "(param i32)"),
    ("pipe", "[method]source.read", "read", "(param i32 i32 i32)"),
    ("pipe", "[resource-drop]source", "drop-source", "(param i32)"),
    ("pipe", "[method]sink.write", "write", "(param i32 i32 i32 i32)"),
    ("pipe", "[resource-drop]sink", "drop-sink", "(param i32)"),
    ("pipe", "finish", "finish", "(param i32 i32 i32 i32)"),
    ("pipe", "splice", "splice", "(param i32 i32 i32 i64 i32)"),
    ("artifacts", "create", "create", "(param i32 i32 i32 i32 i32)"),
    ("artifacts", "open", "open-stored", "(param i32 i32 i32)"),
    ("redis", "info", "info", "(param i32 i32 i32 i32)"),
    ("redis", "command", "command", "(param i32 i32 i32)"),
    ("redis", "pipeline", "pipeline", "(param i32 i32 i32)"),
    ("redis", "replicate", "replicate", "(param i32 i32)"),
    ("redis", "load", "load", "(param i32 i32 i32)"),
    ("files", "open", "open", "(param i32 i32 i32)"),
    ("files", "create", "create-file", "(param i32 i32 i32)"),
    ("files", "list-directory", "list-directory", "(param i32 i32 i32)"),
    ("socket", "connect", "connect", "(param i32)"),
    ("socket", "[method]connection.read", "receive", "(param i32 i32 i32 i32 i32)"),
    ("socket", "[method]connection.write", "send", "(param i32 i32 i32 i32)"),
];
