//! Grants: what a user lets a plugin do. Nothing is granted by default, and every host call asks here.

use std::collections::BTreeSet;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use redkeep_core::{Class, Classify};

/// What can be granted, for messages.
const VALID: &str = "redis:info, redis:replicate, redis:resume, redis:load, redis:command:NAME, redis:command:NAME|SUBCOMMAND, \
                     files:list, files:read:GLOB, files:write:GLOB, socket:connect";

/// Why a text is not a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No such capability.
    #[error("unknown grant {grant:?}")]
    Unknown {
        /// As the user wrote it.
        grant: String,
    },
    /// The part after the capability's name is missing or wrong.
    #[error("invalid grant {grant:?}: {reason}")]
    Invalid {
        /// As the user wrote it.
        grant: String,
        /// What is wrong.
        reason: String,
    },
}

impl Classify for GrantError {
    fn class(&self) -> Class {
        Class::Usage
    }

    fn reason(&self) -> &'static str {
        "InvalidGrant"
    }

    fn help(&self) -> Option<String> {
        Some(format!("valid grants are {VALID}"))
    }
}

/// One capability, as granted or requested.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grant {
    Info,
    Replicate,
    Resume,
    Load,
    /// Upper case.
    Command {
        name: String,
        subcommand: Option<String>,
    },
    ListFiles,
    ReadFiles(String),
    WriteFiles(String),
    Connect,
}

impl Grant {
    fn parse(text: &str) -> Result<Self, GrantError> {
        let unknown = || GrantError::Unknown { grant: text.to_owned() };
        let invalid = |reason: &str| GrantError::Invalid { grant: text.to_owned(), reason: reason.to_owned() };
        match text {
            "redis:info" => return Ok(Self::Info),
            "redis:replicate" => return Ok(Self::Replicate),
            "redis:resume" => return Ok(Self::Resume),
            "redis:load" => return Ok(Self::Load),
            "files:list" => return Ok(Self::ListFiles),
            "socket:connect" => return Ok(Self::Connect),
            "redis:command" => return Err(invalid("a command's name must follow, as in redis:command:BGSAVE")),
            "files:read" | "files:write" => {
                return Err(invalid("a pattern of paths must follow, as in files:read:dump.rdb"));
            }
            _ => {}
        }
        if let Some(command) = text.strip_prefix("redis:command:") {
            let word = |part: &str| {
                let fits = !part.is_empty()
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
                fits.then(|| part.to_ascii_uppercase())
                    .ok_or_else(|| invalid("a command's name is letters, digits, '.', '-' and '_'"))
            };
            return match command.split_once('|') {
                Some((name, subcommand)) => {
                    Ok(Self::Command { name: word(name)?, subcommand: Some(word(subcommand)?) })
                }
                None => Ok(Self::Command { name: word(command)?, subcommand: None }),
            };
        }
        let (glob, make): (_, fn(String) -> Self) = if let Some(glob) = text.strip_prefix("files:read:") {
            (glob, Self::ReadFiles)
        } else if let Some(glob) = text.strip_prefix("files:write:") {
            (glob, Self::WriteFiles)
        } else {
            return Err(unknown());
        };
        if glob.is_empty() || glob.chars().any(|character| character.is_whitespace() || character.is_control()) {
            return Err(invalid("a pattern of paths is not empty and has no spaces"));
        }
        matcher(glob).map_err(|error| invalid(&error.to_string()))?;
        Ok(make(glob.to_owned()))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Info => formatter.write_str("redis:info"),
            Self::Replicate => formatter.write_str("redis:replicate"),
            Self::Resume => formatter.write_str("redis:resume"),
            Self::Load => formatter.write_str("redis:load"),
            Self::Command { name, subcommand: None } => write!(formatter, "redis:command:{name}"),
            Self::Command { name, subcommand: Some(subcommand) } => {
                write!(formatter, "redis:command:{name}|{subcommand}")
            }
            Self::ListFiles => formatter.write_str("files:list"),
            Self::ReadFiles(glob) => write!(formatter, "files:read:{glob}"),
            Self::WriteFiles(glob) => write!(formatter, "files:write:{glob}"),
            Self::Connect => formatter.write_str("socket:connect"),
        }
    }
}

/// `*` stays within one folder, `**` goes on.
fn matcher(glob: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()?.compile_matcher())
}

/// A set of grants. The empty set, which is the default, grants nothing.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    all: bool,
    named: BTreeSet<Grant>,
    read: Vec<GlobMatcher>,
    write: Vec<GlobMatcher>,
}

impl Grants {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything that the plugin itself requests, and no more: for plugins that come with redkeep.
    pub fn everything_requested() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// From what a user wrote, e.g. `redis:replicate` or `redis:command:CONFIG|GET`; one error refuses all.
    pub fn parse(texts: &[String]) -> Result<Self, GrantError> {
        texts.iter().map(|text| Grant::parse(text)).collect::<Result<Vec<_>, _>>().map(Self::from_grants)
    }

    /// What a plugin requests, required or not. A required request that this host does not know is an error; one that the
    /// plugin can do without is left out, so that a plugin may ask for what only newer hosts have.
    pub(crate) fn parse_requests(requests: &[String]) -> Result<Self, GrantError> {
        let mut grants = Vec::new();
        for request in requests {
            match request.strip_prefix('?') {
                Some(optional) => grants.extend(Grant::parse(optional)),
                None => grants.push(Grant::parse(request)?),
            }
        }
        Ok(Self::from_grants(grants))
    }

    fn from_grants(grants: impl IntoIterator<Item = Grant>) -> Self {
        let grants: BTreeSet<Grant> = grants.into_iter().collect();
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for grant in &grants {
            // Compiled once already when it was parsed.
            match grant {
                Grant::ReadFiles(glob) => read.extend(matcher(glob)),
                Grant::WriteFiles(glob) => write.extend(matcher(glob)),
                _ => {}
            }
        }
        Self { all: false, named: grants, read, write }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        !self.all && self.named.is_empty()
    }

    /// Each grant, as it would be written.
    pub fn names(&self) -> Vec<String> {
        self.named.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn has(&self, grant: &Grant) -> bool {
        self.all || self.named.contains(grant)
    }

    /// Whether this command passes; `arguments` begin with its name. Commands are lists of arguments all the way to the
    /// server, so that nothing in an argument can become a second command.
    pub(crate) fn command<Bytes: AsRef<[u8]>>(&self, arguments: &[Bytes]) -> bool {
        let Some(name) = arguments.first().and_then(|name| std::str::from_utf8(name.as_ref()).ok()) else {
            return false;
        };
        if self.all {
            return true;
        }
        let name = name.to_ascii_uppercase();
        if self.named.contains(&Grant::Command { name: name.clone(), subcommand: None }) {
            return true;
        }
        let subcommand = arguments.get(1).and_then(|word| std::str::from_utf8(word.as_ref()).ok());
        subcommand.is_some_and(|word| {
            self.named.contains(&Grant::Command { name, subcommand: Some(word.to_ascii_uppercase()) })
        })
    }

    pub(crate) fn reads(&self, path: &str) -> bool {
        self.all || self.read.iter().any(|glob| glob.is_match(path))
    }

    pub(crate) fn writes(&self, path: &str) -> bool {
        self.all || self.write.iter().any(|glob| glob.is_match(path))
    }

    fn covers(&self, request: &Grant) -> bool {
        if self.has(request) {
            return true;
        }
        match request {
            Grant::Command { name, subcommand: Some(_) } => {
                self.has(&Grant::Command { name: name.clone(), subcommand: None })
            }
            // A pattern within another pattern: only the plain cases, else it must be granted as it was requested.
            Grant::ReadFiles(glob) => self.has(&Grant::ReadFiles("**".into())) || (is_plain(glob) && self.reads(glob)),
            Grant::WriteFiles(glob) => {
                self.has(&Grant::WriteFiles("**".into())) || (is_plain(glob) && self.writes(glob))
            }
            _ => false,
        }
    }
}

fn is_plain(glob: &str) -> bool {
    !glob.contains(['*', '?', '[', ']', '{', '}', '\\', '!'])
}

/// The requests of a plugin (`MethodInfo::requests`) that it cannot do without and that are not granted.
pub fn missing(requests: &[String], grants: &Grants) -> Vec<String> {
    let required = requests.iter().filter(|request| !request.starts_with('?'));
    required.filter(|request| !Grant::parse(request).is_ok_and(|request| grants.covers(&request))).cloned().collect()
}

/// One request of a plugin, and whether it is granted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// E.g. `redis:command:BGSAVE`.
    pub name: String,
    /// The plugin can do without.
    pub optional: bool,
    /// Whether the grants cover it.
    pub granted: bool,
}

/// Every request of a plugin and how it stands, in the plugin's order.
pub fn standing(requests: &[String], grants: &Grants) -> Vec<Standing> {
    let standing = |request: &String| {
        let (name, optional) = request.strip_prefix('?').map_or((request.as_str(), false), |name| (name, true));
        let granted = Grant::parse(name).is_ok_and(|request| grants.covers(&request));
        Standing { name: name.to_owned(), optional, granted }
    };
    requests.iter().map(standing).collect()
}

/// What a call may do: what was granted *and* requested (a plugin cannot use by surprise what it did not ask for).
#[derive(Clone, Debug, Default)]
pub(crate) struct Permissions {
    granted: Grants,
    requested: Grants,
}

impl Permissions {
    pub(crate) fn new(granted: Grants, requested: Grants) -> Self {
        Self { granted, requested }
    }

    /// The names of what can be used.
    pub(crate) fn names(&self) -> Vec<String> {
        if self.granted.all {
            return self.requested.names();
        }
        let both = |grant: &&Grant| self.granted.covers(grant) && self.requested.covers(grant);
        let all: BTreeSet<&Grant> = self.granted.named.union(&self.requested.named).collect();
        all.into_iter().filter(both).map(ToString::to_string).collect()
    }

    pub(crate) fn check(
        &self,
        wanted: &str,
        test: impl Fn(&Grants) -> bool,
    ) -> Result<(), redkeep_core::method::MethodError> {
        use redkeep_core::method::{MethodError, code};
        if !test(&self.granted) {
            return Err(MethodError::new(code::DENIED, format!("{wanted} is not granted to the plugin"))
                .with_help(format!("if the plugin may do this, add --grant {}", quoted(wanted))));
        }
        if !test(&self.requested) {
            return Err(MethodError::new(
                code::DENIED,
                format!("{wanted} is used by the plugin, but it does not say so in its requests"),
            )
            .with_help("this is a defect of the plugin: tell its author this message"));
        }
        Ok(())
    }
}

/// `grant` as a shell takes it.
pub(crate) fn quoted(grant: &str) -> String {
    if grant.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":/._-".contains(&byte)) {
        grant.to_owned()
    } else {
        format!("'{}'", grant.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        Grants::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[rstest]
    #[case("redis")]
    #[case("redis:inf")]
    #[case("redis:command:")]
    #[case("redis:command:*")]
    #[case("redis:command:CONFIG|")]
    #[case("redis:command:CONFIG GET")]
    #[case("redis:command")]
    #[case("files:read")]
    #[case("files:read:")]
    #[case("files:write:[")]
    #[case("?redis:info")]
    #[case("")]
    fn what_is_not_a_grant_is_refused_with_the_valid_ones(#[case] text: &str) {
        let error = Grants::parse(&["redis:info".to_owned(), text.to_owned()]).unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        let valid = "valid grants are redis:info, redis:replicate, redis:resume, redis:load, redis:command:NAME, \
                     redis:command:NAME|SUBCOMMAND, files:list, files:read:GLOB, files:write:GLOB, socket:connect";
        assert_eq!(error.help().as_deref(), Some(valid));
        assert_eq!(error.class(), Class::Usage);
    }

    #[rstest]
    #[case(&["BGSAVE"], true)]
    #[case(&["bgsave", "SCHEDULE"], true)]
    #[case(&["CONFIG", "get", "dir"], true)]
    #[case(&["CONFIG"], false)]
    #[case(&["CONFIG", "SET", "dir"], false)]
    #[case(&["CONFIG|GET"], false)]
    #[case(&["FLUSHALL"], false)]
    #[case(&["BGSAVE\r\nFLUSHALL"], false)]
    #[case(&["BGSAVE "], false)]
    #[case(&[""], false)]
    #[case(&[], false)]
    fn only_granted_commands_pass(#[case] command: &[&str], #[case] passes: bool) {
        assert_eq!(grants(&["redis:command:BGSAVE", "redis:command:config|GET"]).command(command), passes);
        assert!(!Grants::none().command(command));
    }

    #[test]
    fn a_star_stays_in_its_folder() {
        let grants = grants(&["files:read:*.rdb", "files:write:appendonlydir/**"]);
        assert!(grants.reads("dump.rdb") && !grants.reads("sub/dump.rdb") && !grants.reads("appendonlydir/x"));
        assert!(grants.writes("appendonlydir/a/b") && !grants.writes("dump.rdb"));
    }

    #[test]
    fn a_missing_required_request_is_named_and_an_optional_one_is_not() {
        let requests: Vec<String> = [
            "redis:replicate",
            "?redis:command:BGSAVE",
            "redis:command:CONFIG|GET",
            "files:read:a.rdb",
            "socket:connect",
            "?socket:listen",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(missing(&requests, &Grants::none()).len(), 4);
        let granted = grants(&["redis:replicate", "redis:command:config", "files:read:*.rdb"]);
        assert_eq!(missing(&requests, &granted), ["socket:connect"]);
        let granted = grants(&["redis:replicate", "redis:command:config", "files:read:*.rdb", "socket:connect"]);
        assert!(missing(&requests, &granted).is_empty());
        assert!(missing(&requests[..4], &Grants::everything_requested()).is_empty());
        assert!(Grants::parse_requests(&requests).is_ok());
        assert!(Grants::parse_requests(&["socket:listen".to_owned()]).is_err());
    }

    #[test]
    fn every_request_is_granted_or_missing() {
        let requests = ["redis:replicate", "?redis:command:CONFIG|GET", "?socket:listen"].map(str::to_owned);
        let found = standing(&requests, &grants(&["redis:command:CONFIG"]));
        let found: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.optional, one.granted)).collect();
        assert_eq!(
            found,
            [
                ("redis:replicate", false, false),
                ("redis:command:CONFIG|GET", true, true),
                ("socket:listen", true, false)
            ]
        );
        assert!(standing(&requests, &Grants::none()).iter().all(|one| !one.granted));
    }

    #[test]
    fn a_grant_without_a_request_does_not_help() {
        let permissions =
            Permissions::new(grants(&["redis:info", "redis:load"]), grants(&["redis:info", "redis:resume"]));
        assert!(permissions.check("redis:info", |grants| grants.has(&Grant::Info)).is_ok());
        let load = permissions.check("redis:load", |grants| grants.has(&Grant::Load)).unwrap_err();
        assert!(load.message.contains("requests"), "{load}");
        let resume = permissions.check("redis:resume", |grants| grants.has(&Grant::Resume)).unwrap_err();
        assert_eq!(resume.help().unwrap(), "if the plugin may do this, add --grant redis:resume");
        assert_eq!(permissions.names(), ["redis:info"]);
    }

    #[test]
    fn a_grant_is_quoted_for_the_shell() {
        assert_eq!(quoted("redis:command:CONFIG|GET"), "'redis:command:CONFIG|GET'");
    }
}
