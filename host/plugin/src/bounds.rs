//! What a component may make of the compiler, counted before it is called: its time and memory grow with these, of which a
//! plugin's limits know nothing.
//!
//! They are coarse: code that is hard for a compiler takes minutes within them (one function of 1 MB with 60 locals and nothing but
//! nested loops did not end in three, in a debug build). What is left is contained, not foreseen: a limit of time, threads of its own
//! (`host.rs`), and in Kubernetes a pod of its own with a limit of memory.
//!
//! Each bound is some times what the largest interpreters need (`CPython` by componentize-py: 13,548 functions, the largest of 417 KiB,
//! 6.3 MiB of code in 38 modules; `StarlingMonkey` with weval: 19,851 functions, 483 locals, 10.2 MiB of code, 8.8 M of
//! [`MAX_LOCAL_BYTES`]).

use redkeep_core::units::format_size;
use wasmparser::{BinaryReaderError, FunctionBody, Payload};

/// Functions with code.
const MAX_FUNCTIONS: u64 = 100_000;
/// Bytes of code of all functions.
const MAX_CODE: u64 = 32 << 20;
/// Bytes of one function: the compiler holds one as a whole, and what it does for it grows faster than its length.
const MAX_FUNCTION: u64 = 1 << 20;
/// Locals of one function.
const MAX_LOCALS: u64 = 2_000;
/// Locals times bytes of one function: each local is followed through each of its blocks.
const MAX_LOCAL_BYTES: u64 = 64_000_000;
/// Core modules, and components within the component.
const MAX_PARTS: u64 = 200;
/// Imports, exports, types, aliases and instances of all components.
const MAX_ITEMS: u64 = 20_000;
/// Functions that cross the component's border: each gets code of its own.
const MAX_CROSSINGS: u64 = 2_000;
/// Tables and memories of all modules.
const MAX_STORES: u64 = 400;

/// What was counted of a component so far.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    functions: u64,
    code: u64,
    parts: u64,
    items: u64,
    crossings: u64,
    stores: u64,
}

/// Why a component is not compiled.
#[derive(Debug)]
pub(crate) enum Beyond {
    /// What there is too much of.
    Bound(String),
    /// The parser found it damaged.
    Broken(BinaryReaderError),
}

impl From<BinaryReaderError> for Beyond {
    fn from(error: BinaryReaderError) -> Self {
        Self::Broken(error)
    }
}

impl Bounds {
    /// Counts one part of it.
    pub(crate) fn count(&mut self, payload: &Payload<'_>) -> Result<(), Beyond> {
        match payload {
            Payload::Version { .. } => more(&mut self.parts, 1, MAX_PARTS, "modules and components"),
            Payload::CodeSectionEntry(body) => self.function(body),
            Payload::TableSection(section) => self.store(section.count()),
            Payload::MemorySection(section) => self.store(section.count()),
            Payload::ComponentImportSection(section) => self.item(section.count()),
            Payload::ComponentExportSection(section) => self.item(section.count()),
            Payload::ComponentTypeSection(section) => self.item(section.count()),
            Payload::ComponentAliasSection(section) => self.item(section.count()),
            Payload::ComponentInstanceSection(section) => self.item(section.count()),
            Payload::InstanceSection(section) => self.item(section.count()),
            Payload::CoreTypeSection(section) => self.item(section.count()),
            Payload::ComponentCanonicalSection(section) => {
                more(&mut self.crossings, section.count().into(), MAX_CROSSINGS, "functions that cross its border")
            }
            _ => Ok(()),
        }
    }

    fn item(&mut self, count: u32) -> Result<(), Beyond> {
        more(&mut self.items, count.into(), MAX_ITEMS, "imports, exports, types, aliases and instances")
    }

    fn store(&mut self, count: u32) -> Result<(), Beyond> {
        more(&mut self.stores, count.into(), MAX_STORES, "tables and memories")
    }

    fn function(&mut self, body: &FunctionBody<'_>) -> Result<(), Beyond> {
        more(&mut self.functions, 1, MAX_FUNCTIONS, "functions")?;
        let range = body.range();
        let bytes = (range.end - range.start) as u64;
        let at = range.start;
        if bytes > MAX_FUNCTION {
            let (bytes, most) = (format_size(bytes), format_size(MAX_FUNCTION));
            return Err(Beyond::Bound(format!("its function at byte {at} has {bytes}, and {most} are the most")));
        }
        self.code = self.code.saturating_add(bytes);
        if self.code > MAX_CODE {
            return Err(Beyond::Bound(format!("its code has more than {}", format_size(MAX_CODE))));
        }
        let mut locals = 0_u64;
        for group in body.get_locals_reader()? {
            locals = locals.saturating_add(group?.0.into());
        }
        let most = MAX_LOCALS.min(MAX_LOCAL_BYTES / bytes.max(1));
        if locals > most {
            let why = format!("its function at byte {at} has {locals} locals, and of its length {most} are the most");
            return Err(Beyond::Bound(why));
        }
        Ok(())
    }
}

fn more(counted: &mut u64, count: u64, most: u64, what: &str) -> Result<(), Beyond> {
    *counted = counted.saturating_add(count);
    if *counted > most {
        return Err(Beyond::Bound(format!("it has more than {most} {what}")));
    }
    Ok(())
}
