//! Parameters of a method: `--param KEY=VALUE` typed by the method's JSON Schema, so that users write no JSON.
//!
//! Whether values are allowed is the schema's and the plugin's to say; here they only get their type.

use redkeep_core::method::MethodInfo;
use serde_json::{Map, Value};

use crate::output::failure::Failure;

/// The parameters as the method takes them.
pub(crate) fn typed(pairs: &[(String, String)], method: &MethodInfo) -> Result<Map<String, Value>, Failure> {
    let schema: Value = serde_json::from_str(&method.parameters_schema).unwrap_or(Value::Null);
    let known = schema.get("properties").and_then(Value::as_object);
    let mut parameters: Map<String, Value> = Map::new();
    for (key, text) in pairs {
        let declared = known.and_then(|properties| properties.get(key));
        if declared.is_none() && known.is_some() && schema.get("additionalProperties") == Some(&Value::Bool(false)) {
            return Err(unknown(key, method, known));
        }
        let is_array = declared.is_some_and(|declared| types(declared).contains(&"array"));
        match parameters.get_mut(key) {
            Some(Value::Array(values)) if is_array => values.extend(items(key, text, declared)?),
            Some(_) => return Err(Failure::usage(format!("parameter `{key}` is given twice, and takes one value"))),
            None if is_array => drop(parameters.insert(key.clone(), Value::Array(items(key, text, declared)?))),
            None => drop(parameters.insert(key.clone(), single(key, text, declared)?)),
        }
    }
    Ok(parameters)
}

/// Gives parameters that came as text, which is all that a custom resource can say, the type that they have on the command line.
/// `kept` stay, as does what has a type already (a Job of an operator before this) or cannot have the schema's: the method says what
/// is wrong with that.
pub(crate) fn type_texts(parameters: &mut Map<String, Value>, kept: &[&str], method: &MethodInfo) {
    for (key, value) in parameters {
        let Some(text) = text_of(key, value, kept) else { continue };
        if let Ok(mut pair) = typed(&[(key.clone(), text.to_owned())], method)
            && let Some(typed) = pair.remove(key)
        {
            *value = typed;
        }
    }
}

/// Whether there is anything for [`type_texts`] to do.
pub(crate) fn has_texts(parameters: &Map<String, Value>, kept: &[&str]) -> bool {
    parameters.iter().any(|(key, value)| text_of(key, value, kept).is_some())
}

fn text_of<'a>(key: &str, value: &'a Value, kept: &[&str]) -> Option<&'a str> {
    value.as_str().filter(|_| !kept.contains(&key))
}

fn unknown(key: &str, method: &MethodInfo, known: Option<&Map<String, Value>>) -> Failure {
    let names: Vec<&str> = known.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect();
    let help = if names.is_empty() {
        format!("{} takes no parameters", method.name)
    } else {
        format!("it takes {}", names.join(", "))
    };
    Failure::usage(format!("method {} has no parameter `{key}`", method.name)).with_help(help)
}

/// The types that a property may have; none named: text.
fn types(declared: &Value) -> Vec<&str> {
    match declared.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What one `KEY=VALUE` adds to an array: a JSON array all of it, anything else one item.
fn items(key: &str, text: &str, declared: Option<&Value>) -> Result<Vec<Value>, Failure> {
    if text.starts_with('[')
        && let Ok(Value::Array(values)) = serde_json::from_str(text)
    {
        return Ok(values);
    }
    Ok(vec![single(key, text, declared.and_then(|declared| declared.get("items")))?])
}

fn single(key: &str, text: &str, declared: Option<&Value>) -> Result<Value, Failure> {
    let wanted = declared.map(types).unwrap_or_default();
    if wanted.is_empty() || wanted.contains(&"string") && wanted.len() == 1 {
        return Ok(Value::String(text.to_owned()));
    }
    for kind in &wanted {
        let value = match *kind {
            "boolean" => match text {
                "true" | "yes" => Some(Value::Bool(true)),
                "false" | "no" => Some(Value::Bool(false)),
                _ => None,
            },
            "integer" => serde_json::from_str(text).ok().filter(|value: &Value| value.is_i64() || value.is_u64()),
            "number" => serde_json::from_str(text).ok().filter(Value::is_number),
            "object" => serde_json::from_str(text).ok().filter(Value::is_object),
            "null" => (text == "null").then_some(Value::Null),
            _ => None,
        };
        if let Some(value) = value {
            return Ok(value);
        }
    }
    if wanted.contains(&"string") {
        return Ok(Value::String(text.to_owned()));
    }
    let expected: Vec<&str> = wanted
        .iter()
        .map(|kind| match *kind {
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "object" => "a JSON object",
            other => other,
        })
        .collect();
    Err(Failure::usage(format!("parameter `{key}` must be {}, not `{text}`", expected.join(" or "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn method(schema: &Value) -> MethodInfo {
        MethodInfo {
            name: "redis-test".into(),
            version: "1.0.0".into(),
            summary: String::new(),
            parameters_schema: schema.to_string(),
            requests: Vec::new(),
            attributes: Vec::new(),
        }
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "source": {"type": "string", "enum": ["auto", "files"]},
                "acl": {"type": "boolean"},
                "level": {"type": "integer"},
                "ratio": {"type": "number"},
                "window": {},
                "limit": {"type": ["integer", "string"]},
                "match": {"type": "array", "items": {"type": "string"}},
                "numbers": {"type": "array", "items": {"type": "integer"}},
                "extra": {"type": "object"}
            }
        })
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Value, Failure> {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        typed(&pairs, &method(&schema())).map(Value::Object)
    }

    #[test]
    fn values_take_the_type_that_the_schema_says() {
        for (pairs, expected) in [
            (&[][..], json!({})),
            (&[("source", "files")], json!({"source": "files"})),
            (&[("source", "1")], json!({"source": "1"})),
            (&[("acl", "true")], json!({"acl": true})),
            (&[("acl", "no")], json!({"acl": false})),
            (&[("level", "-3")], json!({"level": -3})),
            (&[("ratio", "0.5")], json!({"ratio": 0.5})),
            (&[("window", "10s")], json!({"window": "10s"})),
            (&[("limit", "5")], json!({"limit": 5})),
            (&[("limit", "none")], json!({"limit": "none"})),
            (&[("match", "a*"), ("match", "[ab]*")], json!({"match": ["a*", "[ab]*"]})),
            (&[("match", r#"["a","b"]"#)], json!({"match": ["a", "b"]})),
            (&[("numbers", "1"), ("numbers", "2")], json!({"numbers": [1, 2]})),
            (&[("extra", r#"{"a":1}"#)], json!({"extra": {"a": 1}})),
        ] {
            assert_eq!(read(pairs).unwrap(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_has_not_its_type_is_a_usage_error_that_says_what_would() {
        for (pairs, says) in [
            (&[("acl", "maybe")][..], "true or false"),
            (&[("level", "1.5")], "a whole number"),
            (&[("ratio", "much")], "a number"),
            (&[("numbers", "x")], "a whole number"),
            (&[("extra", "x")], "a JSON object"),
            (&[("acl", "true"), ("acl", "false")], "twice"),
        ] {
            let failure = read(pairs).unwrap_err();
            assert_eq!(failure.exit_code(), 2);
            assert!(failure.message.contains(says), "{pairs:?}: {failure:?}");
        }
    }

    #[test]
    fn an_unknown_parameter_names_those_there_are() {
        let failure = read(&[("sauce", "files")]).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.help.unwrap().contains("source, acl"));
    }

    #[test]
    fn texts_of_a_custom_resource_take_the_types_of_the_command_line_and_the_rest_stays() {
        let given = json!({
            "source": "5", "level": "5", "acl": "yes", "ratio": "0.5", "match": "a*", "numbers": "[1,2]", "window": "10",
            "limit": 7, "extra": {"a": "1"}
        });
        let Value::Object(mut parameters) = given else { panic!() };
        assert!(has_texts(&parameters, &[]));
        type_texts(&mut parameters, &["match"], &method(&schema()));
        let expected = json!({
            "source": "5", "level": 5, "acl": true, "ratio": 0.5, "match": "a*", "numbers": [1, 2], "window": "10",
            "limit": 7, "extra": {"a": "1"}
        });
        assert_eq!(Value::Object(parameters), expected);
    }

    #[test]
    fn a_text_that_cannot_have_its_type_is_left_to_the_method_alone() {
        let Value::Object(mut parameters) = json!({"level": "much", "sauce": "1", "acl": "no"}) else { panic!() };
        type_texts(&mut parameters, &[], &method(&schema()));
        assert_eq!(Value::Object(parameters), json!({"level": "much", "sauce": "1", "acl": false}));
        let Value::Object(typed) = json!({"level": 1, "until": "17"}) else { panic!() };
        assert!(!has_texts(&typed, &["until"]));
    }

    #[test]
    fn a_schema_that_is_open_takes_anything_as_text() {
        let pairs = [("anything".to_owned(), "5".to_owned())];
        assert_eq!(Value::Object(typed(&pairs, &method(&json!({}))).unwrap()), json!({"anything": "5"}));
    }
}
