//! Credentials from a folder with one file for each, as a mounted Secret has. The spellings are those of DESIGN 7.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};
use redkeep_core::storage::{StorageError, StorageErrorKind};

const ACCESS_KEY: [&str; 4] = ["AWS_ACCESS_KEY_ID", "aws_access_key_id", "accessKeyId", "access_key_id"];
const SECRET_KEY: [&str; 4] =
    ["AWS_SECRET_ACCESS_KEY", "aws_secret_access_key", "secretAccessKey", "secret_access_key"];
const SESSION_TOKEN: [&str; 4] = ["AWS_SESSION_TOKEN", "aws_session_token", "sessionToken", "session_token"];
/// Kubernetes renews mounted Secrets in place, so the files are read again after this time.
const REREAD_AFTER: Duration = Duration::from_mins(5);

/// Reads the folder whenever the SDK asks.
pub(super) struct FolderCredentials {
    folder: PathBuf,
}

impl FolderCredentials {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// What lies in the folder now.
    pub(super) fn read(&self) -> Result<Credentials, StorageError> {
        let access = require(&self.folder, "access key", &ACCESS_KEY)?;
        let secret = require(&self.folder, "secret key", &SECRET_KEY)?;
        let token = read_any(&self.folder, &SESSION_TOKEN)?;
        let expires = SystemTime::now() + REREAD_AFTER;
        Ok(Credentials::new(access, secret, token, Some(expires), "redkeep credentials folder"))
    }
}

impl fmt::Debug for FolderCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FolderCredentials").field("folder", &self.folder).finish()
    }
}

impl ProvideCredentials for FolderCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read().map_err(CredentialsError::invalid_configuration))
    }
}

fn require(folder: &Path, what: &str, names: &[&str]) -> Result<String, StorageError> {
    read_any(folder, names)?.ok_or_else(|| {
        let act = format!("failed to find the S3 {what} in {}", folder.display());
        StorageError::new(StorageErrorKind::Denied, act)
            .with_help(format!("the credentials need one of these keys (files): {}", names.join(", ")))
    })
}

/// The first of these files that is there and not empty.
pub(crate) fn read_any(folder: &Path, names: &[&str]) -> Result<Option<String>, StorageError> {
    for name in names {
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => return Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let act = format!("failed to read the credential {}", path.display());
                return Err(StorageError::new(StorageErrorKind::Denied, act)
                    .caused_by(error)
                    .with_help("make the file readable for this user"));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn every_spelling_is_found_and_line_ends_are_cut() {
        for spelling in 0..4 {
            let folder = folder(&[
                (ACCESS_KEY[spelling], "id\n"),
                (SECRET_KEY[spelling], "secret\r\n"),
                (SESSION_TOKEN[spelling], "token"),
            ]);
            let credentials = FolderCredentials::new(folder.path()).read().unwrap();
            assert_eq!(credentials.access_key_id(), "id");
            assert_eq!(credentials.secret_access_key(), "secret");
            assert_eq!(credentials.session_token(), Some("token"));
        }
    }

    #[test]
    fn a_missing_key_is_named_with_its_spellings() {
        let folder = folder(&[("accessKeyId", "id"), ("secretAccessKey", " \n")]);
        let error = FolderCredentials::new(folder.path()).read().unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Denied);
        assert!(error.to_string().contains("secret key"), "{error}");
        let help = error.help.unwrap();
        assert!(SECRET_KEY.iter().all(|name| help.contains(name)), "{help}");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let folder = folder(&[("accessKeyId", "id"), ("secretAccessKey", "hush-hush")]);
        let provider = FolderCredentials::new(folder.path());
        assert!(!format!("{provider:?} {:?}", provider.read().unwrap()).contains("hush-hush"));
    }
}
