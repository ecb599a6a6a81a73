//! Asking a running gateway through its admin listener.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::effective::ADMIN_ADDRESS;
use crate::config::load;

use super::{DEFAULT_CONFIG, Source};

/// The longest that an answer may take; compiling a very large configuration takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// No gateway answers.
#[derive(Debug, thiserror::Error)]
#[error("no gateway answers at {0}")]
pub struct Unreachable(String);

/// An admin listener.
pub struct Client {
    address: String,
}

impl Client {
    /// The gateway that `--server` names, else the one of the default configuration file.
    pub fn new(source: &Source) -> anyhow::Result<Self> {
        let configured = || {
            let path = source.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
            let loaded = load::load(&path, &|name| std::env::var(name).ok());
            let address = loaded.config.and_then(|config| config.admin).map(|admin| admin.address.value);
            match address.unwrap_or_else(|| ADMIN_ADDRESS.to_owned()) {
                unix if unix.starts_with("unix:") => {
                    format!("unix:{}", load::resolve(&path, unix.trim_start_matches("unix:")).display())
                }
                tcp => tcp,
            }
        };
        let address = source.server.clone().unwrap_or_else(configured);
        let address = address.strip_prefix("http://").map_or(address.as_str(), |rest| rest.trim_end_matches('/'));
        Ok(Self { address: address.to_owned() })
    }

    /// GET.
    pub fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        self.send(Method::GET, path, None)
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        self.send(Method::POST, path, body)
    }

    /// PUT of JSON.
    pub fn put(&self, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        self.send(Method::PUT, path, Some(body))
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exchange = async {
            match self.address.strip_prefix("unix:") {
                Some(socket) => {
                    let stream = tokio::net::UnixStream::connect(PathBuf::from(socket)).await;
                    exchange(stream.map_err(|_| self.unreachable())?, "localhost", method, path, body).await
                }
                None => {
                    let stream = tokio::net::TcpStream::connect(&self.address).await;
                    exchange(stream.map_err(|_| self.unreachable())?, &self.address, method, path, body).await
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| self.unreachable())? })
    }

    fn unreachable(&self) -> Unreachable {
        Unreachable(self.address.clone())
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(StatusCode, Value)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the runtime; a failure shows in the request.
    drop(tokio::spawn(connection));
    let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(bytes)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    let value = serde_json::from_slice(&body).with_context(|| format!("answer {status} is not JSON"))?;
    Ok((status, value))
}
