//! The node's metrics, in one registry of its own: two nodes in one process count apart.
//!
//! Every child that the hot path touches is resolved at the start. No label holds a user, a room or a session.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tidegate_core::offline::{Quotas, Sent};
use tidegate_core::registry::{EvictReason, Tended};
use tidegate_core::{DisconnectReason, ErrorCode};

use crate::namespaces::Operation;
use crate::options::OfflineOptions;
use crate::takeover::Silence;

/// Under which name the broker tells how long publishing took.
const PUBLISH: &str = "publish";

/// From 50 microseconds to 5 seconds: what a fan-out or a round trip through Redis can take.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// How full an inbox can be: the last steps are where somebody should look before senders are refused.
const FILL: &[f64] = &[0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0];

/// Why a handshake or a socket is refused.
const REFUSED: [&str; 9] = [
    "draining",
    "deaf",
    "connections_max",
    "connections_per_ip_max",
    "sockets_max",
    "sockets_per_ip_max",
    "tls",
    "origin",
    "protocol_version",
];

/// Why durable messages are usually refused.
const OFFLINE_REJECTED: [ErrorCode; 4] =
    [ErrorCode::RateLimited, ErrorCode::OfflineFull, ErrorCode::TooLarge, ErrorCode::Unavailable];

/// One node's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections_polling: IntGauge,
    pub(crate) connections_websocket: IntGauge,
    sessions: IntGaugeVec,
    rooms: IntGaugeVec,
    messages_received: IntCounterVec,
    deliveries: IntCounterVec,
    dropped: IntCounterVec,
    refused: IntCounterVec,
    pub(crate) fanout_seconds: Histogram,
    outbox_bytes: IntGauge,
    evictions: IntCounterVec,
    disconnects: IntCounterVec,
    operations: IntCounterVec,
    broker_up: IntGauge,
    broker_seconds: HistogramVec,
    /// The one of `broker_seconds` that is needed all the time.
    publish_seconds: Histogram,
    pub(crate) pulse_seconds: Histogram,
    lease_renewals: IntCounterVec,
    takeovers: IntCounterVec,
    pub(crate) takeover_seconds: Histogram,
    reaped: IntCounterVec,
    restored: IntCounter,
    offline_stored: IntCounter,
    offline_fill: Histogram,
    pub(crate) offline_delivered: IntCounter,
    pub(crate) offline_acknowledged: IntCounter,
    pub(crate) offline_expired: IntCounter,
    offline_rejected: IntCounterVec,
    offline_limit: IntGaugeVec,
    tls_renewals: IntCounterVec,
    ready: IntGauge,
    draining: IntGauge,
}

/// The metrics of one configured namespace, resolved.
#[derive(Clone)]
pub(crate) struct NamespaceMetrics {
    pub(crate) sessions: IntGauge,
    pub(crate) rooms: IntGauge,
    pub(crate) messages_received: IntCounter,
    pub(crate) deliveries: IntCounter,
}

impl Metrics {
    /// A registry with every family in it, each known label value at zero.
    ///
    /// # Errors
    /// When two families share a name, which is a defect that the first test finds.
    pub(crate) fn new(version: &str, revision: &str, node: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauges = |name: &str, help: &str, label: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let family = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let family = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(family.clone()))?;
                Ok(family)
            };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let family = IntGauge::new(name, help)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let family = IntCounter::new(name, help)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let histogram = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let family = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let connections = gauges(
            "tidegate_connections",
            "Open Engine.IO connections, by the transport they use now.",
            "transport",
        )?;
        let broker_seconds = HistogramVec::new(
            HistogramOpts::new(
                "tidegate_broker_seconds",
                "How long commands to the broker took, in seconds.",
            )
            .buckets(SECONDS.to_vec()),
            &["command"],
        )?;
        registry.register(Box::new(broker_seconds.clone()))?;
        let build = gauges_of_build(&registry)?;
        build.with_label_values(&[version, revision]).set(1);
        let name = gauges("tidegate_node_info", "Always 1; the label says what the node is called.", "node")?;
        name.with_label_values(&[node]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        let metrics = Self {
            connections_polling: connections.with_label_values(&["polling"]),
            connections_websocket: connections.with_label_values(&["websocket"]),
            sessions: gauges("tidegate_sessions", "Sessions, by configured namespace.", "namespace")?,
            rooms: gauges(
                "tidegate_rooms",
                "Rooms with a local member, apart from each socket's own, by configured namespace.",
                "namespace",
            )?,
            messages_received: counters(
                "tidegate_messages_received_total",
                "Events received from clients, by configured namespace.",
                &["namespace"],
            )?,
            deliveries: counters(
                "tidegate_deliveries_total",
                "Publications handed to the outbox of a receiver, by configured namespace.",
                &["namespace"],
            )?,
            dropped: counters("tidegate_dropped_total", "Messages dropped, by reason.", &["reason"])?,
            refused: counters(
                "tidegate_handshakes_refused_total",
                "Handshakes refused before a connection existed, by reason.",
                &["reason"],
            )?,
            fanout_seconds: histogram(
                "tidegate_fanout_seconds",
                "From the receipt of a publication to the last local outbox, in seconds.",
            )?,
            outbox_bytes: gauge("tidegate_outbox_bytes", "Bytes that wait in outboxes.")?,
            evictions: counters("tidegate_evictions_total", "Sessions evicted, by reason.", &["reason"])?,
            disconnects: counters(
                "tidegate_disconnects_total",
                "Sessions ended, and connections ended that never had one, by reason.",
                &["reason"],
            )?,
            operations: counters(
                "tidegate_operations_total",
                "Operations asked for by clients, by outcome; ok or an error code.",
                &["operation", "code"],
            )?,
            broker_up: gauge("tidegate_broker_up", "1 while the broker's command connection is up.")?,
            publish_seconds: broker_seconds.with_label_values(&[PUBLISH]),
            broker_seconds,
            pulse_seconds: histogram(
                "tidegate_pulse_seconds",
                "Round trip of the pulse through the broker's publish and subscription, in seconds.",
            )?,
            lease_renewals: counters(
                "tidegate_lease_renewals_total",
                "Renewals of the node's lease, by result.",
                &["result"],
            )?,
            takeovers: counters(
                "tidegate_takeovers_total",
                "CONNECTs that displaced a session, by how its silence was made sure of: its node confirmed it, or \
                 was fenced; evicted when the newcomer itself was displaced meanwhile.",
                &["outcome"],
            )?,
            takeover_seconds: histogram(
                "tidegate_takeover_seconds",
                "From the claim of a CONNECT that displaced a session to the silence of that session, in seconds.",
            )?,
            reaped: counters("tidegate_reaped_total", "What this node took over from dead ones.", &["what"])?,
            restored: counter(
                "tidegate_sessions_restored_total",
                "Sessions put back into the registry, which had lost them.",
            )?,
            offline_stored: counter(
                "tidegate_offline_stored_total",
                "Durable messages stored by this node.",
            )?,
            offline_fill: {
                let help = "How full the recipient's inbox is with each durable message stored: the larger of its \
                    messages and its bytes, as a share of the most that it may hold.";
                let options = HistogramOpts::new("tidegate_offline_fill_ratio", help).buckets(FILL.to_vec());
                let family = Histogram::with_opts(options)?;
                registry.register(Box::new(family.clone()))?;
                family
            },
            offline_delivered: counter(
                "tidegate_offline_delivered_total",
                "Durable messages handed to the outbox of a session, repetitions included.",
            )?,
            offline_acknowledged: counter(
                "tidegate_offline_acknowledged_total",
                "Durable messages deleted because a session of this node acknowledged them.",
            )?,
            offline_expired: counter(
                "tidegate_offline_expired_total",
                "Durable messages that this node found expired. An inbox that nobody touches expires as a whole, \
                 uncounted.",
            )?,
            offline_rejected: counters(
                "tidegate_offline_rejected_total",
                "Durable messages that were not stored, by error code.",
                &["code"],
            )?,
            offline_limit: gauges(
                "tidegate_offline_limit",
                "What durable messages are held to: messages and bytes of an inbox, bytes of a message, messages of \
                 a sender a minute, messages given to a session and not acknowledged.",
                "limit",
            )?,
            tls_renewals: counters(
                "tidegate_tls_renewals_total",
                "Changed certificates of the client port that were read, by result; one that cannot be used leaves \
                 the one before it in place.",
                &["result"],
            )?,
            ready: gauge(
                "tidegate_ready",
                "1 while a message published now would be delivered, as in /readyz.",
            )?,
            draining: gauge("tidegate_draining", "1 while the node sends its clients elsewhere.")?,
            registry,
        };
        for result in ["ok", "failed"] {
            metrics.tls_renewals.with_label_values(&[result]);
        }
        for reason in DisconnectReason::ALL {
            metrics.disconnects.with_label_values(&[reason.as_str()]);
        }
        for reason in EvictReason::ALL {
            metrics.evictions.with_label_values(&[reason.as_str()]);
        }
        for outcome in [Silence::Confirmed, Silence::Fenced, Silence::Evicted] {
            metrics.takeovers.with_label_values(&[outcome.as_str()]);
        }
        for what in ["nodes", "sessions"] {
            metrics.reaped.with_label_values(&[what]);
        }
        for result in ["ok", "failed", "conflict"] {
            metrics.lease_renewals.with_label_values(&[result]);
        }
        for operation in Operation::ALL {
            metrics.operations.with_label_values(&[operation.as_str(), "ok"]);
        }
        for code in OFFLINE_REJECTED {
            metrics.offline_rejected.with_label_values(&[code.as_str()]);
        }
        for reason in REFUSED {
            metrics.refused.with_label_values(&[reason]);
        }
        for reason in [
            "volatile",
            "rate_limited",
            "fanout_full",
            "too_large",
            "malformed",
            "registrar_full",
            "requests_full",
            "deaf",
            // From the broker's wire. An increase is not seen of what was not there before.
            "answer_refused",
            "unknown_node_message",
            "adapter_malformed",
            "adapter_not_an_event",
            "adapter_reserved_event",
            "adapter_too_many_attachments",
            "adapter_namespace_mismatch",
            "request_malformed",
            "request_unknown",
            "answer_malformed",
        ] {
            metrics.dropped.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    /// Notes how the node is at the moment.
    pub(crate) fn state(&self, is_ready: bool, is_draining: bool) {
        self.ready.set(i64::from(is_ready));
        self.draining.set(i64::from(is_draining));
    }

    /// The Prometheus text format.
    ///
    /// # Errors
    /// When a family cannot be encoded, which is a defect.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    pub(crate) fn namespace(&self, label: &str) -> NamespaceMetrics {
        let label = &[label];
        NamespaceMetrics {
            sessions: self.sessions.with_label_values(label),
            rooms: self.rooms.with_label_values(label),
            messages_received: self.messages_received.with_label_values(label),
            deliveries: self.deliveries.with_label_values(label),
        }
    }

    pub(crate) fn outbox_grew(&self, bytes: usize) {
        self.outbox_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn outbox_shrank(&self, bytes: usize) {
        if bytes > 0 {
            self.outbox_bytes.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn dropped(&self, reason: &str, messages: u64) {
        if messages > 0 {
            self.dropped.with_label_values(&[reason]).inc_by(messages);
        }
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn evicted(&self, reason: EvictReason) {
        self.evictions.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn took_over(&self, outcome: Silence, elapsed: Duration) {
        self.takeovers.with_label_values(&[outcome.as_str()]).inc();
        self.takeover_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn reaped(&self, tended: Tended) {
        let count = |what, number| {
            self.reaped.with_label_values(&[what]).inc_by(u64::try_from(number).unwrap_or(u64::MAX));
        };
        count("nodes", tended.nodes);
        count("sessions", tended.sessions);
    }

    pub(crate) fn restored(&self, sessions: usize) {
        self.restored.inc_by(u64::try_from(sessions).unwrap_or(u64::MAX));
    }

    pub(crate) fn offline_stored(&self, sent: &Sent, quotas: &Quotas) {
        self.offline_stored.inc();
        #[expect(clippy::cast_precision_loss, reason = "a share needs no exact integers")]
        let share = |used: u64, max: u64| used as f64 / max.max(1) as f64;
        let fill = share(sent.count, quotas.messages_max).max(share(sent.bytes, quotas.bytes_max));
        self.offline_fill.observe(fill);
    }

    pub(crate) fn offline_rejected(&self, code: ErrorCode) {
        self.offline_rejected.with_label_values(&[code.as_str()]).inc();
    }

    pub(crate) fn offline_limits(&self, options: &OfflineOptions) {
        let quotas = &options.quotas;
        for (limit, value) in [
            ("messages_max", quotas.messages_max),
            ("bytes_max", quotas.bytes_max),
            ("message_bytes_max", options.message_bytes_max as u64),
            ("sender_per_minute_max", quotas.sender_per_minute_max),
            ("window", options.window as u64),
        ] {
            self.offline_limit.with_label_values(&[limit]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn disconnected(&self, reason: DisconnectReason) {
        self.disconnects.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn operation(&self, operation: &str, outcome: Result<(), ErrorCode>) {
        let code = outcome.map_or_else(ErrorCode::as_str, |()| "ok");
        self.operations.with_label_values(&[operation, code]).inc();
    }

    pub(crate) fn broker_up(&self, up: bool) {
        self.broker_up.set(i64::from(up));
    }

    pub(crate) fn broker_took(&self, command: &str, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if command == PUBLISH {
            self.publish_seconds.observe(seconds);
        } else {
            self.broker_seconds.with_label_values(&[command]).observe(seconds);
        }
    }

    pub(crate) fn tls_renewed(&self, result: &str) {
        self.tls_renewals.with_label_values(&[result]).inc();
    }

    pub(crate) fn lease_renewed(&self, result: &str) {
        self.lease_renewals.with_label_values(&[result]).inc();
    }
}

fn gauges_of_build(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    let family = IntGaugeVec::new(
        Opts::new("tidegate_build_info", "Always 1; the labels say what runs."),
        &["version", "revision"],
    )?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}
