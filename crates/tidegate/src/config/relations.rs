//! What must hold between keys. A relation is checked only where its keys are sound by themselves.

use std::net::SocketAddr;

use tidegate_core::NodeId;

use super::PORT_STEP;
use super::settings::Settings;

pub(super) fn check(settings: &mut Settings, nodes: u16) {
    // Three pulses may go missing before a node fences itself, and a node is fenced before it is reaped.
    at_least(settings, "cluster.fence_after_ms", 1, (3, "cluster.pulse_interval_ms"));
    at_least(settings, "sessions.lease_ttl_ms", 1, (1, "cluster.fence_after_ms"));
    // Dead nodes are noticed within a lease or so of their death, even when one look at the list of nodes fails.
    at_least(settings, "sessions.lease_ttl_ms", 0, (3, "sessions.lease_renew_ms"));
    // One message that is being written and one that waits must fit.
    at_least(settings, "limits.outbox_bytes_max", 0, (2, "engine.payload_bytes_max"));
    at_least(settings, "limits.outbox_bytes_max", 0, (2, "offline.message_bytes_max"));

    replicas(settings);
    transports(settings);
    namespaces(settings);
    ports(settings, nodes);
    node_id(settings, nodes);
}

/// `path >= times x other`, or `>` with a `margin` of one.
fn at_least(settings: &mut Settings, path: &'static str, margin: u64, (times, other): (u64, &'static str)) {
    if !settings.is_sound(path) || !settings.is_sound(other) {
        return;
    }
    let (value, bound) = (settings.number(path), settings.number(other));
    if value < times * bound + margin {
        let word = if margin == 0 { "at least" } else { "greater than" };
        let of = if times == 1 { other.to_owned() } else { format!("{times} x {other}") };
        settings.fault_at(path, format!("must be {word} {of} (= {})", times * bound));
    }
}

fn replicas(settings: &mut Settings) {
    if settings.number("offline.wait_replicas") > 0 && settings.text("redis.url").is_none() {
        settings.fault_at(
            "offline.wait_replicas",
            "needs redis.url: a node that runs alone has no replicas".to_owned(),
        );
    }
}

fn transports(settings: &mut Settings) {
    if settings.list("engine.transports").is_empty() {
        settings.fault_at("engine.transports", "must list at least one transport".to_owned());
    }
}

fn namespaces(settings: &mut Settings) {
    let faults: Vec<_> = settings
        .namespaces()
        .iter()
        .filter(|namespace| !namespace.pattern.starts_with(['/', '*', '?']))
        .map(|namespace| (namespace.pattern.clone(), namespace.origin.clone()))
        .collect();
    for (pattern, origin) in faults {
        let problem = "is no namespace; names begin with a slash, as in [namespaces.\"/chat\"]".to_owned();
        settings.fault(&format!("namespaces.{pattern:?}"), None, origin, problem);
    }
}

fn ports(settings: &mut Settings, nodes: u16) {
    let last = |settings: &Settings, path| -> Option<(SocketAddr, Option<u16>)> {
        let address: SocketAddr = settings.text(path)?.parse().ok()?;
        // Port 0 is any free one, for every node.
        let steps = if address.port() == 0 { 0 } else { nodes.saturating_sub(1).checked_mul(PORT_STEP)? };
        Some((address, address.port().checked_add(steps)))
    };
    let (listen, admin) = (last(settings, "server.listen"), last(settings, "server.admin_listen"));
    for (path, address) in [("server.listen", listen), ("server.admin_listen", admin)] {
        if matches!(address, Some((_, None))) {
            settings.fault_at(path, format!("leaves no room for {nodes} nodes, {PORT_STEP} ports apart"));
        }
    }
    if let (Some((listen, _)), Some((admin, _))) = (listen, admin) {
        let distance = listen.port().abs_diff(admin.port());
        let same_host =
            listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
        let collide = distance % PORT_STEP == 0 && distance / PORT_STEP < nodes;
        if same_host && collide && listen.port() != 0 && admin.port() != 0 {
            settings.fault_at("server.admin_listen", "must not use a port of server.listen".to_owned());
        }
    }
}

fn node_id(settings: &mut Settings, nodes: u16) {
    // Where several nodes share the process, each has its number behind the id.
    let number = format!("-{}", nodes.saturating_sub(1));
    let fits =
        settings.text("server.node_id").is_none_or(|id| NodeId::parse(&format!("{id}{number}")).is_ok());
    if nodes > 1 && !fits {
        settings.fault_at("server.node_id", format!("leaves no room for the numbers of {nodes} nodes"));
    }
}
