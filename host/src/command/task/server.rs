//! The progress page of a task: `GET /progress` as JSON, and `GET /livez`. It tells counts and stages, nothing of the data.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use redkeep_engine::watch::Watched;
use tokio::net::TcpListener;

use crate::output::failure::Failure;

/// A page that is served until it is dropped.
pub(super) struct ProgressPage {
    serving: tokio::task::JoinHandle<()>,
    #[cfg(test)]
    address: SocketAddr,
}

impl ProgressPage {
    /// Listens, so that a port that is taken is told before the work begins.
    pub(super) async fn serve(address: SocketAddr, watched: Arc<Watched>) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::failed("ListenFailed", format!("failed to listen on {address}"))
                .caused_by(&error)
                .with_help("let --progress-listen name a free port of this host")
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        #[cfg(test)]
        let address = listener.local_addr().map_err(failed)?;
        let progress = move || std::future::ready(Json(watched.so_far()));
        let router = Router::new().route("/progress", get(progress)).route("/livez", get(async || "ok\n"));
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(error = %error, "the progress page has ended");
            }
        });
        Ok(Self {
            serving,
            #[cfg(test)]
            address,
        })
    }
}

impl Drop for ProgressPage {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeep_core::progress::TaskProgress;
    use redkeep_engine::events::{Silent, TaskEvents};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: task\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_says_the_stage_and_the_counts() {
        let watched = Watched::new(Arc::new(Silent));
        let page = ProgressPage::serve("127.0.0.1:0".parse().unwrap(), Arc::clone(&watched)).await.unwrap();
        watched.stage("capture", "");
        watched.progress("0", "read", "bytes", 5, Some(10));
        let answer = get(page.address, "/progress").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/json"), "{answer}");
        let body: TaskProgress = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body, watched.so_far());
        assert_eq!((body.stage.as_str(), body.shards[0].done), ("capture", 5));
        assert!(get(page.address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(page.address, "/other").await.starts_with("HTTP/1.1 404"));
        let taken = ProgressPage::serve(page.address, watched).await.err().unwrap();
        assert_eq!(taken.reason, "ListenFailed");
    }
}
