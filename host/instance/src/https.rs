//! One HTTPS request to one address, within a limit of time. No names, no redirects, no reuse of connections: a look every
//! few seconds needs none, and a fresh connection proves that the way is open now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpsError {
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    #[error("failed to send the request")]
    Send(#[source] hyper::Error),
    #[error("failed to make the request")]
    Request(#[source] http::Error),
    #[error("failed to read the answer: {0}")]
    Answer(String),
}

/// What to ask.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) token: &'a str,
    /// JSON.
    pub(crate) body: Option<Vec<u8>>,
}

/// Asks; the answer may have at most `longest` bytes.
pub(crate) async fn ask(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    question: Question<'_>,
    longest: usize,
    limit: Duration,
) -> Result<(StatusCode, Bytes), HttpsError> {
    let asked = tokio::time::timeout(limit, exchange(address, tls, question, longest));
    asked.await.map_err(|_| HttpsError::TimedOut(limit))?
}

async fn exchange(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    question: Question<'_>,
    longest: usize,
) -> Result<(StatusCode, Bytes), HttpsError> {
    let stream = TcpStream::connect(address).await.map_err(HttpsError::Connect)?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.map_err(HttpsError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpsError::Send)?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    let request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(header::HOST, address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {}", question.token))
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(question.body.unwrap_or_default())))
        .map_err(HttpsError::Request)?;
    let response = sender.send_request(request).await.map_err(HttpsError::Send)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), longest).collect().await;
    let body = body.map_err(|why| HttpsError::Answer(why.to_string()))?.to_bytes();
    drop(connection);
    Ok((status, body))
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
