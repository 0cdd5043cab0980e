//! The `redis.conf` that Redis is started with: the user's directives, then ours, so that ours win. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use redkeep_core::managed::RESERVED_DIRECTIVES;

use crate::state::NOBODY;

/// What the file is made of.
pub(crate) struct Parts<'a> {
    pub(crate) data: &'a Path,
    pub(crate) socket: &'a Path,
    pub(crate) pidfile: &'a Path,
    pub(crate) port: u16,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) pod_ip: IpAddr,
    pub(crate) password: Option<&'a str>,
    /// The folder with `tls.crt`, `tls.key` and `ca.crt`.
    pub(crate) tls: Option<&'a Path>,
    pub(crate) require_client_certificate: bool,
}

/// `name value` lines, `#` comments. Lower-case names; a value in one pair of quotes is taken out of it.
pub(crate) fn directives(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (name.to_ascii_lowercase(), unquoted(value.trim()).to_owned())
        })
        .collect()
}

/// `""` is nothing; `"a b"` is `a b`.
pub(crate) fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.or_else(|| value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')));
    inner.filter(|inner| !inner.contains(['"', '\'', '\\'])).unwrap_or(value)
}

/// Whether a user may set it: what is ours is left out of a user's file. The API server refuses it too.
pub(crate) fn is_allowed(name: &str) -> bool {
    !RESERVED_DIRECTIVES.contains(&name)
}

/// Writes the file.
pub(crate) fn write(users: &[(String, String)], parts: &Parts<'_>) -> String {
    let mut text = String::new();
    for (name, value) in users.iter().filter(|(name, _)| is_allowed(name)) {
        // 6.2 takes one pair of seconds and changes a line; CONFIG SET and later releases take them all.
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        if name == "save" && words.len() > 2 {
            for pair in words.chunks(2) {
                let _ = writeln!(text, "save {}", pair.join(" "));
            }
        } else if value.is_empty() {
            let _ = writeln!(text, "{name} \"\"");
        } else {
            let _ = writeln!(text, "{name} {value}");
        }
    }
    let mut ours = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} {value}");
    };
    let port = parts.port.to_string();
    ours("dir", &quoted(&parts.data.display().to_string()));
    ours("bind", &parts.bind.map_or_else(|| "* -::*".to_owned(), |ip| ip.to_string()));
    // The password and the network policy protect it; "protected mode" would refuse replicas.
    ours("protected-mode", "no");
    ours("unixsocket", &quoted(&parts.socket.display().to_string()));
    ours("unixsocketperm", "700");
    ours("pidfile", &quoted(&parts.pidfile.display().to_string()));
    ours("daemonize", "no");
    ours("supervised", "no");
    ours("logfile", "\"\"");
    ours("syslog-enabled", "no");
    ours("cluster-enabled", "no");
    // As a replica of nothing: it loads what it has, takes no writes, and gives nobody a copy.
    ours("replicaof", &format!("{} {}", NOBODY.0, NOBODY.1));
    ours("replica-read-only", "yes");
    ours("replica-announce-ip", &parts.pod_ip.to_string());
    ours("replica-announce-port", &port);
    if let Some(password) = parts.password {
        ours("requirepass", &quoted(password));
        ours("masterauth", &quoted(password));
    }
    if let Some(folder) = parts.tls {
        let file = |name: &str| quoted(&folder.join(name).display().to_string());
        ours("port", "0");
        ours("tls-port", &port);
        ours("tls-cert-file", &file("tls.crt"));
        ours("tls-key-file", &file("tls.key"));
        ours("tls-ca-cert-file", &file("ca.crt"));
        // Not `optional`: a replica would be asked for its certificate, and one for servers alone would not pass.
        ours("tls-auth-clients", if parts.require_client_certificate { "yes" } else { "no" });
        ours("tls-replication", "yes");
    } else {
        ours("port", &port);
    }
    text
}

/// As `redis.conf` reads it back, whatever is in it.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            other => {
                let _ = write!(text, "\\x{other:02x}");
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn parts<'a>() -> Parts<'a> {
        Parts {
            data: Path::new("/data"),
            socket: Path::new("/run/redis.sock"),
            pidfile: Path::new("/run/redis.pid"),
            port: 6379,
            bind: None,
            pod_ip: IpAddr::from([10, 0, 0, 1]),
            password: None,
            tls: None,
            require_client_certificate: false,
        }
    }

    #[test]
    fn lines_are_read_as_redis_reads_them() {
        let text = "# a comment\n\n  MaxMemory 10mb \nsave \"\"\nappendonly\t yes\nsave '60 1'\ntracking\n";
        let expected = [("maxmemory", "10mb"), ("save", ""), ("appendonly", "yes"), ("save", "60 1"), ("tracking", "")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(directives(text), expected);
    }

    #[test]
    fn ours_come_last_and_a_users_cannot_replace_them() {
        let users =
            directives("replicaof 10.0.0.9 6379\nmaxmemory 1gb\nrequirepass other\nsave 3600 1 300 100\nsave \"\"\n");
        let text = write(&users, &parts());
        assert!(!text.contains("10.0.0.9") && !text.contains("other"), "{text}");
        assert!(text.starts_with("maxmemory 1gb\nsave 3600 1\nsave 300 100\nsave \"\"\ndir \"/data\"\n"), "{text}");
        assert!(text.contains("\nreplicaof 127.0.0.1 1\n") && text.contains("\nport 6379\n"), "{text}");
    }

    #[test]
    fn with_tls_the_plain_port_is_closed() {
        let text = write(&[], &Parts { tls: Some(Path::new("/redis-tls")), ..parts() });
        assert!(text.contains("\nport 0\ntls-port 6379\n") && text.contains("\ntls-replication yes\n"), "{text}");
        assert!(text.contains("\ntls-auth-clients no\n"), "{text}");
        let users = directives("tls-auth-clients optional\ntls-replication no\n");
        let strict = Parts { tls: Some(Path::new("/redis-tls")), require_client_certificate: true, ..parts() };
        let text = write(&users, &strict);
        assert!(text.contains("\ntls-auth-clients yes\n") && !text.contains("optional"), "{text}");
        assert!(!text.contains("tls-replication no"), "{text}");
    }

    #[rstest]
    #[case("simple", "\"simple\"")]
    #[case("a \"b\" \\c", "\"a \\\"b\\\" \\\\c\"")]
    #[case("x\ny\tö", "\"x\\x0ay\\x09\\xc3\\xb6\"")]
    fn passwords_are_quoted(#[case] password: &str, #[case] expected: &str) {
        let text = write(&[], &Parts { password: Some(password), ..parts() });
        assert!(text.contains(&format!("\nrequirepass {expected}\nmasterauth {expected}\n")), "{text}");
    }
}
