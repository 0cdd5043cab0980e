//! The RDB preamble: the SDK's parser, what it collects, and where the snapshot ends inside the file.

use redkeep_sdk::rdb::{Checksum, DatasetFacts, Entry, Header, Parser, Statistics, StatisticsOptions, Visitor};
use redkeep_sdk::{Error, Facts};
use serde_json::{Map, Value};

/// What is wanted of a snapshot beside its facts.
#[derive(Default)]
pub(crate) enum Wanted<'run> {
    /// Nothing.
    #[default]
    Facts,
    /// Statistics for `inspect`.
    Statistics(StatisticsOptions),
    /// Everything, handed on to this visitor.
    Contents(Box<dyn Visitor + 'run>),
}

enum Collector<'run> {
    Facts(DatasetFacts),
    Statistics(Statistics),
    Contents(Both<'run>),
}

/// A preamble on its way through.
pub(crate) struct Snapshot<'run> {
    parser: Parser,
    collector: Collector<'run>,
}

impl<'run> Snapshot<'run> {
    pub(crate) fn new(wanted: Wanted<'run>) -> Self {
        let collector = match wanted {
            Wanted::Facts => Collector::Facts(DatasetFacts::new()),
            Wanted::Statistics(options) => Collector::Statistics(Statistics::new(options)),
            Wanted::Contents(visitor) => Collector::Contents(Both { facts: DatasetFacts::new(), visitor }),
        };
        Self { parser: Parser::new(), collector }
    }

    /// Takes bytes and returns how many: fewer than there are only where the snapshot ends inside them.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<usize, Error> {
        match &mut self.collector {
            Collector::Facts(facts) => self.parser.push(chunk, facts),
            Collector::Statistics(statistics) => self.parser.push(chunk, statistics),
            Collector::Contents(both) => self.parser.push(chunk, both),
        }
    }

    /// Whether it is whole, its checksum included.
    pub(crate) fn is_ended(&self) -> bool {
        self.parser.is_done()
    }

    /// What is known of it.
    pub(crate) fn dataset(&self) -> &DatasetFacts {
        match &self.collector {
            Collector::Facts(facts) => facts,
            Collector::Statistics(statistics) => statistics.dataset(),
            Collector::Contents(both) => &both.facts,
        }
    }

    /// Keys so far, expired ones included.
    pub(crate) fn keys(&self) -> u64 {
        self.dataset().keys()
    }

    /// The database in which the command stream goes on; a primary that has sent no command yet has -1 or none.
    pub(crate) fn stream_database(&self) -> u64 {
        self.dataset().aux("repl-stream-db").and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The facts of the vocabulary.
    pub(crate) fn facts(&self, facts: &mut Facts) {
        facts.extend(self.dataset().facts());
    }

    /// The answer of `inspect`, empty where no statistics were wanted.
    pub(crate) fn into_answer(self) -> Map<String, Value> {
        match self.collector {
            Collector::Statistics(statistics) => match statistics.json() {
                Value::Object(answer) => answer,
                _ => Map::new(),
            },
            _ => Map::new(),
        }
    }
}

/// Facts, and a visitor that wants more.
struct Both<'run> {
    facts: DatasetFacts,
    visitor: Box<dyn Visitor + 'run>,
}

impl Visitor for Both<'_> {
    fn wants_keys(&self) -> bool {
        self.visitor.wants_keys()
    }

    fn wants_values(&self) -> bool {
        self.visitor.wants_values()
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        Visitor::header(&mut self.facts, header)?;
        self.visitor.header(header)
    }

    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        Visitor::aux(&mut self.facts, name, value)?;
        self.visitor.aux(name, value)
    }

    fn database(&mut self, number: u64) -> Result<(), Error> {
        self.facts.database(number)?;
        self.visitor.database(number)
    }

    fn library(&mut self, code: &[u8], length: u64) -> Result<(), Error> {
        self.facts.library(code, length)?;
        self.visitor.library(code, length)
    }

    fn module(&mut self, id: u64) -> Result<(), Error> {
        self.facts.module(id)?;
        self.visitor.module(id)
    }

    fn module_aux(&mut self, id: u64) -> Result<(), Error> {
        self.facts.module_aux(id)?;
        self.visitor.module_aux(id)
    }

    fn key(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        self.facts.key(entry)?;
        self.visitor.key(entry)
    }

    fn value(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.visitor.value(bytes)
    }

    fn value_end(&mut self, length: u64) -> Result<(), Error> {
        self.facts.value_end(length)?;
        self.visitor.value_end(length)
    }

    fn end(&mut self, checksum: Checksum) -> Result<(), Error> {
        self.facts.end(checksum)?;
        self.visitor.end(checksum)
    }
}
