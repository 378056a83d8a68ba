//! Who may ask.

use super::*;

const READABLE: [&str; 2] = ["/metrics", "/api/v1/nodes"];

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

#[tokio::test]
async fn the_api_wants_a_key_and_the_probes_do_not() {
    let port = Port::of(Fake::default(), false).await;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(port.ask(&format!("GET {path}"), "", "").await.status, 200, "{path}");
    }
    // Also what is not there: a stranger learns nothing.
    for request in [
        "GET /api/v1/nodes",
        "POST /api/v1/drain",
        "GET /api/v1/none",
        "PUT /api/v1/nodes",
        "OPTIONS /api/v1/nodes",
        "GET /api/v1",
        "GET /api/v1/",
        "GET http://admin/api/v1/nodes",
    ] {
        for headers in ["", &bearer("0123456789abcdef"), "Authorization: Basic 0123456789abcdef-key\r\n"] {
            let refused = port.ask(request, headers, "").await;
            let (status, code, _) = refused.problem();
            assert_eq!((status, &*code), (401, "unauthorized"), "{request} {headers}");
            assert!(refused.head.contains("\r\nwww-authenticate: bearer"), "{}", refused.head);
        }
    }
    assert_eq!(port.calls(), [""; 0]);
    for key in [KEY, "another-key-of-ours"] {
        assert_eq!(port.ask("GET /api/v1/nodes", &bearer(key), "").await.status, 200);
    }
    port.end().await;
}

#[tokio::test]
async fn an_encoded_path_does_not_walk_around_the_key() {
    let port = Port::of(Fake::default(), false).await;
    for path in
        ["/%61pi/v1/nodes", "/api%2Fv1/nodes", "//api/v1/nodes", "/x/../api/v1/nodes", "/API/v1/nodes"]
    {
        let status = port.ask(&format!("GET {path}"), "", "").await.status;
        assert!([401, 404].contains(&status), "{path}: {status}");
    }
    assert_eq!(port.calls(), [""; 0]);
    port.end().await;
}

#[tokio::test]
async fn without_keys_it_is_closed() {
    let namespaces = Namespaces::new(Vec::new(), false);
    let options = Options {
        api_keys: Vec::new(),
        dev: false,
        name_bytes_max: 30,
        message_bytes_max: 1_000,
        namespaces,
    };
    let port = Port::with(Fake::default(), options).await;
    for headers in ["", "Authorization: Bearer \r\n", "Authorization: Bearer\r\n", &bearer(KEY)] {
        assert_eq!(port.ask("GET /api/v1/nodes", headers, "").await.status, 401, "{headers}");
    }
    port.end().await;
}

#[tokio::test]
async fn development_is_open_and_read_by_the_console() {
    let port = Port::of(Fake::default(), true).await;
    let origin = "Origin: http://127.0.0.1:8080\r\n";
    for path in READABLE {
        let read = port.ask(&format!("GET {path}"), origin, "").await;
        assert_eq!(read.status, 200);
        assert!(read.head.contains("\r\naccess-control-allow-origin: *"), "{path}: {}", read.head);
        let preflight = port
            .ask(&format!("OPTIONS {path}"), &format!("{origin}Access-Control-Request-Method: GET\r\n"), "")
            .await;
        assert_eq!((preflight.status, &*preflight.body), (204, ""));
        assert!(preflight.head.contains("\r\naccess-control-allow-origin: *"), "{}", preflight.head);
        assert!(preflight.head.contains("\r\naccess-control-allow-methods: get"), "{}", preflight.head);
    }
    let others = [
        "GET /readyz",
        "GET /openapi.json",
        "GET /api/v1/rooms",
        "GET /api/v1/users/ann",
        "OPTIONS /api/v1/rooms",
    ];
    for request in others {
        let answer = port.ask(request, origin, "").await;
        assert!(!answer.head.contains("access-control"), "{request}: {}", answer.head);
        assert!(answer.status == 200 || request.starts_with("OPTIONS"), "{request}");
    }
    port.end().await;
}

#[tokio::test]
async fn nobody_reads_from_elsewhere_outside_development() {
    let port = Port::of(Fake::default(), false).await;
    for path in READABLE {
        let headers = format!("Origin: http://127.0.0.1:8080\r\n{}", bearer(KEY));
        let answer = port.ask(&format!("GET {path}"), &headers, "").await;
        assert_eq!(answer.status, 200);
        assert!(!answer.head.contains("access-control"), "{path}: {}", answer.head);
    }
    port.end().await;
}

#[tokio::test]
async fn pages_of_other_origins_change_nothing_in_development() {
    let port = Port::of(Fake::default(), true).await;
    for origin in ["http://evil.example", "http://admin:8080", "null", "http://"] {
        for request in ["POST /api/v1/drain", "DELETE /api/v1/users/ann/sessions"] {
            let (status, code, _) = port.ask(request, &format!("Origin: {origin}\r\n"), "").await.problem();
            assert_eq!((status, &*code), (403, "forbidden"), "{origin}");
        }
    }
    assert_eq!(port.calls(), [""; 0]);
    for headers in ["", "Origin: http://admin:8081\r\n", "Origin: http://ADMIN:8081\r\n"] {
        assert_eq!(port.ask("POST /api/v1/drain", headers, "").await.status, 202, "{headers}");
    }
    // Where there is a key, a page would have to know it.
    let keyed = Port::of(Fake::default(), false).await;
    let headers = format!("Origin: http://evil.example\r\n{}", bearer(KEY));
    assert_eq!(keyed.ask("POST /api/v1/drain", &headers, "").await.status, 202);
    port.end().await;
    keyed.end().await;
}
