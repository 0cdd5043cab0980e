//! Where a component lies in a registry: `oci://registry/name:tag` or `oci://registry/name@sha256:…`.

use std::fmt;

use super::error::OciError;

/// The scheme that tells a reference from a file.
pub const SCHEME: &str = "oci://";

/// A reference, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciReference {
    /// Host and port.
    pub registry: String,
    /// The repository's name.
    pub repository: String,
    /// The tag; none where only a digest was given.
    pub tag: Option<String>,
    /// SHA-256 of the manifest, lower-case hexadecimal.
    pub digest: Option<String>,
}

impl OciReference {
    /// From what a user wrote, with or without `oci://`.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let wrong = |why: &str| OciError::Reference { given: crate::text::printable(text, 300), why: why.to_owned() };
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let (registry, path) = rest.split_once('/').ok_or_else(|| wrong("it has no repository"))?;
        let host_fits = !registry.is_empty()
            && registry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte))
            && registry.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
        if !host_fits {
            return Err(wrong("its registry is not a host and port"));
        }
        let (path, digest) = match path.split_once('@') {
            None => (path, None),
            Some((path, digest)) => (
                path,
                Some(digest_of(digest).ok_or_else(|| wrong("its digest is not sha256: and 64 hexadecimal digits"))?),
            ),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            None => (path, None),
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
        };
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
                && part.starts_with(|first: char| first.is_ascii_alphanumeric())
        };
        if !repository.split('/').all(word) {
            return Err(wrong("its repository is not lower-case words with slashes between them"));
        }
        let tag_fits = |tag: &String| {
            (1..=128).contains(&tag.len())
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && !tag.starts_with(['.', '-'])
        };
        if tag.as_ref().is_some_and(|tag| !tag_fits(tag)) {
            return Err(wrong("its tag is not letters, digits, '.', '_' and '-'"));
        }
        if tag.is_none() && digest.is_none() {
            return Err(wrong("it names neither a tag nor a digest"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }

    /// The same repository at this digest of a manifest: what a tag is pinned to.
    #[must_use]
    pub fn pinned(&self, digest: &str) -> Self {
        Self { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }

    /// What the manifest is asked for by: the digest counts before the tag.
    pub(super) fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }
}

/// `sha256:…` as its hexadecimal digits.
pub(super) fn digest_of(text: &str) -> Option<String> {
    let digits = text.strip_prefix("sha256:")?;
    let fits = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    fits.then(|| digits.to_owned())
}

impl fmt::Display for OciReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@sha256:{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_reference_is_taken_apart_and_written_again() {
        let digest = "a".repeat(64);
        for (text, registry, repository, tag, pinned) in [
            ("oci://ghcr.io/me/my-method:1.0", "ghcr.io", "me/my-method", Some("1.0"), false),
            ("oci://localhost:5000/x@sha256:D", "localhost:5000", "x", None, true),
            ("oci://[::1]:5000/a/b/c:v1@sha256:D", "[::1]:5000", "a/b/c", Some("v1"), true),
        ] {
            let text = text.replace("sha256:D", &format!("sha256:{digest}"));
            let found = OciReference::parse(&text).unwrap();
            assert_eq!((found.registry.as_str(), found.repository.as_str()), (registry, repository));
            assert_eq!((found.tag.as_deref(), found.digest.is_some()), (tag, pinned));
            assert_eq!(found.to_string(), text);
        }
    }

    #[rstest]
    #[case("oci://registry")]
    #[case("oci:///x:1")]
    #[case("oci://registry/x")]
    #[case("oci://registry/X:1")]
    #[case("oci://registry/../x:1")]
    #[case("oci://registry/a//x:1")]
    #[case("oci://user@registry/x:1")]
    #[case("oci://registry/x:.1")]
    #[case("oci://registry/x:a b")]
    #[case("oci://registry/x@sha256:abc")]
    #[case("oci://registry/x@md5:abc")]
    #[case("oci://registry/x?y:1")]
    fn what_is_no_reference_is_refused(#[case] text: &str) {
        let error = OciReference::parse(text).unwrap_err();
        assert!(matches!(error, OciError::Reference { .. }), "{error}");
    }
}
