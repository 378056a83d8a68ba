//! Bodies of requests: JSON, of bounded size, within a bounded time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use serde_json::Value;
use tidegate_core::ErrorCode;

use super::problem::Problem;

/// Largest body, in bytes. A list of as many names as it may hold, of a length that names have, fits.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// How much of a body that is too large is read and thrown away, in bytes: whoever still sends when the connection
/// closes would not see the answer.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the body as JSON.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Value, Problem> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    // Also what keeps other origins out under `--dev`: a page needs leave to send it.
    if !essence.eq_ignore_ascii_case("application/json") {
        let problem = Problem::bad_request("content-type: must be application/json");
        return Err(problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let late = |_| Problem::bad_request(format!("the body did not arrive within {BODY_TIMEOUT:?}"));
    let bytes = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await.map_err(late)??;
    serde_json::from_slice(&bytes)
        .map_err(|fault| Problem::bad_request(format!("the body is not JSON: {fault}")))
}

async fn collect(body: Body) -> Result<Vec<u8>, Problem> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::bad_request("the body broke off"))?;
        length += chunk.len();
        if length <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&chunk);
        } else if length > DISCARDED_BYTES_MAX {
            break;
        }
    }
    if length <= BODY_BYTES_MAX {
        return Ok(bytes);
    }
    let detail = format!("the body may have at most {BODY_BYTES_MAX} bytes");
    Err(Problem::new(ErrorCode::TooLarge, detail))
}
