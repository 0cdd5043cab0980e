//! The two things that are asked of the Kubernetes API: the RedisCluster, and whose a token is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use redkeep_core::managed::Notice;
use serde::{Deserialize, Serialize};

use crate::https::{self, Question};
use crate::pinned;
use crate::settings::Settings;

/// The longest answer that is read. An object has at most 1.5 MiB.
const MAX_ANSWER: usize = 4 << 20;

/// What the RedisCluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) notice: Notice,
    pub(crate) instances: usize,
    /// It is being deleted.
    pub(crate) is_going: bool,
}

/// The Kubernetes API.
#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    folder: PathBuf,
    object: String,
    audience: String,
}

/// Why it was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("failed to read the service account's token in {}", .path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("failed to prepare TLS to the Kubernetes API: {0}")]
    Authority(String),
    #[error("failed to reach the Kubernetes API")]
    Unreachable(#[source] https::HttpsError),
    #[error("the Kubernetes API answered {0}: {1}")]
    Refused(StatusCode, String),
    #[error("failed to understand the Kubernetes API's answer")]
    Answer(#[source] serde_json::Error),
}

impl ApiError {
    /// What is asked for is gone, or the right to it: with a namespace go its accounts and roles.
    pub(crate) fn is_gone(&self) -> bool {
        let gone = [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED];
        matches!(self, Self::Refused(status, _) if gone.contains(status))
    }
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
struct Spec {
    instances: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    epoch: Option<u64>,
    #[serde(default)]
    next_primary: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenReview<'a> {
    api_version: &'a str,
    kind: &'a str,
    spec: TokenReviewSpec<'a>,
}

#[derive(Serialize)]
struct TokenReviewSpec<'a> {
    token: &'a str,
    audiences: [&'a str; 1],
}

#[derive(Deserialize)]
struct Reviewed {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
}

impl Api {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            address: settings.api(),
            folder: settings.service_account.clone(),
            object: format!("/apis/redis.io/v1/namespaces/{}/redisclusters/{}", settings.namespace, settings.cluster),
            audience: settings.audience(),
        }
    }

    /// Reads the RedisCluster.
    pub(crate) async fn cluster(&self, limit: Duration) -> Result<Cluster, ApiError> {
        understand(&self.ask(Method::GET, &self.object, None, limit).await?)
    }

    /// Whose a token is, if it is for this cluster; `None`: it is nobody's.
    pub(crate) async fn user_of(&self, token: &str, limit: Duration) -> Result<Option<String>, ApiError> {
        let review = TokenReview {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: TokenReviewSpec { token, audiences: [&self.audience] },
        };
        let body = serde_json::to_vec(&review).map_err(ApiError::Answer)?;
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = self.ask(Method::POST, path, Some(body), limit).await?;
        let reviewed: Reviewed = serde_json::from_slice(&answer).map_err(ApiError::Answer)?;
        Ok(user(reviewed.status, &self.audience))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<bytes::Bytes, ApiError> {
        // Both are replaced while the pod lives.
        let file = self.folder.join("token");
        let token = std::fs::read_to_string(&file).map_err(|source| ApiError::Token { path: file, source })?;
        let tls = pinned::trusting(&self.folder.join("ca.crt")).map_err(ApiError::Authority)?;
        let question = Question { method, path, token: token.trim(), body };
        let (status, answer) = https::ask(self.address, Arc::new(tls), question, MAX_ANSWER, limit)
            .await
            .map_err(ApiError::Unreachable)?;
        if status.is_success() {
            return Ok(answer);
        }
        let message = serde_json::from_slice::<serde_json::Value>(&answer).ok();
        let message = message.as_ref().and_then(|value| value["message"].as_str()).unwrap_or("no reason given");
        Err(ApiError::Refused(status, message.chars().take(300).collect()))
    }
}

/// `primary` says who was primary last, also while another is being chosen; only `nextPrimary` names whom this epoch
/// makes primary.
fn understand(answer: &[u8]) -> Result<Cluster, ApiError> {
    let object: Object = serde_json::from_slice(answer).map_err(ApiError::Answer)?;
    let status = object.status.unwrap_or_default();
    Ok(Cluster {
        notice: Notice {
            epoch: status.epoch.unwrap_or(0),
            primary: status.next_primary.filter(|name| !name.is_empty()),
        },
        instances: object.spec.instances.unwrap_or(1),
        is_going: object.metadata.deletion_timestamp.is_some(),
    })
}

/// An API server that knows no audiences says none: its answer does not mean that the token is for us.
fn user(status: ReviewStatus, audience: &str) -> Option<String> {
    (status.authenticated && status.audiences.iter().any(|one| one == audience)).then_some(status.user.username)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"{"spec":{"instances":3},"status":{"epoch":7,"primary":"a","nextPrimary":"b"}}"#, 7, Some("b"), 3)]
    #[case(r#"{"spec":{"instances":3},"status":{"epoch":7,"primary":"a","nextPrimary":""}}"#, 7, None, 3)]
    #[case(r#"{"spec":{"instances":2},"status":{"epoch":7,"primary":"a"}}"#, 7, None, 2)]
    #[case(r#"{"spec":{}}"#, 0, None, 1)]
    #[case(r#"{"metadata":{"deletionTimestamp":"2026-11-28T09:00:00Z"},"spec":{}}"#, 0, None, 1)]
    fn the_object_is_read(
        #[case] text: &str,
        #[case] epoch: u64,
        #[case] primary: Option<&str>,
        #[case] instances: usize,
    ) {
        let is_going = text.contains("deletionTimestamp");
        let expected = Cluster { notice: Notice { epoch, primary: primary.map(str::to_owned) }, instances, is_going };
        assert_eq!(understand(text.as_bytes()).ok(), Some(expected));
    }

    #[rstest]
    #[case(true, &["x/y"], Some("operator"))]
    #[case(true, &["other"], None)]
    #[case(true, &[], None)]
    #[case(false, &["x/y"], None)]
    fn a_token_must_be_for_us(#[case] authenticated: bool, #[case] audiences: &[&str], #[case] expected: Option<&str>) {
        let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
        let status = ReviewStatus { authenticated, user: User { username: "operator".to_owned() }, audiences };
        assert_eq!(user(status, "x/y").as_deref(), expected);
    }
}
