//! Answers questions about a backup without a server: the snapshot's statistics, and what the commands after it are.

use redkeep_sdk::rdb::StatisticsOptions;
use redkeep_sdk::{Error, Host, code, parameters};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::content::Content;
use crate::snapshot::{Snapshot, Wanted};
use crate::stored::{self, Form, Visitor};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    largest: usize,
    prefixes: bool,
}

struct Onlooker;

impl Visitor for Onlooker {}

/// JSON in, JSON out; `{}` asks for a summary.
pub(crate) fn inspect(host: &dyn Host, query: &str) -> Result<String, Error> {
    let query: Query = parameters::parse(query)?;
    let form = stored::form(host)?;
    let options = StatisticsOptions { largest: query.largest, prefixes: query.prefixes };
    let walked = stored::walk_up_to(host, &form, "inspect", &mut Onlooker, Wanted::Statistics(options), None)?;
    let snapshot = walked.first.and_then(Content::into_snapshot);
    let mut answer = snapshot.map_or_else(Map::new, Snapshot::into_answer);
    let tally = &walked.tally;
    let mut commands = Map::new();
    commands.insert("count".to_owned(), json!(tally.commands));
    let mut by_name: Vec<(&String, &u64)> = tally.by_name.iter().collect();
    by_name.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let by_name: Map<String, Value> = by_name.into_iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    commands.insert("byName".to_owned(), Value::Object(by_name));
    commands.insert("annotations".to_owned(), json!(tally.annotations));
    if let Some((first, last)) = tally.times_ms {
        commands.insert("firstTime".to_owned(), json!(clock::rfc3339(first)));
        commands.insert("lastTime".to_owned(), json!(clock::rfc3339(last)));
    }
    if let Form::Stream { marks: Some(name), .. } = &form {
        let marks = stored::read_marks(host, name)?;
        let (first, last) = (marks.first(), marks.last());
        commands.insert("firstTime".to_owned(), json!(clock::rfc3339(first.time_ms)));
        commands.insert("lastTime".to_owned(), json!(clock::rfc3339(last.time_ms)));
        commands.insert("firstOffset".to_owned(), json!(first.offset));
        commands.insert("lastOffset".to_owned(), json!(last.offset));
        commands.insert("marks".to_owned(), json!(marks.as_slice().len()));
    }
    answer.insert("commands".to_owned(), Value::Object(commands));
    let kind = match form {
        Form::Stream { .. } => "aof",
        Form::Archive { .. } => "aof-archive",
    };
    answer.insert("type".to_owned(), json!(kind));
    serde_json::to_string(&Value::Object(answer))
        .map_err(|error| Error::new(code::INTERNAL, format!("failed to write the answer: {error}")))
}
