//! Modules in a live restore: whether the target can take their values, and what of them no command brings back.

use std::collections::BTreeSet;

use crate::host::Host;
use crate::rdb::DatasetFacts;
use crate::rdb::format::module_name;
use crate::{Attribute, Context, attribute};

/// Types of values whose modules are well known: the type in the file, and the modules, by their names in `INFO modules`,
/// of which one must be there. A type that is not here may be any module's.
const PROVIDERS: [(&str, &[&str]); 11] = [
    ("ReJSON-RL", &["ReJSON", "json"]),
    ("MBbloom--", &["bf"]),
    ("MBbloomCF", &["bf"]),
    ("CMSk-TYPE", &["bf"]),
    ("TopK-TYPE", &["bf"]),
    ("TDIS-TYPE", &["bf"]),
    ("TSDB-TYPE", &["timeseries"]),
    ("graphdata", &["graph", "falkordb"]),
    ("ft_index0", &["search"]),
    ("scdtype00", &["search"]),
    ("vectorset", &[BUILT_IN]),
];
/// The one that is no module to load.
const BUILT_IN: &str = "vectorset";
/// More names than any server has modules come from a damaged file.
const MAX_NAMES: usize = 64;

/// Warns where a live target lacks the modules whose values a dataset with these facts (of `capture`) holds, before anything is
/// touched. Never a refusal: managed services filter `INFO`, and an answer that leaves modules out looks like that of a server
/// without any. A target that takes no such value refuses it itself.
pub fn check_modules(host: &dyn Host, facts: &[Attribute]) {
    let needed: Vec<&str> = names(attribute::find(facts, "modules").unwrap_or_default()).collect();
    if needed.is_empty() {
        return;
    }
    let Some(loaded) = loaded(host) else { return };
    let lacking = lacking(&needed, &loaded);
    if lacking.is_empty() {
        return;
    }
    host.warn(&format!(
        "the backup holds values of modules that the target does not say it has loaded: {}; the restore ends at the first of them \
         that the target does not take (loadmodule in its configuration loads a module)",
        lacking.join(", ")
    ));
}

/// Warns which modules a server must load that is started on a directory with a dataset of these facts (of `capture`), or, once the
/// file was read, which more of them it needs. There is no server to ask, and one without them ends while it loads.
pub fn tell_modules(host: &dyn Host, facts: &[Attribute], read: Option<&DatasetFacts>) {
    let captured: Vec<&str> = names(attribute::find(facts, "modules").unwrap_or_default()).collect();
    let needed = match read {
        None => captured,
        Some(read) => read.modules_needed().filter(|name| !captured.contains(name)).collect(),
    };
    let has_built_in = is_redis_8(&Context::of(host));
    let named: Vec<String> =
        needed.iter().filter(|kind| !(has_built_in && **kind == BUILT_IN)).map(|kind| with_provider(kind)).collect();
    if named.is_empty() {
        return;
    }
    host.warn(&format!(
        "the backup holds data of modules that a server started on this directory must have, else it ends while it loads: {} \
         (loadmodule in its configuration loads a module)",
        named.join(", ")
    ));
}

/// Whether the server that will be started is known to have the types that came with Redis 8.
fn is_redis_8(context: &Context) -> bool {
    let major = context.get("server-version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    context.get("server-name").is_some_and(|name| name.eq_ignore_ascii_case("redis"))
        && major.is_some_and(|major| major >= 8)
}

/// A type, and the module that has it, where that is known and has another name.
fn with_provider(kind: &str) -> String {
    match PROVIDERS.iter().find(|(known, _)| *known == kind) {
        Some((_, [BUILT_IN])) => format!("{kind} (part of Redis 8)"),
        Some((_, modules)) => format!("{kind} (of module {})", modules.join(" or ")),
        None => kind.to_owned(),
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Names of the target's modules; none where it may not be asked. `MODULE LIST` would need a right of its own.
fn loaded(host: &dyn Host) -> Option<Vec<String>> {
    let info = host.redis().info(Some("modules")).ok()?;
    Some(info.iter().filter(|line| line.key == "module").filter_map(|line| name_of(&line.value)).collect())
}

/// `ReJSON` of `name=ReJSON,ver=20000,api=1,…`.
fn name_of(module: &str) -> Option<String> {
    module.split(',').find_map(|field| field.strip_prefix("name=")).map(str::to_owned)
}

/// Types that none of the loaded modules has, as far as that is known.
fn lacking<'name>(needed: &[&'name str], loaded: &[String]) -> Vec<&'name str> {
    let is_there = |name: &str| loaded.iter().any(|module| module.eq_ignore_ascii_case(name));
    let is_lacking = |kind: &str| {
        let known = PROVIDERS.iter().find(|(known, _)| *known == kind);
        loaded.is_empty() || known.is_some_and(|(_, modules)| !modules.iter().any(|name| is_there(name)))
    };
    needed.iter().copied().filter(|kind| is_lacking(kind)).collect()
}

/// The modules whose data outside keys was left out, each told once.
#[derive(Default)]
pub(super) struct LeftOut(BTreeSet<String>);

impl LeftOut {
    pub(super) fn tell(&mut self, host: &dyn Host, id: u64) {
        let name = module_name(id);
        if self.0.len() >= MAX_NAMES || self.0.contains(&name) {
            return;
        }
        let kind = with_provider(&name);
        host.warn(&format!(
            "what module {kind} keeps outside keys (e.g. definitions of indexes) is not restored: no command brings it into a \
             live server; a restore into a data directory by --target-dir keeps it"
        ));
        self.0.insert(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Level;
    use crate::testing::{FakeHost, FakeRedis};
    use rstest::rstest;

    const NONE: &[&str] = &[];
    const JSON: &[&str] =
        &["name=ReJSON,ver=20000,api=1,filters=0,usedby=[search],using=[],options=[handle-io-errors]"];

    #[rstest]
    #[case::no_value_of_a_module("", NONE, "passes")]
    #[case::there("ReJSON-RL", JSON, "passes")]
    #[case::perhaps_its("own-type0", JSON, "passes")]
    #[case::another("ReJSON-RL,TSDB-TYPE", JSON, "warns: TSDB-TYPE;")]
    #[case::bare("ReJSON-RL,own-type0", NONE, "warns: ReJSON-RL, own-type0;")]
    fn a_target_without_the_modules_is_told_before_anything_is_touched(
        #[case] modules: &str,
        #[case] loaded: &[&str],
        #[case] expected: &str,
    ) {
        let lines: Vec<(&str, &str)> = loaded.iter().map(|line| ("module", *line)).collect();
        let host = FakeHost::with_context("restore", &[("target", "server")])
            .with_redis(FakeRedis::default().with_info("modules", &lines));
        let facts = [Attribute::new("modules", modules)];
        check_modules(&host, &facts);
        let found = match host.logged.borrow_mut().pop() {
            Some((Level::Warn, line)) => format!("warns: {line}"),
            _ => "passes".to_owned(),
        };
        let (verdict, names) = expected.split_once(": ").unwrap_or((expected, ""));
        assert!(found.starts_with(verdict) && found.contains(names), "{found}");
    }

    #[test]
    fn who_starts_a_server_on_a_directory_is_told_the_modules_that_it_must_load() {
        let warned = |captured: &str, read: Option<&DatasetFacts>| {
            let host = FakeHost::with_context("restore", &[("target", "directory")]);
            tell_modules(&host, &[Attribute::new("modules", captured)], read);
            host.logged.take().pop().map(|(_, line)| line)
        };
        let line = warned("ReJSON-RL,own-type0,vectorset", None).unwrap_or_default();
        assert!(
            line.contains("ReJSON-RL (of module ReJSON or json), own-type0, vectorset (part of Redis 8) ("),
            "{line}"
        );
        assert_eq!(warned("", None), None);
        // What a module keeps outside keys is no fact of the backup, and needs the module as well.
        let mut read = DatasetFacts::new();
        for id in [0, 1 << 10] {
            crate::rdb::Visitor::module_aux(&mut read, id).expect("taken");
        }
        assert_eq!(warned("AAAAAAAAA,AAAAAAAAB", Some(&read)), None);
        let line = warned("AAAAAAAAA", Some(&read)).unwrap_or_default();
        assert!(line.contains(": AAAAAAAAB ("), "{line}");
    }

    #[test]
    fn a_target_that_may_not_be_asked_passes() {
        let host = FakeHost::with_context("restore", &[("target", "server")]);
        let facts = [Attribute::new("modules", "ReJSON-RL")];
        check_modules(&host, &facts);
        assert!(host.logged.borrow().is_empty());
    }
}
