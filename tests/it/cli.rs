//! The command line, as a person would type it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::gateway::command;
use crate::harness::{Gateway, Upstream, eventually, free_port, raw};

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointsman.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

const GOOD: &str = "listeners: [{ address: \"127.0.0.1:8080\" }]
defaults: { timeout: { connect: 3s } }
upstreams:
  users: { endpoints: [\"10.0.0.5:8080\", { address: \"10.0.0.6:8080\", weight: 2 }], timeout: { idle: 5s } }
  v2: http://${PM_TEST_HOST:-10.0.0.7}:8080
routes:
  - { name: users, host: api.example.com, path: /v1/users/*, method: [GET, PUT], strip_prefix: true, to: users }
  - { name: v2, path: /v2/:id, rewrite: \"/:id\", to: v2 }
";

#[test]
fn check_passes_what_is_good_and_fails_what_is_not() {
    let (_folder, path) = file(GOOD);
    let good = run(&["check", "--strict", &path]);
    assert_eq!(good.status.code(), Some(0), "{}", err(&good));
    assert!(err(&good).contains("ok, 2 routes, 2 upstreams"));
    assert_eq!(run(&["run", "-t", &path]).status.code(), Some(0));

    let (_folder, path) = file(&GOOD.replace("to: users", "to: usres"));
    let bad = run(&["check", &path]);
    assert_eq!(bad.status.code(), Some(3));
    assert!(err(&bad).contains("did you mean `users`?"), "{}", err(&bad));
    let json: Value = serde_json::from_str(&out(&run(&["check", "--format", "json", &path]))).unwrap();
    assert_eq!((json[0]["code"].as_str(), json[0]["place"]["line"].as_u64()), (Some("E0102"), Some(7)));
    assert_eq!(run(&["run", &path]).status.code(), Some(3));

    let (_folder, path) = file(&format!(
        "{GOOD}  - {{ path: /v2/*, priority: -1, to: v2 }}\n  - {{ path: /v2/x, priority: -2, to: v2 }}\n"
    ));
    let warned = run(&["check", &path]);
    assert_eq!(warned.status.code(), Some(0), "{}", err(&warned));
    assert!(err(&warned).contains("for example http://any.example/v2/x"), "{}", err(&warned));
    assert_eq!(run(&["check", "--strict", &path]).status.code(), Some(6));
    assert_eq!(run(&["check", "/nonexistent.yaml"]).status.code(), Some(3));
    assert_eq!(run(&["check", "--nonsense"]).status.code(), Some(2));
}

#[test]
fn config_show_names_the_source_of_each_value() {
    let (_folder, path) = file(GOOD);
    let shown = run(&["config", "show", "--config", &path, "--origins"]);
    let text = out(&shown);
    let line = |part: &str| {
        text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in {text}")).to_owned()
    };
    assert!(line("idle: 5s").ends_with("pointsman.yaml:4"), "{}", line("idle: 5s"));
    assert!(line("connect: 3s").contains("pointsman.yaml:2"), "{}", line("connect: 3s"));
    assert!(text.contains("# defaults, "), "{text}");
    assert!(line("response: 30s").ends_with("# built in"), "{}", line("response: 30s"));
    assert!(line("10.0.0.7:8080").contains("environment PM_TEST_HOST"), "{}", line("10.0.0.7:8080"));
    let yaml = out(&run(&["config", "show", "--config", &path]));
    let (_again, round) = file(&yaml);
    assert_eq!(out(&run(&["config", "show", "--config", &round])), yaml, "what is shown can be loaded again");
    let json: Value = serde_json::from_str(&out(&run(&["config", "show", "--config", &path, "--json"]))).unwrap();
    assert_eq!(json["upstreams"]["users"]["timeout"]["connect"], "3s");
}

#[test]
fn files_are_asked_without_a_gateway() {
    let (_folder, path) = file(GOOD);
    let routes = out(&run(&["routes", "--config", &path]));
    assert!(routes.lines().nth(1).unwrap().ends_with("users"), "{routes}");
    let explained = run(&["explain", "--config", &path, "-X", "PUT", "http://api.example.com/v1/users/7?x=1"]);
    assert_eq!(explained.status.code(), Some(0));
    assert!(out(&explained).contains("forwarded   http://api.example.com/7?x=1"), "{}", out(&explained));
    let post = run(&["explain", "--config", &path, "-X", "POST", "http://api.example.com/v1/users/7"]);
    assert_eq!(post.status.code(), Some(4));
    assert!(out(&post).contains("the method is not GET or PUT"), "{}", out(&post));
    let code = out(&run(&["explain", "e0102"]));
    assert!(code.starts_with("E0102: a route names an unknown upstream"), "{code}");
}

#[test]
fn the_rest_of_the_commands_answer() {
    assert!(out(&run(&["version"])).starts_with("pointsman "));
    let schema: Value = serde_json::from_str(&out(&run(&["schema"]))).unwrap();
    assert!(schema["properties"]["routes"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        assert!(out(&run(&["completions", shell])).contains("pointsman"), "{shell}");
    }
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for arguments in [vec!["status"], vec!["reload"], vec!["routes"], vec!["explain", "http://a/"]] {
        let output = command().args(&arguments).args(["--server", &nobody]).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{arguments:?}: {}", err(&output));
    }
}

#[tokio::test]
async fn a_gateway_answers_commands_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointsman.yaml");
    let port = free_port();
    std::fs::write(
        &path,
        format!("listeners: [{{ address: \"127.0.0.1:{port}\" }}]\nadmin: {{ address: \"unix:admin.sock\" }}\naccess_log: off\nroutes: [{{ path: /, to: {{ respond: {{}} }} }}]\n"),
    )
    .unwrap();
    let mut child = command().arg("run").arg(&path).stderr(Stdio::null()).spawn().unwrap();
    let server = format!("unix:{}", folder.path().join("admin.sock").display());
    let status = eventually("the gateway answers", async || {
        let output = command().args(["status", "--json", "--server", &server]).output().unwrap();
        output.status.success().then_some(output)
    })
    .await;
    let status: Value = serde_json::from_str(&out(&status)).unwrap();
    assert_eq!(status["routes"], 1);
    let second = command().arg("run").arg(&path).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("cannot listen on"), "{}", err(&second));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_port_in_use_fails_the_start() {
    let upstream = Upstream::named("a").await;
    let (_folder, path) = file(&format!(
        "listeners: [{{ address: \"127.0.0.1:{}\" }}]\nadmin: {{ address: \"127.0.0.1:{}\" }}\nroutes: [{{ path: /, to: {{ respond: {{}} }} }}]\n",
        upstream.port,
        free_port()
    ));
    let begin = std::time::Instant::now();
    let output = run(&["run", &path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(&format!("cannot listen on 127.0.0.1:{}", upstream.port)), "{}", err(&output));
    assert!(begin.elapsed().as_secs() < 2);
}

#[tokio::test]
async fn the_demo_serves() {
    let (port, admin) = (free_port(), free_port());
    let mut child = command()
        .args(["demo", "--port", &port.to_string(), "--admin-port", &admin.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the demo answers", async || {
        raw::get(port, "/hello", &[]).await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..4 {
        servers.insert(raw::get(port, "/users/7", &[]).await.unwrap().json()["server"].as_str().unwrap().to_owned());
    }
    assert_eq!(servers.len(), 3, "{servers:?}");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(raw::get(port, "/shaky/x", &[]).await.unwrap().status);
    }
    assert_eq!(statuses, [200, 200, 200, 500]);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(eventually("the demo ended", async || child.try_wait().unwrap()).await.success());
}

#[tokio::test]
async fn commands_ask_the_running_gateway() {
    let gateway = Gateway::start("routes: [{ name: one, path: /one, to: { respond: {} } }]\n").await;
    assert!(out(&gateway.command(&["routes"])).contains("/one"));
    assert!(out(&gateway.command(&["status"])).contains("generation"));
    let explained = gateway.command(&["explain", "http://a/one", "--json"]);
    let explained: Value = serde_json::from_str(&out(&explained)).unwrap();
    assert_eq!(explained["route"], "one");
}
