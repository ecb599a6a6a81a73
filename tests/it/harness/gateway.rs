//! The gateway under test, as its own process.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::raw::{self, Answer};
use super::{eventually, free_port};

/// A gateway with one listener; killed when dropped.
pub struct Gateway {
    child: Child,
    folder: TempDir,
    head: String,
    pub port: u16,
    pub admin: u16,
}

/// The command under test.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
}

impl Gateway {
    /// Starts a gateway with upstreams and routes in YAML.
    pub async fn start(body: &str) -> Self {
        Self::with_listener("", body).await
    }

    /// The same with more settings of the listener, such as `strict_paths: true`.
    pub async fn with_listener(settings: &str, body: &str) -> Self {
        let (port, admin) = (free_port(), free_port());
        let comma = if settings.is_empty() { "" } else { ", " };
        let head = format!(
            "listeners: [{{ address: \"127.0.0.1:{port}\"{comma}{settings} }}]\nadmin: {{ address: 127.0.0.1:{admin} }}\naccess_log: access.log\nworkers: 2\n"
        );
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pointsman.yaml");
        std::fs::write(&config, format!("{head}{body}")).unwrap();
        let log = std::fs::File::create(folder.path().join("stderr.log")).unwrap();
        let child = command().arg("run").arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut gateway = Self { child, folder, head, port, admin };
        gateway.ready().await;
        gateway
    }

    async fn ready(&mut self) {
        let (port, admin) = (self.port, self.admin);
        let log = self.path("stderr.log");
        let child = &mut self.child;
        eventually("the gateway is ready", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the gateway ended with {status}: {}", std::fs::read_to_string(&log).unwrap());
            }
            let ready = raw::get(admin, "/readyz", &[]).await.is_ok_and(|answer| answer.status == 200);
            (ready && tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).then_some(())
        })
        .await;
    }

    /// A file in the gateway's folder, where its configuration lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes upstreams and routes; the gateway does not know yet.
    pub fn write(&self, body: &str) {
        std::fs::write(self.path("pointsman.yaml"), format!("{}{body}", self.head)).unwrap();
    }

    /// Writes the configuration file whole.
    pub fn write_raw(&self, text: &str) {
        std::fs::write(self.path("pointsman.yaml"), text).unwrap();
    }

    /// `pointsman reload`.
    pub fn reload(&self) -> Output {
        self.command(&["reload"])
    }

    /// Writes upstreams and routes and reloads; fails unless it is applied.
    pub fn change(&self, body: &str) {
        self.write(body);
        let output = self.reload();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A command that asks this gateway.
    pub fn command(&self, arguments: &[&str]) -> Output {
        command().args(arguments).args(["--server", &format!("http://127.0.0.1:{}", self.admin)]).output().unwrap()
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("the gateway ended", async || child.try_wait().unwrap()).await.code()
    }

    /// GET from the gateway.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// GET with headers as `name: value`.
    pub async fn get_with(&self, path: &str, headers: &[&str]) -> Answer {
        raw::get(self.port, path, headers).await.unwrap()
    }

    /// Sends bytes as they are and reads one answer.
    pub async fn send(&self, request: &[u8]) -> Answer {
        raw::exchange(self.port, request).await.unwrap()
    }

    /// GET of JSON from the admin listener.
    pub async fn api(&self, path: &str) -> Value {
        let answer = raw::get(self.admin, path, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The metrics as text.
    pub async fn metrics(&self) -> String {
        raw::get(self.admin, "/metrics", &[]).await.unwrap().text()
    }

    /// The value of a metric's series, 0 if it does not exist.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The access log's lines, once there are at least so many.
    pub async fn log(&self, lines: usize) -> Vec<Value> {
        let path = self.path("access.log");
        eventually("the access log has its lines", async || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let list: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (list.len() >= lines).then_some(list)
        })
        .await
    }

    /// Resident memory of the process in MiB, now and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// How the endpoints of an upstream are: address to whether it may be picked.
    pub async fn health(&self, upstream: &str) -> Vec<(String, bool)> {
        let list = self.api("/v1/upstreams").await;
        let found = list.as_array().unwrap().iter().find(|one| one["name"] == upstream).unwrap();
        let endpoints = found["endpoints"].as_array().unwrap().iter();
        endpoints.map(|one| (one["address"].as_str().unwrap().to_owned(), one["healthy"] == true)).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("stderr.log")).unwrap_or_default();
            eprintln!("--- the gateway's log\n{log}");
        }
    }
}
