//! Puts a backup back: into a data directory, or into an empty live server or cluster; whole or up to a point.

mod check;
mod cut;
mod directory;
mod expiry;
mod live;
mod trim;

use redkeep_sdk::rdb::restore::tell_modules;
use redkeep_sdk::{Context, Error, Facts, Host, attribute, code};

use crate::marks::Until;
use crate::parameters::Parameters;
use crate::stored::{self, Form};

/// What is known before the first byte is read.
struct Plan {
    form: Form,
    target: Target,
    parameters: Parameters,
}

/// Where to.
enum Target {
    Directory(directory::Layout),
    Live,
}

fn decide(host: &dyn Host) -> Result<Plan, Error> {
    let parameters = Parameters::parse(&host.parameters())?;
    let context = Context::of(host);
    let form = stored::form(host)?;
    let facts = host.artifacts().facts()?;
    if let Some(name) = parameters.unfit {
        return Err(Error::refused(
            format!("parameter {name} does not work with an append-only file: its commands may touch any key"),
            "restore it whole, or use a backup of the method rdb",
        ));
    }
    let fact = |key: &str| attribute::find(&facts, key);
    let target = match context.target() {
        "directory" => {
            let layout = directory::Layout::decide(&context, &fact, &form)?;
            tell_modules(host, &facts, None);
            Target::Directory(layout)
        }
        "server" | "cluster" => {
            check::target(host, &context, &facts)?;
            Target::Live
        }
        other => return Err(Error::new(code::NOT_SUPPORTED, format!("a restore into \"{other}\" is not known here"))),
    };
    Ok(Plan { form, target, parameters })
}

/// Refuses, or says what would be done.
pub(crate) fn plan(host: &dyn Host) -> Result<Facts, Error> {
    let Plan { form, target, parameters } = decide(host)?;
    let mut facts = Facts::new();
    if let Some(until) = parameters.until {
        facts.set("until", until);
    }
    match target {
        Target::Directory(layout) => {
            // Marks are small and decide at once; annotations are found only by reading everything, at the restore.
            parameters.until.map(|until| cut::by_marks(host, &form, until)).transpose()?;
            facts.set("layout", layout.describe(&form))
        }
        Target::Live => {
            // All that can refuse: by the time of a shard's restore the shards before it are written.
            let end = parameters.until.map(|until| cut::find(host, &form, until)).transpose()?;
            check::commands(host, &form, end.as_ref(), parameters.expired)?;
            facts.set("layout", "RESTORE of the snapshot, then the commands")
        }
    };
    Ok(facts)
}

/// Restores.
pub(crate) fn restore(host: &dyn Host) -> Result<Facts, Error> {
    let Plan { form, target, parameters } = decide(host)?;
    let end = parameters.until.map(|until| cut::find(host, &form, until)).transpose()?;
    let mut facts = match target {
        Target::Directory(layout) => directory::restore(host, &form, &layout, end.as_ref())?,
        Target::Live => live::restore(host, &form, end.as_ref())?,
    };
    if let Some(end) = &end {
        facts.set("restored-until", &end.description);
        facts.set_some("restored-offset", end.offset);
        if let (Some(Until::Offset(asked)), Some(reached)) = (parameters.until, end.offset)
            && reached < asked
        {
            host.warn(&format!(
                "restored up to offset {reached}, not {asked}: no command or transaction that this backup can be cut behind ends \
                 between the two"
            ));
        }
    }
    Ok(facts)
}
