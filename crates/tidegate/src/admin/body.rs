//! Bodies of requests: JSON, of bounded size, within a bounded time.

use std::time::Duration;

use axum::body::Body as Incoming;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tidegate_core::ErrorCode;

use super::problem::Problem;

/// Largest body, in bytes. A list of as many names as it may hold, of a length that names have, fits.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// How many bytes of JSON one byte of a durable message may take: a control character in a text takes six.
const JSON_SHARE: usize = 6;

/// How much of a body that is too large is read and thrown away, in bytes: whoever still sends when the connection
/// closes would not see the answer.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that was read.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// All of it.
    pub(super) value: Value,
    /// The field `data` as it came: a value would not keep the digits of numbers, nor the order of fields.
    pub(super) data: Option<String>,
}

/// The one field that is taken as it came.
#[derive(Deserialize)]
struct Raw<'b> {
    #[serde(borrow)]
    data: Option<&'b RawValue>,
}

/// Largest body of a route that takes a durable message of so many bytes; of all others with 0.
pub(super) const fn bytes_max(message_bytes_max: usize) -> usize {
    BODY_BYTES_MAX + JSON_SHARE * message_bytes_max
}

/// Reads the body as JSON.
pub(super) async fn read(headers: &HeaderMap, body: Incoming, bytes_max: usize) -> Result<Body, Problem> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    // Also what keeps other origins out under `--dev`: a page needs leave to send it.
    if !essence.eq_ignore_ascii_case("application/json") {
        let problem = Problem::bad_request("content-type: must be application/json");
        return Err(problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let late = |_| Problem::bad_request(format!("the body did not arrive within {BODY_TIMEOUT:?}"));
    let bytes = tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max)).await.map_err(late)??;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|fault| Problem::bad_request(format!("the body is not JSON: {fault}")))?;
    // What is no object is refused by whoever asks it for fields.
    let raw = match serde_json::from_slice::<Raw<'_>>(&bytes) {
        Err(fault) if value.is_object() => return Err(Problem::bad_request(format!("the body: {fault}"))),
        raw => raw.ok(),
    };
    Ok(Body { value, data: raw.and_then(|raw| raw.data).map(|data| data.get().to_owned()) })
}

async fn collect(body: Incoming, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::bad_request("the body broke off"))?;
        length += chunk.len();
        if length <= bytes_max {
            bytes.extend_from_slice(&chunk);
        } else if length > bytes_max.max(DISCARDED_BYTES_MAX) {
            break;
        }
    }
    if length <= bytes_max {
        return Ok(bytes);
    }
    let detail = format!("the body may have at most {bytes_max} bytes");
    Err(Problem::new(ErrorCode::TooLarge, detail))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;

    use super::*;

    /// How many of this many chunks of 32 KiB are read, and whether the body is taken.
    async fn taken(chunks: usize) -> (usize, bool) {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let body = stream::iter(0..chunks).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b' '; 32 * 1024])
        });
        let outcome = collect(Incoming::from_stream(body), BODY_BYTES_MAX).await;
        assert!(outcome.as_ref().is_ok_and(|bytes| bytes.len() == chunks * 32 * 1024) || outcome.is_err());
        (read.load(Ordering::Relaxed), outcome.is_ok())
    }

    #[tokio::test]
    async fn what_is_too_large_is_read_to_its_end_but_not_for_ever() {
        assert_eq!(taken(2).await, (2, true));
        assert_eq!(taken(3).await, (3, false));
        assert_eq!(taken(32).await, (32, false));
        // The chunk that shows that there is more.
        assert_eq!(taken(1000).await, (33, false));
    }
}
