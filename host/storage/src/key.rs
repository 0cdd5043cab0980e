//! What a key may look like, so that it means the same object in a folder, in a bucket and on a command line.
//!
//! Keys are printable ASCII without spaces, relative, `/` between non-empty segments, and no segment is `.` or `..`.

use redkeep_core::storage::{StorageError, StorageErrorKind};

/// The longest key in bytes: the limit of S3 and of GCS; Azure takes as much.
pub const MAX_KEY_BYTES: usize = 1024;
/// The longest segment in bytes: the limit of common file systems.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// The folder in which a folder storage keeps what is not finished; no key may begin with it.
pub const TEMPORARY_FOLDER: &str = ".redkeep-tmp";

/// Checks an object's key.
///
/// # Errors
/// `Invalid`, and nothing was done.
pub fn check_key(key: &str) -> Result<(), StorageError> {
    let refuse = |why: &str| {
        Err(StorageError::new(StorageErrorKind::Invalid, format!("failed to use the key {key:?}: it {why}"))
            .with_help("keys are relative paths of printable ASCII without spaces, backslashes, `.` or `..`"))
    };
    if key.is_empty() {
        return refuse("is empty");
    }
    if key.len() > MAX_KEY_BYTES {
        return refuse("is longer than 1024 bytes");
    }
    if let Some(bad) = key.chars().find(|character| !character.is_ascii_graphic() || *character == '\\') {
        return refuse(&format!("holds {bad:?}"));
    }
    for segment in key.split('/') {
        match segment {
            "" => return refuse("has an empty segment"),
            "." | ".." => return refuse("has a segment that leads elsewhere"),
            long if long.len() > MAX_SEGMENT_BYTES => return refuse("has a segment longer than 255 bytes"),
            _ => {}
        }
    }
    if key.split('/').next() == Some(TEMPORARY_FOLDER) {
        return refuse("lies in the folder for unfinished uploads");
    }
    Ok(())
}

/// Checks what a listing begins with: empty, a folder ending in `/`, or the beginning of a key.
///
/// # Errors
/// `Invalid`, and nothing was done.
pub fn check_prefix(prefix: &str) -> Result<(), StorageError> {
    let body = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() { Ok(()) } else { check_key(body) }
}

/// Checks the folder of a one-level listing: empty, or ending in `/`.
///
/// # Errors
/// `Invalid`, and nothing was done.
pub fn check_folder(folder: &str) -> Result<(), StorageError> {
    if !folder.is_empty() && !folder.ends_with('/') {
        return Err(StorageError::new(
            StorageErrorKind::Invalid,
            format!("failed to list the folder {folder:?}: it does not end in `/`"),
        ));
    }
    check_prefix(folder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_that_lead_elsewhere_or_mean_two_things_are_refused() {
        for key in
            ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a b", "ä", "a\n", ".redkeep-tmp/x", "a\u{0}"]
        {
            let error = check_key(key).unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::Invalid, "{key:?}");
        }
        assert!(check_key(&"x/".repeat(600)).is_err());
        assert!(check_key(&"x".repeat(256)).is_err());
    }

    #[test]
    fn keys_of_backups_are_taken() {
        for key in ["a", "default/my-cluster/20261121T091348Z-x-1a2b/manifest.json", "a/.hidden", "a/..b", "a+b=c,d@e"]
        {
            check_key(key).unwrap();
        }
        check_prefix("").unwrap();
        check_prefix("a/").unwrap();
        check_prefix("a/b").unwrap();
        check_folder("a/b").unwrap_err();
    }

    proptest! {
        #[test]
        fn a_key_that_is_taken_never_leaves_its_folder(key in "[a-z./]{0,12}") {
            if check_key(&key).is_ok() {
                let depth = std::path::Path::new(&key).components().all(|part| matches!(part, std::path::Component::Normal(_)));
                prop_assert!(depth);
            }
        }
    }
}
