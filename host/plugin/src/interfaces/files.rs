//! `files`: the data directory. Paths are checked here as texts; that no symbolic link leads out is the provider's part.

use std::sync::Arc;

use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::Files;
use wasmtime::component::Resource;

use crate::bindings::redkeep::plugin::{files, types};
use crate::failure::HostError;
use crate::grants::Grant;
use crate::handles::{SinkHandle, SourceHandle};
use crate::state::State;
use crate::text::printable;

/// The longest path, in bytes.
const MAX_PATH: usize = 4096;

/// Relative, in plain steps downwards: the same file under no second spelling, so that a glob cannot be walked around.
fn check_path(path: &str) -> Result<(), MethodError> {
    let plain = |step: &str| !step.is_empty() && step != "." && step != ".." && step.len() <= 255;
    let fits = path.len() <= MAX_PATH
        && path.split('/').all(plain)
        && !path.chars().any(|character| character.is_control() || character == '\\');
    if fits {
        return Ok(());
    }
    let message = format!("{:?} is not a path within the data directory", printable(path, 200));
    Err(MethodError::new(code::DENIED, message))
}

impl State {
    fn data_directory(&self) -> Result<Arc<dyn Files>, HostError> {
        let files = self.run()?.files.clone();
        files.ok_or_else(|| MethodError::new(code::NOT_SUPPORTED, "this run has no data directory").into())
    }
}

impl files::Host for State {
    async fn list_directory(&mut self, path: String) -> Result<Vec<files::Entry>, HostError> {
        let _host = self.enter();
        self.run()?;
        if !path.is_empty() {
            check_path(&path)?;
        }
        self.check_grant("files:list", |grants| grants.has(&Grant::ListFiles))?;
        let entries = self.data_directory()?.list_directory(&path).await?;
        Ok(entries.into_iter().map(Into::into).collect())
    }

    async fn open(&mut self, path: String) -> Result<Resource<SourceHandle>, HostError> {
        let _host = self.enter();
        self.run()?;
        check_path(&path)?;
        self.check_grant(&format!("files:read:{path}"), |grants| grants.reads(&path))?;
        let source = self.data_directory()?.open(&path).await?;
        self.push_source(source)
    }

    async fn create(&mut self, path: String) -> Result<Resource<SinkHandle>, HostError> {
        let _host = self.enter();
        self.run()?;
        check_path(&path)?;
        self.check_grant(&format!("files:write:{path}"), |grants| grants.writes(&path))?;
        self.may_change("creating a file")?;
        let sink = self.data_directory()?.create(&path).await?;
        self.push_sink(sink)
    }

    async fn remove(&mut self, path: String) -> Result<(), HostError> {
        let _host = self.enter();
        self.run()?;
        check_path(&path)?;
        self.check_grant(&format!("files:write:{path}"), |grants| grants.writes(&path))?;
        self.may_change("removing a file")?;
        Ok(self.data_directory()?.remove(&path).await?)
    }
}

impl From<redkeep_core::redis::FileEntry> for files::Entry {
    fn from(entry: redkeep_core::redis::FileEntry) -> Self {
        let attributes: Vec<types::Attribute> = entry.attributes.into_iter().map(Into::into).collect();
        Self {
            path: entry.path,
            size: entry.size,
            modified_ms: entry.modified_ms,
            directory: entry.directory,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::check_path;

    #[rstest]
    #[case("")]
    #[case("/etc/passwd")]
    #[case("..")]
    #[case("a/../../b")]
    #[case("a/./b")]
    #[case("a//b")]
    #[case("a/")]
    #[case("a\\..\\b")]
    #[case("a\0b")]
    #[case("a\nb")]
    fn a_path_that_is_not_plain_is_denied(#[case] path: &str) {
        assert_eq!(check_path(path).unwrap_err().code, "denied");
    }

    #[test]
    fn plain_paths_pass() {
        for path in ["dump.rdb", "appendonlydir/appendonly.aof.1.base.rdb", "..a/b..", "mit leer"] {
            check_path(path).unwrap();
        }
    }
}
