//! The CNCF layout of a component in a registry: a config of its own type, one layer that is the component.

use redkeep_core::units::format_size;
use serde::{Deserialize, Serialize};

use super::error::OciError;
use super::reference::digest_of;
use crate::loader::{MAX_COMPONENT, Outline, hexadecimal};

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
pub(super) const LAYER_TYPE: &str = "application/wasm";
/// The largest manifest, in bytes: theirs have some hundred.
pub(super) const MAX_MANIFEST: u64 = 1 << 20;

/// An OCI image manifest, as far as it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageManifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A blob, by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    /// `sha256:…`
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(super) annotations: std::collections::BTreeMap<String, String>,
}

impl Descriptor {
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", sha256(bytes)),
            size: bytes.len() as u64,
            annotations: std::collections::BTreeMap::new(),
        }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hexadecimal(&sha2::Sha256::digest(bytes))
}

/// The bytes have the digest that was asked for.
pub(super) fn check_digest(what: &str, wanted: &str, bytes: &[u8]) -> Result<(), OciError> {
    let actual = sha256(bytes);
    if actual == wanted {
        return Ok(());
    }
    Err(OciError::Digest { what: what.to_owned(), wanted: wanted.to_owned(), actual })
}

/// The layer that is the component: its digest and size. Everything is refused before a byte of it is fetched.
pub(super) fn component_of(manifest: &[u8], reference: &str) -> Result<(String, u64), OciError> {
    let wrong = |why: String| OciError::Layout { reference: reference.to_owned(), why };
    let value: serde_json::Value =
        serde_json::from_slice(manifest).map_err(|error| wrong(format!("its manifest is no JSON ({error})")))?;
    if value.get("manifests").is_some() {
        return Err(wrong("it is an index of several manifests; name one of them by its digest".to_owned()));
    }
    let manifest: ImageManifest =
        serde_json::from_value(value).map_err(|error| wrong(format!("its manifest is not an image's ({error})")))?;
    if manifest.config.media_type != CONFIG_TYPE {
        let found = crate::text::printable(&manifest.config.media_type, 100);
        return Err(wrong(format!("its config has the type {found}, not {CONFIG_TYPE}")));
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(wrong(format!("it has {} layers, and a component is one", manifest.layers.len())));
    };
    if layer.media_type != LAYER_TYPE {
        let found = crate::text::printable(&layer.media_type, 100);
        return Err(wrong(format!("its layer has the type {found}, not {LAYER_TYPE}")));
    }
    let digest = digest_of(&layer.digest).ok_or_else(|| wrong("its layer has no SHA-256".to_owned()))?;
    if layer.size > MAX_COMPONENT {
        return Err(OciError::TooLarge {
            what: format!("the component {reference} ({})", format_size(layer.size)),
            limit: MAX_COMPONENT,
        });
    }
    Ok((digest, layer.size))
}

/// The config of a component. Nothing in it changes from one push to the next, so that equal components are equal artifacts.
pub(super) fn config_of(outline: &Outline) -> Vec<u8> {
    let config = serde_json::json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [format!("sha256:{}", outline.digest)],
        "component": { "imports": outline.imports, "exports": outline.exports },
    });
    config.to_string().into_bytes()
}

/// A manifest of these two.
pub(super) fn manifest_of(config: Descriptor, layers: Vec<Descriptor>) -> Vec<u8> {
    let manifest = ImageManifest { schema_version: 2, media_type: Some(MANIFEST_TYPE.to_owned()), config, layers };
    serde_json::to_vec(&manifest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layers: &[(&str, u64)]) -> Vec<u8> {
        let layer = |(kind, size): &(&str, u64)| Descriptor { size: *size, ..Descriptor::of(kind, b"x") };
        manifest_of(Descriptor::of(config, b"{}"), layers.iter().map(layer).collect())
    }

    #[test]
    fn a_component_is_one_layer_of_its_type() {
        let good = manifest(CONFIG_TYPE, &[(LAYER_TYPE, 1)]);
        assert_eq!(component_of(&good, "r").unwrap(), (sha256(b"x"), 1));
        for (bytes, why) in [
            (manifest("application/vnd.oci.image.config.v1+json", &[(LAYER_TYPE, 1)]), "its config has the type"),
            (manifest(CONFIG_TYPE, &[]), "0 layers"),
            (manifest(CONFIG_TYPE, &[(LAYER_TYPE, 1), (LAYER_TYPE, 1)]), "2 layers"),
            (manifest(CONFIG_TYPE, &[("application/vnd.wasm.cwasm", 1)]), "its layer has the type"),
            (br#"{"schemaVersion":2,"manifests":[]}"#.to_vec(), "an index"),
            (b"<html>".to_vec(), "no JSON"),
        ] {
            let error = component_of(&bytes, "r").unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let large = manifest(CONFIG_TYPE, &[(LAYER_TYPE, 500 << 20)]);
        let error = component_of(&large, "r").unwrap_err();
        assert!(matches!(error, OciError::TooLarge { .. }), "{error}");
    }
}
