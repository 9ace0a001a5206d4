//! The client's schemas of response bodies: closed maps, sets under their tag, keys of the right kind.

use ciborium::Value;

const PROTOCOL: &[u8] = b"http://allmydata.org/tahoe/protocols/storage/v1";

/// Sets and maps in one order, so that equal values are equal.
pub fn normal(value: Value) -> Value {
    let sorted = |mut items: Vec<Value>| {
        items.sort_by_key(|item| format!("{item:?}"));
        items
    };
    match value {
        Value::Tag(258, inner) => match *inner {
            Value::Array(items) => Value::Tag(258, Box::new(Value::Array(sorted(items)))),
            other => Value::Tag(258, Box::new(other)),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.into_iter().map(|(key, value)| (key, normal(value))).collect();
            entries.sort_by_key(|(key, _)| format!("{key:?}"));
            Value::Map(entries)
        }
        other => other,
    }
}

/// Whether the client accepts this body.
pub fn fits(schema: &str, value: &Value) -> bool {
    match schema {
        "get_version" => {
            let bytes = |text: &[u8]| Value::Bytes(text.to_vec());
            closed(value, &[(bytes(PROTOCOL), &sizes), (bytes(b"application-version"), &Value::is_bytes)])
        }
        "allocate_buckets" => closed(value, &[(key("already-have"), &is_set), (key("allocated"), &is_set)]),
        "immutable_write_share_chunk" => closed(value, &[(key("required"), &|value| array_of(value, is_range))]),
        "list_shares" => is_set(value),
        "mutable_read_test_write" => closed(value, &[(key("success"), &Value::is_bool), (key("data"), &is_data)]),
        other => panic!("unknown schema {other}"),
    }
}

type Rule<'a> = (Value, &'a dyn Fn(&Value) -> bool);

fn key(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn closed(value: &Value, rules: &[Rule<'_>]) -> bool {
    let Value::Map(entries) = value else { return false };
    let entry = |key: &Value| entries.iter().find(|(known, _)| known == key);
    entries.len() == rules.len() && rules.iter().all(|(key, fits)| entry(key).is_some_and(|(_, value)| fits(value)))
}

fn is_uint(value: &Value) -> bool {
    value.as_integer().is_some_and(|number| u64::try_from(number).is_ok())
}

fn array_of(value: &Value, fits: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(fits))
}

fn sizes(value: &Value) -> bool {
    let rule = |name: &str| -> Rule<'_> { (Value::Bytes(name.as_bytes().to_vec()), &is_uint) };
    closed(value, &["maximum-immutable-share-size", "maximum-mutable-share-size", "available-space"].map(rule))
}

fn is_set(value: &Value) -> bool {
    matches!(value, Value::Tag(258, inner) if array_of(inner, is_uint))
}

fn is_range(value: &Value) -> bool {
    closed(value, &[(key("begin"), &is_uint), (key("end"), &is_uint)])
}

fn is_data(value: &Value) -> bool {
    let entries = value.as_map();
    entries.is_some_and(|entries| entries.iter().all(|(key, value)| is_uint(key) && array_of(value, Value::is_bytes)))
}
