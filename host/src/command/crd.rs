//! `redkeep crd`.

use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::output::failure::Failure;
use crate::output::{Format, OutputArgs, print};

/// Print the custom resource definitions, for `kubectl apply --server-side -f -`
#[derive(Args, Debug)]
pub(crate) struct CrdCommand {
    /// Only this kind, by its name, plural or short name
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

impl CrdCommand {
    pub(crate) fn run(&self, output: &OutputArgs) -> Result<(), Failure> {
        let chosen = self.chosen()?;
        if output.output == Format::Json {
            return Format::Json.print(&list(&chosen), String::new);
        }
        let mut text = String::new();
        for definition in &chosen {
            text.push_str("---\n");
            text.push_str(&Format::Yaml.render(definition, String::new)?);
        }
        print(text.as_bytes())
    }

    fn chosen(&self) -> Result<Vec<CustomResourceDefinition>, Failure> {
        let mut all = redkeep_k8s_api::all_crds();
        let Some(kind) = &self.kind else { return Ok(all) };
        let kinds: Vec<String> = all.iter().map(|definition| definition.spec.names.kind.clone()).collect();
        all.retain(|definition| is_called(definition, kind));
        if all.is_empty() {
            return Err(Failure::usage(format!("no kind is called `{kind}`"))
                .with_help(format!("it is one of {}", kinds.join(", "))));
        }
        Ok(all)
    }
}

fn is_called(definition: &CustomResourceDefinition, name: &str) -> bool {
    let names = &definition.spec.names;
    std::iter::once(&names.kind)
        .chain(std::iter::once(&names.plural))
        .chain(names.singular.iter())
        .chain(names.short_names.iter().flatten())
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// As `kubectl get -o json` would show them.
fn list(definitions: &[CustomResourceDefinition]) -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": definitions})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_names_and_another_is_refused_with_the_list() {
        for name in ["RedisBackup", "redisbackups", "rb"] {
            let command = CrdCommand { kind: Some(name.to_owned()) };
            assert_eq!(command.chosen().unwrap().len(), 1, "{name}");
        }
        let refused = CrdCommand { kind: Some("Redis".to_owned()) }.chosen().unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_text(false).contains("BackupStorage"), "{}", refused.to_text(false));
    }
}
