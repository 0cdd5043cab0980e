//! The part table: which stretch of an artifact's stored bytes has which digest (`docs/format.md`, "Part tables").
//!
//! It is what lets a reader check every byte before anything acts on it, and read several stretches at once.

use serde::{Deserialize, Serialize};

use super::digest::{self, Digest};
use super::error::PipelineError;

/// What the table's key appends to the artifact's.
pub(crate) const SUFFIX: &str = ".parts.json";
/// The version written, and the newest that is read.
const FORMAT_VERSION: u32 = 1;
/// The largest part that a reader takes into memory, in bytes.
pub(crate) const LARGEST_PART: u64 = 16 << 20;
/// The largest table that a reader takes into memory, in bytes: about two TiB of artifact.
pub(crate) const LARGEST_TABLE: u64 = 64 << 20;

/// One stretch of stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it begins in the artifact's stored bytes (all objects one after the other).
    pub(crate) offset: u64,
    /// Stored bytes.
    pub(crate) size: u64,
    /// SHA-256 of them.
    pub(crate) sha256: Digest,
    /// Where the plain bytes begin that this part alone decodes to, and how many they are; `None` where a part cannot be
    /// decoded without those before it (encrypted artifacts).
    pub(crate) plain: Option<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredTable {
    format_version: u32,
    parts: Vec<StoredPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPart {
    offset: u64,
    size: u64,
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain_offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain_size: Option<u64>,
}

/// The table's bytes as stored: JSON, one part a line.
pub(crate) fn to_bytes(parts: &[Part]) -> Vec<u8> {
    // One line a part: readable, and a fifth of the size of indented JSON.
    let mut bytes = format!("{{\"formatVersion\":{FORMAT_VERSION},\"parts\":[").into_bytes();
    for (index, part) in parts.iter().enumerate() {
        bytes.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        let stored = StoredPart {
            offset: part.offset,
            size: part.size,
            sha256: digest::to_hex(&part.sha256),
            plain_offset: part.plain.map(|(offset, _)| offset),
            plain_size: part.plain.map(|(_, size)| size),
        };
        // Numbers and a string always serialize.
        bytes.extend(serde_json::to_vec(&stored).unwrap_or_default());
    }
    bytes.extend_from_slice(b"\n]}\n");
    bytes
}

/// Reads a table whose digest held, and checks that its parts cover `stored_size` bytes without a gap.
pub(crate) fn parse(artifact: &str, bytes: &[u8], count: u64, stored_size: u64) -> Result<Vec<Part>, PipelineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        format_version: u64,
    }
    let malformed = |what: &str| PipelineError::damaged(artifact, format!("its part table {what}"));
    let head: Head = serde_json::from_slice(bytes).map_err(|_| malformed("is not JSON as it should be"))?;
    if head.format_version > u64::from(FORMAT_VERSION) {
        return Err(PipelineError::NotSupported {
            what: format!(
                "the part table of {artifact} has format {}, this redkeep reads up to {FORMAT_VERSION}",
                head.format_version
            ),
        });
    }
    let table: StoredTable = serde_json::from_slice(bytes).map_err(|_| malformed("is not JSON as it should be"))?;
    if table.parts.len() as u64 != count {
        return Err(malformed("has not as many parts as the manifest says"));
    }
    let mut parts = Vec::with_capacity(table.parts.len());
    let mut end = 0_u64;
    for part in table.parts {
        let sha256 = digest::from_hex(&part.sha256).ok_or_else(|| malformed("has a digest that is none"))?;
        if part.offset != end {
            return Err(malformed("has a gap"));
        }
        if part.size == 0 || part.size > LARGEST_PART {
            return Err(malformed("has a part of impossible size"));
        }
        end = end.checked_add(part.size).ok_or_else(|| malformed("has a part of impossible size"))?;
        parts.push(Part {
            offset: part.offset,
            size: part.size,
            sha256,
            plain: part.plain_offset.zip(part.plain_size),
        });
    }
    if end != stored_size {
        return Err(malformed("does not cover the stored bytes"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Part> {
        vec![
            Part { offset: 0, size: 10, sha256: [1; 32], plain: Some((0, 100)) },
            Part { offset: 10, size: 5, sha256: [2; 32], plain: None },
        ]
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let bytes = to_bytes(&table());
        assert_eq!(parse("a", &bytes, 2, 15).unwrap(), table());
    }

    #[test]
    fn a_table_that_does_not_cover_the_artifact_is_damaged() {
        let bytes = to_bytes(&table());
        assert!(parse("a", &bytes, 3, 15).is_err());
        assert!(parse("a", &bytes, 2, 16).is_err());
        let mut gap = table();
        gap[1].offset = 11;
        assert!(parse("a", &to_bytes(&gap), 2, 16).is_err());
        let mut huge = table();
        huge[1].size = u64::MAX;
        assert!(parse("a", &to_bytes(&huge), 2, 15).is_err());
        let mut empty = table();
        empty[1].size = 0;
        assert!(parse("a", &to_bytes(&empty), 2, 10).is_err());
    }

    #[test]
    fn unknown_fields_are_ignored_and_a_newer_format_is_refused() {
        use redkeep_core::{Class, Classify as _};
        let text = r#"{"formatVersion":1,"new":1,"parts":[{"offset":0,"size":1,"sha256":"0000000000000000000000000000000000000000000000000000000000000000","new":2}]}"#;
        assert_eq!(parse("a", text.as_bytes(), 1, 1).unwrap().len(), 1);
        let newer = parse("a", br#"{"formatVersion":2,"parts":"otherwise"}"#, 1, 1).unwrap_err();
        assert_eq!(newer.class(), Class::Refused);
    }
}
