//! What the errors of `object_store` mean.

use std::error::Error as _;

use object_store::Error;
use redkeep_core::storage::{StorageError, StorageErrorKind};

use crate::open::Service;

/// What a message may name of the storage.
pub(super) struct Context {
    pub(super) service: Service,
    pub(super) bucket: String,
    pub(super) endpoint: Option<String>,
}

impl Context {
    fn place(&self) -> &str {
        match (&self.endpoint, self.service) {
            (Some(endpoint), _) => endpoint,
            (None, Service::Azure) => "Azure",
            (None, _) => "Google Cloud Storage",
        }
    }

    pub(super) fn map(&self, act: String, error: Error) -> StorageError {
        let text = chain(&error);
        let (kind, help) = self.kind(&error, &text);
        let mapped = StorageError::new(kind, act).caused_by(text);
        match help {
            Some(help) => mapped.with_help(help),
            None => mapped,
        }
    }

    fn kind(&self, error: &Error, text: &str) -> (StorageErrorKind, Option<String>) {
        use StorageErrorKind as Kind;
        match error {
            _ if text.contains("ContainerNotFound") || text.contains("NoSuchBucket") => {
                (Kind::NotFound, Some(format!("make {} at {}, or check its name", self.bucket, self.place())))
            }
            Error::NotFound { .. } => (Kind::NotFound, None),
            Error::AlreadyExists { .. } | Error::Precondition { .. } => (Kind::AlreadyExists, None),
            Error::PermissionDenied { .. } => (
                Kind::Denied,
                Some(format!(
                    "these credentials may not do this in {}; they need to read, write, list and delete",
                    self.bucket
                )),
            ),
            Error::Unauthenticated { .. } => {
                (Kind::Denied, Some(format!("{} does not take these credentials", self.place())))
            }
            Error::NotSupported { .. } | Error::NotImplemented { .. } => (Kind::Unsupported, None),
            Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => (Kind::Invalid, None),
            _ => self.by_text(text),
        }
    }

    /// That crate hides status and cause of a failed request in its text.
    fn by_text(&self, text: &str) -> (StorageErrorKind, Option<String>) {
        use StorageErrorKind as Kind;
        let lower = text.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let place = self.place();
        if says(&["performing token request"]) {
            let help = "no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS (or AZURE_STORAGE_ACCOUNT_KEY), or run \
                        with a workload identity";
            return (Kind::Denied, Some(help.to_owned()));
        }
        if says(&["connection refused"]) {
            return (Kind::Unreachable, Some(format!("nothing listens at {place}; check the endpoint and its port")));
        }
        if says(&["dns error", "failed to lookup"]) {
            return (Kind::Unreachable, Some(format!("the name of {place} is not known here; check the endpoint")));
        }
        if says(&["certificate", "invalid peer"]) {
            return (
                Kind::Invalid,
                Some(format!("the certificate of {place} is not trusted; give its authority with --s3-ca FILE")),
            );
        }
        if says(&["timed out", "timeout"]) {
            return (Kind::TimedOut, Some(format!("{place} does not answer")));
        }
        if says(&[" 416 ", "range not satisfiable", "but object was only"]) {
            return (Kind::Damaged, None);
        }
        if says(&[" 507 ", "quotaexceeded", "quota exceeded"]) {
            return (Kind::Full, Some(format!("free space or raise the quota of {}", self.bucket)));
        }
        if says(&["500 ", "502 ", "503 ", "504 ", "429 ", "408 ", "server error", "server busy", "too many requests"]) {
            return (Kind::Busy, None);
        }
        if says(&[
            "connection",
            "connect error",
            "broken pipe",
            "incomplete",
            "error decoding response body",
            "error sending request",
        ]) {
            return (Kind::Unreachable, Some(format!("the connection to {place} failed or broke")));
        }
        (Kind::Other, None)
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Its errors print their causes themselves, most of the time.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
