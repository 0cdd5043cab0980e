//! What `--source` and `--target` name: a server, several, or a data directory. Takes user and password out of a URL at once.
//!
//! Errors never repeat a URL that may hold a password.

use std::path::{Path, PathBuf};

use redkeep_core::secret::Secret;

use crate::output::failure::Failure;

/// The schemes and their forms, for errors.
const FORMS: &str = "redis://[user[:password]@]host:port, rediss://…, unix:///path, redis-sentinel://host:port,…/MASTER, \
                     redis-cluster://host:port,…, redis-nodes://host:port,…, a data directory as a path or file:///dir, or tcp://host:port, \
                     tls://host:port for the methods of other systems (a login: tcp://user@host:port?login=NAME)";

/// A source or target as the user wrote it, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A data directory alone.
    Directory(PathBuf),
    /// One or several servers.
    Server(ServerAddress),
}

/// Servers; the URL has neither user nor password any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    /// E.g. `redis://10.0.0.5:6379`.
    pub(crate) url: String,
    /// From the URL, percent-decoded.
    pub(crate) username: Option<String>,
    /// From the URL, percent-decoded.
    pub(crate) password: Option<Secret>,
}

/// Takes an address apart. `is_directory` says whether a path is an existing directory.
pub(crate) fn parse(text: &str, is_directory: &dyn Fn(&Path) -> bool) -> Result<Address, Failure> {
    let Some((scheme, rest)) = text.split_once("://") else { return directory(text, is_directory) };
    match scheme {
        "file" => match rest {
            path if path.starts_with('/') => Ok(Address::Directory(PathBuf::from(path))),
            _ => Err(wrong("a file:// address needs a whole path").with_help("write file:///dir, with three slashes")),
        },
        "redis" | "rediss" | "unix" | "redis-sentinel" | "redis-cluster" | "redis-nodes" => {
            server(scheme, rest).map(Address::Server)
        }
        "tcp" | "tls" => stream(scheme, rest).map(Address::Server),
        _ => Err(wrong(&format!("`{scheme}://` is not a scheme that redkeep knows")).with_help(format!("use {FORMS}"))),
    }
}

fn wrong(message: &str) -> Failure {
    Failure::usage(message)
}

fn directory(text: &str, is_directory: &dyn Fn(&Path) -> bool) -> Result<Address, Failure> {
    let path = PathBuf::from(text);
    if text.contains('/') || text == "." || text == ".." || is_directory(&path) {
        // `user:password@host/…` without its scheme must not be taken for, and printed as, a path.
        if text.contains('@') && !is_directory(&path) {
            return Err(
                wrong("the address is neither a URL nor an existing directory").with_help(format!("use {FORMS}"))
            );
        }
        return Ok(Address::Directory(path));
    }
    let help = if text.contains('@') || text.is_empty() {
        format!("use {FORMS}")
    } else {
        format!("write redis://{text} for a server, ./{text} for a data directory")
    };
    Err(wrong("the address is neither a URL nor an existing directory").with_help(help))
}

fn server(scheme: &str, rest: &str) -> Result<ServerAddress, Failure> {
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (userinfo, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    // A slash in a password ends the authority too early: what follows would be kept, and shown, as part of the path.
    let path_may_hold_a_secret = path.contains('@') || hosts.contains(['?', '#']) || path.contains(['?', '#']);
    if path_may_hold_a_secret {
        return Err(wrong("the address has `@`, `?` or `#` where none can be").with_help(
            "percent-encode `/`, `@`, `?` and `#` in user and password, or better use --user and --password-file",
        ));
    }
    check_shape(scheme, hosts, path)?;
    let (username, password) = credentials(userinfo)?;
    Ok(ServerAddress { url: format!("{scheme}://{hosts}{}", if path == "/" { "" } else { path }), username, password })
}

/// How an address of another system names the login that the host is to do.
const LOGIN: &str = "?login=";

/// Another system's server: of it only host and port are known, and perhaps the login.
fn stream(scheme: &str, rest: &str) -> Result<ServerAddress, Failure> {
    let help = || format!("write {scheme}://host:port, or {scheme}://USER@host:port{LOGIN}NAME with --password-file");
    let (rest, login) = match rest.rsplit_once(LOGIN) {
        Some((rest, login)) => (rest, Some(login)),
        None => (rest, None),
    };
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let (userinfo, hosts) = rest.rsplit_once('@').map_or((None, rest), |(user, hosts)| (Some(user), hosts));
    let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
    // A slash in a password ends nothing here, but what is not a host must not be kept, and shown, as one.
    if hosts.contains(['@', '?', '#']) || login.is_some_and(|login| !is_name(login)) {
        return Err(wrong("the address has `@`, `?` or `#` where none can be").with_help(help()));
    }
    if userinfo.is_some() && login.is_none() {
        return Err(wrong("the address has a user, and nothing would use it").with_help(help()));
    }
    let has_port = hosts.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
    });
    if !has_port || hosts.contains(['/', ',']) {
        return Err(wrong("the address is not one host and its port").with_help(help()));
    }
    let (username, password) = credentials(userinfo)?;
    let login = login.map(|login| format!("{LOGIN}{login}")).unwrap_or_default();
    Ok(ServerAddress { url: format!("{scheme}://{hosts}{login}"), username, password })
}

/// User and password as they stand before the `@`; empty ones are none.
fn credentials(userinfo: Option<&str>) -> Result<(Option<String>, Option<Secret>), Failure> {
    let Some(userinfo) = userinfo else { return Ok((None, None)) };
    let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(user, word)| (user, Some(word)));
    let password = password.map(decode).transpose()?.filter(|password| !password.is_empty());
    Ok((Some(decode(user)?).filter(|user| !user.is_empty()), password.map(Secret::new)))
}

fn check_shape(scheme: &str, hosts: &str, path: &str) -> Result<(), Failure> {
    let missing_host = hosts.is_empty() || hosts.split(',').any(str::is_empty);
    match scheme {
        "unix" if !hosts.is_empty() || path.len() < 2 => {
            Err(wrong("a unix:// address needs the socket's whole path").with_help("write unix:///run/redis/redis.sock"))
        }
        "redis-sentinel" if missing_host || path.len() < 2 || path[1..].contains('/') => {
            Err(wrong("a redis-sentinel:// address needs the Sentinels and the name of the primary they watch")
                .with_help("write redis-sentinel://host:26379,host:26379/mymaster"))
        }
        "unix" | "redis-sentinel" => Ok(()),
        _ if missing_host => {
            Err(wrong("the address has no host").with_help(format!("write {scheme}://host:6379")))
        }
        "redis" | "rediss" if hosts.contains(',') => Err(wrong("the address names several hosts")
            .with_help("use redis-cluster://host:port,… for a cluster, redis-sentinel://host:port,…/MASTER for Sentinels, \
                        redis-nodes://host:port,… for a primary and its replicas")),
        _ if path.len() > 1 => Err(wrong(&format!("the address ends in `{path}`, which has no meaning here")).with_help(
            "a backup takes every database of the server; leave the number out, and choose databases with --db when restoring",
        )),
        _ => Ok(()),
    }
}

/// Percent-decodes; what is not a `%XX` stays as it is.
fn decode(text: &str) -> Result<String, Failure> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        let hexadecimal = bytes.get(position + 1..position + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = hexadecimal
            .filter(|pair| byte == b'%' && pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(value.unwrap_or(byte));
        position += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).map_err(|_| wrong("the user or password in the address is not UTF-8 when decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Address, Failure> {
        parse(text, &|path| path == Path::new("existing"))
    }

    fn server_of(text: &str) -> ServerAddress {
        match parsed(text) {
            Ok(Address::Server(server)) => server,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn user_and_password_leave_the_url() {
        for (text, url, user, password) in [
            ("redis://host:6379", "redis://host:6379", None, None),
            ("redis://host:6379/", "redis://host:6379", None, None),
            ("redis://bob@host", "redis://host", Some("bob"), None),
            ("redis://bob:secret@host:1", "redis://host:1", Some("bob"), Some("secret")),
            ("redis://:secret@host:1", "redis://host:1", None, Some("secret")),
            ("rediss://bob:p%40ss%2Fw%25@[::1]:6380", "rediss://[::1]:6380", Some("bob"), Some("p@ss/w%")),
            ("redis://bob:p@ss@host", "redis://host", Some("bob"), Some("p@ss")),
            ("redis://bob:100%@host", "redis://host", Some("bob"), Some("100%")),
            ("redis://bob:@host", "redis://host", Some("bob"), None),
            ("unix:///run/redis.sock", "unix:///run/redis.sock", None, None),
            ("unix://bob:secret@/run/redis.sock", "unix:///run/redis.sock", Some("bob"), Some("secret")),
            ("redis-sentinel://:s@a:1,b:2/mymaster", "redis-sentinel://a:1,b:2/mymaster", None, Some("s")),
            ("redis-cluster://a:1,b:2", "redis-cluster://a:1,b:2", None, None),
            ("tcp://zoo:2181/", "tcp://zoo:2181", None, None),
            ("tls://[::1]:2281", "tls://[::1]:2281", None, None),
            ("tcp://bob@zoo:2181/?login=zookeeper-digest", "tcp://zoo:2181?login=zookeeper-digest", Some("bob"), None),
            ("tcp://bob:p%40s@zoo:1?login=x", "tcp://zoo:1?login=x", Some("bob"), Some("p@s")),
        ] {
            let expected = ServerAddress {
                url: url.to_owned(),
                username: user.map(str::to_owned),
                password: password.map(Secret::new),
            };
            assert_eq!(server_of(text), expected, "{text}");
        }
    }

    #[test]
    fn paths_are_data_directories() {
        for (text, path) in [
            ("/var/lib/redis", "/var/lib/redis"),
            ("./data", "./data"),
            ("data/", "data/"),
            (".", "."),
            ("existing", "existing"),
            ("file:///var/lib/redis", "/var/lib/redis"),
        ] {
            assert_eq!(parsed(text).unwrap(), Address::Directory(PathBuf::from(path)), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_a_usage_error_that_shows_the_way() {
        for (text, help) in [
            ("", "redis://"),
            ("localhost:6379", "redis://localhost:6379"),
            ("dump", "./dump"),
            ("http://host", "redis-sentinel://"),
            ("file://dir", "three slashes"),
            ("redis://", "redis://host:6379"),
            ("redis://host/3", "--db"),
            ("redis://a:1,b:2", "redis-cluster://"),
            ("redis-cluster://a:1,,b:2", "redis-cluster://host"),
            ("unix://run/redis.sock", "unix:///"),
            ("unix://", "unix:///"),
            ("redis-sentinel://a:1", "mymaster"),
            ("redis-sentinel:///m", "mymaster"),
            ("redis-sentinel://a:1/m/x", "mymaster"),
            ("tcp://zoo", "tcp://host:port"),
            ("tls://zoo:2181,zoo2:2181", "tls://host:port"),
            ("tcp://zoo:2181/chroot", "tcp://host:port"),
            ("tcp://zoo:2181?tls=1", "tcp://host:port"),
            ("tcp://bob@zoo:2181?login=../x", "?login=NAME"),
        ] {
            let failure = parsed(text).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{text}");
            assert!(failure.help.as_deref().unwrap_or_default().contains(help), "{text}: {failure:?}");
        }
    }

    #[test]
    fn no_error_repeats_what_may_be_a_password() {
        for text in [
            "redis://bob:hunter/2@host",
            "redis://bob:hunter2?x@host?y",
            "redis://host?password=hunter2",
            "redis://host/#hunter2",
            "bob:hunter2@host:6379",
            "bob:hunter2@host/3",
            "http://bob:hunter2@host",
            "redis://bob:hunter2@",
            "redis://bob:%ff%ffhunter2@host",
            "redis-sentinel://bob:hunter2@host",
            "tcp://bob:hunter2@host:1",
            "tcp://bob:hunter2@host:1?login=",
            "tcp://bob:hunter2@host?login=zookeeper-digest",
        ] {
            let failure = parsed(text).unwrap_err();
            assert!(!format!("{failure:?}").contains("hunter"), "{text}: {failure:?}");
        }
    }
}
