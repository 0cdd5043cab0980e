//! A byte stream to a server that is not Redis (`tcp://host:port`, `tls://host:port`): the capability `socket`.
//!
//! Only the transport is shared with Redis: what is spoken over it, a plugin knows. The login is the exception: a plugin
//! never sees a credential, so the host puts it into the stream (`tcp://user@host:port?login=NAME`, docs/adr/0016).

mod login;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use redkeep_core::Class;
use redkeep_core::method::{MethodError, code};
use redkeep_core::provider::ProviderError;
use redkeep_core::secret::Secret;
use redkeep_core::socket::{Connection, Socket};
use redkeep_core::stream::CHUNK;
use redkeep_core::task::EndpointSpec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::endpoint::{Address, parse_host};
use crate::error::AccessError;
use crate::transport::{ByteStream, Transport};
use login::{Login, LoginError, PendingLogin};

/// Its schemes: without and with TLS.
const SCHEMES: [(&str, bool); 2] = [("tcp://", false), ("tls://", true)];
/// How an address names the login.
const LOGIN: &str = "?login=";
/// The port cannot be guessed: it must be given.
const NO_PORT: u16 = 0;

/// Whether an address is one of another system's.
pub(crate) fn is_address(url: &str) -> bool {
    SCHEMES.iter().any(|(scheme, _)| url.starts_with(scheme))
}

/// Address, whether it is TLS, and the name of the login.
fn parse(url: &str) -> Result<(Address, bool, Option<&str>), ProviderError> {
    let wrong = |why: &str| {
        ProviderError::new(Class::Usage, "InvalidAddress", format!("failed to understand the address: {why}"))
            .with_help("write tcp://host:port, or tls://host:port for TLS, and ?login=NAME behind it for a login")
    };
    let found = SCHEMES.iter().find_map(|(scheme, tls)| Some((url.strip_prefix(scheme)?, *tls)));
    let (rest, tls) = found.ok_or_else(|| wrong("its scheme is neither tcp:// nor tls://"))?;
    let (rest, login) = match rest.split_once(LOGIN) {
        Some((rest, login)) => (rest, Some(login)),
        None => (rest, None),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match parse_host(rest, NO_PORT) {
        Some(Address::Tcp { port: NO_PORT, .. }) => Err(wrong("it has no port")),
        Some(address) => Ok((address, tls, login)),
        None => Err(wrong("host or port is not well-formed")),
    }
}

/// The address as a user would write it, and the socket to it; a first connection shows that it can be reached.
/// `io_code` is the code of its failures: `source-io` or `target-io`.
pub(crate) async fn open(
    spec: &EndpointSpec,
    url: &str,
    password: Option<&Secret>,
    io_code: &'static str,
) -> Result<(String, Arc<dyn Socket>), ProviderError> {
    let (address, tls, login) = parse(url)?;
    let login = choose_login(spec, login, password)?;
    let transport = Transport::new(tls.then_some(&spec.tls))?;
    let shown = format!("{}://{address}", if tls { "tls" } else { "tcp" });
    let socket = RemoteSocket { address, transport, login, io_code };
    drop(socket.open().await?);
    Ok((shown, Arc::new(socket)))
}

/// The login that the address names, with the user and password that belong to it.
fn choose_login(
    spec: &EndpointSpec,
    name: Option<&str>,
    password: Option<&Secret>,
) -> Result<Option<Login>, ProviderError> {
    let refused =
        |reason, message: String, help: String| Err(ProviderError::new(Class::Usage, reason, message).with_help(help));
    match (name, spec.username.as_deref(), password) {
        (None, None, None) => Ok(None),
        (None, ..) => refused(
            "CredentialsUnused",
            "a user or password was given, and nothing would use it: what is spoken there is the plugin's".to_owned(),
            format!("leave user and password out, or name the login that the host is to do: ?login={}", Login::NAMES),
        ),
        (Some(name), Some(user), Some(password)) if !user.contains(':') => match Login::new(name, user, password) {
            Some(login) => Ok(Some(login)),
            None => refused(
                "UnknownLogin",
                format!("there is no login `{}`", name.escape_debug()),
                format!("there is {}", Login::NAMES),
            ),
        },
        (Some(_), ..) => refused(
            "CredentialsMissing",
            "the address names a login, which needs a user (without `:`) and a password".to_owned(),
            "write tcp://USER@HOST:PORT?login=NAME, and give the password by --password-file".to_owned(),
        ),
    }
}

struct RemoteSocket {
    address: Address,
    transport: Transport,
    login: Option<Login>,
    io_code: &'static str,
}

impl RemoteSocket {
    async fn open(&self) -> Result<Box<dyn ByteStream>, AccessError> {
        self.transport.connect(&self.address).await.map_err(|error| match error {
            // The transport's own words are about Redis' schemes.
            AccessError::Tls { address, help, source } if help.contains("rediss") => {
                let help = "the port may not speak TLS: write tcp:// instead of tls://".to_owned();
                AccessError::Tls { address, help, source }
            }
            other => other,
        })
    }
}

#[async_trait]
impl Socket for RemoteSocket {
    async fn connect(&self) -> Result<Box<dyn Connection>, MethodError> {
        let stream = self.open().await.map_err(|error| {
            let mut error = MethodError::from(error);
            if error.code == code::SOURCE_IO {
                self.io_code.clone_into(&mut error.code);
            }
            error
        })?;
        let login = self.login.as_ref().map(Login::begin);
        Ok(Box::new(RemoteConnection {
            stream,
            address: self.address.to_string(),
            login,
            io_code: self.io_code,
            waiting: Bytes::new(),
        }))
    }
}

struct RemoteConnection {
    stream: Box<dyn ByteStream>,
    address: String,
    login: Option<PendingLogin>,
    /// Let through by the login, and more than the plugin asked for.
    waiting: Bytes,
    io_code: &'static str,
}

impl RemoteConnection {
    fn lost(&self, act: &str, error: &io::Error) -> MethodError {
        // Over TLS an end that was not announced may be an attacker's: it is no end.
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the connection was cut without the end that TLS announces".to_owned(),
            _ => error.to_string(),
        };
        MethodError::new(self.io_code, format!("failed to {act} {}: {why}", self.address)).retryable()
    }

    fn refused(&self, error: &LoginError) -> MethodError {
        MethodError::new(code::REFUSED, format!("failed to log in to {}: {error}", self.address))
            .with_help("check user and password, and that the server there is the one whose login the address names")
    }

    /// What came, as far as the login lets it through; empty only at the end.
    async fn receive(&mut self, max: usize) -> Result<Bytes, MethodError> {
        loop {
            let mut buffer = BytesMut::with_capacity(max);
            let read = self.stream.read_buf(&mut (&mut buffer).limit(max)).await;
            if read.map_err(|error| self.lost("read from", &error))? == 0 {
                let ended = self.login.as_ref().map_or(Ok(()), PendingLogin::closed);
                return ended.map(|()| Bytes::new()).map_err(|error| self.refused(&error));
            }
            let Some(login) = &mut self.login else { return Ok(buffer.freeze()) };
            let passed = login.incoming(&buffer).map_err(|error| self.refused(&error))?;
            if !passed.is_empty() {
                return Ok(passed.into());
            }
        }
    }
}

#[async_trait]
impl Connection for RemoteConnection {
    async fn read(&mut self, max: usize, within_ms: Option<u32>) -> Result<Bytes, MethodError> {
        let max = max.clamp(1, CHUNK);
        if self.waiting.is_empty() {
            // A read that is dropped takes nothing from the stream, so a timeout loses no byte.
            let reading = self.receive(max);
            let read = match within_ms {
                None => reading.await,
                Some(within) => {
                    let Ok(read) = tokio::time::timeout(Duration::from_millis(within.into()), reading).await else {
                        let message = format!("{} sent nothing within {within} ms", self.address);
                        return Err(MethodError::new(code::TIMEOUT, message));
                    };
                    read
                }
            };
            self.waiting = read?;
        }
        Ok(self.waiting.split_to(self.waiting.len().min(max)))
    }

    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        let data = match &mut self.login {
            None => data,
            Some(login) => login.outgoing(&data).map_err(|error| self.refused(&error))?.into(),
        };
        let sent = async {
            self.stream.write_all(&data).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| self.lost("write to", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("tcp://10.0.0.5:2181", Some(("10.0.0.5:2181", false)))]
    #[case("tls://zoo.example/", None)]
    #[case("tls://zoo.example:2281/", Some(("zoo.example:2281", true)))]
    #[case("tcp://[::1]:2181", Some(("[::1]:2181", false)))]
    #[case("tcp://zoo", None)]
    #[case("tcp://:2181", None)]
    #[case("tcp://zoo:0", None)]
    #[case("tcp://zoo:2181/chroot", None)]
    #[case("tcp://bob:secret@zoo:2181", None)]
    #[case("redis://zoo:2181", None)]
    fn an_address_has_host_and_port_and_nothing_more(#[case] url: &str, #[case] expected: Option<(&str, bool)>) {
        let found = parse(url);
        if let Err(error) = &found {
            assert!(error.help.as_deref().unwrap().contains("tcp://host:port"));
            assert!(!format!("{error:?}").contains("secret"));
        }
        let found = found.ok().map(|(address, tls, _)| (address.to_string(), tls));
        assert_eq!(found, expected.map(|(address, tls)| (address.to_owned(), tls)));
    }

    #[rstest]
    #[case(None, None, None, Ok(false))]
    #[case(None, Some("bob"), None, Err("CredentialsUnused"))]
    #[case(None, None, Some("secret"), Err("CredentialsUnused"))]
    #[case(Some("zookeeper-digest"), Some("bob"), Some("secret"), Ok(true))]
    #[case(Some("zookeeper-digest"), Some("bob"), None, Err("CredentialsMissing"))]
    #[case(Some("zookeeper-digest"), Some("b:ob"), Some("secret"), Err("CredentialsMissing"))]
    #[case(Some("kerberos"), Some("bob"), Some("secret"), Err("UnknownLogin"))]
    fn a_login_needs_a_name_a_user_and_a_password_and_nothing_is_ignored(
        #[case] name: Option<&str>,
        #[case] user: Option<&str>,
        #[case] password: Option<&str>,
        #[case] expected: Result<bool, &str>,
    ) {
        let spec = EndpointSpec { username: user.map(str::to_owned), ..EndpointSpec::default() };
        let found = choose_login(&spec, name, password.map(Secret::new).as_ref());
        assert_eq!(found.map(|login| login.is_some()).map_err(|error| error.reason), expected);
        let login = parse("tls://zoo:2281?login=zookeeper-digest").unwrap();
        assert_eq!((login.0.to_string(), login.1, login.2), ("zoo:2281".to_owned(), true, Some("zookeeper-digest")));
    }
}
