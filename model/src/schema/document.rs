//! Reading JSON and YAML bytes, noticing keys that are given twice.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::status::Status;

/// Parses JSON. Of a repeated key the last value counts; each repetition is also reported, as
/// `duplicate field "spec.replicas"`, for strict validation.
pub fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    let mut path = String::new();
    let mut duplicates = Vec::new();
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let read = Node {
        path: &mut path,
        duplicates: &mut duplicates,
    }
    .deserialize(&mut input);
    match read.and_then(|value| input.end().map(|()| value)) {
        Ok(value) => Ok((value, duplicates)),
        Err(error) => Err(unreadable("json parse error", &error)),
    }
}

/// Parses one YAML document; otherwise as [`parse_json`].
pub fn parse_yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    let mut path = String::new();
    let mut duplicates = Vec::new();
    let input = serde_yaml_ng::Deserializer::from_slice(bytes);
    match (Node {
        path: &mut path,
        duplicates: &mut duplicates,
    })
    .deserialize(input)
    {
        Ok(value) => Ok((value, duplicates)),
        Err(error) => Err(unreadable("yaml parse error", &error)),
    }
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized: couldn't get version/kind; {what}: {error}"
    ))
}

/// Builds one value, keeping the path to it for reports.
struct Node<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        self.deserialize(input)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let length = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Node {
                path: self.path,
                duplicates: self.duplicates,
            })?;
            self.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let length = self.path.len();
        while let Some(key) = entries.next_key_seed(Key)? {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let value = entries.next_value_seed(Node {
                path: self.path,
                duplicates: self.duplicates,
            })?;
            if map.insert(key, value).is_some() {
                self.duplicates
                    .push(format!("duplicate field {:?}", self.path));
            }
            self.path.truncate(length);
        }
        Ok(Value::Object(map))
    }
}

/// A map key; YAML also has numbers and booleans, which count as their text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<String, D::Error> {
        input.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a key")
    }
    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }
    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }
    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }
    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }
    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_keys_are_named_with_their_path() {
        let (value, duplicates) = parse_json(br#"{"a":[{"b":1,"b":2}],"c":1,"c":3}"#).unwrap();
        assert_eq!(value, json!({"a": [{"b": 2}], "c": 3}));
        assert_eq!(
            duplicates,
            ["duplicate field \"a[0].b\"", "duplicate field \"c\""]
        );
        let (value, duplicates) = parse_yaml(b"a:\n- b: 1\n  b: 2\nc: yes\n3: x\n").unwrap();
        assert_eq!(value["a"], json!([{"b": 2}]));
        assert_eq!(value["3"], "x");
        assert_eq!(duplicates, ["duplicate field \"a[0].b\""]);
    }

    #[test]
    fn malformed_documents_are_bad_requests() {
        for bytes in [&b"{"[..], b"", b"{}x", b"{\"a\":}", b"\xff"] {
            let status = parse_json(bytes).unwrap_err();
            assert_eq!(status.code, 400);
            assert!(
                status.message.contains("json parse error"),
                "{}",
                status.message
            );
        }
        for bytes in [&b"a: [1"[..], b"a: b: c", b"x: .nan", b"a: 1\n---\nb: 2\n"] {
            assert_eq!(parse_yaml(bytes).unwrap_err().code, 400, "{bytes:?}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse_json(deep.as_bytes()).unwrap_err().code, 400);
        assert_eq!(parse_yaml(deep.as_bytes()).unwrap_err().code, 400);
    }
}
