//! `redkeep inspect`.

use clap::Args;
use redkeep_core::task::InspectTask;
use redkeep_engine::inspect::inspect;
use serde_json::{Map, Value};
use std::fmt::Write;

use crate::arguments::{BackupArgs, KeyArgs, PluginArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::table::{Side, Table, pairs};
use crate::output::text;
use crate::session::Session;

/// Ask what a stored backup holds, without a server: keys and bytes per type and database, the largest keys
#[derive(Args, Debug)]
pub(crate) struct InspectCommand {
    #[command(flatten)]
    backup: BackupArgs,
    /// Name the N largest keys
    #[arg(long, value_name = "N")]
    largest: Option<u32>,
    /// Sum up by the first part of the key's name
    #[arg(long)]
    prefixes: bool,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    plugin: PluginArgs,
}

impl InspectCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let task = InspectTask {
            storage: self.storage.spec(),
            backup: self.backup.spec(),
            method: self.plugin.spec(""),
            keys: self.keys.spec(),
            query: self.query(),
        };
        let outcome = inspect(&task, &session.providers(), &session.events()).await?;
        session.progress.clear();
        session.warnings(&outcome.warnings);
        session.format.print(&outcome.answer, || {
            let head = [
                ("backup", outcome.backup_id.to_string()),
                ("method", format!("{} {}", outcome.manifest.method.name, outcome.manifest.method.version)),
            ];
            let shards = outcome.manifest.shards.len();
            let mut text = pairs(&head);
            match &outcome.answer {
                Value::Object(answers) if shards > 1 => {
                    for (shard, answer) in answers {
                        let _ = write!(text, "\nshard {shard}\n{}", render(answer));
                    }
                }
                answer => text.push_str(&render(answer)),
            }
            text
        })
    }

    fn query(&self) -> Map<String, Value> {
        let mut query = Map::new();
        if let Some(largest) = self.largest {
            query.insert("largest".to_owned(), largest.into());
        }
        if self.prefixes {
            query.insert("prefixes".to_owned(), true.into());
        }
        query
    }
}

/// Any plugin's answer: single values first, then a table for each list or map of objects.
fn render(answer: &Value) -> String {
    let Value::Object(fields) = answer else { return format!("{}\n", cell("", answer)) };
    let mut single = Vec::new();
    let mut tables = String::new();
    for (name, value) in fields {
        match value {
            Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
                let rows: Vec<(Option<&str>, &Map<String, Value>)> =
                    items.iter().filter_map(Value::as_object).map(|item| (None, item)).collect();
                tables.push_str(&section(name, &rows));
            }
            Value::Object(items) if items.values().all(Value::is_object) && !items.is_empty() => {
                let rows: Vec<(Option<&str>, &Map<String, Value>)> = items
                    .iter()
                    .filter_map(|(key, item)| item.as_object().map(|item| (Some(key.as_str()), item)))
                    .collect();
                tables.push_str(&section(name, &rows));
            }
            Value::Object(items) if !items.is_empty() => {
                let lines: Vec<(String, String)> =
                    items.iter().map(|(key, value)| (format!("  {key}"), cell(key, value))).collect();
                let _ = write!(tables, "\n{}\n{}", heading(name), pairs(&lines));
            }
            Value::Object(_) => {}
            value => single.push((name.replace('-', " "), cell(name, value))),
        }
    }
    format!("{}{tables}", pairs(&single))
}

fn heading(name: &str) -> String {
    name.replace('-', " ").to_uppercase()
}

fn section(name: &str, rows: &[(Option<&str>, &Map<String, Value>)]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for (_, row) in rows {
        for key in row.keys() {
            if !columns.contains(&key.as_str()) {
                columns.push(key);
            }
        }
    }
    let named = rows.iter().any(|(name, _)| name.is_some());
    let is_number = |column: &str| rows.iter().all(|(_, row)| row.get(column).is_none_or(Value::is_number));
    let mut all: Vec<(String, Side)> = Vec::new();
    if named {
        all.push((String::new(), Side::Left));
    }
    all.extend(
        columns
            .iter()
            .map(|column| ((*column).to_uppercase(), if is_number(column) { Side::Right } else { Side::Left })),
    );
    let mut table = Table::new(&all);
    for (name, row) in rows {
        let name = name.map(str::to_owned).into_iter();
        let cells = columns.iter().map(|column| row.get(*column).map_or_else(String::new, |value| cell(column, value)));
        table.row(name.chain(cells));
    }
    format!("\n{}\n{}", heading(name), table.render())
}

fn cell(name: &str, value: &Value) -> String {
    let is_bytes = name == "bytes" || name == "size" || name.ends_with("-bytes") || name.ends_with("Bytes");
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(truth) => if *truth { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(number) if is_bytes => text::size(number),
            // Not every number is a count: `db` 15 is a name, but short ones look the same either way.
            Some(number) => text::count(number),
            None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_becomes_values_and_tables() {
        let answer = json!({
            "keys": 1234, "bytes": 2048,
            "types": {"string": {"keys": 1000, "bytes": 1024}, "hash": {"keys": 234, "bytes": 1024}},
            "databases": [{"db": 0, "keys": 1234}],
            "largest": [{"key": "big:1", "type": "hash", "bytes": 1024}, {"key": "big\u{1b}:2", "type": "set", "bytes": 1}],
            "commands": {"SET": 5},
            "prefixes": {}
        });
        assert_eq!(
            render(&answer),
            "\
keys:  1,234
bytes: 2.0 KiB

TYPES
         KEYS    BYTES
string  1,000  1.0 KiB
hash      234  1.0 KiB

DATABASES
DB   KEYS
 0  1,234

LARGEST
KEY    TYPE    BYTES
big:1  hash  1.0 KiB
big:2  set       1 B

COMMANDS
  SET: 5
"
        );
    }

    #[test]
    fn an_answer_of_another_shape_is_shown_all_the_same() {
        assert_eq!(render(&json!("text")), "text\n");
        assert_eq!(
            render(&json!({"list": [1, 2], "nothing": null, "truth": true})),
            "list:    [1,2]\nnothing: -\ntruth:   yes\n"
        );
    }
}
