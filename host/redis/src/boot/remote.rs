//! The end that has a backup: asks the program beside it for a server, and believes it no more than it must.
//!
//! The other end runs what the backup made of a server. It can lie about what was loaded, as any server could; it must not get
//! at anything else. So nothing is shared but the folder and this socket, and no file that lies there is read.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use redkeep_core::boot::{BootAnswer, BootRequest, SOCKET};
use redkeep_core::provider::{BootCheck, ProviderError};
use redkeep_core::{Attribute, Class};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Longer than a container that ended waits before it is started again, the first times.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the socket is tried.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// Many more databases than a server has fit.
const MAX_ANSWER: u64 = 1 << 20;
/// Of what the other end says, so much is repeated.
const MAX_WORDS: usize = 1500;
/// Of a server's name and version, so much.
const MAX_NAME: usize = 64;

/// Servers that are started by the program that listens in a folder.
pub struct RemoteBootCheck {
    folder: PathBuf,
    patience: Duration,
}

impl RemoteBootCheck {
    /// Nothing is asked yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), patience: PATIENCE }
    }

    /// With another limit for the program to appear.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let path = self.folder.join(SOCKET);
        let begun = tokio::time::Instant::now();
        loop {
            match UnixStream::connect(&path).await {
                Err(error) if begun.elapsed() >= self.patience => return Err(error),
                Err(_) => tokio::time::sleep(TRY_EVERY).await,
                connected => return connected,
            }
        }
    }
}

#[async_trait]
impl BootCheck for RemoteBootCheck {
    async fn boot(
        &self,
        directory: &Path,
        appendonly: bool,
        server_name: &str,
        server_version: &str,
    ) -> Result<Vec<Attribute>, ProviderError> {
        let mut stream = self.connect().await.map_err(|error| {
            let seconds = self.patience.as_secs();
            ProviderError::new(
                Class::Failed,
                "NoServerBeside",
                format!("failed to reach the container of the throw-away server within {seconds} seconds"),
            )
            .caused_by(error)
            .with_help("look at the container `server` of the task's pod: its image must run on the node")
            .retryable()
        })?;
        let request = BootRequest {
            directory: directory.to_owned(),
            appendonly,
            server_name: server_name.to_owned(),
            server_version: server_version.to_owned(),
        };
        let answer = ask(&mut stream, &request).await.map_err(|error| {
            ProviderError::new(
                Class::Failed,
                "ServerLost",
                "the container of the throw-away server ended, or failed, while the backup was loaded",
            )
            .caused_by(error)
            .with_help("it mostly needs more memory, for it holds all data of the backup: verification.resources")
            .retryable()
        })?;
        match answer {
            BootAnswer::Loaded { found } => Ok(found.into_iter().filter_map(believed).collect()),
            BootAnswer::Failed { class, reason, message, help } => Err(failure(class, &reason, &message, help)),
        }
    }
}

async fn ask(stream: &mut UnixStream, request: &BootRequest) -> io::Result<BootAnswer> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    // Loading may take as long as it likes: the task has a deadline. A container that ends closes the socket.
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Counts that are numbers, and the server's name in so many letters: this goes into records and terminals.
fn believed(said: Attribute) -> Option<Attribute> {
    let is_count = matches!(said.key.as_str(), "keys" | "keys-loaded" | "keys-expired")
        || said.key.strip_prefix("keys-db-").is_some_and(|number| number.parse::<u32>().is_ok());
    match said.key.as_str() {
        "server" => Some(Attribute::new("server", words(&said.value, MAX_NAME))),
        "counted-by" => matches!(said.value.as_str(), "server" | "log" | "keys-present").then_some(said),
        _ => (is_count && said.value.parse::<u64>().is_ok()).then_some(said),
    }
}

/// Without what a terminal would obey.
fn words(text: &str, most: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(most).collect()
}

/// What the other end failed with. That there is no server for the backup says nothing about the backup.
fn failure(class: Class, reason: &str, message: &str, help: Option<String>) -> ProviderError {
    let words = |text: &str| words(text, MAX_WORDS);
    match (class, reason) {
        (Class::Damaged, _) => ProviderError::new(Class::Damaged, "BootRefused", words(message)).with_help(
            "the log lines above say where the server stopped; level `parse` says what redkeep finds in the backup",
        ),
        (_, "NoServerToBoot") => ProviderError::new(Class::Refused, "NoServerToBoot", words(message))
            .with_help("set verification.image to an image of that release or a newer one"),
        (_, "BootKilled") => ProviderError::new(Class::Failed, "BootKilled", words(message))
            .with_help("it mostly needs more memory, for it holds all data of the backup: verification.resources")
            .retryable(),
        _ => {
            let error = ProviderError::new(Class::Failed, "BootFailed", words(message));
            match help {
                Some(help) => error.with_help(words(&help)),
                None => error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::serve_boots;
    use redkeep_core::attribute::find;
    use redkeep_core::provider::ProviderError;
    use rstest::rstest;

    /// Answers by the version that it is asked for.
    struct Scripted;

    #[async_trait]
    impl BootCheck for Scripted {
        async fn boot(
            &self,
            directory: &Path,
            appendonly: bool,
            server_name: &str,
            server_version: &str,
        ) -> Result<Vec<Attribute>, ProviderError> {
            let (class, reason) = match server_version {
                "1" => {
                    let seen = format!("{} {appendonly} \x1b{server_name}", directory.display());
                    let strange = [("keys", "many"), ("keys-db-x", "1"), ("counted-by", "me"), ("more", "1")];
                    let strange = strange.map(|(key, value)| Attribute::new(key, value));
                    let known = [("server", seen.as_str()), ("keys-db-3", "5"), ("counted-by", "server")];
                    let known = known.map(|(key, value)| Attribute::new(key, value));
                    return Ok(strange.into_iter().chain(known).collect());
                }
                "2" => (Class::Damaged, "BootRefused"),
                "3" => (Class::NotFound, "NoServerToBoot"),
                "4" => (Class::Failed, "BootKilled"),
                "5" => std::future::pending().await,
                _ => (Class::Failed, "BootFailed"),
            };
            let cause = std::io::Error::other("cause");
            Err(ProviderError::new(class, reason, "what").caused_by(cause).with_help("help"))
        }
    }

    async fn asked(version: &str) -> Result<Vec<Attribute>, ProviderError> {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        let server = tokio::spawn(async move { serve_boots(&place, &Scripted, &|| {}).await.map(|_| ()) });
        let answer = RemoteBootCheck::new(folder.path()).boot(Path::new("/d"), true, "redis", version).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn what_was_found_comes_back_and_nothing_strange_with_it() {
        let found = asked("1").await.unwrap();
        assert_eq!(find(&found, "server"), Some("/d true redis"));
        assert_eq!((find(&found, "keys-db-3"), find(&found, "counted-by")), (Some("5"), Some("server")));
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[rstest]
    #[case("2", Class::Damaged, "BootRefused")]
    #[case("3", Class::Refused, "NoServerToBoot")]
    #[case("4", Class::Failed, "BootKilled")]
    #[case("6", Class::Failed, "BootFailed")]
    #[tokio::test]
    async fn only_a_server_that_refuses_the_data_speaks_against_the_backup(
        #[case] version: &str,
        #[case] class: Class,
        #[case] reason: &str,
    ) {
        let error = asked(version).await.unwrap_err();
        assert_eq!((error.class, error.reason, error.message.as_str()), (class, reason, "what: cause"));
        assert!(error.help.is_some());
    }

    #[tokio::test]
    async fn a_program_that_never_comes_or_goes_is_said_to_be_missing_or_lost() {
        let folder = tempfile::tempdir().unwrap();
        let check = RemoteBootCheck::new(folder.path()).with_patience(Duration::from_millis(200));
        let error = check.boot(Path::new("/d"), false, "redis", "1").await.unwrap_err();
        assert_eq!((error.class, error.reason, error.retryable), (Class::Failed, "NoServerBeside", true));
        for answer in ["", "nonsense\n", "{\"state\":\"loaded\"}\n"] {
            let path = folder.path().join(SOCKET);
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 512]).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
            let error = check.boot(Path::new("/d"), false, "redis", "1").await.unwrap_err();
            assert_eq!((error.class, error.reason), (Class::Failed, "ServerLost"), "{answer}");
            server.await.unwrap();
            std::fs::remove_file(path).unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_asks_and_goes_away_leaves_no_server_and_the_next_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        let server = tokio::spawn(async move { serve_boots(&place, &Scripted, &|| {}).await.map(|_| ()) });
        let check = RemoteBootCheck::new(folder.path());
        let hung = tokio::time::timeout(Duration::from_millis(200), check.boot(Path::new("/d"), true, "redis", "5"));
        assert!(hung.await.is_err());
        // `5` never ends by itself, and there is one server at a time.
        assert!(check.boot(Path::new("/d"), true, "redis", "1").await.is_ok());
        server.abort();
    }
}
