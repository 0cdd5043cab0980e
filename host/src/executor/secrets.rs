//! Secrets read over the Kubernetes API: needs the optional role.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::SecretReader;

/// Asks the API server each time: a Secret that was changed is read as it is now.
pub(crate) struct KubernetesSecrets(pub(crate) Client);

#[async_trait]
impl SecretReader for KubernetesSecrets {
    async fn read(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let secret = Api::<Secret>::namespaced(self.0.clone(), namespace).get_opt(name).await;
        let secret = secret.map_err(|error| error.to_string())?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        Ok(data.into_iter().map(|(key, value)| (key, value.0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use serde_json::{Value, json};

    fn client(code: u16, answer: Value) -> Client {
        let service = tower::service_fn(move |request: http::Request<Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/team/secrets/credentials");
            let body = Body::from(answer.to_string().into_bytes());
            std::future::ready(Ok::<_, std::convert::Infallible>(
                http::Response::builder().status(code).body(body).unwrap(),
            ))
        });
        Client::new(service, "team")
    }

    fn status(code: u16, reason: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
            "message": format!("{reason}: secrets \"credentials\""), "code": code})
    }

    #[tokio::test]
    async fn a_secret_is_its_keys_and_one_that_is_missing_has_none() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "credentials"},
            "data": {"password": "aHVzaA=="}});
        let keys = KubernetesSecrets(client(200, secret)).read("team", "credentials").await.unwrap();
        assert_eq!(keys, BTreeMap::from([("password".to_owned(), b"hush".to_vec())]));
        let keys = KubernetesSecrets(client(404, status(404, "NotFound"))).read("team", "credentials").await.unwrap();
        assert!(keys.is_empty());
        let denied = KubernetesSecrets(client(403, status(403, "Forbidden"))).read("team", "credentials").await;
        assert!(denied.unwrap_err().contains("Forbidden"));
    }
}
