//! Answers the operator, peers and the kubelet over TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use redkeep_core::managed::{LIVE_PATH, NOTICE_PATH, Notice, ORDERS_PATH, Orders, READY_PATH, STANDING_PATH, Standing};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::auth::{Caller, Denied, Gate};
use crate::clock;
use crate::error::InstanceError;
use crate::pinned::Identity;
use crate::settings::Settings;
use crate::state::readiness;
use crate::supervisor::Event;

/// Connections at once; the operator and eight peers need one each, but strangers must not keep the kubelet out.
const MAX_CONNECTIONS: usize = 256;
/// The longest request: orders carry the whole of `redis.conf`.
const MAX_BODY: usize = 256 << 10;
/// How long a client may take for its handshake, for the head of a request, and for a connection as a whole.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(10);
const CONNECTION: Duration = Duration::from_secs(60);
/// How long the supervisor may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A supervisor that did not turn for so long is not well.
const STUCK: Duration = Duration::from_secs(20);

struct Shared {
    gate: Gate,
    events: mpsc::Sender<Event>,
    /// When the supervisor last turned, in milliseconds of [`clock::now`].
    beat: Arc<AtomicU64>,
}

/// Listens until it is dropped.
pub(crate) async fn start(
    settings: Arc<Settings>,
    events: mpsc::Sender<Event>,
    beat: Arc<AtomicU64>,
) -> Result<JoinHandle<()>, InstanceError> {
    let identity = Identity::read(&settings.identity)?;
    let gate = Gate::new(Api::new(&settings), &settings.operator, &identity.peer_token);
    let listener = listen(&settings).await?;
    let router = Router::new()
        .route(STANDING_PATH, get(standing))
        .route(ORDERS_PATH, put(orders))
        .route(NOTICE_PATH, put(notice))
        .route(READY_PATH, get(ready))
        .route(LIVE_PATH, get(live))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Shared { gate, events, beat }));
    let acceptor = tokio_rustls::TlsAcceptor::from(identity.server);
    Ok(tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, acceptor.clone(), router.clone(), place))),
                // Out of file descriptors, most likely: others must close some first.
                Err(error) => {
                    tracing::warn!(%error, "unable to accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

async fn listen(settings: &Settings) -> Result<TcpListener, InstanceError> {
    let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let candidates = settings.listen.map_or_else(|| any.to_vec(), |one| vec![one]);
    let mut failed = None;
    for ip in candidates {
        let address = SocketAddr::new(ip, settings.port);
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => failed = Some(InstanceError::Listen { address: address.to_string(), source }),
        }
    }
    Err(failed.unwrap_or(InstanceError::Listen {
        address: settings.port.to_string(),
        source: std::io::ErrorKind::AddrNotAvailable.into(),
    }))
}

async fn serve(stream: TcpStream, acceptor: tokio_rustls::TlsAcceptor, router: Router, place: OwnedSemaphorePermit) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let _ = tokio::time::timeout(CONNECTION, connection).await;
    drop(place);
}

impl Shared {
    /// Who asks, or the answer to a stranger.
    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Response> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let refuse = |status: StatusCode, why: String| (status, why).into_response();
        self.gate.caller(token).await.map_err(|denied| match denied {
            Denied::Unknown => refuse(StatusCode::UNAUTHORIZED, "a token for this cluster is needed\n".to_owned()),
            Denied::Forbidden(user) => refuse(StatusCode::FORBIDDEN, format!("{user} gives no orders here\n")),
            Denied::Unavailable => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the Kubernetes API cannot vouch for the token now\n".to_owned(),
            ),
        })
    }

    /// Asks the supervisor.
    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Response> {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.events.send(event(sender)).await.ok()?;
            answer.await.ok()
        };
        let answer = tokio::time::timeout(ANSWER, asked).await.ok().flatten();
        answer.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "the instance is ending or stuck\n").into_response())
    }
}

async fn standing(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<Standing>, Response> {
    shared.caller(&headers).await?;
    shared.ask(Event::Standing).await.map(Json)
}

async fn orders(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Response, Response> {
    if shared.caller(&headers).await? == Caller::Peer {
        return Err((StatusCode::FORBIDDEN, "peers give no orders\n").into_response());
    }
    let orders: Orders = parse(&body).map_err(|why| (StatusCode::BAD_REQUEST, why).into_response())?;
    match shared.ask(|answer| Event::Orders(Box::new(orders), answer)).await? {
        Ok(standing) => Ok(Json(standing).into_response()),
        Err(refusal) => Ok((StatusCode::CONFLICT, Json(*refusal)).into_response()),
    }
}

async fn notice(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Json<Notice>, Response> {
    shared.caller(&headers).await?;
    let notice: Notice = parse(&body).map_err(|why| (StatusCode::BAD_REQUEST, why).into_response())?;
    shared.ask(|answer| Event::Notice(notice, answer)).await.map(Json)
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.ask(Event::Standing).await {
        Ok(standing) => match readiness(&standing) {
            Ok(()) => "ok\n".into_response(),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        },
        Err(response) => response,
    }
}

async fn live(State(shared): State<Arc<Shared>>) -> Response {
    let now = u64::try_from(clock::now().as_millis()).unwrap_or(u64::MAX);
    let silent = now.saturating_sub(shared.beat.load(Ordering::Relaxed));
    if u128::from(silent) < STUCK.as_millis() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("the supervisor has not turned for {silent} ms\n")).into_response()
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("failed to read the request: {error}\n"))
}
