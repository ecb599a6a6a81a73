//! Servers behind the gateway: one that tells what it got, and one that does as it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A real HTTP server that answers with what it got as JSON.
pub struct Upstream {
    pub port: u16,
    state: Served,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Served {
    name: Arc<str>,
    hits: Arc<AtomicUsize>,
    status: Arc<AtomicU16>,
}

impl Upstream {
    /// A server of this name that answers 200.
    pub async fn named(name: &str) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), name).await
    }

    /// The same at an address of its own.
    pub async fn on(address: SocketAddr, name: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Served { name: name.into(), hits: Arc::default(), status: Arc::new(AtomicU16::new(200)) };
        let router = Router::new().fallback(echo).with_state(state.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, state, task }
    }

    /// Requests served.
    pub fn hits(&self) -> usize {
        self.state.hits.load(Ordering::SeqCst)
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(State(state): State<Served>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    state.hits.fetch_add(1, Ordering::SeqCst);
    let mut seen = Map::new();
    for name in headers.keys() {
        let lines: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        seen.insert(name.to_string(), Value::from(lines.join(" | ")));
    }
    let answer = json!({
        "server": &*state.name,
        "method": method.as_str(),
        "target": uri.to_string(),
        "headers": seen,
        "body": String::from_utf8_lossy(&body),
    });
    let status = StatusCode::from_u16(state.status.load(Ordering::SeqCst)).unwrap();
    (status, [("x-upstream", &*state.name), ("keep-alive", "timeout=5")], axum::Json(answer)).into_response()
}

/// A server that reads a request's header and then does as it is told.
pub struct Scripted {
    pub port: u16,
    pub hits: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What a scripted server does after a request's header.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// Closes at once.
    Close,
    /// Never answers.
    Silence,
    /// Sends these bytes and closes.
    Send(&'static [u8]),
    /// Answers the first request, and closes in place of answering the second.
    OncePerConnection,
}

impl Scripted {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hits = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&hits);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    match script {
                        Script::Close => {}
                        Script::Silence => std::future::pending().await,
                        Script::Send(bytes) => drop(stream.write_all(bytes).await),
                        Script::OncePerConnection => {
                            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                            if stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {
                                counter.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
        });
        Self { port, hits, task }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}
