//! `/livez`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

/// What must be true before this operator is ready: custom resource definitions, rights, caches.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl Readiness {
    /// Declares a gate, closed for a reason.
    pub fn wait_for(&self, gate: &str, why: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gate.to_owned(), Some(why.into()));
    }

    /// Opens a gate.
    pub fn open(&self, gate: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gate.to_owned(), None);
    }

    /// What is still closed, and why.
    pub fn closed(&self) -> Vec<String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(|(gate, why)| why.as_ref().map(|why| format!("{gate}: {why}"))).collect()
    }
}

#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    readiness: Readiness,
}

/// The three pages. Being answered is what `/livez` proves: the event loop turns.
pub fn router(registry: Arc<Registry>, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { registry, readiness })
}

async fn ready(State(shared): State<Shared>) -> Response {
    let closed = shared.readiness.closed();
    if closed.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", closed.join("\n"))).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut page = String::new();
    match prometheus_client::encoding::text::encode(&mut page, &shared.registry) {
        Ok(()) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt;

    async fn status_of(router: &Router, path: &str) -> (StatusCode, String) {
        let answer = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_liveness_does_not_care() {
        let readiness = Readiness::default();
        readiness.wait_for("definitions", "redisbackups.redis.io is not installed");
        let router = router(Arc::new(Registry::default()), readiness.clone());
        assert_eq!(status_of(&router, "/livez").await.0, StatusCode::OK);
        let (status, body) = status_of(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("definitions: redisbackups.redis.io is not installed"), "{body}");
        readiness.open("definitions");
        assert_eq!(status_of(&router, "/readyz").await.0, StatusCode::OK);
        assert_eq!(status_of(&router, "/metrics").await, (StatusCode::OK, "# EOF\n".into()));
    }
}
