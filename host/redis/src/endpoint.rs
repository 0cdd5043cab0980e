//! Addresses as users write them, taken apart: which kind of deployment, which hosts, with or without TLS.
//!
//! A password in an address is accepted, and never printed again.

use std::fmt;

use redkeep_core::secret::Secret;

use crate::error::AccessError;

/// The port of Redis where none is given.
const REDIS_PORT: u16 = 6379;
/// The port of a Sentinel where none is given.
const SENTINEL_PORT: u16 = 26379;

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp {
        /// Name or number, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// The kinds of deployment an address can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// One server, read itself.
    Standalone(Address),
    /// A primary and its replicas, found through Sentinels.
    Sentinel {
        /// Any of the Sentinels.
        sentinels: Vec<Address>,
        /// The name that the Sentinels know it by.
        primary: String,
    },
    /// A Redis Cluster, found through any of its nodes.
    Cluster(Vec<Address>),
    /// Primary and replicas of one shard; which is which, they say themselves.
    Nodes(Vec<Address>),
}

/// An address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    /// What it names.
    pub deployment: Deployment,
    /// Whether servers are spoken to over TLS.
    pub tls: bool,
    /// ACL user in the address.
    pub username: Option<String>,
    /// Password in the address.
    pub password: Option<Secret>,
}

impl EndpointUrl {
    /// Takes an address apart. `redis-sentinel`, `redis-cluster` and `redis-nodes` take TLS from the scheme's form with a double `s`
    /// (`rediss-sentinel`, …) or from `?tls=true`.
    ///
    /// # Errors
    /// `Address`, with the password left out.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let invalid = |why: &str| AccessError::Address { given: without_password(text), why: why.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme such as redis://"))?;
        if scheme == "unix" || scheme == "redis+unix" {
            let path = rest.split('?').next().unwrap_or_default();
            if !path.starts_with('/') {
                return Err(invalid("the path of a Unix socket must be absolute: unix:///run/redis.sock"));
            }
            let address = Address::Unix(percent_decode(path).ok_or_else(|| invalid("broken % escape"))?.into());
            return Ok(Self {
                deployment: Deployment::Standalone(address),
                tls: false,
                username: None,
                password: None,
            });
        }
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let (user_info, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (username, password) = match user_info {
            None => (None, None),
            Some(info) => {
                let (user, password) = info.split_once(':').map_or((info, None), |(user, word)| (user, Some(word)));
                let decode = |part: &str| percent_decode(part).ok_or_else(|| invalid("broken % escape"));
                let user = decode(user)?;
                (Some(user).filter(|user| !user.is_empty()), password.map(decode).transpose()?.map(Secret::new))
            }
        };
        let query_tls = query.split('&').any(|pair| pair == "tls=true");
        let (tls, kind) = match scheme {
            "redis" | "valkey" => (false, "redis"),
            "rediss" | "valkeys" => (true, "redis"),
            "redis-sentinel" => (query_tls, "sentinel"),
            "rediss-sentinel" => (true, "sentinel"),
            "redis-cluster" => (query_tls, "cluster"),
            "rediss-cluster" => (true, "cluster"),
            "redis-nodes" => (query_tls, "nodes"),
            "rediss-nodes" => (true, "nodes"),
            _ => return Err(invalid("its scheme is not known")),
        };
        let port = if kind == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
        let addresses = hosts
            .split(',')
            .map(|host| parse_host(host, port).ok_or_else(|| invalid("a host or port in it is not well-formed")))
            .collect::<Result<Vec<_>, _>>()?;
        let deployment = match kind {
            "sentinel" => {
                let primary = percent_decode(path.trim_end_matches('/')).ok_or_else(|| invalid("broken % escape"))?;
                if primary.is_empty() {
                    return Err(invalid("the name of the primary is missing: redis-sentinel://host:port/mymaster"));
                }
                Deployment::Sentinel { sentinels: addresses, primary }
            }
            "cluster" => Deployment::Cluster(addresses),
            "nodes" => Deployment::Nodes(addresses),
            _ => {
                if !matches!(path.trim_end_matches('/'), "" | "0") {
                    return Err(invalid("a database number has no meaning here: every database is read"));
                }
                let mut addresses = addresses.into_iter();
                match (addresses.next(), addresses.next()) {
                    (Some(address), None) => Deployment::Standalone(address),
                    _ => {
                        return Err(invalid(
                            "several hosts need redis-cluster://, redis-sentinel:// or redis-nodes://",
                        ));
                    }
                }
            }
        };
        Ok(Self { deployment, tls, username, password })
    }
}

impl fmt::Display for EndpointUrl {
    /// As a user would write it, without user and password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secure = if self.tls { "s" } else { "" };
        let join = |list: &[Address]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match &self.deployment {
            Deployment::Standalone(Address::Unix(path)) => write!(formatter, "unix://{}", path.display()),
            Deployment::Standalone(address) => write!(formatter, "redis{secure}://{address}"),
            Deployment::Sentinel { sentinels, primary } => {
                write!(formatter, "redis{secure}-sentinel://{}/{primary}", join(sentinels))
            }
            Deployment::Cluster(nodes) => write!(formatter, "redis{secure}-cluster://{}", join(nodes)),
            Deployment::Nodes(nodes) => write!(formatter, "redis{secure}-nodes://{}", join(nodes)),
        }
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(crate) fn parse_host(text: &str, default_port: u16) -> Option<Address> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
    } else {
        text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    if host.is_empty() || host.contains([' ', '/', '@']) || (!text.starts_with('[') && host.contains(':')) {
        return None;
    }
    let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|port| *port != 0))?;
    Some(Address::Tcp { host: host.to_owned(), port })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut input = text.bytes();
    while let Some(byte) = input.next() {
        if byte == b'%' {
            let digits = [input.next()?, input.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The address with `***` for what may be a password.
fn without_password(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    if scheme.is_empty() { format!("***@{after}") } else { format!("{scheme}://***@{after}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("redis://h", "redis://h:6379")]
    #[case("redis://h:1/", "redis://h:1")]
    #[case("redis://h:1/0", "redis://h:1")]
    #[case("valkey://h:1", "redis://h:1")]
    #[case("rediss://user:pass@[::1]:7", "rediss://[::1]:7")]
    #[case("unix:///run/redis.sock", "unix:///run/redis.sock")]
    #[case("redis-sentinel://a,b:2/mymaster", "redis-sentinel://a:26379,b:2/mymaster")]
    #[case("redis-cluster://a,b:2", "redis-cluster://a:6379,b:2")]
    #[case("redis-cluster://a?tls=true", "rediss-cluster://a:6379")]
    #[case("redis-nodes://a,b:2", "redis-nodes://a:6379,b:2")]
    #[case("rediss-nodes://u:p@a,[::1]:2", "rediss-nodes://a:6379,[::1]:2")]
    fn addresses_are_read_and_written(#[case] given: &str, #[case] written: &str) {
        let url = EndpointUrl::parse(given).unwrap();
        assert_eq!(url.to_string(), written);
        let again = EndpointUrl::parse(written).unwrap();
        assert_eq!((again.deployment, again.tls), (url.deployment, url.tls));
    }

    #[test]
    fn user_and_password_are_taken_and_never_printed() {
        let url = EndpointUrl::parse("redis://backup:p%40ss:w@rd@h:1").unwrap();
        assert_eq!(url.username.as_deref(), Some("backup"));
        assert_eq!(url.password.as_ref().unwrap().expose(), "p@ss:w@rd");
        assert!(!format!("{url} {url:?}").contains("ss:w"));
        let url = EndpointUrl::parse("redis://:word@h").unwrap();
        assert_eq!((url.username, url.password.unwrap().expose()), (None, "word"));
    }

    #[rstest]
    #[case("h:6379")]
    #[case("http://h")]
    #[case("redis://")]
    #[case("redis://h:0")]
    #[case("redis://h:x")]
    #[case("redis://h:65536")]
    #[case("redis://a,b")]
    #[case("redis://h/3")]
    #[case("redis://::1")]
    #[case("unix://relative")]
    #[case("redis-sentinel://h")]
    #[case("redis-cluster://a,,b")]
    #[case("redis-nodes://")]
    #[case("redis://u:secret%zz@h")]
    fn broken_addresses_are_refused_without_their_password(#[case] given: &str) {
        let error = EndpointUrl::parse(given).unwrap_err();
        assert!(matches!(error, AccessError::Address { .. }));
        assert!(!error.to_string().contains("secret"));
    }
}
