//! The "Paths" section of the configuration language, over real sockets.

use crate::harness::Gateway;

/// A gateway whose routes answer with their own pattern.
async fn answering(listener: &str, routes: &[&str]) -> Gateway {
    let lines: String = routes.iter().map(|route| format!("  - {{ {route} }}\n")).collect();
    Gateway::with_listener(listener, &format!("routes:\n{lines}")).await
}

fn body(name: &str) -> String {
    format!("to: {{ respond: {{ body: \"{name}\" }} }}")
}

#[tokio::test]
async fn a_trailing_wildcard_matches_zero_or_more_segments() {
    let users = format!("path: /api/users/*, {}", body("users"));
    let gateway = answering("", &[&users]).await;
    for path in ["/api/users", "/api/users/", "/api/users/1", "/api/users/1/x", "/api/users?q"] {
        assert_eq!(gateway.get(path).await.text(), "users", "{path}");
    }
    for path in ["/api/usersX", "/api", "/api/user", "/API/users"] {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn patterns_rank_by_class_then_segments_then_kind() {
    let patterns = ["/a/b", "/a/:x", "/a/*/c", "/:x/b", r"~^/a/\\d+/z$", "/a/*", "/*", "/a/b/*", "/a/:x/c"];
    let routes: Vec<String> =
        patterns.iter().map(|pattern| format!("path: \"{pattern}\", {}", body(pattern))).collect();
    let mut routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    // Order never matters.
    for _ in 0..2 {
        let gateway = answering("", &routes).await;
        let cases = [
            ("/a/b", "/a/b"),
            ("/a/x", "/a/:x"),
            ("/y/b", "/:x/b"),
            ("/a/b/c", "/a/:x/c"),
            ("/a/7/z", r"~^/a/\d+/z$"),
            ("/a/b/z", "/a/b/*"),
            ("/a", "/a/*"),
            ("/a/", "/a/*"),
            ("/a/x/y/z", "/a/*"),
            ("/", "/*"),
            ("/q", "/*"),
        ];
        for (path, expected) in cases {
            assert_eq!(gateway.get(path).await.text(), expected, "{path}");
        }
        routes.reverse();
    }
}

#[tokio::test]
async fn hosts_rank_exact_then_longest_wildcard_then_any() {
    let route = |host: &str, name: &str| format!("host: \"{host}\", path: /*, {}", body(name));
    let routes = [
        route("*", "any"),
        route("*.example.com", "wild"),
        route("*.api.example.com", "longer"),
        route("api.example.com", "exact"),
    ];
    let gateway = answering("", &routes.each_ref().map(String::as_str)).await;
    let cases = [
        ("api.example.com", "exact"),
        ("API.Example.COM:8080", "exact"),
        ("api.example.com.", "exact"),
        ("v1.api.example.com", "longer"),
        ("a.b.api.example.com", "longer"),
        ("www.example.com", "wild"),
        ("example.com", "any"),
        ("127.0.0.1", "any"),
    ];
    for (host, expected) in cases {
        assert_eq!(gateway.get_with("/", &[&format!("Host: {host}")]).await.text(), expected, "{host}");
    }
}

#[tokio::test]
async fn a_route_whose_tests_fail_falls_through() {
    let gateway = answering(
        "",
        &[
            &format!("path: /users/:id, method: PUT, {}", body("put")),
            &format!("path: /users/:id, header: {{ x-beta: \"1\", accept: ~json }}, {}", body("beta")),
            &format!("path: /users/:id, header: {{ x-beta: true }}, {}", body("any beta")),
            &format!("path: /users/*, query: {{ v: \"2\" }}, {}", body("v2")),
            &format!("path: /users/*, cookie: {{ sid: ~^a }}, {}", body("cookie")),
            &format!("path: /*, client: [10.0.0.0/8], {}", body("inside")),
            &format!("host: \"*\", path: /*, {}", body("rest")),
        ],
    )
    .await;
    let cases: &[(&str, &[&str], &str)] = &[
        ("/users/7", &["x-beta: 1", "Accept: application/json"], "beta"),
        ("/users/7", &["x-beta: 1"], "any beta"),
        ("/users/7", &["x-beta: 2", "Accept: application/json"], "any beta"),
        ("/users/7?v=2", &[], "v2"),
        ("/users/7?w=1&v=2", &["Cookie: sid=abc"], "v2"),
        ("/users/7", &["Cookie: x=1; sid=abc"], "cookie"),
        ("/users/7", &["Cookie: sid=b"], "rest"),
        ("/x", &[], "rest"),
    ];
    for (path, headers, expected) in cases {
        assert_eq!(gateway.get_with(path, headers).await.text(), *expected, "{path} {headers:?}");
    }
    let put = gateway.send(b"PUT /users/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nx-beta: 1\r\n\r\n").await;
    assert_eq!(put.text(), "put");
}

#[tokio::test]
async fn priority_outranks_specificity() {
    let routes = [
        format!("path: /a/b, {}", body("exact")),
        format!("path: /a/*, priority: 1, method: GET, {}", body("first")),
        format!("path: /*, priority: -1, {}", body("last")),
    ];
    let gateway = answering("", &routes.each_ref().map(String::as_str)).await;
    assert_eq!(gateway.get("/a/b").await.text(), "first");
    assert_eq!(gateway.send(b"POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.text(), "exact");
    assert_eq!(gateway.get("/z").await.text(), "last");
}

#[tokio::test]
async fn a_path_is_normalised_once_and_matched_in_that_form() {
    let gateway =
        answering("", &[&format!("path: /a/b, {}", body("ab")), &format!("path: /admin/*, {}", body("admin"))]).await;
    for path in ["/a/b", "//a//b", "/a/./b", "/a/x/../b", "/%61/b", "/a/%2e/b", "/a/x/%2E%2e/b"] {
        assert_eq!(gateway.get(path).await.text(), "ab", "{path}");
    }
    for path in ["/admin", "/x/../admin/y", "/%61dmin", "//admin"] {
        assert_eq!(gateway.get(path).await.text(), "admin", "{path}");
    }
    for path in ["/..", "/a/../../b", "/%00", "/a%0d%0a", "/a\\b", "/%zz", "/%2e%2e/"] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.reason().as_str()), (400, "bad_request"), "{path}");
    }
    for path in ["/a%2fb", "/a%5cb"] {
        assert_eq!(gateway.get(path).await.status, 404, "{path}: an escaped slash splits nothing");
    }
}

#[tokio::test]
async fn strict_paths_refuse_what_upstreams_decode_too_much() {
    let gateway = answering("strict_paths: true", &[&format!("path: /*, {}", body("all"))]).await;
    for path in ["/a%2Fb", "/a%5cb", "/a/..;/b", "/%c0%ae%c0%ae/"] {
        assert_eq!(gateway.get(path).await.status, 400, "{path}");
    }
    assert_eq!(gateway.get("/a;v=1/b").await.text(), "all");
}

#[tokio::test]
async fn explain_tells_what_serving_does() {
    let routes = [
        format!("name: users, path: /users/*, {}", body("users")),
        format!("name: beta, path: /users/:id, header: {{ x-beta: \"1\" }}, {}", body("beta")),
        format!("name: other, host: other.example, path: /users/*, {}", body("other")),
    ];
    let gateway = answering("", &routes.each_ref().map(String::as_str)).await;
    let explained = gateway.api("/v1/explain?url=http://localhost/users/7&header=x-beta:2").await;
    assert_eq!(explained["route"], "users");
    assert_eq!(explained["considered"][0]["route"], "beta");
    assert_eq!(explained["considered"][0]["verdict"], "not so: header `x-beta` is `1`");
    assert_eq!(explained["others"][0]["verdict"], "the host is not other.example");
    assert_eq!(gateway.get_with("/users/7", &["x-beta: 2"]).await.text(), "users");
    let nothing = gateway.api("/v1/explain?url=http://localhost/nowhere").await;
    assert_eq!((nothing["route"].is_null(), nothing["status"].as_u64()), (true, Some(404)));
}
