// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config schema`: the configuration as a JSON schema, for editors that complete and check TOML.

use rdma_config::{NUMBER_KEYS, PATTERN_KEYS, allowed};
use serde_json::{Map, Value, json};

/// The schema, made from the tables that the configuration is read by.
pub(crate) fn schema() -> Value {
    let word = |key: &str| json!({ "enum": allowed(key) });
    let one_or_list = |one: Value| json!({ "anyOf": [one, { "type": "array", "items": one }] });
    let policy = one_or_list(word("policy"));
    let mut conditions = Map::new();
    for key in PATTERN_KEYS {
        conditions.insert(key.into(), one_or_list(json!({ "type": "string" })));
    }
    for key in NUMBER_KEYS {
        let number =
            json!({ "anyOf": [{ "type": "boolean" }, { "type": "integer", "minimum": 0 }] });
        conditions
            .insert(key.into(), if key == "pf" { json!({ "type": "boolean" }) } else { number });
    }
    let table = |properties: Value| json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let matches = json!({
        "type": "object", "additionalProperties": false, "minProperties": 1, "properties": conditions,
    });
    let number = json!({ "type": "integer", "minimum": 0 });
    let word_or_number = |key: &str| json!({ "anyOf": [word(key), number] });
    let condition = json!({
        "match": matches,
        "name": one_or_list(json!({ "type": "string" })),
        "devices": word_or_number("devices"),
        "ports": word_or_number("ports"),
        "state": word("state"),
        "gid": word("gid"),
        "ipoib": { "type": "boolean" },
        "rate": number,
        "timeout": number,
    });
    let mut online = table(condition.clone());
    online["additionalProperties"] = table(condition);
    let mut entry = table(json!({
        "match": matches,
        "name": { "type": "string", "pattern": "^[^{}]*(\\{(index|rail|port|path)\\}[^{}]*)*$" },
        "policy": policy,
        "node-description": { "type": "string" },
        "roce-mode": word("roce-mode"),
        "tos": { "type": "integer", "minimum": 0, "maximum": 255 },
        "adaptive-moderation": { "type": "boolean" },
        "optional-counters": one_or_list(json!({ "type": "string" })),
        "netns": { "type": "string" },
        "drift": word("drift"),
        "wants": one_or_list(json!({ "type": "string" })),
    }));
    entry["required"] = json!(["match"]);
    let name = json!({ "type": "string" });
    let mut link = table(json!({ "name": name, "type": word("type"), "netdev": name }));
    link["required"] = json!(["name", "type", "netdev"]);
    let mut root = table(json!({
        "naming": table(json!({ "policy": policy, "scheme": word("scheme"), "ipoib": word("ipoib") })),
        "device": { "type": "array", "items": entry },
        "online": online,
        "link": { "type": "array", "items": link },
        "system": table(json!({ "netns": word("netns-mode") })),
    }));
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("/etc/rdma/rdma.toml");
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of a value a schema does not allow, in the words of the schema that are used here.
    fn wrong(schema: &Value, value: &Value, path: &str) -> Option<String> {
        let bad = || Some(format!("{path} = {value} is not {schema}"));
        if let Some(choices) = schema["anyOf"].as_array() {
            return if choices.iter().any(|c| wrong(c, value, path).is_none()) {
                None
            } else {
                bad()
            };
        }
        if let Some(words) = schema["enum"].as_array() {
            return if words.contains(value) { None } else { bad() };
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(members)) => {
                members.iter().find_map(|(key, member)| match schema["properties"].get(key) {
                    Some(known) => wrong(known, member, &format!("{path}.{key}")),
                    None if schema["additionalProperties"].is_object() => {
                        wrong(&schema["additionalProperties"], member, &format!("{path}.{key}"))
                    }
                    None => Some(format!("{path}.{key} is not known")),
                })
            }
            (Some("array"), Value::Array(items)) => {
                items.iter().find_map(|item| wrong(&schema["items"], item, path))
            }
            (Some("string"), Value::String(_))
            | (Some("boolean"), Value::Bool(_))
            | (Some("integer"), Value::Number(_)) => None,
            _ => bad(),
        }
    }

    #[test]
    fn the_example_is_in_it() {
        let example = include_str!("../../docs/rdma.toml.example");
        let lines = example.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        let value: Value = toml::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(wrong(&schema(), &value, ""), None);
        for (bad, why) in [
            (json!({ "nmaing": {} }), ".nmaing is not known"),
            (json!({ "naming": { "policy": ["path", "x"] } }), ".naming.policy"),
            (json!({ "device": [{ "match": { "pf": 3 } }] }), ".device.match.pf"),
            (json!({ "online": { "state": "up" } }), ".online.state"),
            (json!({ "link": [{ "type": "roce" }] }), ".link.type"),
            (json!({ "system": { "netns": true } }), ".system.netns"),
            (json!({ "online": { "storage": { "devices": "some" } } }), ".online.storage.devices"),
            (json!({ "online": { "storage": 1 } }), ".online.storage"),
        ] {
            let said = wrong(&schema(), &bad, "").unwrap_or_default();
            assert!(said.starts_with(why), "{said}");
        }
    }
}
