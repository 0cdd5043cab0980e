//! Finds the server of the image, and makes sure that it is one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::InstanceError;

/// Programs that are looked for.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// `CLIENT PAUSE … WRITE` and `REPLICAOF` as they are used here came with it.
const OLDEST_REDIS: [u64; 2] = [6, 2];

/// A server of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) server: String,
    pub(crate) version: String,
}

impl Program {
    /// Whether it keeps its append-only files in a folder of their own, with a manifest: Redis 7.0 and all of Valkey do.
    pub(crate) fn knows_manifests(&self) -> bool {
        self.server == "valkey" || release(&self.version) >= [7, 0]
    }
}

/// The server that is named, else the first of `PATH`.
pub(crate) fn find(named: Option<&Path>) -> Result<Program, InstanceError> {
    let path = named.map(Path::to_path_buf).or_else(in_path).ok_or(InstanceError::NotRedis)?;
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|source| InstanceError::Start { program: path.clone(), source })?;
    judge(path, &String::from_utf8_lossy(&output.stdout))
}

fn in_path() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file())
}

/// `Redis server v=7.0.15 sha=…` or `Valkey server v=8.1.8 sha=…`.
fn judge(program: PathBuf, answer: &str) -> Result<Program, InstanceError> {
    let server = answer.split_ascii_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    let version = answer.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="));
    let Some(version) = version.filter(|_| matches!(server.as_str(), "redis" | "valkey")) else {
        let answer: String = answer.lines().next().unwrap_or_default().chars().take(80).collect();
        return Err(InstanceError::NotRedisEither { program, answer });
    };
    let version = version.to_owned();
    if release(&version) < OLDEST_REDIS {
        return Err(InstanceError::TooOld { program, server, version });
    }
    Ok(Program { path: program, server, version })
}

fn release(version: &str) -> [u64; 2] {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("Redis server v=6.2.14 sha=0:0 malloc=jemalloc bits=64", Ok(("redis", "6.2.14")))]
    #[case("Valkey server v=8.1.8 sha=0:0", Ok(("valkey", "8.1.8")))]
    #[case("Redis server v=255.255.255 sha=0:0", Ok(("redis", "255.255.255")))]
    #[case("Redis server v=6.0.16 sha=0:0", Err(4))]
    #[case("Redis server v=5.0.3 sha=0:0", Err(4))]
    #[case("GNU bash, version 5", Err(3))]
    #[case("", Err(3))]
    fn answers_to_version(#[case] answer: &str, #[case] expected: Result<(&str, &str), u8>) {
        let found = judge("/x".into(), answer);
        let found =
            found.as_ref().map(|it| (it.server.as_str(), it.version.as_str())).map_err(InstanceError::exit_code);
        assert_eq!(found, expected);
    }
}
