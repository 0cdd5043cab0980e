//! Servers that are not Redis: reached by `tcp://` and `tls://`, spoken to byte by byte.

use std::sync::Arc;

use bytes::Bytes;
use redkeep_core::method::code;
use redkeep_core::provider::ProviderError;
use redkeep_core::socket::Connection;
use redkeep_core::task::{EndpointSpec, TlsSpec};
use redkeep_core::{Class, Classify as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::access::certificates;
use crate::support::endpoint;

/// Answers every byte by itself; `q` ends the connection, `x` cuts it without any farewell.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte).await {
        match byte[0] {
            b'q' => drop(stream.shutdown().await),
            b'x' => return,
            _ => drop(stream.write_all(&byte).await),
        }
    }
}

async fn plain() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    port
}

async fn secure(folder: &std::path::Path) -> u16 {
    let certificate = CertificateDer::from_pem_file(folder.join("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    echo(stream).await;
                }
            });
        }
    });
    port
}

async fn connect(spec: &EndpointSpec) -> Result<Box<dyn Connection>, ProviderError> {
    let source = redkeep_redis::resolve(spec, None, None).await?;
    assert_eq!((source.mode(), source.shards().len()), ("socket", 1));
    assert_eq!(source.address(), spec.url.clone().unwrap());
    let shard = &source.shards()[0];
    assert!(shard.redis.is_none() && shard.files.is_none());
    Ok(shard.socket.clone().unwrap().connect().await.unwrap())
}

async fn say(connection: &mut Box<dyn Connection>, text: &'static [u8]) -> Vec<u8> {
    connection.write(Bytes::from_static(text)).await.unwrap();
    let mut answer = Vec::new();
    while answer.len() < text.len() {
        answer.extend_from_slice(&connection.read(64, Some(60_000)).await.unwrap());
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_stream_is_read_within_a_time_and_stays_good_after_it() {
    let url = format!("tcp://127.0.0.1:{}", plain().await);
    let mut connection = connect(&endpoint(&url)).await.unwrap();
    let error = connection.read(10, Some(20)).await.unwrap_err();
    assert_eq!(error.code, code::TIMEOUT, "{error}");
    assert_eq!(say(&mut connection, b"hello").await, b"hello");
    connection.write(Bytes::from_static(b"ab")).await.unwrap();
    assert_eq!(connection.read(1, None).await.unwrap().len(), 1);
    assert_eq!(connection.read(1, None).await.unwrap().len(), 1);
    connection.write(Bytes::from_static(b"q")).await.unwrap();
    assert!(connection.read(10, None).await.unwrap().is_empty());

    let target = redkeep_redis::connect_target(&endpoint(&url), None, None).await.unwrap();
    assert!(target.redis.is_none() && !target.cluster && target.keys == 0);
    let mut connection = target.socket.unwrap().connect().await.unwrap();
    assert_eq!(say(&mut connection, b"again").await, b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_the_hosts_and_a_cut_stream_is_no_end() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let port = secure(folder.path()).await;
    let tls = TlsSpec { ca_file: Some(folder.path().join("ca.crt")), ..TlsSpec::default() };
    let spec = EndpointSpec { tls, ..endpoint(&format!("tls://localhost:{port}")) };
    let mut connection = connect(&spec).await.unwrap();
    assert_eq!(say(&mut connection, b"hello").await, b"hello");
    connection.write(Bytes::from_static(b"x")).await.unwrap();
    let error = connection.read(10, None).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), (code::SOURCE_IO, true), "{error}");

    let stranger = EndpointSpec { tls: TlsSpec::default(), ..spec.clone() };
    let error = connect(&stranger).await.err().unwrap();
    assert_eq!((error.class, error.reason()), (Class::Failed, "TlsFailed"), "{error}");
    let trusting = TlsSpec { insecure_skip_verify: true, ..TlsSpec::default() };
    connect(&EndpointSpec { tls: trusting, ..spec.clone() }).await.unwrap();
    let not_tls = EndpointSpec { url: Some(format!("tls://localhost:{}", plain().await)), ..spec };
    let error = connect(&not_tls).await.err().unwrap();
    assert!(error.help.unwrap().contains("tcp://"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_used_is_said_before_anything_else() {
    let port = redkeep_testing::server::free_port();
    let error = connect(&endpoint(&format!("tcp://127.0.0.1:{port}"))).await.err().unwrap();
    assert_eq!((error.reason(), error.retryable), ("Unreachable", true), "{error}");
    let error = connect(&endpoint("tcp://zoo")).await.err().unwrap();
    assert_eq!((error.class, error.reason()), (Class::Usage, "InvalidAddress"), "{error}");
    let user = EndpointSpec { username: Some("bob".to_owned()), ..endpoint("tcp://127.0.0.1:1") };
    assert_eq!(connect(&user).await.err().unwrap().reason(), "CredentialsUnused");
}
