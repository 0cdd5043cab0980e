//! Where an RDB must lie in a data directory so that the server loads it, whatever `appendonly` says.
//!
//! Measured (REDIS.md 1): with `appendonly yes` a `dump.rdb` is ignored and the server starts empty, without a warning.

use std::fmt::Write as _;

use redkeep_sdk::Context;
use redkeep_sdk::rdb::rdb_version_of_server;

/// Redis 7.0 writes RDB version 10, and is the first with a multi-part append-only file.
const FIRST_MULTI_PART: u16 = 10;

/// The files to place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `dbfilename`, where the server may run with `appendonly no`.
    dump: Option<String>,
    append_only: Option<AppendOnly>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AppendOnly {
    /// A base file and the manifest that names it (7.0 and on).
    MultiPart { directory: String, name: String },
    /// One file that starts with an RDB (6.2).
    Single { name: String },
}

impl Layout {
    /// For what the context says of the directory's server.
    pub(crate) fn of(context: &Context) -> Self {
        let dump = || context.get_or("dbfilename", "dump.rdb").to_owned();
        let append_only = || {
            let name = context.get_or("appendfilename", "appendonly.aof").to_owned();
            let version = context.get("server-version");
            let newest =
                version.and_then(|version| rdb_version_of_server(context.get_or("server-name", "redis"), version));
            // Where the version is not known, today's.
            if newest.is_some_and(|newest| newest < FIRST_MULTI_PART) {
                AppendOnly::Single { name }
            } else {
                AppendOnly::MultiPart { directory: context.get_or("appenddirname", "appendonlydir").to_owned(), name }
            }
        };
        match context.flag("appendonly") {
            Some(true) => Self { dump: None, append_only: Some(append_only()) },
            Some(false) => Self { dump: Some(dump()), append_only: None },
            None => Self { dump: Some(dump()), append_only: Some(append_only()) },
        }
    }

    /// The fact `layout`.
    pub(crate) fn name(&self) -> &'static str {
        match (&self.dump, &self.append_only) {
            (Some(_), Some(_)) => "rdb-and-appendonly",
            (_, Some(AppendOnly::MultiPart { .. })) => "appendonly-multi-part",
            (_, Some(AppendOnly::Single { .. })) => "appendonly-single",
            _ => "rdb",
        }
    }

    /// Whether it serves both settings, for the right one is not known.
    pub(crate) fn is_guess(&self) -> bool {
        self.dump.is_some() && self.append_only.is_some()
    }

    /// Every path that holds the RDB's bytes: copies, never links, for 6.2 appends to its own in place.
    pub(crate) fn paths(&self) -> Vec<String> {
        let append_only = self.append_only.as_ref().map(|append_only| match append_only {
            AppendOnly::MultiPart { directory, name } => format!("{directory}/{name}.1.base.rdb"),
            AppendOnly::Single { name } => name.clone(),
        });
        self.dump.iter().cloned().chain(append_only).collect()
    }

    /// The manifest's path and text, where there is one. Without the newline at its end the server refuses it.
    pub(crate) fn manifest(&self) -> Option<(String, String)> {
        match self.append_only.as_ref()? {
            AppendOnly::MultiPart { directory, name } => Some((
                format!("{directory}/{name}.manifest"),
                format!("file {} seq 1 type b\n", quoted(&format!("{name}.1.base.rdb"))),
            )),
            AppendOnly::Single { .. } => None,
        }
    }
}

/// A name as the server writes it in a manifest: quoted where it would not be one word.
fn quoted(name: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\')) {
        return name.to_owned();
    }
    let mut text = String::from("\"");
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push('"');
    text
}
