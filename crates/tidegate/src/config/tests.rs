#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tidegate_core::registry::{OnDuplicate, Policy};
use tidegate_gateway::namespaces::Operation;

use super::*;

const SECRET: &str = "an old and quite secret password!";

fn sources(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Sources {
    Sources {
        file: file.to_owned(),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect(),
        flags: flags.iter().map(|(key, flag, text)| (*key, *flag, (*text).to_owned())).collect(),
        dev: false,
        nodes: 1,
    }
}

fn open(file: &str) -> Sources {
    sources(&format!("auth.mode = \"none\"\n{file}"), &[], &[])
}

fn faults(sources: &Sources) -> Vec<String> {
    Config::load(sources).unwrap_err().iter().map(ToString::to_string).collect()
}

fn only_fault(sources: &Sources) -> String {
    let faults = faults(sources);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.into_iter().next().unwrap()
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = Config::load(&open("")).unwrap();
    assert_eq!(config.server.listen, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(config.server.admin_listen, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.engine.path, "/socket.io/");
    assert!(config.engine.polling && config.engine.websocket);
    assert_eq!(config.limits.events_per_second_max, 200);
    assert!(config.redis.is_none() && config.namespaces.is_empty() && config.log.json);

    let committed = include_str!("../../config.default.toml");
    if std::env::var_os("UPDATE_MANUAL").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/config.default.toml"), manual()).unwrap();
    } else {
        assert_eq!(
            committed,
            manual(),
            "run this test with UPDATE_MANUAL=1 to write config.default.toml anew"
        );
    }

    // Read as a file it changes nothing: what it sets are the defaults, down to each value.
    let defaults = Settings::read(&sources("", &[], &[]));
    let read = Settings::read(&sources(&manual(), &[], &[]));
    assert_eq!(read.faults(), []);
    for key in schema::KEYS.iter().filter(|key| key.is_supported()) {
        let name = key.split().1.trim_start_matches("*.");
        assert!(
            manual().lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{name} = "))),
            "{} is missing",
            key.path
        );
        let (default, read) = (defaults.setting(key.path), read.setting(key.path));
        assert_eq!(default.map(|setting| &setting.value), read.map(|setting| &setting.value), "{}", key.path);
        assert!(read.is_none_or(|setting| setting.origin != Origin::Default), "{} is not set", key.path);
    }
}

#[test]
fn later_layers_win() {
    let file =
        "auth.mode = \"none\"\n[limits]\nevents_burst = 1\nname_bytes_max = 30\nrooms_per_session_max = 3\n";
    let environment =
        [("TIDEGATE_LIMITS__NAME_BYTES_MAX", "40"), ("TIDEGATE_LIMITS__ROOMS_PER_SESSION_MAX", "4")];
    let flags = [("limits.rooms_per_session_max", "--rooms", "5")];
    let config = Config::load(&sources(file, &environment, &flags)).unwrap();
    assert_eq!(config.limits.events_burst, 1);
    assert_eq!(config.limits.name_bytes_max, 40);
    assert_eq!(config.limits.rooms_per_session_max, 5);
    assert_eq!(config.limits.connections_per_ip_max, 256);
}

#[test]
fn the_environment_reaches_nested_keys_and_lists() {
    let environment = [
        ("TIDEGATE_AUTH__JWT__SECRET", SECRET),
        ("TIDEGATE_AUTH__DEFAULT_GRANTS__JOIN", "room:*, lobby"),
        ("TIDEGATE_SERVER__ALLOWED_ORIGINS", ""),
        ("TIDEGATE_ENGINE__TRANSPORTS", "websocket"),
        // Somebody else's.
        ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let config = Config::load(&sources("", &environment, &[])).unwrap();
    let Auth::Jwt(options) = &config.auth else { panic!("a secret is configured") };
    let join: Vec<_> = options.default_grants.join.iter().map(ToString::to_string).collect();
    assert_eq!(join, ["room:*", "lobby"]);
    assert!(config.server.allowed_origins.is_empty());
    assert!(!config.engine.polling && config.engine.websocket);
    assert_eq!(config.engine.connect_timeout, Duration::from_secs(5));
}

#[test]
fn every_fault_is_told_at_once() {
    let file = "
[server]
listen = \"8080\"
trusted_proxies = [\"10.0.0.0/40\"]
colour = \"red\"
[engine]
ping_interval_ms = \"fast\"
[webhooks]
[redis]
url = \"http://ann:hunter2@h\"
[offline]
window = 0
[namespaces.\"/chat\"]
operations = [\"join\", \"fly\"]
offline.enabled = \"no\"
sessions.policy = \"one\"
presence = \"yes\"
[admin]
api_keys = [\"hunter2\"]
";
    let environment = [
        ("TIDEGATE_REDIS__URI", "redis://:hunter2@h"),
        ("TIDEGATE_LIMITS__NAME_BYTES_MAX", "many"),
        ("TIDEGATE_REDIS__PREFIX", ""),
        ("TIDEGATE_NAMESPACES__X__OPERATIONS", "join"),
    ];
    let flags = [("server.node_id", "--node-id", "a b")];
    let faults = faults(&sources(file, &environment, &flags));
    for wanted in [
        "server.listen = \"8080\" (file, line 3): must be an IP address and a port",
        "server.trusted_proxies = [\"10.0.0.0/40\"] (file, line 4): must list addresses or networks",
        "server.colour (file, line 5): unknown key; server has admin_listen,",
        "engine.ping_interval_ms = \"fast\" (file, line 7): must be a whole number from 10 to 86400000 (milliseconds)",
        "webhooks (file, line 8): unknown key; the sections are server,",
        "redis.url = \"http://ann:***@h\" (file, line 10): must be a URL such as redis://",
        "offline.window = 0 (file, line 12): must be a whole number from 1 to 10000 (messages)",
        "namespaces.\"/chat\".operations = [\"join\", \"fly\"] (file, line 14): may list join,",
        "namespaces.\"/chat\".offline.enabled = \"no\" (file, line 15): must be true or false",
        "namespaces.\"/chat\".sessions.policy = \"one\" (file, line 16): must be per_device, single, unlimited, or max:N",
        "namespaces.\"/chat\".presence = \"yes\" (file, line 17): must be true or false",
        "admin.api_keys = *** (file, line 19): must list keys of 16 to 256 printable ASCII characters",
        "redis.uri (environment, TIDEGATE_REDIS__URI): unknown key; redis has adapter_prefix,",
        "limits.name_bytes_max = \"many\" (environment, TIDEGATE_LIMITS__NAME_BYTES_MAX): must be a whole number",
        "redis.prefix = \"\" (environment, TIDEGATE_REDIS__PREFIX): must not be empty",
        "namespaces.x.operations (environment, TIDEGATE_NAMESPACES__X__OPERATIONS): namespaces can only be set",
        "server.node_id = \"a b\" (flag --node-id): cannot be a node's id",
        "auth: is not configured; set auth.jwt.secret",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(wanted)), "{wanted} is not in {faults:#?}");
    }
    assert_eq!(faults.len(), 18, "{faults:#?}");
    assert!(!faults.concat().contains("hunter2"));
}

#[test]
fn a_file_that_is_not_toml_does_not_show_its_secrets() {
    let broken = sources(&format!("auth.mode = \"none\"\n[auth.jwt]\nsecret = '{SECRET}\n"), &[], &[]);
    let faults = faults(&broken);
    assert!(faults[0].starts_with("the file (file, line 3): is not TOML"), "{faults:?}");
    assert!(!faults.concat().contains(SECRET), "{faults:?}");
}

#[test]
fn related_limits_are_checked_together() {
    let cases = [
        (
            "cluster.fence_after_ms = 750",
            "cluster.fence_after_ms = 750 (file, line 2): must be greater than 3 x cluster.pulse_interval_ms (= 750)",
        ),
        (
            "cluster.fence_after_ms = 10000",
            "sessions.lease_ttl_ms = 10000: must be greater than cluster.fence_after_ms (= 10000)",
        ),
        (
            "sessions.lease_renew_ms = 3334",
            "sessions.lease_ttl_ms = 10000: must be at least 3 x sessions.lease_renew_ms (= 10002)",
        ),
        (
            "engine.payload_bytes_max = 2097153",
            "limits.outbox_bytes_max = 4194304: must be at least 2 x engine.payload_bytes_max (= 4194306)",
        ),
        ("engine.transports = []", "engine.transports = [] (file, line 2): must list at least one transport"),
        (
            "server.admin_listen = \"127.0.0.1:8080\"",
            "server.admin_listen = \"127.0.0.1:8080\" (file, line 2): must not use a port of server.listen",
        ),
        ("[namespaces.chat]", "namespaces.\"chat\" (file, line 2): is no namespace"),
    ];
    for (line, wanted) in cases {
        let fault = only_fault(&open(line));
        assert!(fault.starts_with(wanted), "{fault}");
    }
    for line in [
        "cluster.fence_after_ms = 751",
        "sessions.lease_renew_ms = 3333",
        "engine.payload_bytes_max = 2097152",
    ] {
        assert!(Config::load(&open(line)).is_ok(), "{line}");
    }
}

#[test]
fn nodes_of_one_process_need_room_for_their_ports() {
    let many = |nodes, listen: &str| {
        Config::load(&Sources { nodes, ..open(&format!("server.listen = \"{listen}\"")) })
    };
    assert!(many(3, "127.0.0.1:8090").is_ok());
    assert!(many(3, "127.0.0.1:0").is_ok());
    assert!(many(3, "127.0.0.1:8071").is_err());
    assert!(many(2, "127.0.0.1:65530").is_err());
}

#[test]
fn authentication_must_be_configured_or_written_off() {
    assert!(only_fault(&sources("", &[], &[])).starts_with("auth: is not configured"));
    assert!(only_fault(&sources("auth.mode = \"jwt\"", &[], &[])).starts_with("auth: is not configured"));
    assert!(matches!(Config::load(&open("")).unwrap().auth, Auth::Open));
    assert!(matches!(
        Config::load(&Sources { dev: true, ..sources("", &[], &[]) }).unwrap().auth,
        Auth::Open
    ));
    let strict = Sources { dev: true, ..sources("auth.mode = \"jwt\"", &[], &[]) };
    assert!(
        only_fault(&strict).starts_with("auth: is not configured"),
        "what is written out wins over --dev"
    );

    for (file, wanted) in [
        (
            "auth.mode = \"webhook\"",
            "auth.mode = \"webhook\" (file, line 1): is not supported by this version",
        ),
        ("auth.jwt.jwks_url = \"https://x\"", "auth.jwt.jwks_url = \"***\" (file, line 1): is not supported"),
        ("auth.jwt.secret = \"\"", "auth.jwt.secret = \"***\" (file, line 1): must not be empty"),
        (
            "auth.jwt = { secret = \"a\", public_key = \"b\" }",
            "auth.jwt.public_key = \"***\" (file, line 1): only one",
        ),
        (
            "auth.jwt.public_key = \"/no/such/key\"",
            "auth.jwt.public_key = \"/no/such/key\" (file, line 1): is neither",
        ),
        (
            // A secret of HS256 in the wrong place.
            "auth.jwt.public_key = \"hunter2\"",
            "auth.jwt.public_key = \"***\" (file, line 1): is neither a key in PEM nor a file",
        ),
        (
            "auth.jwt.secret = '-----BEGIN PUBLIC KEY-----'",
            "auth.jwt.secret = \"***\" (file, line 1): is a key in PEM",
        ),
        (
            "auth.jwt.public_key = '''-----BEGIN PRIVATE KEY-----\nMC4C\n'''",
            "auth.jwt.public_key = \"-----BEGIN PRIVATE KEY----- ...\" (file, line 1): cannot be used: this is a private key",
        ),
    ] {
        let fault = only_fault(&sources(file, &[], &[]));
        assert!(fault.starts_with(wanted) && !fault.contains("hunter2"), "{fault}");
    }
}

#[test]
fn the_public_key_may_be_inline_or_a_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/src/auth/fixtures/ed25519.public.pem");
    let inline = std::fs::read_to_string(path).unwrap();
    for key in [path.to_owned(), inline] {
        let config = Config::load(&sources("", &[("TIDEGATE_AUTH__JWT__PUBLIC_KEY", &key)], &[])).unwrap();
        assert!(!config.auth.authenticator().is_open());
    }
}

#[test]
fn development_has_its_own_defaults() {
    let config = Config::load(&Sources { dev: true, ..sources("", &[], &[]) }).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.server.allowed_origins, ["*"]);
    assert_eq!((config.limits.events_per_second_max, config.limits.connections_per_ip_max), (0, 0));
    assert!(!config.log.json && config.dev);
    assert_eq!(config.engine.connect_timeout, Duration::from_secs(45));
}

#[test]
fn namespaces_keep_the_order_of_the_file() {
    let file = "[namespaces.\"/z*\"]\n[namespaces.\"/b.c\"]\noperations = [\"join\", \"leave\"]\n[namespaces.\"/a*\"]\n";
    let config = Config::load(&open(file)).unwrap();
    let patterns: Vec<_> = config.namespaces.iter().map(|namespace| namespace.pattern.as_str()).collect();
    assert_eq!(patterns, ["/z*", "/b.c", "/a*"]);
    assert_eq!(config.namespaces[1].operations, [Operation::Join, Operation::Leave]);
    assert_eq!(config.namespaces[0].operations, Operation::ALL);
}

#[test]
fn namespaces_say_who_may_stay_and_who_is_listed() {
    let file = "[namespaces.\"/\"]\n[namespaces.\"/one\"]\nsessions.policy = \"single\"\nsessions.on_duplicate = \"reject\"\npresence = true\n\
                [namespaces.\"/few\".sessions]\npolicy = \"max:3\"\n";
    let config = Config::load(&open(file)).unwrap();
    let [root, one, few] = config.namespaces.as_slice() else { panic!("{:?}", config.namespaces) };
    let of = |namespace: &Namespace| (namespace.policy, namespace.on_duplicate, namespace.presence);
    assert_eq!(of(root), (Policy::PerDevice, OnDuplicate::Replace, false));
    assert_eq!(of(one), (Policy::Max(1), OnDuplicate::Reject, true));
    assert_eq!(of(few), (Policy::Max(3), OnDuplicate::Replace, false));
    let shown = config.effective();
    assert!(shown.contains("sessions.policy = \"single\" # file, line 4\n"), "{shown}");
    assert!(shown.contains("presence = true # file, line 6\n"), "{shown}");
}

#[test]
fn keys_of_the_api_are_hidden() {
    let environment = [("TIDEGATE_ADMIN__API_KEYS", "hunter2-hunter2-a,hunter2-hunter2-b")];
    let config = Config::load(&sources("auth.mode = \"none\"", &environment, &[])).unwrap();
    assert_eq!(config.admin.api_keys, ["hunter2-hunter2-a", "hunter2-hunter2-b"]);
    assert!(config.effective().contains("api_keys = [\"***\", \"***\"] # environment"));
    assert!(!format!("{config:?}{}", config.effective()).contains("hunter2"));

    let short = [("TIDEGATE_ADMIN__API_KEYS", "hunter2-hunter2-a,hunter2")];
    let fault = only_fault(&sources("auth.mode = \"none\"", &short, &[]));
    assert!(
        fault.starts_with("admin.api_keys = \"***\" (environment") && !fault.contains("hunter2"),
        "{fault}"
    );
}

#[test]
fn the_effective_configuration_reads_back_and_hides_secrets() {
    let file = format!(
        "[auth.jwt]\nsecret = \"{SECRET}\"\n[redis]\nurl = \"redis://:hunter2@h\"\n[namespaces.\"/x\"]\noperations = []\n"
    );
    let config = Config::load(&sources(&file, &[("TIDEGATE_LIMITS__EVENTS_BURST", "7")], &[])).unwrap();
    let shown = config.effective();
    assert!(!shown.contains(SECRET) && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("jwt.secret = \"***\" # file, line 2\n"), "{shown}");
    assert!(shown.contains("url = \"redis://:***@h\""), "{shown}");
    assert!(shown.contains("events_burst = 7 # environment, TIDEGATE_LIMITS__EVENTS_BURST\n"), "{shown}");
    assert!(shown.contains("connect_timeout_ms = 5000\n"), "{shown}");
    assert!(shown.contains("# node_id is not set\n"), "{shown}");
    assert!(shown.contains("[namespaces.\"/x\"]\noperations = [] # file, line 6\n"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"));

    let again = Config::load(&sources(&shown, &[], &[])).unwrap();
    assert_eq!(again.limits.events_burst, 7);
    for key in schema::KEYS.iter().filter(|key| key.is_supported() && key.split().0 != "namespaces") {
        let name = key.split().1;
        assert!(shown.lines().any(|line| line.trim_start_matches("# ").starts_with(name)), "{}", key.path);
    }
}

/// A file of the test certificates, or a name that there is none of.
fn certificate(name: &str) -> String {
    format!("{}/../test/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_authorities_of_redis_are_read_where_they_are_of_use() {
    let with = |url: &str, file: &str| {
        open(&format!("redis.url = '{url}'\nredis.tls.ca = '{}'\n", certificate(file)))
    };
    let config = Config::load(&with("rediss://h", "ca.pem")).unwrap();
    assert!(config.redis.unwrap().tls_ca.unwrap().starts_with(b"-----BEGIN CERTIFICATE"));
    for (url, file, wanted) in [
        ("redis://h", "ca.pem", "is of no use unless redis.url begins with rediss://"),
        ("rediss://h", "none.pem", "must name a file that can be read"),
        ("rediss://h", "server.key", "holds no certificate in PEM"),
    ] {
        let fault = only_fault(&with(url, file));
        assert!(fault.starts_with("redis.tls.ca = ") && fault.contains(wanted), "{fault}");
    }
}

#[test]
fn tls_takes_a_certificate_and_its_key() {
    let tls = |lines: &[(&str, &str)]| {
        let lines: String =
            lines.iter().map(|(key, name)| format!("server.tls.{key} = '{}'\n", certificate(name))).collect();
        open(&lines)
    };
    assert!(Config::load(&open("")).unwrap().server.tls.is_none());
    let config = Config::load(&tls(&[("cert", "server.pem"), ("key", "server.key")])).unwrap();
    assert!(config.server.tls.is_some());
    assert!(config.effective().contains("tls.cert = \"/"));

    for (cert, key, wanted) in [
        (Some("server.pem"), None, "server.tls.key: must be set, too, since server.tls.cert is"),
        (None, Some("server.key"), "server.tls.cert: must be set, too, since server.tls.key is"),
        (
            Some("none.pem"),
            Some("server.key"),
            "server.tls.cert = \"/…none.pem\" (file, line 2): must name a file that can be read: No such file",
        ),
        (
            Some("server.pem"),
            Some("."),
            "server.tls.key = \"/….\" (file, line 3): must name a file that can be read: Is a directory",
        ),
        (
            Some("server.key"),
            Some("server.key"),
            "server.tls.cert = \"/…server.key\" (file, line 2): holds no certificate in PEM",
        ),
        (
            Some("server.pem"),
            Some("ca.pem"),
            "server.tls.key = \"/…ca.pem\" (file, line 3): holds no private key in PEM",
        ),
        (
            Some("server.pem"),
            Some("other.key"),
            "server.tls.key = \"/…other.key\" (file, line 3): is not the key of the first certificate",
        ),
        (
            Some("server.pem"),
            Some("encrypted.key"),
            "server.tls.key = \"/…encrypted.key\" (file, line 3): is protected by a passphrase",
        ),
    ] {
        let lines: Vec<_> =
            [("cert", cert), ("key", key)].into_iter().filter_map(|(key, name)| Some((key, name?))).collect();
        let fault = only_fault(&tls(&lines)).replace(&certificate(""), "/…");
        assert!(fault.starts_with(wanted), "{fault}");
    }

    // Both are told of.
    let missing = faults(&tls(&[("cert", "no.pem"), ("key", "no.key")]));
    assert_eq!(missing.len(), 2, "{missing:?}");

    // The key itself, where its file's name belongs, is not shown.
    let pem = std::fs::read_to_string(certificate("server.key")).unwrap();
    let environment =
        [("TIDEGATE_SERVER__TLS__KEY", pem.as_str()), ("TIDEGATE_SERVER__TLS__CERT", "hunter2")];
    let shown = faults(&sources("auth.mode = \"none\"", &environment, &[])).concat();
    assert!(shown.contains("-----BEGIN PRIVATE KEY----- ..."), "{shown}");
    assert!(!pem.lines().any(|line| line.len() > 40 && shown.contains(line)), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
