//! Seed 1's routing scenarios, and the conversion of its route files.

use serde_json::{Map, Value};

use crate::harness::{Gateway, Upstream};

/// A gateway that imports function routes whose targets `{name}` are servers of that name.
async fn gateway(names: &[&str], routes: &[(&str, &str)]) -> (Gateway, Vec<Upstream>) {
    let mut upstreams = Vec::new();
    let mut table = Map::new();
    for name in names {
        upstreams.push(Upstream::named(name).await);
    }
    for (pattern, target) in routes {
        let (name, path) =
            target.split_once('/').map_or((*target, String::new()), |(name, path)| (name, format!("/{path}")));
        let index = names.iter().position(|known| *known == name).unwrap();
        let url = format!("http://127.0.0.1:{}{path}", upstreams[index].port);
        table.insert((*pattern).to_owned(), Value::from(url));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.json");
    std::fs::write(&file, serde_json::to_string_pretty(&table).unwrap()).unwrap();
    let gateway = Gateway::start(&format!("imports: [{{ file: {} }}]\n", file.display())).await;
    (gateway, upstreams)
}

async fn check(gateway: &Gateway, cases: &[(&str, &str, &str)]) {
    for (path, server, target) in cases {
        let answer = gateway.get(path).await.json();
        assert_eq!((answer["server"].as_str(), answer["target"].as_str()), (Some(*server), Some(*target)), "{path}");
    }
}

#[tokio::test]
async fn scenario_1_api_gateway() {
    let routes =
        [("/api/v1/auth/*", "auth"), ("/api/v1/users/*", "users"), ("/api/v1/orders/*", "orders"), ("/*", "frontend")];
    let (gateway, _upstreams) = gateway(&["auth", "users", "orders", "frontend"], &routes).await;
    let cases = [
        ("/api/v1/users/123", "users", "/123"),
        ("/api/v1/auth/login?next=%2F", "auth", "/login?next=%2F"),
        ("/api/v1/orders", "orders", "/"),
        ("/about", "frontend", "/about"),
    ];
    check(&gateway, &cases).await;
}

#[tokio::test]
async fn scenario_2_multi_environment_routing() {
    let routes = [("/staging/*", "staging"), ("/production/*", "production"), ("/*", "dev")];
    let (gateway, _upstreams) = gateway(&["staging", "production", "dev"], &routes).await;
    check(
        &gateway,
        &[
            ("/staging/users", "staging", "/users"),
            ("/production/users", "production", "/users"),
            ("/users", "dev", "/users"),
        ],
    )
    .await;
}

#[tokio::test]
async fn scenario_3_exact_path_override() {
    let (gateway, _upstreams) =
        gateway(&["health", "api"], &[("/api/health", "health/status"), ("/api/*", "api")]).await;
    check(
        &gateway,
        &[("/api/health", "health", "/status"), ("/api/health/x", "api", "/health/x"), ("/api/other", "api", "/other")],
    )
    .await;
}

#[tokio::test]
async fn the_matching_priority_of_seed_1() {
    let routes = [
        ("/*", "root"),
        ("/api/*", "api"),
        ("/api/users/*", "users"),
        ("/api/users/:id", "one"),
        ("/api/users/login", "login"),
    ];
    let (gateway, _upstreams) = gateway(&["root", "api", "users", "one", "login"], &routes).await;
    let cases = [
        ("/api/users/login", "login", "/"),
        ("/api/users/7", "one", "/"),
        ("/api/users/7/posts", "users", "/7/posts"),
        ("/api/x", "api", "/x"),
        ("/x", "root", "/x"),
    ];
    check(&gateway, &cases).await;
}

#[tokio::test]
async fn targets_keep_their_path_and_take_parameters() {
    let routes = [
        ("/api/users/*", "a/users"),
        ("/posts/:id", "a/v2/posts/:id"),
        ("/deep/:id/*", "a/x/:id"),
        ("/slash", "a/end/"),
    ];
    let (gateway, _upstreams) = gateway(&["a"], &routes).await;
    let cases = [
        ("/api/users/7", "a", "/users/7"),
        ("/api/users", "a", "/users"),
        ("/posts/9?full=1", "a", "/v2/posts/9?full=1"),
        ("/deep/5/c/d", "a", "/x/5/c/d"),
        ("/slash", "a", "/end/"),
    ];
    check(&gateway, &cases).await;
}

#[tokio::test]
async fn the_host_becomes_the_targets() {
    let (gateway, upstreams) = gateway(&["a"], &[("/*", "a")]).await;
    let answer = gateway.get_with("/", &["Host: shop.example"]).await.json();
    assert_eq!(answer["headers"]["host"], format!("127.0.0.1:{}", upstreams[0].port));
    assert_eq!(answer["headers"]["x-forwarded-host"], "shop.example");
}
