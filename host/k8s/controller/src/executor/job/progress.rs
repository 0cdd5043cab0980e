//! How far a running task is, asked of its pod. It is nice to have: whatever goes wrong, the answer is `None`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::executor::TaskProgress;

/// A pod that does not answer at once must not hold up the reconcile of anything.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Far more than the shards of a large cluster need.
const LONGEST_ANSWER: u64 = 256 * 1024;

/// Asks `http://ADDRESS:PORT/progress`.
pub(super) async fn fetch(address: &str, port: u16) -> Option<TaskProgress> {
    let answer = timeout(PATIENCE, ask(address, port)).await;
    match answer {
        Ok(Ok(answer)) => parse(&answer),
        Ok(Err(error)) => {
            tracing::debug!(address, error = %error, "unable to ask a task for its progress");
            None
        }
        Err(_) => None,
    }
}

/// HTTP/1.0, so that the answer ends with the connection and is never chunked.
async fn ask(address: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(b"GET /progress HTTP/1.0\r\nHost: task\r\nAccept: application/json\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<TaskProgress> {
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, rest) = answer.split_at(head_end);
    let first_line = head.split(|byte| *byte == b'\n').next()?;
    let is_ok = first_line.split(|byte| *byte == b' ').nth(1) == Some(b"200");
    if !is_ok {
        return None;
    }
    serde_json::from_slice(rest.get(4..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Json;
    use axum::routing::get;
    use serde_json::json;

    #[test]
    fn what_is_no_answer_is_no_progress() {
        for bad in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 404 Not Found\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n[", "\r\n\r\n"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_running_task_says_how_far_it_is_and_one_that_is_gone_says_nothing() {
        let page = json!({"stage": "capture", "shards": [
            {"shard": "0", "phase": "read", "unit": "bytes", "done": 5, "total": 9}
        ]});
        let router = axum::Router::new().route("/progress", get(move || async move { Json(page) }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let progress = fetch("127.0.0.1", port).await.unwrap();
        assert_eq!(
            (progress.stage.as_str(), progress.shards[0].done, progress.shards[0].total),
            ("capture", 5, Some(9))
        );
        server.abort();
        let _ = server.await;
        assert_eq!(fetch("127.0.0.1", port).await, None);
    }
}
