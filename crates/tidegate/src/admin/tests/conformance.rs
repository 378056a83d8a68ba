//! The OpenAPI document against what is really answered: every route, every status, every schema.

use std::collections::BTreeSet;

use super::super::api::{PREFIX, ROUTES, Route, Verb};
use super::*;

/// The document as it is served.
async fn document(port: &Port) -> Value {
    let answer = port.ask("GET /openapi.json", "", "").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

fn operation<'d>(document: &'d Value, route: &Route) -> &'d Value {
    &document["paths"][format!("{PREFIX}{}", route.path)][route.verb.as_str()]
}

/// What the operation says about a status, and with which content type.
fn documented<'d>(document: &'d Value, route: &Route, status: u16) -> Option<(&'d str, &'d Value)> {
    let content = operation(document, route)["responses"].get(status.to_string())?["content"].as_object()?;
    let (content_type, media) = content.iter().next()?;
    Some((content_type, &media["schema"]))
}

/// Whether `value` is what `schema` says, as far as our schemas go; what they use and this does not know is a fault.
fn conforms(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let fault = |what: &str| Err(format!("{value} is not {what} of {schema}"));
    for (keyword, rule) in schema.as_object().ok_or("a schema is an object")? {
        match keyword.as_str() {
            "$ref" => {
                let pointer =
                    rule.as_str().and_then(|reference| reference.strip_prefix('#')).ok_or("a pointer")?;
                let target = root.pointer(pointer).ok_or_else(|| format!("{pointer} points nowhere"))?;
                conforms(root, target, value)?;
            }
            "type" => {
                let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                let is = |name: &Value| match name.as_str() {
                    Some("object") => value.is_object(),
                    Some("array") => value.is_array(),
                    Some("string") => value.is_string(),
                    Some("boolean") => value.is_boolean(),
                    Some("integer") => value.is_u64(),
                    Some("null") => value.is_null(),
                    _ => false,
                };
                if !types.iter().any(is) {
                    return fault("the type");
                }
            }
            "required" => {
                let missing = rule
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|name| value.get(name.as_str().unwrap()).is_none());
                if let Some(name) = missing {
                    return fault(&format!("{name}, which is required,"));
                }
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let schema = rule.get(name).ok_or_else(|| format!("{name} is not in {schema}"))?;
                    conforms(root, schema, value)?;
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    conforms(root, rule, item)?;
                }
            }
            "enum" if !rule.as_array().is_some_and(|words| words.contains(value)) => return fault("one"),
            "const" if rule != value => return fault("the constant"),
            "minimum" if value.as_u64() < rule.as_u64() => return fault("the minimum"),
            "maximum" if value.as_u64() > rule.as_u64() => return fault("the maximum"),
            "enum" | "const" | "minimum" | "maximum" | "description" => {}
            other => return Err(format!("{other}: unknown keyword")),
        }
    }
    Ok(())
}

/// The path of a route, with a name in it.
fn path(route: &Route) -> String {
    let filled = match route.subject() {
        Some(name) => route.path.replace(&format!("{{{name}}}"), "a%2Fb"),
        None => route.path.to_owned(),
    };
    format!("{} {PREFIX}{filled}", route.verb.as_str().to_ascii_uppercase())
}

/// A body that is right, in the namespace.
fn body(route: &Route, namespace: &str) -> String {
    if route.body.is_empty() {
        return String::new();
    }
    let what = if route.takes_message() { r#""event": "e""# } else { r#""users": ["ann"]"# };
    format!(r#"{{ {what}, "namespace": "{namespace}" }}"#)
}

/// Makes the route answer with each status that it can, and returns the answers.
async fn every_answer(
    route: &Route,
    ready: &Port,
    starting: &Port,
    full: &Port,
    dev: &Port,
) -> Vec<Answered> {
    let (request, fine) = (path(route), body(route, "/"));
    let mut answers = vec![
        ready.call(&request, &fine).await,
        ready.call(&format!("{request}?colour=red"), &fine).await,
        ready.ask(&request, "", "").await,
        starting.call(&request, &fine).await,
    ];
    if route.takes_message() {
        answers.push(full.call(&request, &fine).await);
    }
    if route.verb != Verb::Get {
        answers.push(dev.ask(&request, "Origin: http://evil.example\r\n", "").await);
    }
    if route.has_namespace() {
        let elsewhere =
            if route.body.is_empty() { format!("{request}?namespace=/none") } else { request.clone() };
        answers.push(ready.call(&elsewhere, &body(route, "/none")).await);
    }
    if !route.body.is_empty() {
        answers.push(ready.call(&request, &"x".repeat(route.body_bytes_max(1_000) + 1)).await);
        answers.push(ready.ask(&request, &format!("Authorization: Bearer {KEY}\r\n"), &fine).await);
    }
    answers
}

#[tokio::test]
async fn every_answer_is_as_documented() {
    let ready = Port::of(Fake::default(), false).await;
    let starting = Port::of(Fake { starting: true, ..Fake::default() }, false).await;
    let fault = ControlError::Refused(ErrorCode::OfflineFull, "the inbox is full".to_owned());
    let full = Port::of(Fake { fault: Some(fault), ..Fake::default() }, false).await;
    let dev = Port::of(Fake::default(), true).await;
    let document = document(&ready).await;
    for route in ROUTES {
        let mut seen = BTreeSet::new();
        for answer in every_answer(route, &ready, &starting, &full, &dev).await {
            let (content_type, schema) = documented(&document, route, answer.status).unwrap_or_else(|| {
                panic!("{}: {} is not documented: {}", route.id, answer.status, answer.body)
            });
            assert!(
                answer.head.contains(&format!("\r\ncontent-type: {content_type}\r\n")),
                "{}",
                answer.head
            );
            conforms(&document, schema, &answer.json())
                .unwrap_or_else(|fault| panic!("{}: {fault}", route.id));
            seen.insert(answer.status.to_string());
        }
        let said: BTreeSet<_> =
            operation(&document, route)["responses"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(said, seen, "{}", route.id);
    }
    for port in [ready, starting, full, dev] {
        port.end().await;
    }
}

#[tokio::test]
async fn every_route_is_in_the_document_and_nothing_else() {
    let port = Port::of(Fake::default(), false).await;
    let document = document(&port).await;
    assert_eq!(document["openapi"], "3.1.0");
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, ROUTES.len());
    let ids: BTreeSet<_> = ROUTES.iter().map(|route| route.id).collect();
    assert_eq!(ids.len(), ROUTES.len(), "an id appears twice");
    for route in ROUTES {
        let operation = operation(&document, route);
        assert_eq!(operation["operationId"], route.id);
        let answer = port.call(&path(route), &body(route, "/")).await;
        assert_eq!(answer.status, route.status.as_u16(), "{}: {}", route.id, answer.body);
        let parameters: Vec<_> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let words = route.subject().into_iter().chain(route.query.iter().map(|word| word.as_str()));
        assert_eq!(parameters, words.collect::<Vec<_>>(), "{}", route.id);
        assert_eq!(operation.get("requestBody").is_some(), !route.body.is_empty(), "{}", route.id);
    }
    port.end().await;
}

#[test]
fn the_check_of_schemas_notices() {
    let root = serde_json::json!({
        "components": { "schemas": { "N": { "type": "integer", "minimum": 1 } } },
        "schema": {
            "type": "object",
            "required": ["n"],
            "properties": {
                "n": { "$ref": "#/components/schemas/N" },
                "w": { "type": ["string", "null"] },
                "l": { "type": "array", "items": { "enum": ["a"] } },
            },
        },
    });
    let check = |text: &str| conforms(&root, &root["schema"], &serde_json::from_str(text).unwrap());
    for fine in [r#"{ "n": 1 }"#, r#"{ "n": 2, "w": null, "l": ["a"] }"#] {
        assert_eq!(check(fine), Ok(()));
    }
    for wrong in [
        "[]",
        "{}",
        r#"{ "n": 0 }"#,
        r#"{ "n": "1" }"#,
        r#"{ "n": -1 }"#,
        r#"{ "n": 1, "x": 1 }"#,
        r#"{ "n": 1, "w": 1 }"#,
        r#"{ "n": 1, "l": ["b"] }"#,
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}
