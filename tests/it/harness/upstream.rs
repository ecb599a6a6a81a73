//! Servers behind the gateway: one that tells what it got, and one that does as it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
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
    /// Of a hundred requests so many fail with the status; the others succeed.
    failing: Arc<AtomicUsize>,
    /// How long an answer takes (milliseconds).
    delay: Arc<AtomicUsize>,
    /// Requests being served, and the most there were at once.
    busy: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// How many are served at once; the others wait.
    room: Arc<Semaphore>,
    last: Arc<Mutex<Bytes>>,
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
        let state = Served {
            name: name.into(),
            hits: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            failing: Arc::new(AtomicUsize::new(100)),
            delay: Arc::default(),
            busy: Arc::default(),
            most: Arc::default(),
            room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            last: Arc::default(),
        };
        let router =
            Router::new().fallback(echo).layer(axum::extract::DefaultBodyLimit::disable()).with_state(state.clone());
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
        self.state.failing.store(100, Ordering::SeqCst);
    }

    /// Answers with this status to so many of a hundred requests, evenly spread.
    pub fn fail(&self, percent: usize, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
        self.state.failing.store(percent, Ordering::SeqCst);
    }

    /// Answers after this time from now on.
    pub fn delay(&self, delay: Duration) {
        self.state.delay.store(delay.as_millis() as usize, Ordering::SeqCst);
    }

    /// Serves so many requests at once from now on.
    pub fn limit(&self, room: usize) {
        self.state.room.forget_permits(Semaphore::MAX_PERMITS - room);
    }

    /// The body of the last request.
    pub fn last_body(&self) -> Bytes {
        self.state.last.lock().unwrap().clone()
    }

    /// The most requests that were there at once.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Longer bodies are told of by length and hash only.
const MAX_ECHO: usize = 4096;

/// A request being served.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn echo(State(state): State<Served>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let number = state.hits.fetch_add(1, Ordering::SeqCst);
    *state.last.lock().unwrap() = body.clone();
    let busy = Busy(Arc::clone(&state.busy));
    state.most.fetch_max(state.busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    let delay = Duration::from_millis(state.delay.load(Ordering::SeqCst) as u64);
    if !delay.is_zero() {
        let _room = state.room.acquire().await;
        tokio::time::sleep(delay).await;
    }
    drop(busy);
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
        "body": String::from_utf8_lossy(&body[..body.len().min(MAX_ECHO)]),
        "length": body.len(),
        "sha256": format!("{:x}", Sha256::digest(&body)),
    });
    let failing = state.failing.load(Ordering::SeqCst);
    let fails = (number + 1) * failing / 100 > number * failing / 100;
    let status = if fails { state.status.load(Ordering::SeqCst) } else { 200 };
    let status = StatusCode::from_u16(status).unwrap();
    (status, [("x-upstream", &*state.name), ("keep-alive", "timeout=5")], axum::Json(answer)).into_response()
}

/// A server that reads a request, header and body, and then does as it is told.
pub struct Scripted {
    pub port: u16,
    /// Requests that arrived whole.
    pub hits: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What a scripted server does after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Closes at once.
    Close,
    /// Resets the connection.
    Reset,
    /// Sends an answer's header and half its body, and resets the connection.
    ResetMidAnswer,
    /// Never answers.
    Silence,
    /// Answers with this status and goes on.
    Answer(u16),
    /// Answers with 503 and asks to wait so many seconds.
    Busy(u32),
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
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(act(stream, script, Arc::clone(&counter)));
            }
        });
        Self { port, hits, task }
    }

    /// Requests that arrived whole.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection.
async fn act(mut stream: TcpStream, script: Script, hits: Arc<AtomicUsize>) {
    while read_request(&mut stream).await {
        hits.fetch_add(1, Ordering::SeqCst);
        let sent = match script {
            Script::Close => return,
            Script::Reset => return reset(&stream),
            Script::ResetMidAnswer => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it").await;
                tokio::time::sleep(Duration::from_millis(30)).await;
                return reset(&stream);
            }
            Script::Silence => std::future::pending().await,
            Script::Send(bytes) => {
                let _ = stream.write_all(bytes).await;
                return;
            }
            Script::Answer(status) => {
                stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nbad").as_bytes()).await
            }
            Script::Busy(seconds) => {
                let answer = format!("HTTP/1.1 503 X\r\nRetry-After: {seconds}\r\nContent-Length: 3\r\n\r\nbad");
                stream.write_all(answer.as_bytes()).await
            }
            Script::OncePerConnection => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                if read_request(&mut stream).await {
                    hits.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Makes the end of a connection a RST in place of a FIN.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// Reads a request with its body; false when the client is gone.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    let mut left = length - (seen.len() - end).min(length);
    let mut part = vec![0; 64 << 10];
    while left > 0 {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => left -= count.min(left),
        }
    }
    true
}
