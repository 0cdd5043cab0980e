use super::*;
use crate::testing::FakeApi;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rstest::rstest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// A server that shows the certificate of a Secret and gives one answer to everything; what it was asked comes back.
async fn serve(answer: &'static str) -> (u16, String, tokio::task::JoinHandle<String>) {
    let (secret, digest) = super::super::secrets::identity(ObjectMeta::default(), "carts").unwrap();
    let data = secret.data.unwrap();
    let certificate = CertificateDer::from_pem_slice(&data["tls.crt"].0).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&data["tls.key"].0).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { return String::new() };
        let mut asked = vec![0; 8192];
        let mut length = 0;
        loop {
            length += stream.read(&mut asked[length..]).await.unwrap();
            let text = String::from_utf8_lossy(&asked[..length]).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let wanted = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() >= wanted.parse::<usize>().unwrap() {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    (port, digest, served)
}

fn instances() -> (FakeApi, HttpsInstances) {
    let fake = FakeApi::new();
    let instances = HttpsInstances::new(fake.client(), "redkeep-system", "redkeep-operator");
    (fake, instances)
}

fn address(port: u16, certificate: &str) -> Address {
    Address { port, ..Address::new("shop", "carts", "carts-0", "127.0.0.1", certificate) }
}

#[tokio::test]
async fn an_instance_with_the_clusters_certificate_is_shown_a_token_for_this_cluster_alone() {
    let (port, digest, served) =
        serve("HTTP/1.0 200 OK\r\n\r\n{\"pod\":\"carts-0\",\"role\":\"primary\",\"epoch\":3}").await;
    let (fake, instances) = instances();
    let standing = instances.standing(&address(port, &digest)).await.unwrap();
    assert_eq!((standing.epoch, standing.role), (3, redkeep_core::managed::Played::Primary));
    let asked = served.await.unwrap();
    assert!(asked.starts_with("GET /v1/standing HTTP/1.0\r\n"), "{asked}");
    assert!(asked.contains("Authorization: Bearer token-of-redkeep-operator-1"), "{asked}");
    let request = fake.calls().into_iter().find(|call| call.path.ends_with("/token")).unwrap();
    assert_eq!(request.path, "/api/v1/namespaces/redkeep-system/serviceaccounts/redkeep-operator/token");
    assert_eq!(request.body["spec"]["audiences"], json!(["redis.io/instance/shop/carts"]));
}

#[tokio::test]
async fn a_stranger_hears_no_token() {
    let (port, _, served) = serve("HTTP/1.0 200 OK\r\n\r\n{}").await;
    let (_, instances) = instances();
    let error = instances.standing(&address(port, &"0".repeat(64))).await.unwrap_err();
    assert!(matches!(error, InstanceError::Stranger { .. }), "{error}");
    assert_eq!(served.await.unwrap(), "");
}

#[tokio::test]
async fn a_token_is_kept_until_most_of_its_life_is_over() {
    let (fake, instances) = instances();
    let address = address(1, "x");
    for _ in 0..3 {
        instances.token(&address).await.unwrap();
    }
    let other = Address::new("shop", "orders", "orders-0", "127.0.0.1", "x");
    instances.token(&other).await.unwrap();
    assert_eq!(fake.calls().iter().filter(|call| call.path.ends_with("/token")).count(), 2);
    instances.drop_token(&address).await;
    instances.token(&address).await.unwrap();
    assert_eq!(fake.calls().iter().filter(|call| call.path.ends_with("/token")).count(), 3);
}

#[tokio::test]
async fn orders_travel_and_a_refusal_says_why() {
    let refusal = "HTTP/1.0 409 Conflict\r\n\r\n{\"reason\":\"StaleEpoch\",\"message\":\"knows 9\",\"standing\":{}}";
    let (port, digest, served) = serve(refusal).await;
    let (_, instances) = instances();
    let orders = Orders {
        epoch: 8,
        process: "p".into(),
        role: redkeep_core::managed::Role::Primary,
        peers: Vec::new(),
        config: std::collections::BTreeMap::new(),
    };
    let error = instances.order(&address(port, &digest), &orders).await.unwrap_err();
    assert!(matches!(&error, InstanceError::Refused { reason, .. } if reason == "StaleEpoch"), "{error}");
    let asked = served.await.unwrap();
    assert!(asked.starts_with("PUT /v1/orders HTTP/1.0\r\n") && asked.contains("\"epoch\":8"), "{asked}");
}

#[rstest]
#[case("HTTP/1.0 200 OK\r\n\r\n{\"pod\":\"carts-1\"}", "carts-1 answers at its address")]
#[case("HTTP/1.0 200 OK\r\n\r\n[", "did not answer")]
#[case("HTTP/1.0 500 Oh\r\n\r\nbroken", "status 500: broken")]
#[case("nonsense", "no answer of HTTP")]
#[tokio::test]
async fn what_is_no_standing_is_no_answer(#[case] answer: &'static str, #[case] says: &str) {
    let (port, digest, _served) = serve(answer).await;
    let (_, instances) = instances();
    let error = instances.standing(&address(port, &digest)).await.unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
}

#[tokio::test]
async fn nobody_there_is_no_answer() {
    let (_, instances) = instances();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = instances.standing(&address(port, "x")).await.unwrap_err();
    assert!(matches!(error, InstanceError::Unreachable { .. }), "{error}");
}
