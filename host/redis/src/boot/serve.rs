//! The end that has a server: starts one for each request that comes by the socket, one at a time.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use redkeep_core::boot::{BootAnswer, BootRequest, SOCKET};
use redkeep_core::classify::chain;
use redkeep_core::provider::{BootCheck, ProviderError};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// A request is a path and three words.
const MAX_REQUEST: u64 = 64 << 10;
/// It comes in one piece, from a program that has it ready.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Listens in `folder` and answers with what `check` finds; `between` is called after each server.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve_boots(
    folder: &Path,
    check: &dyn BootCheck,
    between: &(dyn Fn() + Sync),
) -> Result<Infallible, io::Error> {
    let path = folder.join(SOCKET);
    // What a container that was started again left behind.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    loop {
        let (stream, _) = listener.accept().await?;
        if let Err(error) = answer(stream, check, between).await {
            tracing::warn!(%error, "a request was not answered");
        }
    }
}

async fn answer(stream: UnixStream, check: &dyn BootCheck, between: &(dyn Fn() + Sync)) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    let mut line = Vec::new();
    tokio::time::timeout(REQUEST_LIMIT, reader.read_until(b'\n', &mut line)).await??;
    let request: BootRequest = serde_json::from_slice(&line)?;
    tracing::info!(directory = %request.directory.display(), "starting a server");
    let (name, version) = (request.server_name.as_str(), request.server_version.as_str());
    let found = tokio::select! {
        found = check.boot(&request.directory, request.appendonly, name, version) => Some(found),
        // Nothing more is ever sent: whoever asked has gone, and with the other future goes the server.
        _ = reader.read_u8() => None,
    };
    // Before the answer: what it is told lays out the next shard's data here.
    between();
    let Some(found) = found else { return Err(io::Error::other("whoever asked for the server has gone")) };
    let answer = match found {
        Ok(found) => BootAnswer::Loaded { found },
        Err(error) => {
            tracing::warn!(reason = error.reason, message = %error.message, "the server did not load the directory");
            failed(&error)
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.shutdown().await
}

fn failed(error: &ProviderError) -> BootAnswer {
    let message = chain(error);
    BootAnswer::Failed { class: error.class, reason: error.reason.to_owned(), message, help: error.help.clone() }
}
