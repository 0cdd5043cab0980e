//! What a schema is given as a whole: maxima where a field has none of its own (the API server counts the cost of CEL
//! with them), immutability field by field, and no descriptions of Kubernetes' own types, which would be most of it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};

/// For kinds whose spec may change: see [`finish`].
pub(crate) const MUTABLE: &[&str] = &["*"];

const MAX_STRING: i64 = 1024;
const MAX_ITEMS: i64 = 64;
const MAX_PROPERTIES: i64 = 64;

/// Fields that hold a type of Kubernetes.
const EMBEDDED: &[&str] =
    &["affinity", "tolerations", "topologySpreadConstraints", "resources", "podSecurityContext", "securityContext"];

/// The definition as it is installed. Of the fields of `spec` only those `mutable` may change ([`MUTABLE`]: all).
pub(crate) fn finish(mut definition: CustomResourceDefinition, mutable: &[&str]) -> CustomResourceDefinition {
    let kind = definition.spec.names.kind.clone();
    for version in &mut definition.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        bound(root);
        if mutable != MUTABLE
            && let Some(spec) = root.properties.as_mut().and_then(|properties| properties.get_mut("spec"))
        {
            freeze(spec, mutable, &kind);
        }
    }
    definition
}

fn bound(schema: &mut JSONSchemaProps) {
    // Kubernetes drops a null where a field does not take it, and CEL takes it for absent: so none needs to.
    schema.nullable = None;
    match schema.type_.as_deref() {
        Some("string") if schema.enum_.is_none() && schema.format.as_deref() != Some("date-time") => {
            schema.max_length.get_or_insert(MAX_STRING);
        }
        Some("array") => {
            schema.max_items.get_or_insert(MAX_ITEMS);
        }
        Some("object") if matches!(schema.additional_properties, Some(JSONSchemaPropsOrBool::Schema(_))) => {
            schema.max_properties.get_or_insert(MAX_PROPERTIES);
        }
        _ => {}
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        bound(property);
        if EMBEDDED.contains(&name.as_str()) {
            children(property, &mut undescribe);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        bound(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        bound(values);
    }
}

fn children(schema: &mut JSONSchemaProps, act: &mut dyn FnMut(&mut JSONSchemaProps)) {
    schema.properties.iter_mut().flatten().for_each(|(_, property)| act(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        act(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        act(values);
    }
}

fn undescribe(schema: &mut JSONSchemaProps) {
    schema.description = None;
    children(schema, &mut undescribe);
}

/// One rule for each field, so that the message names it, and so that a field added later is not forgotten.
fn freeze(spec: &mut JSONSchemaProps, mutable: &[&str], kind: &str) {
    let frozen: Vec<String> = spec
        .properties
        .iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .filter(|name| !mutable.contains(&name.as_str()))
        .collect();
    let rules = spec.x_kubernetes_validations.get_or_insert_default();
    for name in frozen {
        rules.push(ValidationRule {
            rule: format!(
                "has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
            ),
            message: Some(format!("{name} is immutable: make a new {kind}")),
            field_path: Some(format!(".{name}")),
            ..ValidationRule::default()
        });
    }
}
