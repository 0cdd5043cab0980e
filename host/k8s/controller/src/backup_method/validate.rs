//! Holds a method against the rules and makes of it what its task loads. Takes no client.

use redkeep_k8s_api::backup_method::BackupMethod;

use crate::common::Unresolved;
use crate::common::method::{MethodAccess, source};
use crate::settings::Settings;

pub(super) fn validate(method: &BackupMethod, settings: &Settings) -> Result<MethodAccess, Unresolved> {
    source(&method.spec, pinned(method), settings)
}

/// What this reference was resolved to before: a tag that has moved since changes nothing.
fn pinned(method: &BackupMethod) -> Option<&str> {
    let status = method.status.as_ref()?;
    let oci = method.spec.source.oci.as_ref()?;
    status.resolved_reference.as_deref().filter(|_| status.resolved_from.as_deref() == Some(&oci.reference))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("r.io/mine:1", "oci://r.io/mine@sha256:11")]
    #[case("r.io/mine:2", "oci://r.io/mine:2")]
    fn a_reference_is_resolved_once_and_another_one_anew(#[case] reference: &str, #[case] wanted: &str) {
        let method: BackupMethod = serde_json::from_value(json!({
            "apiVersion": "redis.io/v1", "kind": "BackupMethod", "metadata": {"name": "mine"},
            "spec": {"source": {"oci": {"reference": reference}}},
            "status": {"resolvedFrom": "r.io/mine:1", "resolvedReference": "oci://r.io/mine@sha256:11"},
        }))
        .unwrap();
        let access = validate(&method, &Settings::new("i", "n", "o")).unwrap();
        assert_eq!(access.spec.oci.unwrap().reference, wanted);
    }
}
