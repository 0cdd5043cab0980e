//! How a Redis server is reached: password, user, TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use redkeep_core::secret::{Secret, SecretRef};
use redkeep_core::task::{EndpointSpec, NodePreference, TlsSpec};

use super::address::{self, Address, ServerAddress};
use super::keys::secret_file;
use super::values::renamed_command;
use crate::output::failure::Failure;

/// The variable that `redis-cli` reads its password from.
pub(crate) const PASSWORD_VARIABLE: &str = "REDISCLI_AUTH";

/// Towards Redis; the password may also stand in REDISCLI_AUTH.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Redis connection")]
pub(crate) struct ConnectionArgs {
    /// ACL user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File that holds the password (- is standard input) [else: variable REDISCLI_AUTH]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// File that holds the Sentinels' own password
    #[arg(long, value_name = "FILE")]
    sentinel_password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's (PEM)
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long)]
    insecure_skip_verify: bool,
    /// A command that the server has renamed; may be given several times
    #[arg(long, value_name = "NAME=NEW", value_parser = renamed_command)]
    rename_command: Vec<(String, String)>,
}

/// What the machine says about an endpoint: the only things that are not arguments.
pub(crate) struct Surroundings<'a> {
    /// Whether [`PASSWORD_VARIABLE`] is set.
    pub(crate) has_password_variable: bool,
    /// Whether a path is an existing directory.
    pub(crate) is_directory: &'a dyn Fn(&Path) -> bool,
}

/// An endpoint; a password that stood in the URL is beside it, never in it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As the engine takes it.
    pub(crate) spec: EndpointSpec,
    /// To be put where `spec.password` can point at.
    pub(crate) url_password: Option<Secret>,
}

impl ConnectionArgs {
    /// A source: a server, several, or a data directory; `data_dir` is the server's, where it is readable here.
    pub(crate) fn source(
        &self,
        text: &str,
        data_dir: Option<&Path>,
        node: NodePreference,
        surroundings: &Surroundings<'_>,
    ) -> Result<Endpoint, Failure> {
        match address::parse(text, surroundings.is_directory)? {
            Address::Server(server) => {
                let mut endpoint = self.server(server, surroundings)?;
                endpoint.spec.data_dir = data_dir.map(Path::to_owned);
                endpoint.spec.node = node;
                Ok(endpoint)
            }
            Address::Directory(_) if data_dir.is_some() => {
                Err(Failure::usage("the source is a data directory already, and --data-dir names another")
                    .with_help("leave --data-dir out, or give the server's URL as --source"))
            }
            Address::Directory(path) => {
                let spec = EndpointSpec { data_dir: Some(path), ..EndpointSpec::default() };
                Ok(Endpoint { spec, url_password: None })
            }
        }
    }

    /// A live target: servers only.
    pub(crate) fn target(&self, text: &str, surroundings: &Surroundings<'_>) -> Result<Endpoint, Failure> {
        match address::parse(text, surroundings.is_directory)? {
            Address::Server(server) => {
                let mut endpoint = self.server(server, surroundings)?;
                // Writes go to primaries.
                endpoint.spec.node = NodePreference::Primary;
                Ok(endpoint)
            }
            Address::Directory(path) => Err(Failure::usage("--target takes a running server, and this is a directory")
                .with_help(format!("use --target-dir {}", path.display()))),
        }
    }

    fn server(&self, server: ServerAddress, surroundings: &Surroundings<'_>) -> Result<Endpoint, Failure> {
        let tls = TlsSpec {
            ca_file: self.cacert.clone(),
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            insecure_skip_verify: self.insecure_skip_verify,
            client_certificate_if_present: false,
        };
        let is_plain = ["redis://", "unix://", "tcp://"].iter().any(|scheme| server.url.starts_with(scheme));
        if is_plain && tls != TlsSpec::default() {
            return Err(Failure::usage("TLS options are given, but the address is one without TLS")
                .with_help("write rediss:// (or tls:// for another system) to use TLS, or leave the TLS options out"));
        }
        let is_other_system = server.url.starts_with("tcp://") || server.url.starts_with("tls://");
        let password = match (&server.password, &self.password_file) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage("there is a password in the address and another in --password-file")
                    .with_help("take the password out of the address"));
            }
            (Some(_), None) => None,
            (None, Some(file)) => Some(secret_file(file)),
            // The variable is redis-cli's: other systems have nothing to do with it.
            (None, None) if is_other_system => None,
            (None, None) => surroundings.has_password_variable.then(|| SecretRef::Env(PASSWORD_VARIABLE.to_owned())),
        };
        if let (Some(first), Some(second)) = (&server.username, &self.user)
            && first != second
        {
            return Err(
                Failure::usage("the address names one user and --user another").with_help("leave one of them out")
            );
        }
        let spec = EndpointSpec {
            url: Some(server.url),
            username: server.username.or_else(|| self.user.clone()),
            password,
            sentinel_password: self.sentinel_password_file.as_deref().map(secret_file),
            tls,
            renamed_commands: self.rename_command.iter().cloned().collect(),
            ..EndpointSpec::default()
        };
        Ok(Endpoint { spec, url_password: server.password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Surroundings<'static> =
        Surroundings { has_password_variable: false, is_directory: &|path: &Path| path == Path::new("/data") };
    const WITH_VARIABLE: Surroundings<'static> =
        Surroundings { has_password_variable: true, is_directory: &|_: &Path| false };

    fn with_file() -> ConnectionArgs {
        ConnectionArgs { password_file: Some("/run/password".into()), ..ConnectionArgs::default() }
    }

    #[test]
    fn the_password_comes_from_the_url_else_the_file_else_the_variable() {
        let source = |args: &ConnectionArgs, url: &str, surroundings: &Surroundings<'_>| {
            args.source(url, None, NodePreference::default(), surroundings).unwrap()
        };
        let from_url = source(&ConnectionArgs::default(), "redis://:s3cret@h", &WITH_VARIABLE);
        assert_eq!(from_url.url_password, Some(Secret::new("s3cret")));
        assert_eq!(from_url.spec.password, None);
        assert!(!serde_json::to_string(&from_url.spec).unwrap().contains("s3cret"));
        let from_file = source(&with_file(), "redis://h", &WITH_VARIABLE);
        assert_eq!(from_file.spec.password, Some(SecretRef::File("/run/password".into())));
        let from_variable = source(&ConnectionArgs::default(), "redis://h", &WITH_VARIABLE);
        assert_eq!(from_variable.spec.password, Some(SecretRef::Env("REDISCLI_AUTH".into())));
        assert_eq!(source(&ConnectionArgs::default(), "redis://h", &ALONE).spec.password, None);
    }

    #[test]
    fn what_contradicts_itself_is_a_usage_error() {
        let bob = ConnectionArgs { user: Some("bob".into()), ..ConnectionArgs::default() };
        let tls = ConnectionArgs { insecure_skip_verify: true, ..ConnectionArgs::default() };
        for (args, url) in [
            (with_file(), "redis://:other@h"),
            (bob, "redis://alice@h"),
            (tls.clone(), "redis://h"),
            (tls, "unix:///run/redis.sock"),
        ] {
            let failure = args.source(url, None, NodePreference::default(), &ALONE).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{url}");
            assert!(failure.help.is_some(), "{url}");
        }
        let twice = ConnectionArgs::default()
            .source("/data", Some(Path::new("/other")), NodePreference::default(), &ALONE)
            .unwrap_err();
        assert_eq!(twice.exit_code(), 2);
    }

    #[test]
    fn a_directory_is_a_source_but_no_live_target() {
        let args = ConnectionArgs::default();
        let source = args.source("/data", None, NodePreference::default(), &WITH_VARIABLE).unwrap();
        assert_eq!(source.spec, EndpointSpec { data_dir: Some("/data".into()), ..EndpointSpec::default() });
        let failure = args.target("/data", &ALONE).unwrap_err();
        assert_eq!((failure.exit_code(), failure.help.as_deref()), (2, Some("use --target-dir /data")));
    }

    #[test]
    fn another_system_takes_tls_and_no_password_of_redis() {
        let args = ConnectionArgs { cacert: Some("/ca.pem".into()), ..ConnectionArgs::default() };
        let source = args.source("tls://zoo:2281", None, NodePreference::default(), &WITH_VARIABLE).unwrap();
        assert_eq!(source.spec.password, None);
        assert_eq!(source.spec.tls.ca_file.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(args.target("tcp://zoo:2181", &ALONE).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_target_is_always_a_primary() {
        let target = ConnectionArgs::default().target("redis-cluster://a:1,b:2", &ALONE).unwrap();
        assert_eq!(target.spec.node, NodePreference::Primary);
    }
}
