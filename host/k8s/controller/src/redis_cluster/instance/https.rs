//! Instances over HTTPS: a certificate that is pinned, a token of the operator's own service account, answers of bounded size
//! and time. HTTP/1.0, so that an answer ends with its connection and is never chunked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use redkeep_core::managed::{NOTICE_PATH, Notice, ORDERS_PATH, Orders, Refusal, STANDING_PATH, Standing};
use rustls::pki_types::{IpAddr, ServerName};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Address, InstanceError, Instances, pinned};

/// One that does not answer at once counts as one that does not answer.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Orders may make Redis do something before they are answered.
const PATIENCE_WITH_ORDERS: Duration = Duration::from_secs(5);
/// Far more than a standing needs.
const LONGEST_ANSWER: u64 = 1 << 20;
/// How long a token is asked for; the API server gives no less than ten minutes.
const TOKEN_SECONDS: i64 = 3600;
/// A new one is asked for when so many hundredths of its life are over.
const TOKEN_USED_PERCENT: u32 = 80;

/// The real instances.
pub struct HttpsInstances {
    client: Client,
    namespace: String,
    service_account: String,
    tokens: tokio::sync::Mutex<HashMap<String, (String, Instant)>>,
    connectors: Mutex<HashMap<String, TlsConnector>>,
}

impl HttpsInstances {
    /// As this service account of this namespace.
    pub fn new(client: Client, namespace: &str, service_account: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            tokens: tokio::sync::Mutex::default(),
            connectors: Mutex::default(),
        }
    }

    async fn token(&self, address: &Address) -> Result<String, InstanceError> {
        let audience = address.audience();
        let mut tokens = self.tokens.lock().await;
        if let Some((token, until)) = tokens.get(&audience)
            && *until > Instant::now()
        {
            return Ok(token.clone());
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.clone()],
                expiration_seconds: Some(TOKEN_SECONDS),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let asked = Instant::now();
        let made = accounts.create_token_request(&self.service_account, &PostParams::default(), &request).await;
        let made =
            made.map_err(|source| InstanceError::Token { cluster: address.cluster.clone(), source: Box::new(source) })?;
        let Some(status) = made.status else {
            let message = "the API server made no token".to_owned();
            return Err(InstanceError::Unreachable { pod: address.pod.clone(), message });
        };
        let life = Duration::from_secs(u64::try_from(TOKEN_SECONDS).unwrap_or_default());
        let ends = status.expiration_timestamp.0.duration_since(jiff_now(&made.metadata));
        let life = Duration::try_from(ends).map_or(life, |ends| ends.min(life));
        let until = asked + life * TOKEN_USED_PERCENT / 100;
        tokens.retain(|_, (_, until)| *until > asked);
        tokens.insert(audience, (status.token.clone(), until));
        Ok(status.token)
    }

    /// A token that was refused is not shown again.
    async fn drop_token(&self, address: &Address) {
        self.tokens.lock().await.remove(&address.audience());
    }

    fn connector(&self, address: &Address) -> Result<TlsConnector, InstanceError> {
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = connectors.get(&address.certificate) {
            return Ok(connector.clone());
        }
        let config = pinned::client(&address.certificate).map_err(|error| unreachable(address, &error))?;
        let connector = TlsConnector::from(Arc::new(config));
        connectors.insert(address.certificate.clone(), connector.clone());
        Ok(connector)
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        address: &Address,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<A, InstanceError> {
        let token = self.token(address).await?;
        let connector = self.connector(address)?;
        let answer = timeout(patience, exchange(address, &connector, &token, method, path, body)).await;
        let answer = match answer {
            Ok(answer) => answer?,
            Err(_) => return Err(unreachable(address, &format!("no answer within {} ms", patience.as_millis()))),
        };
        let (code, body) = parse(&answer).ok_or_else(|| unreachable(address, &"no answer of HTTP"))?;
        match code {
            200 => serde_json::from_slice(body).map_err(|error| unreachable(address, &error)),
            409 => {
                let refusal: Refusal = serde_json::from_slice(body).map_err(|error| unreachable(address, &error))?;
                let Refusal { reason, message, .. } = refusal;
                Err(InstanceError::Refused { pod: address.pod.clone(), reason, message })
            }
            401 | 403 => {
                self.drop_token(address).await;
                let message = "it does not believe that this is its operator".to_owned();
                Err(InstanceError::Refused { pod: address.pod.clone(), reason: "Forbidden".to_owned(), message })
            }
            code => {
                let text = String::from_utf8_lossy(body).chars().take(200).collect::<String>();
                Err(unreachable(address, &format!("status {code}: {text}")))
            }
        }
    }
}

/// When the API server made it, by its own clock where it says so.
fn jiff_now(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> jiff::Timestamp {
    // Without, as if it had no life beyond what was asked for.
    metadata.creation_timestamp.as_ref().map_or(jiff::Timestamp::MIN, |time| time.0)
}

fn unreachable(address: &Address, why: &dyn std::fmt::Display) -> InstanceError {
    InstanceError::Unreachable { pod: address.pod.clone(), message: why.to_string() }
}

async fn exchange(
    address: &Address,
    connector: &TlsConnector,
    token: &str,
    method: &str,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Vec<u8>, InstanceError> {
    let ip: std::net::IpAddr = address.ip.parse().map_err(|error| unreachable(address, &error))?;
    let stream = TcpStream::connect((ip, address.port)).await.map_err(|error| unreachable(address, &error))?;
    let name = ServerName::IpAddress(IpAddr::from(ip));
    let mut stream = match connector.connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) if is_stranger(&error) => return Err(InstanceError::Stranger { pod: address.pod.clone() }),
        Err(error) => return Err(unreachable(address, &error)),
    };
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        address.pod,
        body.len()
    );
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
        (&mut stream).take(LONGEST_ANSWER).read_to_end(&mut answer).await
    };
    match talk.await {
        Ok(_) => Ok(answer),
        // Ended without a word of goodbye: what came is whole if it is an answer.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => Ok(answer),
        Err(error) => Err(unreachable(address, &error)),
    }
}

fn is_stranger(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, rest) = answer.split_at(head_end);
    let first_line = head.split(|byte| *byte == b'\n').next()?;
    let code = first_line.split(|byte| *byte == b' ').nth(1)?;
    let code = std::str::from_utf8(code).ok()?.trim().parse().ok()?;
    Some((code, rest.get(4..)?))
}

#[async_trait]
impl Instances for HttpsInstances {
    async fn standing(&self, address: &Address) -> Result<Standing, InstanceError> {
        let standing: Standing = self.ask(address, "GET", STANDING_PATH, None, PATIENCE).await?;
        if standing.pod != address.pod {
            let message = format!("{} answers at its address", standing.pod);
            return Err(InstanceError::Unreachable { pod: address.pod.clone(), message });
        }
        Ok(standing)
    }

    async fn order(&self, address: &Address, orders: &Orders) -> Result<Standing, InstanceError> {
        let body = serde_json::to_vec(orders).map_err(|error| unreachable(address, &error))?;
        self.ask(address, "PUT", ORDERS_PATH, Some(body), PATIENCE_WITH_ORDERS).await
    }

    async fn notify(&self, address: &Address, notice: &Notice) -> Result<Notice, InstanceError> {
        let body = serde_json::to_vec(notice).map_err(|error| unreachable(address, &error))?;
        self.ask(address, "PUT", NOTICE_PATH, Some(body), PATIENCE).await
    }
}

#[cfg(test)]
mod tests;
