//! One node built from the configuration.
//!
//! Architecture Invariant: this is where port implementations are picked; nothing else in the process knows whether
//! a node's broker is memory or Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::memory::Exchange;
use tidegate_core::{Broker, Incarnation, NodeId, OfflineStore, SessionRegistry, Subscriber};
use tidegate_gateway::glob::Glob;
use tidegate_gateway::namespaces::{NamespaceRule, Namespaces, Operations};
use tidegate_gateway::trace::Tracer;
use tidegate_gateway::{
    DrainOptions, EngineOptions, Joining, Limits, Node, OfflineOptions, Options, PulseOptions, ServerOptions,
};
use tidegate_redis::RedisBroker;

use super::Error;
use crate::admin;
use crate::config::Config;

/// How long a node without Redis may take to hear its first pulse: nothing it waits for is outside the process.
const MEMORY_START_MAX: Duration = Duration::from_secs(10);

/// What publications may wait for Redis in total, in bytes: two seconds at 4 MB/s, more than a node fans out.
const PUBLISH_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Starts one node, on Redis when there is a URL, else on the exchange. `page` is what its `/` shows.
pub(super) async fn join(
    config: &Config,
    id: &NodeId,
    exchange: &Exchange,
    page: Option<Bytes>,
    tracer: Option<Arc<dyn Tracer>>,
) -> Result<Node, Error> {
    let incarnation = Incarnation::random();
    let failed = |fault| Error::Start { node: id.clone(), fault };
    let options = Options { tracer, ..node_options(config, id.clone(), incarnation.clone(), page) };
    let joining = Joining::new(options, shards()).map_err(failed)?;
    let Ports { broker, registry, offline, limit } =
        ports(config, id, incarnation, exchange, joining.subscriber()).await?;
    joining.start(broker, registry, offline, limit).await.map_err(failed)
}

/// What joins a node to the others, and how long its start may wait for it.
struct Ports {
    broker: Arc<dyn Broker>,
    registry: Arc<dyn SessionRegistry>,
    offline: Arc<dyn OfflineStore>,
    limit: Duration,
}

async fn ports(
    config: &Config,
    id: &NodeId,
    incarnation: Incarnation,
    exchange: &Exchange,
    subscriber: Arc<dyn Subscriber>,
) -> Result<Ports, Error> {
    let Some(redis) = &config.redis else {
        return Ok(Ports {
            registry: exchange.registry(id.clone(), incarnation.clone(), config.cluster.fence_after),
            offline: exchange.offline(id.clone(), incarnation.clone(), config.offline.quotas),
            broker: exchange.join(id.clone(), incarnation, subscriber),
            limit: MEMORY_START_MAX,
        });
    };
    let options = tidegate_redis::Options {
        url: redis.url.clone(),
        tls_ca: redis.tls_ca.clone(),
        prefix: redis.prefix.clone(),
        adapter_prefix: redis.adapter_prefix.clone(),
        connect_timeout: redis.connect_timeout,
        command_timeout: config.command_timeout,
        publish_queue_bytes_max: PUBLISH_QUEUE_BYTES_MAX,
        fence_after: config.cluster.fence_after,
        node: id.clone(),
        incarnation,
    };
    let broker = RedisBroker::connect(options, subscriber).await?;
    Ok(Ports {
        registry: broker.registry(),
        offline: broker.offline(config.offline.quotas),
        broker,
        limit: redis.connect_timeout,
    })
}

fn node_options(config: &Config, node: NodeId, incarnation: Incarnation, page: Option<Bytes>) -> Options {
    let (engine, server, limits) = (&config.engine, &config.server, &config.limits);
    Options {
        node,
        incarnation,
        engine: EngineOptions {
            path: engine.path.clone(),
            ping_interval: engine.ping_interval,
            ping_timeout: engine.ping_timeout,
            connect_timeout: engine.connect_timeout,
            upgrade_timeout: engine.upgrade_timeout,
            payload_bytes_max: engine.payload_bytes_max,
            polling: engine.polling,
            websocket: engine.websocket,
        },
        server: ServerOptions {
            allowed_origins: server.allowed_origins.clone(),
            trusted_proxies: server
                .trusted_proxies
                .iter()
                .map(|network| network.parse().expect("the configuration checks networks"))
                .collect(),
            connections_max: server.connections_max,
            tls: server.tls.as_ref().map(|tls| tls.credentials.clone()),
            page,
        },
        limits: Limits {
            outbox_bytes_max: limits.outbox_bytes_max,
            rooms_per_session_max: limits.rooms_per_session_max,
            name_bytes_max: limits.name_bytes_max,
            events_per_second_max: limits.events_per_second_max,
            events_burst: limits.events_burst,
            connections_per_ip_max: limits.connections_per_ip_max,
        },
        auth: config.auth.authenticator(),
        namespaces: namespaces(config),
        pulse: PulseOptions {
            interval: config.cluster.pulse_interval,
            fence_after: config.cluster.fence_after,
            lease_ttl: config.cluster.lease_ttl,
            lease_renew: config.cluster.lease_renew,
            hold: config.command_timeout,
        },
        offline: OfflineOptions {
            message_bytes_max: config.offline.message_bytes_max,
            window: config.offline.window,
            quotas: config.offline.quotas,
        },
        drain: DrainOptions {
            timeout: config.drain.timeout,
            connections_per_second: config.drain.connections_per_second,
        },
        tracer: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("TIDEGATE_REVISION").unwrap_or("unknown").to_owned(),
    }
}

/// What the admin port of every node holds requests to.
pub(super) fn admin_options(config: &Config) -> admin::Options {
    admin::Options {
        api_keys: config.admin.api_keys.clone(),
        dev: config.dev,
        name_bytes_max: config.limits.name_bytes_max,
        message_bytes_max: config.offline.message_bytes_max,
        namespaces: namespaces(config),
    }
}

fn namespaces(config: &Config) -> Namespaces {
    let rules = config
        .namespaces
        .iter()
        .map(|namespace| NamespaceRule {
            pattern: Glob::parse(&namespace.pattern),
            operations: Operations::of(&namespace.operations),
            policy: namespace.policy,
            on_duplicate: namespace.on_duplicate,
            presence: namespace.presence,
            offline: namespace.offline,
        })
        .collect();
    Namespaces::new(rules, config.dev)
}

/// One shard a worker thread, so that a fan-out can keep all of them busy.
fn shards() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The name of node `index`: the given one, numbered where several share the process.
pub(super) fn node_id(config: &Config, index: u16) -> NodeId {
    match &config.server.node_id {
        None => NodeId::random(),
        Some(id) if config.nodes == 1 => id.clone(),
        Some(id) => {
            NodeId::parse(&format!("{id}-{index}")).expect("the configuration leaves room for the number")
        }
    }
}
