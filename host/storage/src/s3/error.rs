//! What an S3 endpoint's refusals mean, and what the user can do about each.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use redkeep_core::storage::{StorageError, StorageErrorKind};

/// What a message may name of the storage.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) address: String,
    pub(super) bucket: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: String,
}

impl Context {
    fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("AWS")
    }

    /// The error of a call, by what the endpoint said or by what kept it from saying something.
    pub(super) fn map<E>(&self, act: impl Into<String>, error: SdkError<E, HttpResponse>) -> StorageError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let act = act.into();
        let (kind, help) = match &error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or_default();
                let raw = service.raw();
                let region = raw.headers().get("x-amz-bucket-region").map(str::to_owned);
                self.service(code, service.err().message().unwrap_or_default(), raw.status().as_u16(), region)
            }
            SdkError::TimeoutError(_) => (StorageErrorKind::TimedOut, Some(self.no_answer())),
            SdkError::DispatchFailure(failure) => {
                let text = chain(&error);
                let timed_out = failure
                    .as_connector_error()
                    .is_some_and(aws_smithy_runtime_api::client::result::ConnectorError::is_timeout);
                self.dispatch(&text, timed_out)
            }
            SdkError::ConstructionFailure(_) => self.construction(&chain(&error)),
            // The head came and the rest did not, or it is no S3 answer (a proxy's page).
            SdkError::ResponseError(response) if response.raw().status().is_server_error() => {
                (StorageErrorKind::Busy, None)
            }
            SdkError::ResponseError(_) => (
                StorageErrorKind::Unreachable,
                Some(format!(
                    "{} did not answer as S3 does; check --s3-endpoint and any proxy between",
                    self.endpoint()
                )),
            ),
            _ => (StorageErrorKind::Other, None),
        };
        let mapped = StorageError::new(kind, act).caused_by(Cause::of(error));
        match help {
            Some(help) => mapped.with_help(help),
            None => mapped,
        }
    }

    fn no_answer(&self) -> String {
        format!("{} does not answer; check the address, the network and any firewall", self.endpoint())
    }

    fn service(
        &self,
        code: &str,
        message: &str,
        status: u16,
        region: Option<String>,
    ) -> (StorageErrorKind, Option<String>) {
        use StorageErrorKind as Kind;
        let bucket = &self.bucket;
        match (code, status) {
            ("NoSuchBucket", _) => {
                (Kind::NotFound, Some(format!("make the bucket {bucket} at {}, or check its name", self.endpoint())))
            }
            ("NoSuchKey" | "NoSuchUpload" | "NotFound", _) => (Kind::NotFound, None),
            ("AllAccessDisabled" | "AccountProblem" | "InvalidPayer", _) => {
                (Kind::Denied, Some("ask the account's owner".into()))
            }
            ("InvalidAccessKeyId" | "InvalidToken" | "InvalidClientTokenId" | "XAdminUserNotFound", _) => (
                Kind::Denied,
                Some(format!("{} does not know this access key; check AWS_ACCESS_KEY_ID", self.endpoint())),
            ),
            ("ExpiredToken" | "TokenRefreshRequired", _) => {
                (Kind::Denied, Some("the session token has expired; get new credentials".into()))
            }
            ("SignatureDoesNotMatch", _) => (
                Kind::Denied,
                Some("check AWS_SECRET_ACCESS_KEY, and that no proxy changes requests on their way".into()),
            ),
            ("RequestTimeTooSkewed" | "RequestExpired", _) => {
                (Kind::Denied, Some("this machine's clock is wrong by more than 15 minutes; set it".into()))
            }
            (
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "TemporaryRedirect"
                | "IllegalLocationConstraintException",
                _,
            )
            // A HEAD has no body, so a wrong region or endpoint shows as a bare 400.
            | (_, 301 | 307 | 308) | ("", 400) => (Kind::Invalid, Some(self.wrong_region(message, region))),
            ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" | "XMinioAdminBucketQuotaExceeded", _)
            | (_, 507) => (Kind::Full, Some(format!("free space or raise the quota of the bucket {bucket}"))),
            (
                "SlowDown"
                | "ServiceUnavailable"
                | "InternalError"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                | "Throttling"
                | "RequestLimitExceeded"
                | "TooManyRequests"
                | "BandwidthLimitExceeded",
                _,
            )
            | (_, 409 | 429 | 500 | 502 | 503) => (Kind::Busy, None),
            ("RequestTimeout", _) | (_, 408 | 504) => (Kind::TimedOut, None),
            ("PreconditionFailed", _) | (_, 412) => (Kind::AlreadyExists, None),
            ("InvalidRange", _) | (_, 416) => (Kind::Damaged, None),
            ("NotImplemented" | "MethodNotAllowed" | "XNotImplemented", _) | (_, 405 | 501) => (
                Kind::Unsupported,
                Some(format!("{} cannot do this; `redkeep storage probe` shows what it can", self.endpoint())),
            ),
            ("InvalidBucketName", _) => (Kind::Invalid, Some(format!("{bucket} cannot be a bucket's name"))),
            ("BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" | "InvalidDigest", _) => {
                (Kind::Unreachable, Some("bytes were changed or lost on their way".into()))
            }
            ("AccessDenied" | "Forbidden", _) | (_, 401 | 403) => (
                Kind::Denied,
                Some(format!(
                    "these credentials may not do this in the bucket {bucket}; redkeep needs s3:ListBucket, s3:GetObject, \
                     s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucketMultipartUploads"
                )),
            ),
            (_, 404) => (Kind::NotFound, None),
            _ => (Kind::Other, None),
        }
    }

    fn wrong_region(&self, message: &str, region: Option<String>) -> String {
        // `… the region 'us-east-1' is wrong; expecting 'eu-west-1'`
        let expected = message.split("expecting '").nth(1).and_then(|rest| rest.split('\'').next()).map(str::to_owned);
        match region.or(expected) {
            Some(region) => format!("the bucket {} is in the region {region}: say --s3-region {region}", self.bucket),
            None => format!(
                "the region {} or the endpoint does not fit the bucket {}; check --s3-region, --s3-endpoint and --s3-path-style",
                self.region, self.bucket
            ),
        }
    }

    fn construction(&self, text: &str) -> (StorageErrorKind, Option<String>) {
        if text.contains("credentials") {
            return (StorageErrorKind::Denied, Some(no_credentials()));
        }
        (StorageErrorKind::Invalid, Some(format!("check the bucket's name ({}) and the endpoint", self.bucket)))
    }

    fn dispatch(&self, text: &str, timed_out: bool) -> (StorageErrorKind, Option<String>) {
        use StorageErrorKind as Kind;
        let lower = text.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let endpoint = self.endpoint();
        if says(&[
            "no credentials",
            "loading credentials",
            "imds",
            "credentialsnotloaded",
            "credentials provider",
            "failed to load credentials",
            "no providers in chain",
        ]) {
            return (Kind::Denied, Some(no_credentials()));
        }
        if timed_out {
            return (Kind::TimedOut, Some(self.no_answer()));
        }
        if says(&["certificate", "unknownissuer", "notvalidforname", "invalid peer"]) {
            let help = format!(
                "the certificate of {endpoint} is not trusted; give its authority with --s3-ca FILE (never skip the check)"
            );
            return (Kind::Invalid, Some(help));
        }
        if says(&["corrupt message", "invalidcontenttype", "wrong version number"]) {
            return (Kind::Invalid, Some(format!("{endpoint} does not speak TLS; write http:// in --s3-endpoint")));
        }
        if says(&["dns error", "failed to lookup", "name or service not known"]) {
            return (
                Kind::Unreachable,
                Some(format!("the name of {endpoint} is not known here; check --s3-endpoint and --s3-path-style")),
            );
        }
        if says(&["connection refused"]) {
            return (
                Kind::Unreachable,
                Some(format!("nothing listens at {endpoint}; check --s3-endpoint and its port")),
            );
        }
        (Kind::Unreachable, Some(format!("the connection to {endpoint} failed or broke; check the network")))
    }
}

fn no_credentials() -> String {
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with a workload identity".to_owned()
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// One line instead of the SDK's five nested ones: code and message, or the innermost reason.
#[derive(Debug)]
struct Cause {
    text: String,
}

impl Cause {
    fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let text = match &error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                match (service.err().code(), service.err().message()) {
                    (Some(code), Some(message)) => format!("{code}: {message} (HTTP {status})"),
                    (Some(code), None) => format!("{code} (HTTP {status})"),
                    _ => format!("HTTP {status}"),
                }
            }
            other => chain(other),
        };
        Self { text }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for Cause {}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn context() -> Context {
        Context {
            address: "s3://b/p".into(),
            bucket: "b".into(),
            endpoint: Some("http://127.0.0.1:1".into()),
            region: "us-east-1".into(),
        }
    }

    #[rstest]
    #[case("NoSuchBucket", 404, StorageErrorKind::NotFound, "make the bucket b")]
    #[case("AccessDenied", 403, StorageErrorKind::Denied, "s3:PutObject")]
    #[case("InvalidAccessKeyId", 403, StorageErrorKind::Denied, "AWS_ACCESS_KEY_ID")]
    #[case("SignatureDoesNotMatch", 403, StorageErrorKind::Denied, "AWS_SECRET_ACCESS_KEY")]
    #[case("RequestTimeTooSkewed", 403, StorageErrorKind::Denied, "clock")]
    #[case("ExpiredToken", 400, StorageErrorKind::Denied, "expired")]
    #[case("PermanentRedirect", 301, StorageErrorKind::Invalid, "--s3-region")]
    #[case("", 400, StorageErrorKind::Invalid, "--s3-region")]
    #[case("QuotaExceeded", 403, StorageErrorKind::Full, "quota")]
    #[case("NotImplemented", 501, StorageErrorKind::Unsupported, "storage probe")]
    fn a_refusal_becomes_a_kind_and_something_to_do(
        #[case] code: &str,
        #[case] status: u16,
        #[case] kind: StorageErrorKind,
        #[case] words: &str,
    ) {
        let (found, help) = context().service(code, "", status, None);
        assert_eq!(found, kind);
        assert!(help.as_deref().unwrap_or_default().contains(words), "{help:?}");
    }

    #[rstest]
    #[case("SlowDown", 503)]
    #[case("", 500)]
    #[case("ConditionalRequestConflict", 409)]
    fn what_may_pass_by_itself_is_busy(#[case] code: &str, #[case] status: u16) {
        assert_eq!(context().service(code, "", status, None).0, StorageErrorKind::Busy);
    }

    #[rstest]
    #[case::metadata_service_forbidden(
        "dispatch failure: other: an error occurred while loading credentials: failed to load IMDS session token"
    )]
    #[case::metadata_service_out_of_reach("dispatch failure: io error: failed to load IMDS session token: timed out")]
    #[case::nothing_configured("dispatch failure: other: No credentials in the property bag")]
    fn missing_credentials_are_not_a_broken_network(#[case] text: &str) {
        let (kind, help) = context().dispatch(text, false);
        assert_eq!(kind, StorageErrorKind::Denied);
        let help = help.unwrap();
        for words in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "workload identity"] {
            assert!(help.contains(words), "{help}");
        }
    }

    #[test]
    fn the_right_region_is_named_when_the_endpoint_says_it() {
        let message = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        let (_, help) = context().service("AuthorizationHeaderMalformed", message, 400, None);
        assert!(help.unwrap().contains("--s3-region eu-west-1"));
        let (_, help) = context().service("PermanentRedirect", "", 301, Some("eu-north-1".into()));
        assert!(help.unwrap().contains("--s3-region eu-north-1"));
    }
}
