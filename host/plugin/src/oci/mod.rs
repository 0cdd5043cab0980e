//! Components in OCI registries, in the CNCF layout: fetched by digest, brought there, signed and checked.
//!
//! The client is our own and small: a plugin is code, so no redirect is followed unseen, nothing is read that is larger than
//! announced, no answer is believed without its digest, and HTTP without TLS is spoken only when it was asked for.

mod artifact;
mod cache;
mod challenge;
mod credentials;
mod error;
mod http;
mod reference;
mod signature;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, StatusCode};

use crate::error::PluginError;
use crate::loader::{MAX_COMPONENT, outline};
use artifact::{
    CONFIG_TYPE, Descriptor, ImageManifest, LAYER_TYPE, MANIFEST_TYPE, MAX_MANIFEST, check_digest, component_of,
    config_of, manifest_of, sha256,
};
use cache::FetchCache;
pub use credentials::{Credentials, from_docker_config};
pub use error::OciError;
use http::{Ask, Registry};
pub use reference::{OciReference, SCHEME};
use signature::{MAX_PAYLOAD, MAX_SIGNATURES, Signed};

/// How a registry is spoken to.
#[derive(Clone, Debug, Default)]
pub struct OciOptions {
    /// Who we are; none: nobody.
    pub credentials: Option<Credentials>,
    /// Certificate authorities (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// HTTP without TLS.
    pub plain_http: bool,
    /// Hosts that downloads and uploads may be redirected to; none of them sees who we are.
    pub redirect_hosts: Vec<String>,
    /// The public key (PEM) that a signature must hold by.
    pub public_key_file: Option<PathBuf>,
    /// The same as text.
    pub public_key: Option<String>,
    /// Where fetched files are kept.
    pub cache_dir: Option<PathBuf>,
}

/// A component that was fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its bytes: of the digest that the manifest names.
    pub bytes: Vec<u8>,
    /// The reference by digest: what a tag was resolved to.
    pub pinned: OciReference,
    /// Whether nothing of it had to be fetched.
    pub from_cache: bool,
    /// Whether a signature was demanded, and held.
    pub signed: bool,
}

/// Fetches a component. A tag is resolved once; from then on everything goes by digest.
pub async fn fetch(reference: &OciReference, options: &OciOptions) -> Result<Fetched, OciError> {
    let key = match (&options.public_key_file, &options.public_key) {
        (Some(file), _) => Some(signature::public_key(file)?),
        (None, Some(text)) => Some(signature::public_key_text(text)?),
        (None, None) => None,
    };
    let cache = FetchCache::new(options.cache_dir.clone());
    let registry = Registry::new(&reference.registry, options)?;
    let cached = reference.digest.as_ref().and_then(|digest| cache.get(digest, MAX_MANIFEST));
    let mut from_cache = cached.is_some();
    let manifest = match cached {
        Some(manifest) => manifest.into(),
        None => manifest(&registry, reference).await?,
    };
    let pinned = reference.pinned(&sha256(&manifest));
    let digest = pinned.digest.clone().unwrap_or_default();
    let (layer, size) = component_of(&manifest, &pinned.to_string())?;
    // Before the component itself, which may be large.
    if let Some(key) = &key {
        check_signature(&registry, &cache, key, &pinned, &digest).await?;
    }
    let bytes = if let Some(bytes) = cache.get(&layer, MAX_COMPONENT) {
        bytes
    } else {
        from_cache = false;
        let bytes = blob(&registry, &pinned, &layer, size).await?;
        cache.put(&digest, &manifest);
        cache.put(&layer, &bytes);
        bytes.into()
    };
    Ok(Fetched { bytes, pinned, from_cache, signed: key.is_some() })
}

/// The digest that a reference stands for now.
pub async fn resolve(reference: &OciReference, options: &OciOptions) -> Result<OciReference, OciError> {
    let registry = Registry::new(&reference.registry, options)?;
    let manifest = manifest(&registry, reference).await?;
    Ok(reference.pinned(&sha256(&manifest)))
}

async fn manifest(registry: &Registry, reference: &OciReference) -> Result<Bytes, OciError> {
    let what = format!("the manifest of {reference}");
    let manifest =
        get(registry, reference, &format!("manifests/{}", reference.manifest()), &what, MAX_MANIFEST).await?;
    let manifest = manifest.ok_or_else(|| OciError::NotFound { what: reference.to_string() })?;
    if let Some(wanted) = &reference.digest {
        check_digest(&what, wanted, &manifest)?;
    }
    Ok(manifest)
}

async fn blob(registry: &Registry, reference: &OciReference, digest: &str, size: u64) -> Result<Bytes, OciError> {
    let what = format!("a part of {reference}");
    let blob = get(registry, reference, &format!("blobs/sha256:{digest}"), &what, size).await?;
    let blob = blob.ok_or_else(|| OciError::NotFound { what: what.clone() })?;
    check_digest(&what, digest, &blob)?;
    Ok(blob)
}

async fn get(
    registry: &Registry,
    reference: &OciReference,
    path: &str,
    what: &str,
    limit: u64,
) -> Result<Option<Bytes>, OciError> {
    let ask = Ask {
        act: "read a plugin",
        method: Method::GET,
        url: registry.url(&format!("{}/{path}", reference.repository))?,
        headers: &[(ACCEPT, MANIFEST_TYPE), (ACCEPT, "application/octet-stream")],
        body: None,
    };
    let response = registry.ask(ask).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    registry.body(response, what, limit).await.map(Some)
}

async fn check_signature(
    registry: &Registry,
    cache: &FetchCache,
    key: &p256::ecdsa::VerifyingKey,
    pinned: &OciReference,
    digest: &str,
) -> Result<(), OciError> {
    let kept = cache.signatures(digest, MAX_PAYLOAD * MAX_SIGNATURES as u64);
    let kept: Option<Vec<Signed>> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if kept.is_some_and(|signatures| signature::verify(key, &signatures, digest, pinned).is_ok()) {
        return Ok(());
    }
    let signatures = signatures(registry, pinned, digest).await?;
    signature::verify(key, &signatures, digest, pinned)?;
    if let Ok(bytes) = serde_json::to_vec(&signatures) {
        cache.put_signatures(digest, &bytes);
    }
    Ok(())
}

/// What cosign keeps beside a manifest.
async fn signatures(registry: &Registry, pinned: &OciReference, digest: &str) -> Result<Vec<Signed>, OciError> {
    let what = format!("the signatures of {pinned}");
    let path = format!("manifests/{}", signature::tag_of(digest));
    let Some(manifest) = get(registry, pinned, &path, &what, MAX_MANIFEST).await? else { return Ok(Vec::new()) };
    let manifest: ImageManifest = serde_json::from_slice(&manifest).map_err(|error| OciError::Layout {
        reference: what.clone(),
        why: format!("their manifest is not an image's ({error})"),
    })?;
    let mut found = Vec::new();
    for layer in manifest.layers.iter().filter(|layer| layer.media_type == signature::PAYLOAD_TYPE).take(MAX_SIGNATURES)
    {
        let (Some(digest), Some(signature)) =
            (reference::digest_of(&layer.digest), layer.annotations.get(signature::ANNOTATION))
        else {
            continue;
        };
        let payload = blob(registry, pinned, &digest, layer.size.min(MAX_PAYLOAD)).await?;
        found.push(Signed::new(&payload, signature));
    }
    Ok(found)
}

/// Brings a component to a registry, and signs it where a private key is given. Returns the reference by digest.
pub async fn push(
    reference: &OciReference,
    bytes: Vec<u8>,
    options: &OciOptions,
    sign_with: Option<&Path>,
) -> Result<OciReference, PushError> {
    let key = sign_with.map(signature::private_key).transpose()?;
    // What this host would not load is not brought anywhere.
    let outline = outline(&bytes, &reference.to_string(), None)?;
    let registry = Registry::new(&reference.registry, options)?;
    let config = config_of(&outline);
    let config_blob = Descriptor::of(CONFIG_TYPE, &config);
    let layer = Descriptor::of(LAYER_TYPE, &bytes);
    upload(&registry, reference, &config_blob, config.into()).await?;
    upload(&registry, reference, &layer, bytes.into()).await?;
    let manifest = manifest_of(config_blob, vec![layer]);
    let digest = sha256(&manifest);
    if let Some(wanted) = &reference.digest {
        check_digest(&format!("the manifest of {reference}"), wanted, &manifest)?;
    }
    let name = reference.tag.clone().unwrap_or_else(|| format!("sha256:{digest}"));
    put_manifest(&registry, reference, &name, manifest).await?;
    let pinned = reference.pinned(&digest);
    if let Some(key) = key {
        let (payload, signature) = signature::sign(&key, reference, &digest);
        let config = br#"{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let config_blob = Descriptor::of(signature::CONFIG_TYPE, &config);
        let mut layer = Descriptor::of(signature::PAYLOAD_TYPE, &payload);
        layer.annotations.insert(signature::ANNOTATION.to_owned(), signature);
        upload(&registry, reference, &config_blob, config.into()).await?;
        upload(&registry, reference, &layer, payload.into()).await?;
        let manifest = manifest_of(config_blob, vec![layer]);
        put_manifest(&registry, reference, &signature::tag_of(&digest), manifest).await?;
    }
    Ok(pinned)
}

/// Why a component could not be brought to a registry.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The component.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl From<PushError> for redkeep_core::provider::ProviderError {
    fn from(failure: PushError) -> Self {
        match failure {
            PushError::Oci(error) => error.into(),
            PushError::Plugin(error) => error.into(),
        }
    }
}

const ACT: &str = "store a plugin";

async fn upload(
    registry: &Registry,
    reference: &OciReference,
    blob: &Descriptor,
    bytes: Bytes,
) -> Result<(), OciError> {
    let repository = &reference.repository;
    let head = Ask {
        act: ACT,
        method: Method::HEAD,
        url: registry.url(&format!("{repository}/blobs/{}", blob.digest))?,
        headers: &[],
        body: None,
    };
    let is_there = match registry.ask(head).await {
        Ok(answer) => answer.status().is_success(),
        // It is kept at another host, which we are not to ask: bringing it again is always right.
        Err(OciError::Redirect { .. }) => false,
        Err(error) => return Err(error),
    };
    if is_there {
        return Ok(());
    }
    let begin = Ask {
        act: ACT,
        method: Method::POST,
        url: registry.url(&format!("{repository}/blobs/uploads/"))?,
        headers: &[],
        body: Some(Bytes::new()),
    };
    let started = registry.ask(begin).await?;
    if started.status() == StatusCode::NOT_FOUND {
        return Err(OciError::NotFound { what: format!("the repository {repository}") });
    }
    let mut url = registry.upload_location(&started)?;
    url.query_pairs_mut().append_pair("digest", &blob.digest);
    let put = Ask {
        act: ACT,
        method: Method::PUT,
        url,
        headers: &[(CONTENT_TYPE, "application/octet-stream")],
        body: Some(bytes),
    };
    created(registry.ask(put).await?.status(), reference)
}

async fn put_manifest(
    registry: &Registry,
    reference: &OciReference,
    name: &str,
    manifest: Vec<u8>,
) -> Result<(), OciError> {
    let put = Ask {
        act: ACT,
        method: Method::PUT,
        url: registry.url(&format!("{}/manifests/{name}", reference.repository))?,
        headers: &[(CONTENT_TYPE, MANIFEST_TYPE)],
        body: Some(manifest.into()),
    };
    created(registry.ask(put).await?.status(), reference)
}

fn created(status: StatusCode, reference: &OciReference) -> Result<(), OciError> {
    if status.is_success() {
        return Ok(());
    }
    Err(OciError::Status { act: ACT, registry: reference.registry.clone(), status: status.as_u16() })
}
