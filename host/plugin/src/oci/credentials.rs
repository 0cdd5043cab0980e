//! Who we are to a registry: as `docker login` wrote it, or as given.

use std::path::Path;

use base64::Engine as _;
use redkeep_core::secret::Secret;
use serde::Deserialize;

use super::error::OciError;

/// The largest file of credentials that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A user and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// What a `config.json` of docker (a Secret's `.dockerconfigjson`) has for a registry.
pub fn from_docker_config(path: &Path, registry: &str) -> Result<Option<Credentials>, OciError> {
    use std::io::Read as _;
    let failed = |why: String| OciError::Settings { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    parse(&text, registry).map_err(|why| failed(why.to_owned()))
}

fn parse(text: &str, registry: &str) -> Result<Option<Credentials>, &'static str> {
    // Its own text is never shown: it holds passwords.
    let config: DockerConfig = serde_json::from_str(text).map_err(|_| "it is not a docker config.json")?;
    let host = |key: &str| {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next().unwrap_or(key).to_owned()
    };
    let Some((_, found)) = config.auths.into_iter().find(|(key, _)| host(key) == registry) else { return Ok(None) };
    if let (Some(username), Some(password)) = (found.username, found.password) {
        return Ok(Some(Credentials { username, password: Secret::new(password) }));
    }
    // Empty where a credential helper keeps it.
    let Some(auth) = found.auth.filter(|auth| !auth.is_empty()) else { return Ok(None) };
    let broken = "its `auth` for this registry is not the base64 of user:password";
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth).map_err(|_| broken)?;
    let decoded = String::from_utf8(decoded).map_err(|_| broken)?;
    let (username, password) = decoded.split_once(':').ok_or(broken)?;
    Ok(Some(Credentials { username: username.to_owned(), password: Secret::new(password.trim_end_matches('\0')) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_entry_is_taken() {
        let text = r#"{"auths":{
            "https://ghcr.io/v1/": {"auth":"Ym9iOnMzY3JldDp4"},
            "localhost:5000": {"username":"amy","password":"pw"},
            "helper.io": {}
        }}"#;
        let found = parse(text, "ghcr.io").unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.expose()), ("bob", "s3cret:x"));
        assert_eq!(parse(text, "localhost:5000").unwrap().unwrap().username, "amy");
        assert_eq!(parse(text, "helper.io").unwrap(), None);
        assert_eq!(parse(text, "other.io").unwrap(), None);
    }

    #[test]
    fn what_is_broken_is_said_without_its_text() {
        for text in ["hunter2", r#"{"auths":{"r":{"auth":"hunter2!"}}}"#, r#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#]
        {
            let why = parse(text, "r").unwrap_err();
            assert!(!why.contains("hunter"), "{why}");
        }
    }
}
