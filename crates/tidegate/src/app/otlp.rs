//! Spans on their way to a collector: OTLP over HTTP, in batches, and never at the expense of anything else.
//!
//! What a collector does not take is dropped: spans are a sample anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tidegate_core::NodeId;
use tidegate_gateway::trace::{Span, Tracer, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where a collector takes spans, if the setting names only the host.
const PATH: &str = "v1/traces";

/// Spans that wait to be sent: a few seconds' worth of all nodes of a process. More are dropped.
const QUEUE: usize = 4_096;

/// Most spans in one request.
const BATCH_MAX: usize = 512;

/// How long a span waits for company.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long a collector may take to answer, and hold up the end of the process.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where the nodes of the process leave their spans.
#[derive(Clone)]
pub(super) struct Spans {
    queue: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
    scope: InstrumentationScope,
}

/// The way to the collector, to be run.
pub(super) struct Export {
    queue: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
    exporter: SpanExporter,
}

/// The way to `endpoint`, which the configuration has checked.
///
/// # Errors
/// When the environment's settings for OpenTelemetry make no sense.
pub(super) fn open(endpoint: &str) -> Result<(Spans, Export), String> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(target(endpoint))
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|fault| fault.to_string())?;
    let version = env!("CARGO_PKG_VERSION");
    exporter.set_resource(
        &Resource::builder()
            .with_service_name("tidegate")
            .with_attribute(KeyValue::new("service.version", version))
            .build(),
    );
    let (queue, waiting) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let scope = InstrumentationScope::builder("tidegate").with_version(version).build();
    Ok((Spans { queue, dropped: Arc::clone(&dropped), scope }, Export { queue: waiting, dropped, exporter }))
}

/// Whether spans can be sent there.
///
/// # Errors
/// What would be right.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let is_right = endpoint.parse::<hyper::Uri>().is_ok_and(|uri| {
        // A user and a password would go nowhere.
        let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        uri.scheme_str() == Some("http") && is_plain && uri.query().is_none()
    });
    if is_right {
        return Ok(());
    }
    Err("must be the URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318".to_owned())
}

fn target(endpoint: &str) -> String {
    let has_path = endpoint.parse::<hyper::Uri>().is_ok_and(|uri| uri.path() != "/");
    if has_path { endpoint.to_owned() } else { format!("{}/{PATH}", endpoint.trim_end_matches('/')) }
}

impl Spans {
    /// What one node is told to leave them with.
    pub(super) fn of(&self, node: &NodeId) -> Arc<dyn Tracer> {
        Arc::new(Desk { spans: self.clone(), node: node.to_string() })
    }
}

struct Desk {
    spans: Spans,
    node: String,
}

impl Tracer for Desk {
    fn ended(&self, span: Span) {
        let data = data(span, &self.node, &self.spans.scope);
        if self.spans.queue.try_send(data).is_err() {
            self.spans.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn data(span: Span, node: &str, scope: &InstrumentationScope) -> SpanData {
    let attributes = span.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
        Value::Flag(flag) => KeyValue::new(name, flag),
    });
    let named = KeyValue::new("tidegate.node", node.to_owned());
    let failed = span.error.map(|code| KeyValue::new("error.type", code));
    let context = SpanContext::new(
        TraceId::from_bytes(span.trace),
        SpanId::from_bytes(span.id),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: match span.name {
            "publish" | "send" => SpanKind::Producer,
            "fanout" => SpanKind::Consumer,
            _ => SpanKind::Server,
        },
        name: span.name.into(),
        start_time: span.began,
        end_time: span.began + span.took,
        attributes: attributes.chain([named]).chain(failed).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

impl Export {
    /// Sends what comes until `stop`, and then what is left, as far as that takes no longer than one answer may.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut is_failing = false;
        tokio::select! {
            () = self.send_all(&stop, &mut is_failing) => {}
            () = async { stop.cancelled().await; tokio::time::sleep(TIMEOUT).await } => {}
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken, is_failing: &mut bool) {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                _ = self.queue.recv_many(&mut batch, BATCH_MAX) => {}
                () = stop.cancelled() => {}
            }
            if batch.len() < BATCH_MAX {
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
            }
            while batch.len() < BATCH_MAX
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                // Only who stops has nothing.
                return;
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::debug!(dropped, "more spans than the collector takes");
            }
            // The library has a limit of its own, which the environment may lift.
            let sent = tokio::time::timeout(TIMEOUT, self.exporter.export(batch)).await;
            let failed = match sent {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some(fault.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            // Told when it begins and when it is over, not each time.
            match failed {
                Some(fault) if !*is_failing => {
                    tracing::warn!(fault, "the collector does not take spans (log.otlp_endpoint)");
                    *is_failing = true;
                }
                None if *is_failing => {
                    tracing::info!("the collector takes spans again");
                    *is_failing = false;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_host_or_its_path() {
        assert_eq!(target("http://c:4318"), "http://c:4318/v1/traces");
        assert_eq!(target("http://c:4318/"), "http://c:4318/v1/traces");
        assert_eq!(target("http://c/otlp/v1/traces"), "http://c/otlp/v1/traces");
        for wrong in ["", "c:4318", "https://c", "http://", "http://c/?x=1", "http://u:p@c", "grpc://c:4317"]
        {
            assert!(check_endpoint(wrong).is_err(), "{wrong}");
        }
        assert_eq!(check_endpoint("http://c:4318"), Ok(()));
    }
}
