//! The OpenAPI 3.1 document of the HTTP API, written from the table of routes.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::api::{PREFIX, ROUTES, Route, Verb};
use super::asked::{LIST_MAX, Word};
use super::body::BODY_BYTES_MAX;
use super::schema::Schema;

/// The document.
pub(super) fn openapi() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(format!("{PREFIX}{}", route.path)).or_insert_with(|| json!({}));
        path[route.verb.as_str()] = operation(route);
    }
    let schemas: Map<_, _> =
        Schema::ALL.iter().map(|schema| (schema.as_str().to_owned(), schema.document())).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What servers may ask of a Tidegate cluster, on the admin port of any of its nodes. \
                            Names in paths are percent-encoded, slashes too. Times are Unix milliseconds.",
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of admin.api_keys. Under --dev none is needed.",
                },
            },
        },
    })
}

/// The statuses that a route may answer with, beside that of success, and when.
pub(super) fn refusals(route: &Route) -> Vec<(StatusCode, String)> {
    let mut refusals = vec![
        (
            StatusCode::BAD_REQUEST,
            "What was asked has the wrong shape, is over a limit, or holds something unknown.".to_owned(),
        ),
        (StatusCode::UNAUTHORIZED, "No key, or none that is known.".to_owned()),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "The node is starting, or the cluster did not answer in time; the outcome is unknown then."
                .to_owned(),
        ),
    ];
    if route.verb != Verb::Get {
        let when = "Under --dev only: a browser asks for a page of another origin.";
        refusals.push((StatusCode::FORBIDDEN, when.to_owned()));
    }
    if route.has_namespace() {
        let or_off = if route.takes_message() { ", or durable messages are off in it" } else { "" };
        refusals.push((StatusCode::NOT_FOUND, format!("There is no such namespace{or_off}.")));
    }
    if !route.body.is_empty() {
        let or_data = if route.takes_message() { ", or its data is over its limit" } else { "" };
        refusals.push((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The body has more than {}{or_data}.", size(route)),
        ));
        refusals.push((StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not application/json.".to_owned()));
    }
    if route.takes_message() {
        refusals.push((StatusCode::INSUFFICIENT_STORAGE, "The user's inbox is full.".to_owned()));
    }
    refusals.sort_by_key(|(status, _)| *status);
    refusals
}

fn operation(route: &Route) -> Value {
    let mut responses = Map::new();
    responses
        .insert(route.status.as_str().to_owned(), response("As asked.", "application/json", route.answer));
    for (status, when) in refusals(route) {
        responses
            .insert(status.as_str().to_owned(), response(&when, "application/problem+json", Schema::Problem));
    }
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "description": route.notes,
        "parameters": parameters(route),
        "responses": responses,
    });
    if !route.body.is_empty() {
        operation["requestBody"] = request_body(route);
    }
    operation
}

fn response(description: &str, content_type: &str, schema: Schema) -> Value {
    json!({ "description": description, "content": { content_type: { "schema": schema.reference() } } })
}

fn parameters(route: &Route) -> Vec<Value> {
    let subject = route.subject().map(|name| {
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "schema": { "type": "string", "minLength": 1 },
            "description": "At most limits.name_bytes_max bytes.",
        })
    });
    let query = route.query.iter().map(
        |word| json!({ "name": word.as_str(), "in": "query", "required": false, "schema": word.schema() }),
    );
    subject.into_iter().chain(query).collect()
}

/// The largest body, in words.
fn size(route: &Route) -> String {
    if route.takes_message() {
        format!("{BODY_BYTES_MAX} bytes and six times offline.message_bytes_max")
    } else {
        format!("{BODY_BYTES_MAX} bytes")
    }
}

fn request_body(route: &Route) -> Value {
    let properties: Map<_, _> =
        route.body.iter().map(|word| (word.as_str().to_owned(), word.schema())).collect();
    let description = format!(
        "At most {}; lists of at most {LIST_MAX} names of at most limits.name_bytes_max bytes.",
        size(route)
    );
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if route.takes_message() {
        schema["required"] = json!([Word::Event.as_str()]);
    }
    json!({
        "required": true,
        "description": description,
        "content": { "application/json": { "schema": schema } },
    })
}
