//! The table of all keys. Parsing, environment names, masking, the printed configuration and the manual
//! (`config.default.toml`) all follow from it, so they cannot drift apart.

use super::key::{Check, Key, Kind, Mask, Preset};
use super::{check, namespace};

const MS: &str = "milliseconds";
const BYTES: &str = "bytes";

/// Every key, in the order of the manual.
pub const KEYS: &[Key] = &[
    text("server.listen", check::address, Preset::Text("0.0.0.0:8080"), "Address of the client port. With --dev the default is \"127.0.0.1:8080\".")
        .dev(Preset::Text("127.0.0.1:8080")),
    text("server.admin_listen", check::address, Preset::Text("127.0.0.1:8081"), "Address of the admin port: /healthz, /readyz, /metrics, and the HTTP API under /api/v1 (see admin.api_keys). Keep it away from clients."),
    text("server.node_id", check::node_id, Preset::Unset("\"gw-1\""), "What this node is called; no two live nodes of a cluster may share it. Random when not set. A node that is killed leaves its lease behind: the next of the same name is ready only when that has expired, up to sessions.lease_ttl_ms later."),
    list("server.allowed_origins", check::origin, &[], "Origins whose pages may connect; [] is the page's own host only, [\"*\"] is any. With --dev the default is [\"*\"].")
        .dev(Preset::List(&["*"])),
    list("server.trusted_proxies", check::network, &[], "Addresses or networks of proxies whose X-Forwarded-For is believed."),
    number("server.connections_max", 100_000, 1, 10_000_000, "connections", "Most connections this node accepts; further handshakes are answered with 503."),
    later("server.advertise_url"),
    text("server.tls.cert", check::any, Preset::Unset("\"/etc/tidegate/tls.pem\""), "File with the certificate of the client port in PEM, and behind it those that lead to its authority. With it the port speaks TLS 1.2 and 1.3 and nothing else: clients connect to https:// and wss://. Needs server.tls.key. Files that change are read again within seconds; connections stay as they are.")
        .mask(Mask::PemOrPath),
    text("server.tls.key", check::any, Preset::Unset("\"/etc/tidegate/tls.key\""), "File with the certificate's private key in PEM, without a passphrase. ECDSA with P-256 costs least per handshake.")
        .mask(Mask::PemOrPath),

    text("engine.path", check::path, Preset::Text("/socket.io/"), "Path of Engine.IO, with both slashes."),
    number("engine.ping_interval_ms", 25_000, 10, 86_400_000, MS, "From the answer to one ping to the next ping."),
    number("engine.ping_timeout_ms", 20_000, 10, 86_400_000, MS, "How long a ping's answer may take before the connection counts as dead."),
    Key {
        default: Preset::Unset("45000"),
        ..number("engine.connect_timeout_ms", 0, 10, 3_600_000, MS, "How long a client may stay without a namespace after its handshake. 45000 when not set, or 5000 once clients are authenticated. On /ws it is 5000 at most.")
    },
    number("engine.upgrade_timeout_ms", 10_000, 10, 3_600_000, MS, "How long the upgrade from polling to WebSocket may take."),
    number("engine.payload_bytes_max", 1_000_000, 64, 268_435_456, BYTES, "Largest message of a client, and largest body of one poll."),
    list("engine.transports", check::transport, &["polling", "websocket"], "Transports offered to clients."),

    text("redis.url", check::redis_url, Preset::Unset("\"redis://127.0.0.1:6379\""), "The Redis that joins the nodes, over TLS with \"rediss://\", or its sentinels: \"redis+sentinel://host:26379,host:26379/master-name\". Not set: this node runs alone.")
        .mask(Mask::UrlPassword),
    text("redis.tls.ca", check::any, Preset::Unset("\"/etc/tidegate/redis-ca.pem\""), "File with the authorities that Redis' certificate must lead to with rediss://, in PEM. Not set: those that the system knows. Read once, at the start.")
        .mask(Mask::PemOrPath),
    text("redis.prefix", check::prefix, Preset::Text("tidegate"), "Front of the gateway's own keys and channels."),
    text("redis.adapter_prefix", check::prefix, Preset::Text("socket.io"), "Front of the channels shared with @socket.io/redis-adapter and @socket.io/redis-emitter."),
    number("redis.connect_timeout_ms", 10_000, 10, 600_000, MS, "How long a node tries to reach Redis at its start before it exits with code 69."),
    number("redis.command_timeout_ms", 2_000, 10, 600_000, MS, "How long one command may take, and how long publications wait for a lost Redis before they are refused."),

    number("cluster.pulse_interval_ms", 250, 5, 60_000, MS, "From one pulse through Redis to the next. 3 x pulse_interval_ms < fence_after_ms."),
    number("cluster.fence_after_ms", 1_000, 20, 600_000, MS, "How long a node may act without hearing its own pulse. fence_after_ms < sessions.lease_ttl_ms."),

    Key { kind: Kind::Choice(&["jwt", "none", "webhook"]), ..text("auth.mode", check::any, Preset::Text("jwt"), "\"jwt\": clients show a signed token. \"none\": clients say who they are and may do everything. With --dev the default is \"none\".") }
        .dev(Preset::Text("none")),
    text("auth.jwt.secret", check::any, Preset::Unset("\"at least 32 random characters\""), "Shared secret of HS256 tokens. Either this or public_key.")
        .mask(Mask::Secret),
    text("auth.jwt.public_key", check::any, Preset::Unset("\"/etc/tidegate/jwt.pem\""), "Public key in PEM, or the file that holds it. RSA is RS256, P-256 is ES256, Ed25519 is EdDSA; tokens have no say in it.")
        .mask(Mask::PemOrPath),
    later("auth.jwt.jwks_url"),
    text("auth.jwt.issuer", check::any, Preset::Unset("\"https://id.example.com\""), "When set, every token must carry this `iss`."),
    text("auth.jwt.audience", check::any, Preset::Unset("\"tidegate\""), "When set, every token must carry this `aud`."),
    later("auth.webhook.url"),
    list("auth.default_grants.namespaces", check::pattern, &["/"], "Grants of a token without the claim `tidegate`: namespaces it may connect to, as globs."),
    list("auth.default_grants.join", check::pattern, &[], "The same: rooms it may join."),
    list("auth.default_grants.publish", check::pattern, &[], "The same: rooms it may publish to; \"*\" also allows broadcast."),
    list("auth.default_grants.send", check::pattern, &[], "The same: users it may send durable messages to."),

    list("namespaces.*.operations", check::operation, &["join", "leave", "publish", "broadcast", "send", "online", "presence", "heartbeat"], "Operations clients may use in this namespace."),
    text("namespaces.*.sessions.policy", namespace::check_policy, Preset::Text("per_device"), "How many sessions of one user may live in this namespace, on all nodes together. \"per_device\": one of each device. \"single\": one. \"max:N\": N. \"unlimited\": any number. Clients without a user are not counted."),
    Key { kind: Kind::Choice(&["replace", "reject"]), ..text("namespaces.*.sessions.on_duplicate", check::any, Preset::Text("replace"), "What happens to one too many. \"replace\": the oldest session goes. \"reject\": the newcomer is refused with duplicate_session.") },
    switch("namespaces.*.offline.enabled", true, "Whether users have durable messages here: `send`, `online`, and the messages of the HTTP API."),
    switch("namespaces.*.presence", false, "Whether the members of rooms are kept in Redis: clients may then ask with `presence` who is in a room, and its members are told who comes and goes."),

    number("sessions.lease_ttl_ms", 10_000, 100, 3_600_000, MS, "How long a node's lease outlives its last pulse, each of which renews it."),
    number("sessions.lease_renew_ms", 3_000, 10, 3_600_000, MS, "How often a node looks for dead nodes to take over from, and tends its own entry in the list of nodes. The lease itself is renewed with every pulse (cluster.pulse_interval_ms). 3 x lease_renew_ms <= lease_ttl_ms."),

    number("offline.messages_max", 1_000, 1, 1_000_000, "messages", "Most durable messages that wait for one user. A full inbox refuses its senders with offline_full; nothing that was promised makes room."),
    number("offline.bytes_max", 16_777_216, 1_024, 1_073_741_824, BYTES, "Most bytes that wait for one user, names included. A message that takes more by itself is offline_full, too."),
    number("offline.message_bytes_max", 65_536, 64, 16_777_216, BYTES, "Largest data of one durable message, in its MessagePack form. limits.outbox_bytes_max is at least twice as much."),
    number("offline.age_max_ms", 604_800_000, 100, 31_536_000_000, MS, "How long a durable message waits before it expires. Counts for messages that are sent from now on."),
    number("offline.id_ttl_ms", 86_400_000, 100, 31_536_000_000, MS, "How long the idempotency key of a send is remembered."),
    number("offline.sender_per_minute_max", 120, 0, 1_000_000_000, "messages a minute", "Most sends of one user of a namespace in one minute, on all nodes together; the minute begins with the first. 0 is no limit. The HTTP API is not counted."),
    number("offline.window", 32, 1, 10_000, "messages", "Most durable messages that a session is given before it acknowledges some; never more than half of limits.outbox_bytes_max."),
    number("offline.wait_replicas", 0, 0, 100, "replicas", "How many replicas of Redis must have a durable message before its sender is told that it is stored. Otherwise the answer is unavailable. Needs redis.url."),

    number("limits.outbox_bytes_max", 4_194_304, 1_024, 1_073_741_824, BYTES, "Most that may wait for one slow connection before it is closed. At least 2 x engine.payload_bytes_max, and 2 x offline.message_bytes_max."),
    number("limits.rooms_per_session_max", 1_000, 1, 1_000_000, "rooms", "Most rooms one session may be in."),
    // Twenty is the length of a socket id, which names a room, too.
    number("limits.name_bytes_max", 256, 20, 4_096, BYTES, "Longest name of a room, a user, a device or an event."),
    number("limits.events_per_second_max", 200, 0, 1_000_000, "events a second", "Sustained events of one connection; 0 is no limit. With --dev the default is 0.")
        .dev(Preset::Number(0)),
    number("limits.events_burst", 400, 1, 10_000_000, "events", "Events of one connection at once."),
    number("limits.connections_per_ip_max", 256, 0, 10_000_000, "connections", "Most connections of one address, behind the trusted proxies; 0 is no limit. With --dev the default is 0.")
        .dev(Preset::Number(0)),

    later("backend.webhook.url"),
    later("backend.webhook.secret").mask(Mask::Secret),
    later("backend.webhook.timeout_ms"),
    later("backend.webhook.events"),
    later("backend.stream.key"),

    list("admin.api_keys", check::api_key, &[], "Keys of the HTTP API on the admin port, each of which opens all of it: `Authorization: Bearer KEY`. At least 16 printable ASCII characters each. Several, so that a new one can be handed out before an old one is taken away. With none, everything under /api/v1 is answered 401. With --dev it is open and needs no key.")
        .mask(Mask::Secret),

    number("drain.timeout_ms", 25_000, 0, 3_600_000, MS, "How long a stopping node takes to send its clients elsewhere. Keep it below the grace period of whatever stops it."),
    number("drain.connections_per_second", 0, 0, 1_000_000, "connections a second", "Connections closed per second while draining; 0 spreads them evenly over four fifths of the timeout, at 50 a second at least. A pace that would take longer than that gives way to the even one, so keep drain.timeout_ms above 1.25 times the connections of a node divided by this."),

    text("log.level", check::level, Preset::Text("info"), "error, warn, info, debug or trace, or a filter such as \"info,tidegate_gateway=debug\"."),
    Key { kind: Kind::Choice(&["json", "human"]), ..text("log.format", check::any, Preset::Text("json"), "json or human. With --dev the default is \"human\".") }
        .dev(Preset::Text("human")),
    text("log.otlp_endpoint", check::otlp_endpoint, Preset::Unset("\"http://127.0.0.1:4318\""), "Collector that takes OpenTelemetry's spans by OTLP over HTTP: a sample of the connects, publishes, fan-outs and sends, a hundred spans a second and node at most. Without a path it is /v1/traces; OTEL_EXPORTER_OTLP_HEADERS holds what it wants to be told. Not set: nothing is traced.")
        .mask(Mask::UrlPassword),
];

/// The key at `path`, `*` in the schema standing for any segment.
#[must_use]
pub fn find(path: &[&str]) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.covers(path))
}

/// The keys of one section that this version supports, as a hint for who mistyped one.
#[must_use]
pub fn neighbours(section: &[&str]) -> Vec<&'static str> {
    KEYS.iter()
        .filter(|key| key.is_supported() && key.stands_under(section))
        .map(|key| {
            let mut rest = key.path;
            for _ in section {
                rest = rest.split_once('.').map_or(rest, |(_, rest)| rest);
            }
            rest
        })
        .collect()
}

/// The sections, in the order of the manual.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter()
        .map(|key| key.split().0)
        .filter(move |section| std::mem::replace(&mut last, section) != *section)
}

const fn text(path: &'static str, check: Check, default: Preset, doc: &'static str) -> Key {
    Key { path, kind: Kind::Text(check), default, dev: None, mask: Mask::Open, doc }
}

const fn number(
    path: &'static str,
    default: u64,
    min: u64,
    max: u64,
    unit: &'static str,
    doc: &'static str,
) -> Key {
    let kind = Kind::Number { min, max, unit };
    Key { path, kind, default: Preset::Number(default), dev: None, mask: Mask::Open, doc }
}

const fn switch(path: &'static str, default: bool, doc: &'static str) -> Key {
    let default = Preset::Switch(default);
    Key { path, kind: Kind::Switch, default, dev: None, mask: Mask::Open, doc }
}

const fn list(path: &'static str, check: Check, default: &'static [&'static str], doc: &'static str) -> Key {
    Key { path, kind: Kind::List(check), default: Preset::List(default), dev: None, mask: Mask::Open, doc }
}

const fn later(path: &'static str) -> Key {
    Key { path, kind: Kind::Later, default: Preset::Unset(""), dev: None, mask: Mask::Open, doc: "" }
}

impl Key {
    const fn dev(mut self, preset: Preset) -> Self {
        self.dev = Some(preset);
        self
    }

    const fn mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::value::Value;
    use super::*;

    #[test]
    fn every_default_passes_its_own_check() {
        for key in KEYS.iter().filter(|key| key.is_supported()) {
            assert!(key.path.contains('.'), "{} stands in no section", key.path);
            for preset in [Some(key.default), key.dev].into_iter().flatten() {
                let written = match preset {
                    Preset::Unset(example) => example.to_owned(),
                    _ => preset.value().unwrap().to_string(),
                };
                let document = format!("x = {written}");
                let table = toml::de::DeTable::parse(&document).unwrap();
                let (_, value) = table.get_ref().iter().next().unwrap();
                Value::from_toml(key.kind, value.get_ref())
                    .unwrap_or_else(|fault| panic!("{}: {fault}", key.path));
            }
        }
    }

    #[test]
    fn paths_are_unique_and_sections_stand_together() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} appears twice", key.path);
        }
        let sections: Vec<_> = sections().collect();
        for (index, section) in sections.iter().enumerate() {
            assert!(!sections[..index].contains(section), "section {section} appears twice");
        }
    }

    #[test]
    fn environment_names_are_unambiguous() {
        // A double underscore inside a segment could be read as a dot.
        assert!(KEYS.iter().all(|key| !key.path.contains("__") && key.path == key.path.to_lowercase()));
    }
}
