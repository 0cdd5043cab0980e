//! Parameters held against a plugin's JSON Schema: the part of it that parameters need.
//!
//! Known: `type`, `properties`, `required`, `additionalProperties`, `enum`, `const`, `minimum`, `maximum`,
//! `exclusiveMinimum`, `exclusiveMaximum`, `items`, `minItems`, `maxItems`, `uniqueItems`, `minLength`, `maxLength`,
//! `pattern`, `anyOf`, `oneOf`, `allOf`, `not`. Others are notes (`title`, `default`, `format`) and left to the plugin's
//! own `validate`; a reference (`$ref`) is refused, because skipping it would look like checking it.

use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use regex_lite::Regex;
use serde_json::{Map, Value};

/// Faults that are told; more do not help.
const MAX_FAULTS: usize = 20;

/// A plugin's schema, checked to be usable.
#[derive(Clone, Debug)]
pub(crate) struct Schema(Value);

impl Schema {
    /// Parses the text of a schema; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("parameters-schema is not JSON: {error}"))?;
        if !value.is_object() {
            return Err("parameters-schema is not a JSON object".to_owned());
        }
        check_schema(&value, "")?;
        Ok(Self(value))
    }

    /// `invalid-parameters` has one detail for each fault: JSON pointer and message.
    pub(crate) fn check(&self, parameters: &str) -> Result<(), MethodError> {
        let value: Value = serde_json::from_str(parameters).map_err(|error| {
            MethodError::new(code::INVALID_PARAMETERS, format!("the parameters are not JSON: {error}"))
        })?;
        if !value.is_object() {
            return Err(MethodError::new(code::INVALID_PARAMETERS, "the parameters are not a JSON object"));
        }
        let mut faults = Vec::new();
        check(&self.0, &value, "", &mut faults);
        let Some(first) = faults.first() else { return Ok(()) };
        let place = if first.key.is_empty() { String::new() } else { format!("{}: ", first.key) };
        let mut error =
            MethodError::new(code::INVALID_PARAMETERS, format!("invalid parameters: {place}{}", first.value));
        error.details = faults;
        Err(error)
    }
}

/// Refuses what this host cannot check as it says.
fn check_schema(schema: &Value, pointer: &str) -> Result<(), String> {
    let Some(schema) = schema.as_object() else {
        return if schema.is_boolean() {
            Ok(())
        } else {
            Err(format!("parameters-schema{pointer} is neither object nor boolean"))
        };
    };
    for (keyword, value) in schema {
        let here = format!("{pointer}/{keyword}");
        match keyword.as_str() {
            "$ref" | "$dynamicRef" => return Err(format!("parameters-schema{here}: references are not supported")),
            "pattern" => {
                let pattern = value.as_str().ok_or_else(|| format!("parameters-schema{here} is not a text"))?;
                Regex::new(pattern).map_err(|error| format!("parameters-schema{here}: {error}"))?;
            }
            "properties" => {
                let properties =
                    value.as_object().ok_or_else(|| format!("parameters-schema{here} is not an object"))?;
                for (name, property) in properties {
                    check_schema(property, &format!("{here}/{}", escape(name)))?;
                }
            }
            "anyOf" | "oneOf" | "allOf" => {
                for (index, part) in value.as_array().into_iter().flatten().enumerate() {
                    check_schema(part, &format!("{here}/{index}"))?;
                }
            }
            "items" | "additionalProperties" | "not" => check_schema(value, &here)?,
            _ => {}
        }
    }
    Ok(())
}

fn check(schema: &Value, value: &Value, pointer: &str, faults: &mut Vec<Attribute>) {
    if faults.len() >= MAX_FAULTS {
        return;
    }
    let fault = |faults: &mut Vec<Attribute>, message: String| faults.push(Attribute::new(pointer, message));
    let schema = match schema {
        Value::Object(schema) => schema,
        Value::Bool(false) => return fault(faults, "is not allowed here".to_owned()),
        _ => return,
    };
    if let Some(expected) = schema.get("type") {
        let fits = |name: &Value| name.as_str().is_some_and(|name| is_type(value, name));
        let all = expected.as_array().map_or_else(|| std::slice::from_ref(expected), Vec::as_slice);
        if !all.iter().any(fits) {
            let names: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            return fault(faults, format!("must be {}, and is {}", names.join(" or "), type_of(value)));
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.iter().any(|allowed| same(allowed, value))
    {
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        fault(faults, format!("must be one of {}", names.join(", ")));
    }
    if let Some(constant) = schema.get("const")
        && !same(constant, value)
    {
        fault(faults, format!("must be {constant}"));
    }
    match value {
        Value::Object(object) => check_object(schema, object, pointer, faults),
        Value::Array(items) => check_array(schema, items, pointer, faults),
        Value::Number(number) => check_number(schema, number, pointer, faults),
        Value::String(text) => check_text(schema, text, pointer, faults),
        Value::Null | Value::Bool(_) => {}
    }
    check_combinations(schema, value, pointer, faults);
}

fn holds(schema: &Value, value: &Value) -> bool {
    let mut faults = Vec::new();
    check(schema, value, "", &mut faults);
    faults.is_empty()
}

fn check_combinations(schema: &Map<String, Value>, value: &Value, pointer: &str, faults: &mut Vec<Attribute>) {
    let parts = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
    for part in parts("allOf").into_iter().flatten() {
        check(part, value, pointer, faults);
    }
    if let Some(any) = parts("anyOf")
        && !any.iter().any(|part| holds(part, value))
    {
        faults.push(Attribute::new(pointer, "fits none of the allowed forms"));
    }
    if let Some(one) = parts("oneOf") {
        let fitting = one.iter().filter(|part| holds(part, value)).count();
        if fitting != 1 {
            faults.push(Attribute::new(
                pointer,
                format!("must fit exactly one of the allowed forms, and fits {fitting}"),
            ));
        }
    }
    if let Some(not) = schema.get("not")
        && holds(not, value)
    {
        faults.push(Attribute::new(pointer, "has a form that is not allowed"));
    }
}

fn check_object(schema: &Map<String, Value>, object: &Map<String, Value>, pointer: &str, faults: &mut Vec<Attribute>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            faults.push(Attribute::new(format!("{pointer}/{}", escape(name)), "is required"));
        }
    }
    for (name, value) in object {
        let here = format!("{pointer}/{}", escape(name));
        match (properties.and_then(|properties| properties.get(name)), schema.get("additionalProperties")) {
            (Some(property), _) => check(property, value, &here, faults),
            (None, Some(Value::Bool(false))) => {
                let known: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                let known =
                    if known.is_empty() { "there are none".to_owned() } else { format!("known: {}", known.join(", ")) };
                faults.push(Attribute::new(here, format!("is not a known parameter ({known})")));
            }
            (None, Some(other)) => check(other, value, &here, faults),
            (None, None) => {}
        }
    }
}

fn check_array(schema: &Map<String, Value>, items: &[Value], pointer: &str, faults: &mut Vec<Attribute>) {
    check_count(schema, ("minItems", "maxItems"), items.len(), "items", pointer, faults);
    if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
        // Parameters are short lists.
        let twice =
            items.iter().enumerate().find(|(index, item)| items[..*index].iter().any(|earlier| same(earlier, item)));
        if let Some((index, _)) = twice {
            faults.push(Attribute::new(format!("{pointer}/{index}"), "is given twice"));
        }
    }
    if let Some(schema) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            check(schema, item, &format!("{pointer}/{index}"), faults);
        }
    }
}

fn check_text(schema: &Map<String, Value>, text: &str, pointer: &str, faults: &mut Vec<Attribute>) {
    check_count(schema, ("minLength", "maxLength"), text.chars().count(), "characters", pointer, faults);
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
    {
        faults.push(Attribute::new(pointer, format!("must match {pattern}")));
    }
}

fn check_count(
    schema: &Map<String, Value>,
    (least, most): (&str, &str),
    count: usize,
    unit: &str,
    pointer: &str,
    faults: &mut Vec<Attribute>,
) {
    let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    if let Some(least) = bound(least)
        && (count as u64) < least
    {
        faults.push(Attribute::new(pointer, format!("must have at least {least} {unit}")));
    }
    if let Some(most) = bound(most)
        && (count as u64) > most
    {
        faults.push(Attribute::new(pointer, format!("must have at most {most} {unit}")));
    }
}

fn check_number(schema: &Map<String, Value>, number: &serde_json::Number, pointer: &str, faults: &mut Vec<Attribute>) {
    type Test = fn(std::cmp::Ordering) -> bool;
    let bounds: [(&str, Test, &str); 4] = [
        ("minimum", std::cmp::Ordering::is_ge, "at least"),
        ("maximum", std::cmp::Ordering::is_le, "at most"),
        ("exclusiveMinimum", std::cmp::Ordering::is_gt, "more than"),
        ("exclusiveMaximum", std::cmp::Ordering::is_lt, "less than"),
    ];
    for (keyword, holds, words) in bounds {
        let Some(bound) = schema.get(keyword).and_then(Value::as_number) else { continue };
        if !compare(number, bound).is_some_and(holds) {
            faults.push(Attribute::new(pointer, format!("must be {words} {bound}")));
        }
    }
}

/// Whole numbers are compared as such: a floating-point number does not tell 2^63 from its neighbours.
fn compare(left: &serde_json::Number, right: &serde_json::Number) -> Option<std::cmp::Ordering> {
    let whole =
        |number: &serde_json::Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

/// Equal as JSON Schema sees it: 1 and 1.0 are.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare(left, right) == Some(std::cmp::Ordering::Equal),
        _ => left == right,
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "integer" => match value {
            Value::Number(number) => {
                number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            _ => false,
        },
        "number" => value.is_number(),
        other => type_of(value) == other,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A step of a JSON pointer (RFC 6901).
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SCHEMA: &str = r#"{
        "type": "object",
        "additionalProperties": false,
        "required": ["source"],
        "properties": {
            "source": {"type": "string", "enum": ["auto", "replication", "files"]},
            "acl": {"type": "boolean"},
            "window": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
            "match": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 3, "uniqueItems": true},
            "level": {"type": "integer", "minimum": 1, "maximum": 9223372036854775806},
            "limit": {"oneOf": [{"type": "null"}, {"type": "number", "exclusiveMinimum": 0}]},
            "a/b": {"type": ["string", "null"]}
        }
    }"#;

    #[rstest]
    #[case(r#"{"source":"auto"}"#)]
    #[case(r#"{"source":"files","acl":true,"window":"10s","match":["a","b"],"level":1,"limit":null,"a/b":null}"#)]
    #[case(r#"{"source":"auto","level":2.0,"limit":0.5}"#)]
    fn what_fits_passes(#[case] parameters: &str) {
        Schema::parse(SCHEMA).unwrap().check(parameters).unwrap();
    }

    #[rstest]
    #[case("{}", "/source", "is required")]
    #[case(r#"{"source":"disk"}"#, "/source", r#"must be one of "auto", "replication", "files""#)]
    #[case(r#"{"source":"auto","acl":"yes"}"#, "/acl", "must be boolean, and is string")]
    #[case(r#"{"source":"auto","window":"10 s"}"#, "/window", "must match ^[0-9]+(ms|s|m|h)$")]
    #[case(r#"{"source":"auto","match":["a",""]}"#, "/match/1", "must have at least 1 characters")]
    #[case(r#"{"source":"auto","match":["a","a"]}"#, "/match/1", "is given twice")]
    #[case(r#"{"source":"auto","match":["1","2","3","4"]}"#, "/match", "must have at most 3 items")]
    #[case(r#"{"source":"auto","level":0}"#, "/level", "must be at least 1")]
    #[case(r#"{"source":"auto","level":9223372036854775807}"#, "/level", "must be at most 9223372036854775806")]
    #[case(r#"{"source":"auto","level":1.5}"#, "/level", "must be integer, and is number")]
    #[case(r#"{"source":"auto","limit":0}"#, "/limit", "must fit exactly one of the allowed forms, and fits 0")]
    #[case(r#"{"source":"auto","a/b":1}"#, "/a~1b", "must be string or null, and is number")]
    #[case(
        r#"{"source":"auto","surce":1}"#,
        "/surce",
        "is not a known parameter (known: source, acl, window, match, level, limit, a/b)"
    )]
    fn each_fault_has_its_pointer(#[case] parameters: &str, #[case] pointer: &str, #[case] message: &str) {
        let error = Schema::parse(SCHEMA).unwrap().check(parameters).unwrap_err();
        assert_eq!(error.code, code::INVALID_PARAMETERS);
        assert_eq!(error.details, [Attribute::new(pointer, message)]);
        assert!(error.message.contains(pointer) && error.message.contains(message), "{error}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error = Schema::parse(SCHEMA).unwrap().check(r#"{"acl":1,"level":0}"#).unwrap_err();
        assert_eq!(error.details.len(), 3);
    }

    #[rstest]
    #[case("", "not JSON")]
    #[case("[]", "not a JSON object")]
    fn what_is_no_object_is_refused(#[case] parameters: &str, #[case] message: &str) {
        assert!(Schema::parse("{}").unwrap().check(parameters).unwrap_err().message.contains(message));
    }

    #[rstest]
    #[case("{")]
    #[case("true")]
    #[case(r##"{"properties":{"a":{"$ref":"#/b"}}}"##)]
    #[case(r#"{"properties":{"a":{"pattern":"("}}}"#)]
    #[case(r#"{"properties":[]}"#)]
    #[case(r#"{"items":3}"#)]
    fn a_schema_that_cannot_be_held_is_refused(#[case] schema: &str) {
        Schema::parse(schema).unwrap_err();
    }
}
