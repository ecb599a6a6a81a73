//! A load of keep-alive connections whose client never retries and calls each failure by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::raw;

/// What a load did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests answered with 200.
    pub good: usize,
    /// Everything else, by name.
    pub bad: BTreeMap<String, usize>,
    /// Connections opened beyond the first of each client.
    pub reconnects: usize,
    /// Response times of the good ones.
    pub times: Vec<Duration>,
}

impl Tally {
    /// The time that 99 of 100 good requests stayed below.
    pub fn p99(&mut self) -> Duration {
        self.times.sort_unstable();
        self.times.get(self.times.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Tally>>,
}

impl Load {
    /// Starts so many clients, each sending GET requests, one after another with a pause.
    pub fn start(port: u16, clients: usize, path: &str, pause: Duration) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let request: Arc<[u8]> = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes().into();
        let client =
            |_| tokio::spawn(client(port, Arc::clone(&request), pause, (Arc::clone(&stop), Arc::clone(&good))));
        Self { clients: (0..clients).map(client).collect(), stop, good }
    }

    /// Requests answered with 200 so far.
    pub fn good(&self) -> usize {
        self.good.load(Ordering::SeqCst)
    }

    /// Stops the clients after their request in progress.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut total = Tally::default();
        for client in self.clients {
            let tally = client.await.unwrap();
            total.good += tally.good;
            total.reconnects += tally.reconnects;
            total.times.extend(tally.times);
            tally.bad.into_iter().for_each(|(name, count)| *total.bad.entry(name).or_default() += count);
        }
        total
    }
}

async fn client(
    port: u16,
    request: Arc<[u8]>,
    pause: Duration,
    (stop, good): (Arc<AtomicBool>, Arc<AtomicUsize>),
) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let mut opened = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => {
                opened += 1;
                match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        *tally.bad.entry(format!("refused: {}", error.kind())).or_default() += 1;
                        continue;
                    }
                }
            }
        };
        let begin = Instant::now();
        let result = match stream.write_all(&request).await {
            Ok(()) => raw::read(&mut stream, false).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(answer) if answer.status == 200 => {
                tally.good += 1;
                good.fetch_add(1, Ordering::SeqCst);
                tally.times.push(begin.elapsed());
                if answer.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
                    connection = Some(stream);
                }
            }
            Ok(answer) => *tally.bad.entry(format!("status {}", answer.status)).or_default() += 1,
            Err(error) => *tally.bad.entry(format!("broken: {}", error.kind())).or_default() += 1,
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    tally.reconnects = opened - 1;
    tally
}
