//! A connection to the Redis of this pod over its Unix socket: one request, one reply, each within a limit of time.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use redkeep_core::secret::Secret;
use redkeep_redis::resp::{ReplyScanner, Value, encode_command, parse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// The longest reply that is read: `INFO` has some 10 KiB, 200 bytes more for each replica.
const MAX_REPLY: usize = 1 << 20;

/// Why there is no answer, or none that was hoped for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Redis answers, and refuses.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// Redis does not answer in time.
    #[error("Redis did not answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// There is no connection.
    #[error("failed to talk to Redis")]
    Lost(#[source] io::Error),
}

/// The password that new connections use; it may be exchanged.
pub(crate) type Password = Arc<Mutex<Option<Secret>>>;

/// A connection that is made anew when it was lost.
pub(crate) struct Link {
    socket: PathBuf,
    password: Password,
    stream: Option<UnixStream>,
}

impl Link {
    pub(crate) fn new(socket: PathBuf, password: Password) -> Self {
        Self { socket, password, stream: None }
    }

    /// One command, all of which Redis may be told twice. After silence the connection is given up: a late reply would be
    /// taken for the next one's.
    pub(crate) async fn call(&mut self, arguments: &[&str], limit: Duration) -> Result<Value, LinkError> {
        let result = match tokio::time::timeout(limit, self.exchange(arguments)).await {
            Ok(result) => result,
            Err(_) => Err(LinkError::Silent(limit)),
        };
        if matches!(result, Err(LinkError::Silent(_) | LinkError::Lost(_))) {
            self.stream = None;
        }
        result
    }

    /// Whether there is a connection. One that is there is not refused for want of `maxclients`.
    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    async fn exchange(&mut self, arguments: &[&str]) -> Result<Value, LinkError> {
        // Redis closes idle connections (`timeout`): what was lost on an old one is said on a new one.
        if let Some(stream) = &mut self.stream {
            match request(stream, arguments).await {
                Err(LinkError::Lost(_)) => self.stream = None,
                answer => return answer,
            }
        }
        let mut stream = UnixStream::connect(&self.socket).await.map_err(LinkError::Lost)?;
        let password = self.password.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(password) = password {
            request(&mut stream, &["AUTH", password.expose()]).await?;
        }
        request(self.stream.insert(stream), arguments).await
    }
}

async fn request(stream: &mut UnixStream, arguments: &[&str]) -> Result<Value, LinkError> {
    let invalid = |why: String| LinkError::Lost(io::Error::new(io::ErrorKind::InvalidData, why));
    let mut buffer = BytesMut::new();
    encode_command(arguments, &mut buffer);
    stream.write_all(&buffer).await.map_err(LinkError::Lost)?;
    buffer.clear();
    let mut scanner = ReplyScanner::default();
    let mut length = 0;
    loop {
        if stream.read_buf(&mut buffer).await.map_err(LinkError::Lost)? == 0 {
            return Err(LinkError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let fresh = buffer.get(length..).unwrap_or_default();
        let (taken, ended) = scanner.push(fresh).map_err(|error| invalid(error.to_string()))?;
        length += taken;
        if ended {
            let reply = buffer.split_to(length).freeze();
            return match parse(&reply).map_err(|error| invalid(error.to_string()))? {
                Value::Error(text) => Err(LinkError::Refused(String::from_utf8_lossy(&text).into_owned())),
                value => Ok(value),
            };
        }
        if length > MAX_REPLY {
            return Err(invalid(format!("a reply longer than {MAX_REPLY} bytes")));
        }
    }
}
