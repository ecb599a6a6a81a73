//! Ways to endpoints: TLS and names.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Gateway, Upstream, eventually, free_port};

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate for `users.internal` that it signed.
fn certificates(folder: &Path) {
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    openssl(folder, &[&new[..], &["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority"]].concat());
    let names = [
        "-subj",
        "/CN=users.internal",
        "-addext",
        "subjectAltName=DNS:users.internal",
        "-addext",
        "basicConstraints=CA:FALSE",
    ];
    let signed = ["-keyout", "key.pem", "-out", "cert.pem", "-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(folder, &[&new[..], &names, &signed].concat());
}

struct TlsServer(Child);

impl TlsServer {
    async fn start(folder: &Path, port: u16) -> Self {
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-accept",
                &format!("127.0.0.1:{port}"),
                "-cert",
                "cert.pem",
                "-key",
                "key.pem",
                "-www",
                "-quiet",
            ])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child);
        eventually("the TLS server is ready", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok())
            .await;
        server
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn tls_is_always_verified() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let port = free_port();
    let _server = TlsServer::start(folder.path(), port).await;
    let ca = folder.path().join("ca.pem").display().to_string();
    let upstream = |tls: &str| {
        format!(
            "upstreams: {{ u: {{ endpoints: [\"127.0.0.1:{port}\"], tls: {{ {tls} }} }} }}\nroutes: [{{ path: /*, to: u }}]\n"
        )
    };
    let gateway = Gateway::start(&upstream(&format!("sni: users.internal, ca: {ca}"))).await;
    let good = gateway.get("/").await;
    assert_eq!(good.status, 200, "{}", good.text());
    assert!(good.text().contains("TLS"), "{}", good.text());
    for tls in ["sni: users.internal".to_owned(), format!("sni: other.internal, ca: {ca}")] {
        gateway.change(&upstream(&tls));
        let bad = gateway.get("/").await;
        assert_eq!((bad.status, bad.reason().as_str()), (502, "upstream_tls"), "{tls}");
    }
    // A pooled connection that other authorities verified is not used.
    gateway.change(&upstream(&format!("sni: users.internal, ca: {ca}")));
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn names_are_resolved_when_loaded() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ endpoints: [\"localhost:{}\"] }} }}\nroutes: [{{ path: /*, to: u }}]\n",
        upstream.port
    ))
    .await;
    let answer = gateway.get_with("/", &["Host: shop.example"]).await.json();
    assert_eq!((answer["server"].as_str(), answer["headers"]["host"].as_str()), (Some("a"), Some("shop.example")));
    assert!(gateway.health("u").await.iter().any(|(address, healthy)| address.starts_with("127.0.0.1:") && *healthy));
}
