//! What a file is, before anything of it is compiled: a component, of ours, for an API that this host speaks.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use wasmparser::{Encoding, Parser, Payload};

use crate::bounds::{Beyond, Bounds};
use crate::error::{NotComponent, PluginError};
use crate::text::printable;

/// The largest component, in bytes (Python's are 18 MiB, those of `SpiderMonkey` 12 MiB).
pub const MAX_COMPONENT: u64 = 64 << 20;
/// The package that plugins speak to.
const PACKAGE: &str = "redkeep:plugin/";
/// The versions of it that this host speaks.
pub(crate) const API: &str = "0.1";
/// Its interfaces that a plugin can import.
const INTERFACES: [&str; 8] = ["types", "log", "control", "pipe", "artifacts", "redis", "files", "socket"];

/// What a component says of itself without being run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// SHA-256 of the component, as lower-case hexadecimal: its identity.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Names of its imports.
    pub imports: Vec<String>,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// The version of the contract that it was built against, e.g. `0.1.0`.
    pub api_version: String,
}

/// Reads a plugin's file, refusing what is larger than [`MAX_COMPONENT`] without reading it.
pub fn read_component(path: &Path) -> Result<Vec<u8>, PluginError> {
    let failed = |source| PluginError::Read { path: path.to_owned(), source };
    let origin = || path.display().to_string();
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    check_size(&origin(), size)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // The length of a pipe or of a growing file is not known before.
    file.take(MAX_COMPONENT + 1).read_to_end(&mut bytes).map_err(failed)?;
    check_size(&origin(), bytes.len() as u64)?;
    Ok(bytes)
}

/// SHA-256 of a component, as lower-case hexadecimal: its identity.
pub fn digest_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn check_size(origin: &str, size: u64) -> Result<(), PluginError> {
    if size > MAX_COMPONENT {
        return Err(PluginError::TooLarge { origin: origin.to_owned(), size, limit: MAX_COMPONENT });
    }
    Ok(())
}

/// Checks everything that can be checked without compiling.
pub(crate) fn outline(bytes: &[u8], origin: &str, demanded_digest: Option<&str>) -> Result<Outline, PluginError> {
    check_size(origin, bytes.len() as u64)?;
    let digest = digest_of(bytes);
    if let Some(demanded) = demanded_digest {
        let demanded = demanded.strip_prefix("sha256:").unwrap_or(demanded).to_ascii_lowercase();
        if demanded != digest {
            return Err(PluginError::Digest { origin: origin.to_owned(), demanded, actual: digest });
        }
    }
    if let Some(kind) = not_component(bytes) {
        return Err(PluginError::NotAComponent { origin: origin.to_owned(), kind });
    }
    let (imports, exports) = names(bytes, origin)?;
    for import in &imports {
        check_import(import, origin)?;
    }
    let api_version = method_version(&exports, origin)?;
    Ok(Outline { digest, size: bytes.len() as u64, imports, exports, api_version })
}

/// What it is instead of a component.
fn not_component(bytes: &[u8]) -> Option<NotComponent> {
    match bytes {
        [] => Some(NotComponent::Empty),
        [0x7f, b'E', b'L', b'F', ..] => Some(NotComponent::Precompiled),
        // Version 13, layer 1.
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => None,
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Some(NotComponent::CoreModule),
        [0, b'a', b's', b'm', _, _, _, _, ..] => Some(NotComponent::UnknownVersion),
        // Cut within its first eight bytes: the parser says so.
        [0, b'a', b's', b'm', ..] | [0] | [0, b'a'] | [0, b'a', b's'] => None,
        text if begins_as_text(text) => Some(NotComponent::Text),
        _ => Some(NotComponent::Other),
    }
}

fn begins_as_text(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len());
    let text = &bytes[start..];
    [&b"(component"[..], b"(module", b";;", b"(;"].iter().any(|begin| text.starts_with(begin))
}

/// The names that the component itself (not those inside it) imports and exports. All of it is counted, for the compiler's sake.
fn names(bytes: &[u8], origin: &str) -> Result<(Vec<String>, Vec<String>), PluginError> {
    let damaged = |reason: String| PluginError::Damaged { origin: origin.to_owned(), reason };
    let broken = |error: wasmparser::BinaryReaderError| damaged(error.to_string());
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0usize;
    let mut bounds = Bounds::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(broken)?;
        bounds.count(&payload).map_err(|beyond| match beyond {
            Beyond::Bound(what) => PluginError::TooComplex { origin: origin.to_owned(), what },
            Beyond::Broken(error) => broken(error),
        })?;
        match payload {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding != Encoding::Component {
                    return Err(PluginError::NotAComponent {
                        origin: origin.to_owned(),
                        kind: NotComponent::CoreModule,
                    });
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err(damaged(format!("it ends at byte {} within a part", bytes.len())));
    }
    Ok((imports, exports))
}

/// `redkeep:plugin/log@0.1.0` as its interface and version.
fn ours(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

/// Whether a version of the contract is one of [`API`].
fn speaks(version: &str) -> bool {
    version
        .strip_prefix(API)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_import(name: &str, origin: &str) -> Result<(), PluginError> {
    let shown = || printable(name, 200);
    let unknown = || PluginError::Import { origin: origin.to_owned(), import: shown() };
    let (interface, version) = ours(name).ok_or_else(unknown)?;
    if !speaks(version) {
        return Err(PluginError::ApiVersion { origin: origin.to_owned(), name: shown(), ours: API });
    }
    if INTERFACES.contains(&interface) { Ok(()) } else { Err(unknown()) }
}

fn method_version(exports: &[String], origin: &str) -> Result<String, PluginError> {
    let versions = || exports.iter().filter_map(|name| ours(name)).filter(|(interface, _)| *interface == "method");
    if let Some((_, version)) = versions().find(|(_, version)| speaks(version)) {
        return Ok(version.to_owned());
    }
    let origin = origin.to_owned();
    Err(match versions().next() {
        Some((_, version)) => {
            PluginError::ApiVersion { origin, name: printable(&format!("{PACKAGE}method@{version}"), 200), ours: API }
        }
        None => PluginError::NotAMethod { origin },
    })
}

/// Lower-case hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"", NotComponent::Empty)]
    #[case(b"\x7fELF\x02\x01", NotComponent::Precompiled)]
    #[case(b"\0asm\x01\0\0\0", NotComponent::CoreModule)]
    #[case(b"\0asm\x0a\0\x01\0", NotComponent::UnknownVersion)]
    #[case(b"\n  (component)", NotComponent::Text)]
    #[case(b"(module)", NotComponent::Text)]
    #[case(b"#!/bin/sh", NotComponent::Other)]
    #[case(b"\x1f\x8b\x08", NotComponent::Other)]
    fn what_is_no_component_is_named(#[case] bytes: &[u8], #[case] expected: NotComponent) {
        let error = outline(bytes, "x.wasm", None).unwrap_err();
        assert!(matches!(error, PluginError::NotAComponent { kind, .. } if kind == expected), "{error}");
    }

    #[rstest]
    #[case("0.1.0", true)]
    #[case("0.1.17", true)]
    #[case("0.1", false)]
    #[case("0.1.", false)]
    #[case("0.2.0", false)]
    #[case("0.10.0", false)]
    #[case("0.1.0-rc1", false)]
    fn patches_of_our_version_are_spoken(#[case] version: &str, #[case] spoken: bool) {
        assert_eq!(speaks(version), spoken);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_COMPONENT + 1).unwrap();
        let error = read_component(file.path()).unwrap_err();
        assert!(matches!(error, PluginError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains("64.0 MiB") || error.to_string().contains("64 MiB"), "{error}");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        use redkeep_core::{Class, Classify};
        let error = read_component(Path::new("/nonexistent/x.wasm")).unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
    }
}
