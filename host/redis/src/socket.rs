//! A byte stream to a server that is not Redis (`tcp://host:port`, `tls://host:port`): the capability `socket`.
//!
//! Only the transport is shared with Redis: what is spoken over it, a plugin knows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use redkeep_core::Class;
use redkeep_core::method::{MethodError, code};
use redkeep_core::provider::ProviderError;
use redkeep_core::socket::{Connection, Socket};
use redkeep_core::stream::CHUNK;
use redkeep_core::task::EndpointSpec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::endpoint::{Address, parse_host};
use crate::error::AccessError;
use crate::transport::{ByteStream, Transport};

/// Its schemes: without and with TLS.
const SCHEMES: [(&str, bool); 2] = [("tcp://", false), ("tls://", true)];
/// The port cannot be guessed: it must be given.
const NO_PORT: u16 = 0;

/// Whether an address is one of another system's.
pub(crate) fn is_address(url: &str) -> bool {
    SCHEMES.iter().any(|(scheme, _)| url.starts_with(scheme))
}

fn parse(url: &str) -> Result<(Address, bool), ProviderError> {
    let wrong = |why: &str| {
        ProviderError::new(Class::Usage, "InvalidAddress", format!("failed to understand the address: {why}"))
            .with_help("write tcp://host:port, or tls://host:port for TLS")
    };
    let found = SCHEMES.iter().find_map(|(scheme, tls)| Some((url.strip_prefix(scheme)?, *tls)));
    let (rest, tls) = found.ok_or_else(|| wrong("its scheme is neither tcp:// nor tls://"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match parse_host(rest, NO_PORT) {
        Some(Address::Tcp { port: NO_PORT, .. }) => Err(wrong("it has no port")),
        Some(address) => Ok((address, tls)),
        None => Err(wrong("host or port is not well-formed")),
    }
}

/// The address as a user would write it, and the socket to it; a first connection shows that it can be reached.
/// `io_code` is the code of its failures: `source-io` or `target-io`.
pub(crate) async fn open(
    spec: &EndpointSpec,
    url: &str,
    io_code: &'static str,
) -> Result<(String, Arc<dyn Socket>), ProviderError> {
    let (address, tls) = parse(url)?;
    if spec.username.is_some() || spec.password.is_some() {
        return Err(ProviderError::new(
            Class::Usage,
            "CredentialsUnused",
            "a user or password was given, and nothing would use it: the system behind tcp:// and tls:// is the plugin's",
        )
        .with_help("leave user and password out"));
    }
    let transport = Transport::new(tls.then_some(&spec.tls))?;
    let shown = format!("{}://{address}", if tls { "tls" } else { "tcp" });
    let socket = RemoteSocket { address, transport, io_code };
    drop(socket.open().await?);
    Ok((shown, Arc::new(socket)))
}

struct RemoteSocket {
    address: Address,
    transport: Transport,
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
        Ok(Box::new(RemoteConnection { stream, address: self.address.to_string(), io_code: self.io_code }))
    }
}

struct RemoteConnection {
    stream: Box<dyn ByteStream>,
    address: String,
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
}

#[async_trait]
impl Connection for RemoteConnection {
    async fn read(&mut self, max: usize, within_ms: Option<u32>) -> Result<Bytes, MethodError> {
        let max = max.clamp(1, CHUNK);
        let mut buffer = BytesMut::with_capacity(max);
        // A read that is dropped takes nothing from the stream, so a timeout loses no byte.
        let reading = async { self.stream.read_buf(&mut (&mut buffer).limit(max)).await };
        let read = match within_ms {
            None => reading.await,
            Some(within) => match tokio::time::timeout(Duration::from_millis(within.into()), reading).await {
                Ok(read) => read,
                Err(_) => {
                    let message = format!("{} sent nothing within {within} ms", self.address);
                    return Err(MethodError::new(code::TIMEOUT, message));
                }
            },
        };
        read.map_err(|error| self.lost("read from", &error))?;
        Ok(buffer.freeze())
    }

    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
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
        let found = found.ok().map(|(address, tls)| (address.to_string(), tls));
        assert_eq!(found, expected.map(|(address, tls)| (address.to_owned(), tls)));
    }
}
