//! The throw-away server of level `boot`: from which image it is made (ADR 21).
//!
//! Somebody else's code runs beside a task, so whose image it may be is a list of the operator's. The image that a RedisCluster
//! of the namespace runs anyway needs no place on it, unless the task has a service account: what that may do, every container
//! of its pod may try to do.

use kube::{Api, Client};
use redkeep_k8s_api::common::{Verification, VerificationLevel};
use redkeep_k8s_api::redis_cluster::RedisCluster;

use super::Unresolved;
use crate::executor::ThrowAwayServer;
use crate::settings::Settings;

const FIELD: &str = "spec.verification.image";

/// Whether there can be a server at all: pure, and before the backup is begun.
pub fn check(verification: &Verification, cluster: Option<&str>, settings: &Settings) -> Result<(), Unresolved> {
    if verification.level != VerificationLevel::Boot || (verification.image.is_none() && cluster.is_some()) {
        return Ok(());
    }
    image(verification, None, None, settings).map(drop)
}

/// The server of a verification; `None` where its level needs none.
pub async fn resolve(
    client: &Client,
    namespace: &str,
    verification: &Verification,
    cluster: Option<&str>,
    service_account: Option<&str>,
    settings: &Settings,
) -> Result<Option<ThrowAwayServer>, Unresolved> {
    if verification.level != VerificationLevel::Boot {
        return Ok(None);
    }
    let mut found = None;
    if let (Some(name), None) = (cluster, &verification.image) {
        let api: Api<RedisCluster> = Api::namespaced(client.clone(), namespace);
        found = api.get_opt(name).await.map_err(Unresolved::read(format!("RedisCluster {name}")))?;
    }
    let of_cluster = found.as_ref().map(|cluster| cluster.spec.image_name.as_str());
    let image = image(verification, of_cluster, service_account, settings)?;
    let pulls = found.iter().filter(|cluster| cluster.spec.image_name == image);
    Ok(Some(ThrowAwayServer {
        resources: verification.resources.clone(),
        image_pull_secrets: pulls
            .flat_map(|cluster| &cluster.spec.image_pull_secrets)
            .map(|secret| secret.name.clone())
            .collect(),
        image,
    }))
}

/// Pure. `of_cluster`: what the RedisCluster that was backed up runs.
fn image(
    verification: &Verification,
    of_cluster: Option<&str>,
    service_account: Option<&str>,
    settings: &Settings,
) -> Result<String, Unresolved> {
    let listed = |image: &str| settings.verification_images.iter().any(|entry| covers(entry, image));
    if let Some(image) = &verification.image {
        if listed(image) {
            return Ok(image.clone());
        }
        let why = format!("{image} is not on the operator's list (--verification-image)");
        return Err(Unresolved::invalid(FIELD, why));
    }
    let default = settings.verification_images.iter().find(|entry| repository(entry) != entry.as_str());
    match (of_cluster, default) {
        (Some(image), _) if service_account.is_none() || listed(image) => Ok(image.to_owned()),
        (_, Some(image)) => Ok(image.clone()),
        (Some(image), None) => {
            let account = service_account.unwrap_or_default();
            let why = format!(
                "the task has service account {account}, so {image} of the RedisCluster must be on the operator's list \
                 (--verification-image)"
            );
            Err(Unresolved::invalid(FIELD, why))
        }
        (None, None) => {
            let why = "level boot needs a server: name an image of the operator's list, or let the operator have one \
                       by default (--verification-image), or use parse";
            Err(Unresolved::invalid(FIELD, why))
        }
    }
}

/// Whether an entry of the list allows an image.
fn covers(entry: &str, image: &str) -> bool {
    entry == image || (repository(entry) == entry && repository(image) == entry)
}

/// An image without its tag and digest.
fn repository(image: &str) -> &str {
    let named = image.split_once('@').map_or(image, |(named, _)| named);
    match named.rsplit_once(':') {
        // A colon before the last slash is a port's.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use rstest::rstest;
    use serde_json::{Value, json};

    const PINNED: &str = "r.io:5000/redis@sha256:0a";

    fn with(images: &[&str]) -> Settings {
        let verification_images = images.iter().map(|image| (*image).to_owned()).collect();
        Settings { verification_images, ..Settings::new("i", "n", "o") }
    }

    fn verification(more: Value) -> Verification {
        let mut all = json!({"level": "boot"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[rstest]
    #[case::listed(json!({"image": PINNED}), None, None, &[PINNED], Ok(PINNED))]
    #[case::its_repository_listed(json!({"image": PINNED}), None, None, &["r.io:5000/redis"], Ok(PINNED))]
    #[case::another_repository(json!({"image": PINNED}), None, None, &["r.io:5000/redi"], Err("not on the operator's list"))]
    #[case::not_listed(json!({"image": PINNED}), Some("redis:7.2"), None, &["redis:7.2"], Err("not on the operator's list"))]
    #[case::of_the_cluster(json!({}), Some("redis:7.2"), None, &["redis:8.2"], Ok("redis:7.2"))]
    #[case::not_of_the_cluster_with_an_account(json!({}), Some("x:1"), Some("a"), &["redis:8.2"], Ok("redis:8.2"))]
    #[case::of_the_cluster_and_listed(json!({}), Some("redis:7.2"), Some("a"), &["redis:8.2", "redis"], Ok("redis:7.2"))]
    #[case::an_account_and_no_list(json!({}), Some("x:1"), Some("a"), &[], Err("the task has service account a"))]
    #[case::the_first_that_names_one(json!({}), None, None, &["redis", "redis:8.2", "redis:7.2"], Ok("redis:8.2"))]
    #[case::none(json!({}), None, None, &["redis"], Err("level boot needs a server"))]
    fn an_image_is_the_operators_the_clusters_or_none(
        #[case] spec: Value,
        #[case] of_cluster: Option<&str>,
        #[case] account: Option<&str>,
        #[case] list: &[&str],
        #[case] expected: Result<&str, &str>,
    ) {
        let chosen = image(&verification(spec), of_cluster, account, &with(list)).map_err(|error| error.to_string());
        match expected {
            Ok(image) => assert_eq!(chosen.as_deref(), Ok(image)),
            Err(words) => assert!(chosen.clone().unwrap_err().contains(words), "{chosen:?}"),
        }
    }

    #[test]
    fn what_can_have_no_server_is_refused_before_the_backup() {
        let boot = verification(json!({}));
        assert!(check(&boot, None, &with(&[])).is_err());
        assert!(check(&boot, Some("carts"), &with(&[])).is_ok());
        assert!(check(&boot, None, &with(&["redis:8.2"])).is_ok());
        assert!(check(&verification(json!({"image": PINNED})), Some("carts"), &with(&[])).is_err());
        assert!(check(&verification(json!({"level": "parse"})), None, &with(&[])).is_ok());
    }

    #[tokio::test]
    async fn a_clusters_image_comes_with_the_secrets_that_pull_it() {
        let fake = FakeApi::new();
        fake.put(json!({"apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": {"name": "carts", "namespace": "shop"},
            "spec": {"imageName": "r.io/redis:7.2", "imagePullSecrets": [{"name": "pull"}], "ephemeral": {}}}));
        let settings = with(&["redis:8.2"]);
        let boot = verification(json!({"resources": {"limits": {"memory": "1Gi"}}}));
        let of = async |name| resolve(&fake.client(), "shop", &boot, name, None, &settings).await.unwrap().unwrap();
        let server = of(Some("carts")).await;
        assert_eq!((server.image.as_str(), server.image_pull_secrets), ("r.io/redis:7.2", vec!["pull".to_owned()]));
        assert!(server.resources.unwrap().limits.unwrap().contains_key("memory"));
        let gone = of(Some("gone")).await;
        assert_eq!((gone.image.as_str(), gone.image_pull_secrets), ("redis:8.2", Vec::new()));
        let parse = verification(json!({"level": "parse"}));
        assert_eq!(resolve(&fake.client(), "shop", &parse, Some("carts"), None, &settings).await.unwrap(), None);
    }
}
