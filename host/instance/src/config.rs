//! Follows the configuration that orders ask for: what Redis runs with, what it refused, what needs a restart. Pure.

use std::collections::BTreeMap;

use crate::files::APPEND_ONLY;
use crate::redis_conf::{is_allowed, unquoted};

/// What is set while Redis runs, not by a restart, when it is no longer asked for: its default is the same in every version, and
/// a restart would load another file.
const DEFAULTS: [(&str, &str); 1] = [(APPEND_ONLY, "no")];

fn with_defaults(mut directives: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (name, value) in DEFAULTS {
        directives.entry(name.to_owned()).or_insert_with(|| value.to_owned()).make_ascii_lowercase();
    }
    directives
}

/// What became of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Redis runs with it.
    Set,
    /// Redis cannot change it while it runs.
    Immutable,
    /// Redis' words.
    Refused(String),
}

/// Directives: as Redis was started or told since, and those that it did not take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configuration {
    applied: BTreeMap<String, String>,
    wanted: BTreeMap<String, String>,
    failed: BTreeMap<String, (String, Outcome)>,
}

impl Configuration {
    /// Redis was started with these.
    pub(crate) fn started(directives: &[(String, String)]) -> Self {
        let mut applied: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in directives.iter().filter(|(name, _)| is_allowed(name)) {
            // `save` may stand in several lines; `save ""` forgets those before.
            match applied.get_mut(name) {
                Some(before) if name == "save" && !before.is_empty() && !value.is_empty() => {
                    before.push(' ');
                    before.push_str(value);
                }
                _ => drop(applied.insert(name.clone(), value.clone())),
            }
        }
        let applied = with_defaults(applied);
        Self { wanted: applied.clone(), applied, failed: BTreeMap::new() }
    }

    /// But one of them was given another value for the start: what was asked for is to be set later.
    pub(crate) fn at_first(mut self, name: &str, value: &str) -> Self {
        self.applied.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What Redis runs with, as far as it was told by this program.
    pub(crate) fn applied(&self, name: &str) -> Option<&str> {
        self.applied.get(name).map(String::as_str)
    }

    /// The value that a directive is still to get.
    pub(crate) fn pending(&self, name: &str) -> Option<String> {
        let value = self.wanted.get(name).filter(|value| self.applied.get(name) != Some(value));
        value.filter(|_| !self.failed.contains_key(name)).cloned()
    }

    /// What is to be set now. Orders that say nothing of the configuration leave it as it is.
    pub(crate) fn changes(&mut self, wanted: &BTreeMap<String, String>) -> Vec<(String, String)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let wanted = wanted.iter();
        let wanted = wanted.map(|(name, value)| (name.to_ascii_lowercase(), unquoted(value.trim()).to_owned()));
        self.wanted = with_defaults(wanted.filter(|(name, _)| is_allowed(name)).collect());
        self.failed.retain(|name, (value, _)| self.wanted.get(name) == Some(value));
        self.wanted.keys().filter_map(|name| Some((name.clone(), self.pending(name)?))).collect()
    }

    /// What became of one.
    pub(crate) fn record(&mut self, name: &str, value: &str, outcome: Outcome) {
        if outcome == Outcome::Set {
            self.applied.insert(name.to_owned(), value.to_owned());
        } else {
            self.failed.insert(name.to_owned(), (value.to_owned(), outcome));
        }
    }

    /// Directives that only a restart brings: immutable ones, and those that are no longer wanted.
    pub(crate) fn restart_for(&self) -> Vec<String> {
        let immutable = self.failed.iter().filter(|(_, (_, outcome))| *outcome == Outcome::Immutable);
        let removed = self.applied.keys().filter(|name| !self.wanted.contains_key(*name));
        let mut names: Vec<String> = immutable.map(|(name, _)| name).chain(removed).cloned().collect();
        names.sort_unstable();
        names
    }

    /// Directives that Redis refused, with its words.
    pub(crate) fn refused(&self) -> BTreeMap<String, String> {
        let words = |outcome: &Outcome| match outcome {
            Outcome::Refused(words) => Some(words.clone()),
            _ => None,
        };
        self.failed.iter().filter_map(|(name, (_, outcome))| Some((name.clone(), words(outcome)?))).collect()
    }
}

/// What an error reply to `CONFIG SET` means. `known`: whether `CONFIG GET` knows the directive (6.2 says the same of
/// unknown and of immutable ones).
pub(crate) fn outcome_of(error: &str, known: bool) -> Outcome {
    if error.contains("immutable") || (known && error.contains("Unsupported CONFIG parameter")) {
        Outcome::Immutable
    } else {
        Outcome::Refused(error.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn started() -> Configuration {
        Configuration::started(&crate::redis_conf::directives("maxmemory 1gb\nsave 60 1\nsave 10 100\ndatabases 4\n"))
    }

    #[test]
    fn only_what_differs_is_set_and_only_once() {
        let mut configuration = started();
        let wanted = map(&[("maxmemory", "2gb"), ("save", "60 1 10 100"), ("databases", "8"), ("port", "1")]);
        let mut changes = configuration.changes(&wanted);
        changes.sort();
        assert_eq!(changes, [("databases".to_owned(), "8".to_owned()), ("maxmemory".to_owned(), "2gb".to_owned())]);
        configuration.record("maxmemory", "2gb", Outcome::Set);
        configuration.record("databases", "8", Outcome::Immutable);
        assert_eq!(configuration.changes(&wanted), []);
        assert_eq!(configuration.restart_for(), ["databases"]);
        assert_eq!(configuration.changes(&map(&[("maxmemory", "2gb"), ("databases", "4")])), []);
        assert_eq!(configuration.restart_for(), ["save"], "what is no longer wanted needs a restart too");
    }

    #[test]
    fn what_was_refused_is_tried_again_when_it_changes() {
        let mut configuration = started();
        let wanted = |value| map(&[("maxmemory", value), ("save", "60 1 10 100"), ("databases", "4")]);
        assert_eq!(configuration.changes(&wanted("lots")).len(), 1);
        configuration.record("maxmemory", "lots", Outcome::Refused("ERR no".to_owned()));
        assert_eq!(configuration.refused(), map(&[("maxmemory", "ERR no")]));
        assert_eq!(configuration.changes(&wanted("3gb")).len(), 1);
        assert_eq!(configuration.refused(), map(&[]));
        assert_eq!(configuration.restart_for(), Vec::<String>::new());
    }

    #[test]
    fn what_had_another_value_for_the_start_is_set_later() {
        let asked = crate::redis_conf::directives("appendonly yes\nmaxmemory 1gb\n");
        let mut configuration = Configuration::started(&asked).at_first("appendonly", "no");
        assert_eq!(configuration.pending("appendonly").as_deref(), Some("yes"));
        assert_eq!(configuration.pending("maxmemory"), None);
        let wanted = map(&[("AppendOnly", "yes"), ("maxmemory", "1gb")]);
        assert_eq!(configuration.changes(&wanted), [("appendonly".to_owned(), "yes".to_owned())]);
        configuration.record("appendonly", "yes", Outcome::Set);
        assert_eq!((configuration.pending("appendonly"), configuration.changes(&wanted)), (None, Vec::new()));
    }

    #[test]
    fn what_is_appended_no_more_needs_no_restart() {
        let asked = crate::redis_conf::directives("AppendOnly Yes\nmaxmemory 1gb\n");
        let mut configuration = Configuration::started(&asked);
        assert_eq!(configuration.changes(&map(&[("appendonly", "yes"), ("maxmemory", "1gb")])), []);
        let no = [("appendonly".to_owned(), "no".to_owned())];
        assert_eq!(configuration.changes(&map(&[("maxmemory", "1gb")])), no);
        configuration.record("appendonly", "no", Outcome::Set);
        assert_eq!(configuration.changes(&map(&[("maxmemory", "1gb")])), []);
        assert_eq!(configuration.restart_for(), Vec::<String>::new());
        let at_first = Configuration::started(&crate::redis_conf::directives("maxmemory 1gb\n"));
        let mut at_first = at_first.at_first("appendonly", "yes");
        assert_eq!(at_first.pending("appendonly").as_deref(), Some("no"));
        assert_eq!(at_first.changes(&map(&[("maxmemory", "1gb")])), no);
        assert_eq!(at_first.restart_for(), Vec::<String>::new());
    }

    #[test]
    fn orders_that_say_nothing_change_nothing() {
        let mut configuration = started();
        assert_eq!(configuration.changes(&map(&[])), []);
        assert_eq!(configuration.restart_for(), Vec::<String>::new());
    }

    #[rstest]
    #[case(
        "ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config",
        true,
        Outcome::Immutable
    )]
    #[case("ERR Unsupported CONFIG parameter: databases", true, Outcome::Immutable)]
    #[case("ERR Unsupported CONFIG parameter: nonsense", false, Outcome::Refused("ERR Unsupported CONFIG parameter: nonsense".to_owned()))]
    #[case("ERR Invalid argument 'x'", true, Outcome::Refused("ERR Invalid argument 'x'".to_owned()))]
    fn replies_are_understood(#[case] error: &str, #[case] known: bool, #[case] expected: Outcome) {
        assert_eq!(outcome_of(error, known), expected);
    }
}
