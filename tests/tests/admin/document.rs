//! The OpenAPI document of the admin API, and whether answers are as it says.

use hv_tests::http::Answer;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;

pub(crate) struct Document {
    pub(crate) text: String,
    value: Value,
    used: RefCell<BTreeSet<String>>,
}

impl Document {
    pub(crate) fn new(text: String) -> Document {
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["openapi"], "3.1.0");
        Document { text, value, used: RefCell::default() }
    }

    /// All operations: their names, methods, paths and descriptions.
    fn all(&self) -> impl Iterator<Item = (&str, &str, &str, &Value)> {
        let paths = self.value["paths"].as_object().expect("paths").iter();
        paths.flat_map(|(path, item)| {
            let operations = item.as_object().expect("an item").iter();
            operations.filter_map(move |(method, operation)| {
                Some((operation.get("operationId")?.as_str()?, method.as_str(), path.as_str(), operation))
            })
        })
    }

    fn find(&self, name: &str) -> (&str, &str, &Value) {
        let found = self.all().find(|(operation, ..)| *operation == name);
        let (_, method, path, operation) = found.unwrap_or_else(|| panic!("no operation {name}"));
        (method, path, operation)
    }

    /// The method and the path of an operation.
    pub(crate) fn operation(&self, name: &str) -> (String, String) {
        let (method, path, _) = self.find(name);
        (method.to_uppercase(), path.to_owned())
    }

    /// Checks that an answer is one that the operation is said to give.
    pub(crate) fn check(&self, name: &str, answer: &Answer) {
        self.used.borrow_mut().insert(name.to_owned());
        let (_, _, operation) = self.find(name);
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{name} does not say that it answers {}", answer.status);
        let kind = answer.field("content-type").expect("a type");
        let schema = &response["content"][kind]["schema"];
        assert!(schema.is_object(), "{name} does not say that it answers {kind}");
        self.valid(schema, &serde_json::from_slice(&answer.body).expect("JSON"), name);
    }

    /// Operations of which no answer was checked.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        self.all().map(|(name, ..)| name.to_owned()).filter(|name| !used.contains(name)).collect()
    }

    /// Checks a value against as much of JSON Schema as the document uses.
    fn valid(&self, schema: &Value, value: &Value, at: &str) {
        let known = [
            "$ref",
            "type",
            "required",
            "properties",
            "items",
            "allOf",
            "enum",
            "minimum",
            "description",
            "format",
            "additionalProperties",
            "minProperties",
            "maxProperties",
        ];
        let schema = schema.as_object().expect("a schema");
        let strange: Vec<_> = schema.keys().filter(|key| !known.contains(&key.as_str())).collect();
        assert!(strange.is_empty(), "{at}: this test does not know {strange:?}");
        if let Some(Value::String(reference)) = schema.get("$ref") {
            let pointer = reference.strip_prefix('#').expect("in the document");
            let target = self.value.pointer(pointer).unwrap_or_else(|| panic!("nothing at {reference}"));
            self.valid(target, value, at);
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.valid(part, value, at);
        }
        let is = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{at}: what is {other}?"),
        };
        match schema.get("type") {
            None => {}
            Some(Value::String(kind)) => assert!(is(kind), "{at}: {value} is no {kind}"),
            Some(kinds) => {
                let kinds = kinds.as_array().expect("types");
                assert!(
                    kinds.iter().any(|kind| is(kind.as_str().unwrap())),
                    "{at}: {value} is none of {kinds:?}"
                );
            }
        }
        if let Some(all) = schema.get("enum").and_then(Value::as_array) {
            assert!(all.contains(value), "{at}: {value} is none of {all:?}");
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            assert!(value.get(name.as_str().unwrap()).is_some(), "{at}: {value} has no {name}");
        }
        if let (Some(properties), Some(fields)) = (schema.get("properties"), value.as_object()) {
            for (name, field) in fields {
                let schema = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not described"));
                self.valid(schema, field, &format!("{at}.{name}"));
            }
        }
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            values.iter().for_each(|value| self.valid(items, value, &format!("{at}[]")));
        }
    }
}
