//! Reads a source into artifacts: by replication into one stream with marks, from files into an archive.

mod borders;
mod files;
mod replication;

pub(crate) use replication::{KIND as STREAM_KIND, marks_facts};

use redkeep_sdk::{Context, Error, Facts, Host, Level};

use crate::parameters::{Parameters, Route};

/// Says which way a capture would go; refuses what cannot work.
pub(crate) fn plan(host: &dyn Host) -> Result<Facts, Error> {
    let parameters = Parameters::parse(&host.parameters())?;
    let context = Context::of(host);
    let mut facts = Facts::new();
    match parameters.route(&context)? {
        Route::Files => {
            if parameters.window_ms > 0 {
                return Err(Error::refused(
                    "parameter window works with replication only",
                    "leave window out, or use the parameter source=replication",
                ));
            }
            facts.set("source-route", "files");
            facts.extend(files::plan(host, &context)?);
        }
        _ => {
            facts.set("source-route", "replication").set("window-ms", parameters.window_ms);
        }
    }
    Ok(facts)
}

/// Captures.
pub(crate) fn capture(host: &dyn Host) -> Result<Facts, Error> {
    let parameters = Parameters::parse(&host.parameters())?;
    let context = Context::of(host);
    match parameters.route(&context)? {
        Route::Files => files::capture(host, &context),
        _ => replication::capture(host, &context, &parameters),
    }
}

/// Facts that the host knows of the source, copied so that a restore finds them beside the others.
fn source_facts(context: &Context, facts: &mut Facts) {
    for key in ["server-name", "server-version", "mode"] {
        facts.set_some(key, context.get(key));
    }
}

/// A log line for users who look.
fn tell(host: &dyn Host, message: &str) {
    host.log(Level::Info, message, &[]);
}
