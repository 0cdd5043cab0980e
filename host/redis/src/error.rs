//! Why Redis could not be reached or would not do what was asked, with what the user can change.
//!
//! One enum for the whole crate; at the two borders it becomes a `MethodError` (plugins) or a `ProviderError` (engine).

use redkeep_core::Class;
use redkeep_core::method::{MethodError, code};
use redkeep_core::provider::ProviderError;

/// The access rules of the least ACL user that every replication backup needs.
pub const LEAST_ACL: &str = "-@all +psync +replconf +ping +info";

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The address is not well-formed.
    #[error("failed to understand the address `{given}`: {why}")]
    Address {
        /// As given, without a password.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// Settings that do not go together, or files that cannot be read.
    #[error("failed to use {what}: {why}")]
    Configuration {
        /// What was given.
        what: String,
        /// Why it cannot be used.
        why: String,
    },
    /// No connection.
    #[error("failed to connect to {address}")]
    Unreachable {
        /// The node.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The TLS handshake failed.
    #[error("failed to agree on TLS with {address}")]
    Tls {
        /// The node.
        address: String,
        /// What to change.
        help: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something else than Redis answered, or nothing understandable.
    #[error("failed to talk to {address}: {why}")]
    NotRedis {
        /// The node.
        address: String,
        /// What came instead.
        why: String,
    },
    /// No password, or a wrong one.
    #[error("failed to log in to {address}: {text}")]
    Login {
        /// The node.
        address: String,
        /// The server's words.
        text: String,
        /// What to change.
        help: String,
    },
    /// The ACL user may not run a command.
    #[error("failed to run {command} on {address}: {text}")]
    NoPermission {
        /// The node.
        address: String,
        /// The command, upper case.
        command: String,
        /// The server's words.
        text: String,
    },
    /// The server is loading its data.
    #[error("failed to read {address}: it is still loading its data")]
    Loading {
        /// The node.
        address: String,
    },
    /// A replica without its primary.
    #[error("failed to read {address}: it is a replica without a link to its primary")]
    NoPrimaryLink {
        /// The node.
        address: String,
    },
    /// Any other error reply.
    #[error("failed to run {command} on {address}: {text}")]
    Reply {
        /// The node.
        address: String,
        /// The command, upper case.
        command: String,
        /// The server's words.
        text: String,
    },
    /// The connection broke.
    #[error("failed to {act} {address}: the connection was lost")]
    Lost {
        /// What was under way.
        act: &'static str,
        /// The node.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server sent what the protocol does not allow.
    #[error("failed to understand what {address} sent at byte {position}: {why}")]
    Protocol {
        /// The node.
        address: String,
        /// Offset in the stream being read.
        position: u64,
        /// The rule broken.
        why: String,
    },
    /// The backlog does not reach back so far, or the replication id is another.
    #[error("failed to resume replication of {address} at offset {offset}: the server no longer has it")]
    NotInBacklog {
        /// The node.
        address: String,
        /// The offset asked for.
        offset: u64,
    },
    /// Not done; nothing was touched.
    #[error("{why}")]
    Refused {
        /// A stable word.
        reason: &'static str,
        /// What and why, as a whole sentence.
        why: String,
        /// The way that would work.
        help: String,
    },
    /// Nothing by this name.
    #[error("failed to find {what}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// Where else to look.
        help: String,
    },
    /// A file or directory.
    #[error("failed to {act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl AccessError {
    /// The error that an error reply stands for. `text` is the reply without its `-`.
    pub(crate) fn from_reply(address: &str, command: &str, text: &str) -> Self {
        let (address, text_owned) = (address.to_owned(), text.to_owned());
        let command = command.to_ascii_uppercase();
        match text.split([' ', '\r']).next().unwrap_or_default() {
            "NOAUTH" => Self::Login {
                address,
                text: text_owned,
                help: "give the password with --password-file or REDISCLI_AUTH".to_owned(),
            },
            "WRONGPASS" => Self::Login {
                address,
                text: text_owned,
                help:
                    "check the password (--password-file, REDISCLI_AUTH) and the user name in the URL, or whether the \
                       ACL user is enabled"
                        .to_owned(),
            },
            "NOPERM" => {
                Self::NoPermission { address, command: named_command(text).unwrap_or(command), text: text_owned }
            }
            "LOADING" => Self::Loading { address },
            "MASTERDOWN" | "NOMASTERLINK" => Self::NoPrimaryLink { address },
            "ERR" if text.contains("without any password configured") || text.contains("no password is set") => {
                Self::Login {
                    address,
                    text: text_owned,
                    help: "the server has no password: leave it out (--password-file, REDISCLI_AUTH, URL)".to_owned(),
                }
            }
            _ => Self::Reply { address, command, text: text_owned },
        }
    }

    /// What the user can do.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Address { .. } => "write redis://[user@]host:port, rediss://…, unix:///path, \
                                     redis-sentinel://host:port,…/MASTER or redis-cluster://host:port,…"
                .to_owned(),
            Self::Unreachable { .. } => "check host and port, and that the server runs and may be reached from here".to_owned(),
            Self::Tls { help, .. } | Self::Login { help, .. } | Self::Refused { help, .. } | Self::NotFound { help, .. } => {
                help.clone()
            }
            Self::NotRedis { .. } => {
                "check the port: it must be Redis or Valkey itself; for a TLS port write rediss:// instead of redis://".to_owned()
            }
            Self::NoPermission { command, .. } => format!(
                "give the ACL user the rule `+{}`; a replication backup needs at least `{LEAST_ACL}`",
                command.to_ascii_lowercase()
            ),
            Self::Loading { .. } => "wait until the server has loaded its data, or read another node".to_owned(),
            Self::NoPrimaryLink { .. } => {
                "wait until its link is up (INFO replication, master_link_status), or read the primary or another replica".to_owned()
            }
            Self::Reply { text, .. } => reply_help(text)?.to_owned(),
            Self::Lost { .. } => "see the server's log; the same run can be tried again".to_owned(),
            Self::NotInBacklog { .. } => "take a new full backup, or enlarge repl-backlog-size".to_owned(),
            Self::Configuration { .. } | Self::Protocol { .. } | Self::File { .. } => return None,
        })
    }

    /// Whether the same act may succeed when tried again.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Lost { .. }
                | Self::Loading { .. }
                | Self::NoPrimaryLink { .. }
                // A failover passes.
                | Self::Refused { reason: "SeveralPrimaries" | "SeveralDatasets" | "NoPrimary" | "NoNodeFit", .. }
        )
    }

    /// Its message and those of its causes, in one line: borders without a source field need it.
    fn whole_message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        message
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::Address { .. } => "InvalidAddress",
            Self::Configuration { .. } => "InvalidConfiguration",
            Self::Unreachable { .. } => "Unreachable",
            Self::Tls { .. } => "TlsFailed",
            Self::NotRedis { .. } => "NotRedis",
            Self::Login { .. } => "LoginFailed",
            Self::NoPermission { .. } => "PermissionMissing",
            Self::Loading { .. } => "ServerLoading",
            Self::NoPrimaryLink { .. } => "ReplicaWithoutPrimary",
            Self::Reply { .. } => "ServerReply",
            Self::Lost { .. } => "ConnectionLost",
            Self::Protocol { .. } => "ProtocolError",
            Self::NotInBacklog { .. } => "NotInBacklog",
            Self::Refused { reason, .. } => reason,
            Self::NotFound { .. } => "NotFound",
            Self::File { .. } => "FileFailed",
        }
    }

    const fn class(&self) -> Class {
        match self {
            Self::Address { .. } | Self::Configuration { .. } => Class::Usage,
            Self::Refused { .. } => Class::Refused,
            Self::NotFound { .. } => Class::NotFound,
            _ => Class::Failed,
        }
    }
}

/// The command that a `NOPERM` reply names: `User x has no permissions to run the 'config|get' command`.
fn named_command(text: &str) -> Option<String> {
    let (_, after) = text.split_once("run the '")?;
    let (name, _) = after.split_once('\'')?;
    Some(name.to_ascii_uppercase())
}

/// What to do about well-known error replies.
pub(crate) fn reply_help(text: &str) -> Option<&'static str> {
    Some(match text.split([' ', '\r']).next().unwrap_or_default() {
        "OOM" => "the target is at its maxmemory: raise it, or restore into a larger server",
        "READONLY" => "the target is a read-only replica: restore into its primary",
        "MISCONF" => "the target cannot save to its disk and refuses writes: see its log",
        "NOREPLICAS" => "the target demands replicas (min-replicas-to-write): let them connect first",
        "BUSYKEY" => "the key exists at the target: choose --on-conflict skip or replace, or an empty target",
        "MOVED" | "ASK" => "slots moved while the restore ran: wait until the cluster rests, then restore again",
        "CLUSTERDOWN" => "the cluster has uncovered slots or is failing over: repair it first",
        _ => return None,
    })
}

impl From<AccessError> for MethodError {
    fn from(error: AccessError) -> Self {
        let code = match &error {
            AccessError::NotInBacklog { .. } | AccessError::NotFound { .. } => code::NOT_FOUND,
            AccessError::Refused { .. } | AccessError::Configuration { .. } | AccessError::Address { .. } => {
                code::REFUSED
            }
            AccessError::Login { .. } | AccessError::NoPermission { .. } | AccessError::Reply { .. } => {
                code::SERVER_REPLY
            }
            _ => code::SOURCE_IO,
        };
        let mut method = Self::new(code, error.whole_message()).with_detail("reason", error.reason());
        if let Some(help) = error.help() {
            method = method.with_help(help);
        }
        method.retryable = error.is_retryable();
        method
    }
}

impl From<AccessError> for ProviderError {
    fn from(error: AccessError) -> Self {
        let mut provider = Self::new(error.class(), error.reason(), error.to_string());
        provider.help = error.help();
        provider.retryable = error.is_retryable();
        provider.source = match error {
            AccessError::Unreachable { source, .. }
            | AccessError::Tls { source, .. }
            | AccessError::Lost { source, .. }
            | AccessError::File { source, .. } => Some(Box::new(source)),
            _ => None,
        };
        provider
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_permission_names_the_rule() {
        for (text, rule) in [
            ("NOPERM this user has no permissions to run the 'psync' command or its subcommand", "`+psync`"),
            ("NOPERM User backup has no permissions to run the 'config|get' command", "`+config|get`"),
            ("NOPERM something new", "`+info`"),
        ] {
            let error = AccessError::from_reply("h:1", "info", text);
            assert!(error.help().unwrap().contains(rule), "{error}");
            assert!(!error.is_retryable());
        }
    }

    #[test]
    fn error_replies_are_told_apart() {
        assert!(matches!(
            AccessError::from_reply("a", "PING", "NOAUTH Authentication required."),
            AccessError::Login { .. }
        ));
        assert!(AccessError::from_reply("a", "PING", "LOADING Redis is loading the dataset in memory").is_retryable());
        assert!(matches!(
            AccessError::from_reply("a", "PSYNC", "NOMASTERLINK Can't SYNC while not connected with my master"),
            AccessError::NoPrimaryLink { .. }
        ));
        let reply: MethodError = AccessError::from_reply("a", "SET", "OOM command not allowed").into();
        assert_eq!(reply.code, code::SERVER_REPLY);
        assert!(redkeep_core::Classify::help(&reply).unwrap().contains("maxmemory"));
    }
}
