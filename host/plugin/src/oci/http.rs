//! HTTP to one registry: TLS by rustls with ring, never without TLS unless told, never to another host unless told, never
//! more bytes than expected.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use super::OciOptions;
use super::challenge::{Challenge, parse_challenge};
use super::credentials::Credentials;
use super::error::OciError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which an answer is given up.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Redirects followed in a row.
const MAX_REDIRECTS: usize = 3;
/// The largest answer of a token service, in bytes.
const MAX_TOKEN: u64 = 256 << 10;

/// One registry.
pub(super) struct Registry {
    client: reqwest::Client,
    base: Url,
    name: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
    redirect_hosts: Vec<String>,
    plain: bool,
}

/// One request.
pub(super) struct Ask<'a> {
    /// For errors: what it is for.
    pub(super) act: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Option<Bytes>,
}

impl Registry {
    pub(super) fn new(name: &str, options: &OciOptions) -> Result<Self, OciError> {
        let scheme = if options.plain_http { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{name}/v2/"))
            .map_err(|error| OciError::Reference { given: name.to_owned(), why: error.to_string() })?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(options)?)
            .https_only(!options.plain_http)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("redkeep/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| OciError::Transport {
                act: "set up a client for",
                registry: name.to_owned(),
                source: error.into(),
            })?;
        Ok(Self {
            client,
            base,
            name: name.to_owned(),
            credentials: options.credentials.clone(),
            authorization: Mutex::new(None),
            redirect_hosts: options.redirect_hosts.clone(),
            plain: options.plain_http,
        })
    }

    /// The URL of something below `/v2/`.
    pub(super) fn url(&self, path: &str) -> Result<Url, OciError> {
        self.join(&self.base, path)
    }

    fn join(&self, from: &Url, to: &str) -> Result<Url, OciError> {
        from.join(to).map_err(|error| self.transport("follow", error))
    }

    fn transport(&self, act: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OciError {
        OciError::Transport { act, registry: self.name.clone(), source: source.into() }
    }

    /// Where an upload goes on: at this registry, or where it may lead us.
    pub(super) fn upload_location(&self, response: &Response) -> Result<Url, OciError> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.transport("begin an upload to", "it did not say where"))?;
        let url = self.join(response.url(), location)?;
        if self.may_follow(&url) { Ok(url) } else { Err(self.refused(&url)) }
    }

    /// The registry itself, or over TLS a host that the user named.
    fn may_follow(&self, url: &Url) -> bool {
        let secure = url.scheme() == "https" || self.plain;
        let host = url.host_str().unwrap_or_default();
        self.is_home(url) || (secure && self.redirect_hosts.iter().any(|known| known == host))
    }

    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    fn refused(&self, url: &Url) -> OciError {
        let host = url.host_str().unwrap_or("an unknown host");
        OciError::Redirect { registry: self.name.clone(), to: format!("{}://{host}", url.scheme()) }
    }

    /// Asks, logging in where it must and following redirects where it may. Answers of success and "not found" are returned.
    pub(super) async fn ask(&self, mut ask: Ask<'_>) -> Result<Response, OciError> {
        let mut redirects = 0;
        let mut logged_in = false;
        loop {
            let response = self.send(&ask).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !logged_in && self.is_home(&ask.url) {
                self.log_in(&response, ask.act).await?;
                logged_in = true;
            } else if leads_elsewhere(status, &ask.method) {
                ask.url = self.redirected(&response, &mut redirects)?;
            } else {
                return self.judge(response, ask.act);
            }
        }
    }

    fn judge(&self, response: Response, act: &'static str) -> Result<Response, OciError> {
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(OciError::Unauthorized { act, registry: self.name.clone() })
            }
            StatusCode::NOT_FOUND => Ok(response),
            _ if status.is_success() => Ok(response),
            _ if status.is_redirection() => Err(self.refused(response.url())),
            _ => Err(OciError::Status { act, registry: self.name.clone(), status: status.as_u16() }),
        }
    }

    async fn send(&self, ask: &Ask<'_>) -> Result<Response, OciError> {
        let mut headers = HeaderMap::new();
        for (name, value) in ask.headers {
            let value = HeaderValue::from_str(value).map_err(|error| self.transport(ask.act, error))?;
            headers.append(name.clone(), value);
        }
        // Only the registry itself sees who we are.
        if self.is_home(&ask.url)
            && let Some(value) = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            headers.insert(AUTHORIZATION, value);
        }
        let mut request = self.client.request(ask.method.clone(), ask.url.clone()).headers(headers);
        if let Some(body) = &ask.body {
            request = request.body(body.clone());
        }
        request.send().await.map_err(|error| self.transport("reach", error.without_url()))
    }

    fn redirected(&self, response: &Response, redirects: &mut usize) -> Result<Url, OciError> {
        *redirects += 1;
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(location) = location.filter(|_| *redirects <= MAX_REDIRECTS) else {
            return Err(self.refused(response.url()));
        };
        let url = self.join(response.url(), location)?;
        if self.may_follow(&url) { Ok(url) } else { Err(self.refused(&url)) }
    }

    /// Finds out what the registry wants to see, and gets it.
    async fn log_in(&self, response: &Response, act: &'static str) -> Result<(), OciError> {
        let unauthorized = || OciError::Unauthorized { act, registry: self.name.clone() };
        let header = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let challenge = header.and_then(parse_challenge).ok_or_else(unauthorized)?;
        let value = match challenge {
            Challenge::Basic => basic(self.credentials.as_ref().ok_or_else(unauthorized)?),
            Challenge::Bearer { realm, service, scope } => {
                let mut url = Url::parse(&realm).map_err(|_| unauthorized())?;
                // A password goes where TLS protects it, or where the user renounced it.
                if url.scheme() != "https" && !self.plain {
                    return Err(self.refused(&url));
                }
                for (key, value) in [("service", service), ("scope", scope)] {
                    if let Some(value) = value {
                        url.query_pairs_mut().append_pair(key, &value);
                    }
                }
                let mut request = self.client.get(url);
                if let Some(credentials) = &self.credentials {
                    request = request.header(AUTHORIZATION, basic(credentials).ok_or_else(unauthorized)?);
                }
                let answer = request.send().await.map_err(|error| self.transport("log in to", error.without_url()))?;
                if !answer.status().is_success() {
                    return Err(unauthorized());
                }
                let body = self.body(answer, "an answer of the token service", MAX_TOKEN).await?;
                bearer(&body)
            }
        };
        let mut value = value.ok_or_else(unauthorized)?;
        value.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// The whole body, refused as soon as it is known to be larger than `limit`.
    pub(super) async fn body(&self, mut response: Response, what: &str, limit: u64) -> Result<Bytes, OciError> {
        let too_large = || OciError::TooLarge { what: what.to_owned(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.transport("read from", error.without_url()))?
        {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// Whether a redirect is one to be followed with the same method: what writes is sent again only where the answer says so.
fn leads_elsewhere(status: StatusCode, method: &Method) -> bool {
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            *method == Method::GET || *method == Method::HEAD
        }
        _ => false,
    }
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    use base64::Engine as _;
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    HeaderValue::from_str(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))).ok()
}

fn bearer(body: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    HeaderValue::from_str(&format!("Bearer {}", answer.token.or(answer.access_token)?)).ok()
}

/// rustls with ring, the system's authorities, and one more where it was given.
fn tls(options: &OciOptions) -> Result<rustls::ClientConfig, OciError> {
    let mut roots = rustls::RootCertStore::empty();
    if !options.plain_http {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = &options.ca_file {
        let failed = |why: String| OciError::Settings { path: path.clone(), why };
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| failed(error.to_string()))?;
        if certificates.is_empty() {
            return Err(failed("it holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| OciError::Transport {
        act: "set up TLS for",
        registry: "any".to_owned(),
        source: error.into(),
    })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
