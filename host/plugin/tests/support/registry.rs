//! A registry that answers what a test tells it, and Debian's real one.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// An answer: status line and headers, then the body. Headers are sent as they are, so that they can lie.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { head: format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len()), body }
    }

    pub(crate) fn head(head: &str) -> Self {
        Self { head: format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n"), body: Vec::new() }
    }
}

/// First line and body of a request.
type Body = (String, Vec<u8>);

/// Answers by method and path; what is not told is 404.
#[derive(Clone, Default)]
pub(crate) struct FakeRegistry {
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    /// First line and authorization of every request.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    /// First line and body of every request that had one.
    pub(crate) bodies: Arc<Mutex<Vec<Body>>>,
    /// What every request must carry as authorization, and what one without it is answered.
    pub(crate) wants: Arc<Mutex<Option<(String, Answer)>>>,
    pub(crate) name: String,
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self { name: listener.local_addr().unwrap().to_string(), ..Self::default() };
        let shared = registry.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut byte).await {
                            Ok(1) if head.len() < 64 << 10 => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                    let mut body = vec![0; length];
                    if stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    if !body.is_empty() {
                        shared.bodies.lock().unwrap().push((first(&head), body));
                    }
                    let answer = shared.answer(&head);
                    let _ = stream.write_all(format!("{}connection: close\r\n\r\n", answer.head).as_bytes()).await;
                    let _ = stream.write_all(&answer.body).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        registry
    }

    fn answer(&self, head: &str) -> Answer {
        let first = first(head);
        let authorization = header(head, "authorization").unwrap_or_default();
        self.seen.lock().unwrap().push(format!("{first} {authorization}").trim_end().to_owned());
        if let Some((wanted, otherwise)) = self.wants.lock().unwrap().as_ref()
            && first.contains(" /v2/")
            && *wanted != authorization
        {
            return otherwise.clone();
        }
        self.answers.lock().unwrap().get(&first).cloned().unwrap_or_else(|| Answer::head("404 Not Found"))
    }

    pub(crate) fn tell(&self, request: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(request.to_owned(), answer);
    }

    pub(crate) fn saw(&self, needle: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|line| line.contains(needle))
    }
}

/// Method and path of a request.
fn first(head: &str) -> String {
    head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned()
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut pairs = head.lines().filter_map(|line| line.split_once(": "));
    pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// Debian's docker-registry on a free port, over a folder of its own.
pub(crate) struct RealRegistry {
    child: Child,
    pub(crate) name: String,
    _folder: tempfile::TempDir,
}

impl RealRegistry {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: 127.0.0.1:{port} }}\n",
            folder.path().display()
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry ({error}): `cargo xtask test` installs it"));
        let name = format!("127.0.0.1:{port}");
        let begun = Instant::now();
        while std::net::TcpStream::connect(&name).is_err() {
            assert!(begun.elapsed() < Duration::from_mins(1), "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, name, _folder: folder }
    }

    pub(crate) fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
