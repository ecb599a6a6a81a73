//! `pointsman demo`: a gateway with sample upstreams, all on loopback.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use super::{Exit, run};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The gateway's port.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The admin listener's port.
    #[arg(long, default_value_t = 9901)]
    admin_port: u16,
}

/// A server that shows what it got.
#[derive(Clone)]
struct Sample {
    name: &'static str,
    delay: Duration,
    /// Every so many requests fail; 0 means none.
    fails_every: usize,
    served: Arc<AtomicUsize>,
}

const SAMPLES: [(&str, u64, usize); 4] = [("fast", 0, 0), ("medium", 20, 0), ("slow", 100, 0), ("shaky", 0, 4)];

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ports = servers.block_on(start())?;
    let folder = std::env::temp_dir().join(format!("pointsman-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let config = folder.join("pointsman.yaml");
    std::fs::write(&config, configuration(args, ports))?;
    eprint!("{}", guide(args, &config));
    let result = run::serve(config);
    // Left behind, it would only be a small file in the temporary folder.
    let _ = std::fs::remove_dir_all(&folder);
    servers.shutdown_background();
    result
}

async fn start() -> anyhow::Result<[u16; 4]> {
    let mut ports = [0; 4];
    for (port, (name, delay, fails_every)) in ports.iter_mut().zip(SAMPLES) {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        *port = listener.local_addr()?.port();
        let sample = Sample { name, delay: Duration::from_millis(delay), fails_every, served: Arc::default() };
        let router = Router::new().fallback(answer).with_state(sample);
        drop(tokio::spawn(async move { axum::serve(listener, router).await }));
    }
    Ok(ports)
}

async fn answer(State(sample): State<Sample>, request: Request) -> Response {
    let count = sample.served.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::time::sleep(sample.delay).await;
    let healthy = request.uri().path() == "/healthz";
    let status = if !healthy && sample.fails_every != 0 && count.is_multiple_of(sample.fails_every) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = serde_json::json!({
        "server": sample.name,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "host": header("host"),
        "x-forwarded-for": header("x-forwarded-for"),
        "x-request-id": header("x-request-id"),
    });
    (status, axum::Json(body)).into_response()
}

fn configuration(args: &Args, [fast, medium, slow, shaky]: [u16; 4]) -> String {
    format!(
        r#"# Edit this file and run `pointsman reload --server http://127.0.0.1:{admin}`.
listeners:
  - {{ address: "127.0.0.1:{port}" }}
admin: {{ address: 127.0.0.1:{admin} }}
access_log: access.log

upstreams:
  users:
    endpoints: [{{ address: 127.0.0.1:{fast}, weight: 2 }}, 127.0.0.1:{medium}, 127.0.0.1:{slow}]
    health: {{ http: /healthz, every: 2s }}
  shaky: http://127.0.0.1:{shaky}

routes:
  - {{ name: users, path: /users/*, to: users }}
  - {{ name: user, path: /users/:id, header: {{ x-beta: true }}, rewrite: /beta/:id, to: users }}
  - {{ name: shaky, path: /shaky/*, strip_prefix: true, to: shaky }}
  - {{ name: hello, path: /hello, to: {{ respond: {{ body: "hello from the gateway\n" }} }} }}
  - {{ name: old, path: /old/*, to: {{ redirect: {{ to: /users/* }} }} }}
"#,
        port = args.port,
        admin = args.admin_port,
    )
}

fn guide(args: &Args, config: &Path) -> String {
    let (port, admin) = (args.port, args.admin_port);
    let config: PathBuf = config.to_owned();
    format!(
        "A sample gateway on http://127.0.0.1:{port}, configured by\n  {}\n\nTry, in another terminal:\n\
         \x20 curl http://127.0.0.1:{port}/users/7              # three servers in turn, the fast one twice\n\
         \x20 curl -H 'x-beta: 1' http://127.0.0.1:{port}/users/7   # a header test and a rewrite\n\
         \x20 curl -i http://127.0.0.1:{port}/shaky/x           # every fourth answer is a 500\n\
         \x20 curl -i http://127.0.0.1:{port}/old/7             # a redirect\n\
         \x20 curl -i http://127.0.0.1:{port}/nowhere           # an error with its reason\n\
         \x20 pointsman explain --server http://127.0.0.1:{admin} -H 'x-beta: 1' http://127.0.0.1:{port}/users/7\n\
         \x20 pointsman routes --server http://127.0.0.1:{admin}\n\
         \x20 pointsman status --server http://127.0.0.1:{admin}\n\
         \x20 curl http://127.0.0.1:{admin}/metrics\n\nCtrl-C ends it.\n\n",
        config.display(),
    )
}
