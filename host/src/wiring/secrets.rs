//! Secrets: read from their places once, and those that came with the command line.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redkeep_core::classify::Class;
use redkeep_core::provider::ProviderError;
use redkeep_core::secret::{PASSWORD_KEYS, Secret, SecretRef};
use redkeep_core::task::EndpointSpec;

use super::unusable;

/// More than any password or passphrase has: a wrong path must not be read whole.
const MAX_SECRET: u64 = 64 << 10;

/// Secrets of this process.
#[derive(Default)]
pub(super) struct Secrets {
    kept: Mutex<HashMap<String, Secret>>,
    /// Standard input can be read only once, and a task may ask more often.
    read: Mutex<HashMap<std::path::PathBuf, Secret>>,
}

impl Secrets {
    /// Keeps a value; what is returned names it. No variable can have such a name.
    pub(super) fn keep(&self, secret: Secret) -> SecretRef {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("=command-line-{}", kept.len());
        kept.insert(name.clone(), secret);
        SecretRef::Env(name)
    }

    /// The endpoint with the name of its user, wherever that stands.
    pub(super) async fn with_user<'a>(&self, spec: &'a EndpointSpec) -> Result<Cow<'a, EndpointSpec>, ProviderError> {
        let Some(place) = &spec.username_from else { return Ok(Cow::Borrowed(spec)) };
        let user = self.read(place).await?.expose().trim().to_owned();
        if user.is_empty() {
            return Err(unusable(
                Class::Usage,
                "SecretMissing",
                "the name of the Redis user is empty".to_owned(),
                "write the ACL user's name under the key that usernameKey names".to_owned(),
            ));
        }
        Ok(Cow::Owned(EndpointSpec { username: Some(user), username_from: None, ..spec.clone() }))
    }

    /// The value at a place.
    pub(super) async fn read(&self, place: &SecretRef) -> Result<Secret, ProviderError> {
        match place {
            SecretRef::Env(name) => {
                let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
                match kept {
                    Some(secret) => Ok(secret),
                    None => variable(name),
                }
            }
            SecretRef::Folder(folder) => {
                let place = folder.clone();
                let key = blocking(move || key_in(&place)).await?;
                Box::pin(self.read(&SecretRef::File(folder.join(key)))).await
            }
            SecretRef::File(path) => {
                if let Some(secret) = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
                    return Ok(secret.clone());
                }
                let owned = path.clone();
                // Standard input may wait for somebody to type.
                let text = blocking(move || file(&owned)).await?;
                let secret = Secret::new(text);
                self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), secret.clone());
                Ok(secret)
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    tokio::task::spawn_blocking(read).await.map_err(|error| {
        ProviderError::new(Class::Failed, "SecretUnreadable", "failed to read a secret").caused_by(error)
    })?
}

/// The key of a mounted Secret that holds the password. An empty one is as good as none.
fn key_in(folder: &Path) -> Result<&'static str, ProviderError> {
    let holds = |key: &&&str| std::fs::metadata(folder.join(key)).is_ok_and(|file| file.is_file() && file.len() > 0);
    PASSWORD_KEYS.iter().find(holds).copied().ok_or_else(|| {
        unusable(
            Class::Usage,
            "SecretMissing",
            format!("failed to find the Redis password in {}: {}", folder.display(), found_in(folder)),
            format!("the Secret needs one of these keys: {}", PASSWORD_KEYS.join(", ")),
        )
    })
}

/// The names of what is there instead, never the contents.
fn found_in(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // A mounted Secret keeps its versions in folders that begin with two dots.
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("..")).take(SHOWN).collect();
    names.sort_unstable();
    if names.is_empty() { "the Secret is missing or empty".to_owned() } else { format!("it has {}", names.join(", ")) }
}

fn variable(name: &str) -> Result<Secret, ProviderError> {
    std::env::var(name).map(Secret::new).map_err(|error| {
        unusable(
            Class::Usage,
            "SecretMissing",
            format!("failed to read a secret from the variable {name}"),
            format!("set {name}, or name a file"),
        )
        .caused_by(error)
    })
}

fn file(path: &Path) -> Result<String, ProviderError> {
    let failed = |error: std::io::Error| {
        unusable(
            Class::Usage,
            "SecretUnreadable",
            format!("failed to read a secret from {}", path.display()),
            "name a file that holds the secret alone and that you may read".to_owned(),
        )
        .caused_by(error)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SECRET {
        return Err(failed(std::io::Error::other("it is larger than any secret (64 KiB)")));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| failed(std::io::Error::other("it is not text")))?;
    // Editors and `echo` end a file in a newline that is not part of the secret.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_newline_at_the_end_is_not_part_of_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::default();
        for (number, (text, value)) in
            [("plain", "plain"), ("line\n", "line"), ("dos\r\n", "dos"), ("two\n\n", "two\n"), (" x ", " x ")]
                .into_iter()
                .enumerate()
        {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            assert_eq!(secrets.read(&SecretRef::File(path)).await.unwrap(), Secret::new(value));
        }
    }

    #[tokio::test]
    async fn a_kept_secret_is_found_by_its_reference_and_shown_nowhere() {
        let secrets = Secrets::default();
        let first = secrets.keep(Secret::new("hunter2"));
        let second = secrets.keep(Secret::new("other"));
        assert_eq!(secrets.read(&first).await.unwrap().expose(), "hunter2");
        assert_eq!(secrets.read(&second).await.unwrap().expose(), "other");
        assert!(!serde_json::to_string(&first).unwrap().contains("hunter2"));
    }

    #[tokio::test]
    async fn the_name_of_a_user_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            let username_from = Some(SecretRef::File(folder.path().join(name)));
            EndpointSpec { username_from, ..EndpointSpec::default() }
        };
        let secrets = Secrets::default();
        let named = file("user", " backup\n");
        assert_eq!(secrets.with_user(&named).await.unwrap().username.as_deref(), Some("backup"));
        let error = secrets.with_user(&file("empty", "\n")).await.unwrap_err();
        assert_eq!((error.class, error.reason), (Class::Usage, "SecretMissing"));
        let gone = EndpointSpec { username_from: Some(SecretRef::File("/nowhere/user".into())), ..named };
        assert!(secrets.with_user(&gone).await.unwrap_err().message.contains("/nowhere/user"));
        let given = EndpointSpec { username: Some("bob".to_owned()), ..EndpointSpec::default() };
        assert_eq!(secrets.with_user(&given).await.unwrap().username.as_deref(), Some("bob"));
    }

    #[tokio::test]
    async fn a_mounted_secret_gives_its_password_under_every_spelling() {
        for key in PASSWORD_KEYS {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("username"), "backup").unwrap();
            std::fs::write(folder.path().join(key), format!("word of {key}\n")).unwrap();
            let place = SecretRef::Folder(folder.path().to_owned());
            let secret = Secrets::default().read(&place).await.unwrap();
            assert_eq!(secret.expose(), format!("word of {key}"));
        }
    }

    #[tokio::test]
    async fn a_mounted_secret_in_the_wrong_shape_names_what_it_has_and_what_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let place = SecretRef::Folder(folder.path().to_owned());
        let error = Secrets::default().read(&place).await.unwrap_err();
        assert_eq!((error.class, error.reason), (Class::Usage, "SecretMissing"));
        assert!(error.message.contains("missing or empty"), "{error}");
        std::fs::write(folder.path().join("pass"), "hush-hush").unwrap();
        std::fs::write(folder.path().join("password"), "").unwrap();
        let error = Secrets::default().read(&place).await.unwrap_err();
        assert!(error.message.contains("it has pass, password") && !error.message.contains("hush"), "{error}");
        let help = error.help.unwrap();
        assert!(PASSWORD_KEYS.iter().all(|key| help.contains(key)), "{help}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_a_usage_error_that_names_the_place() {
        let secrets = Secrets::default();
        let folder = tempfile::tempdir().unwrap();
        let huge = folder.path().join("huge");
        std::fs::write(&huge, vec![b'x'; 70_000]).unwrap();
        for (place, name) in [
            (SecretRef::File("/no/such/file".into()), "/no/such/file"),
            (SecretRef::File(huge), "huge"),
            (SecretRef::Env("REDKEEP_NO_SUCH_VARIABLE".into()), "REDKEEP_NO_SUCH_VARIABLE"),
        ] {
            let error = secrets.read(&place).await.unwrap_err();
            assert!(error.class == Class::Usage && error.message.contains(name) && error.help.is_some(), "{error:?}");
        }
    }
}
