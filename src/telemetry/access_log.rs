//! One JSON line for each request, written by a thread of its own.
//!
//! A request only formats its line and hands it to a bounded channel. When the disk or the reader
//! is slower than the traffic, lines are dropped and counted; requests never wait.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde::Serialize;

/// Lines that may wait for the writer.
const QUEUE: usize = 16_384;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: no line is formatted.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// What is told of one request.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// When the request's header was read, RFC 3339 with milliseconds.
    #[serde(serialize_with = "timestamp")]
    pub time: SystemTime,
    /// The id that client and upstream were told.
    pub request_id: &'a str,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The method.
    pub method: &'a str,
    /// The host that was asked for.
    pub host: &'a str,
    /// Path and query as they were sent.
    pub target: &'a str,
    /// HTTP version of the client.
    pub protocol: &'static str,
    /// Status of the answer; 0 when the client left before there was one.
    pub status: u16,
    /// From the request's header to the last byte, in milliseconds.
    pub duration_ms: f64,
    /// Bytes of the request's body that were read.
    pub bytes_received: usize,
    /// Bytes of the answer's body that were sent.
    pub bytes_sent: usize,
    /// The route's name.
    pub route: &'a str,
    /// The upstream's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// The endpoint that answered, or failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a str>,
    /// How many endpoints were tried.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// From the last try's beginning to its answer's header, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// Why the gateway itself answered, or broke off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<&'a str>,
    /// `Referer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referer: Option<&'a str>,
}

fn timestamp<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

/// The way to the writer.
#[derive(Debug)]
pub struct AccessLog {
    writer: Option<SyncSender<Message>>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Opens the destination and starts its writer; `dropped` counts lines that found no room.
    ///
    /// # Errors
    /// The file cannot be opened or the thread cannot be started.
    pub fn open(destination: &Destination, dropped: IntCounter) -> std::io::Result<Self> {
        let sink = match destination {
            Destination::Off => return Ok(Self { writer: None, dropped }),
            Destination::Stdout => Sink { path: None, out: BufWriter::new(Box::new(std::io::stdout())) },
            Destination::File(path) => {
                Sink { path: Some(path.clone()), out: BufWriter::new(Box::new(append_to(path)?)) }
            }
        };
        let (writer, lines) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || sink.run(&lines))?;
        Ok(Self { writer: Some(writer), dropped })
    }

    /// Whether lines go anywhere; if not, a record need not be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Hands a line over, or drops and counts it.
    pub fn write(&self, record: &Record<'_>) {
        let Some(writer) = &self.writer else { return };
        let mut line = Vec::with_capacity(512);
        let written = serde_json::to_writer(&mut line, record);
        line.push(b'\n');
        let full =
            matches!(writer.try_send(Message::Line(line)), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)));
        if written.is_err() || full {
            self.dropped.inc();
        }
    }

    /// Opens the file anew, after it was rotated away.
    pub fn reopen(&self) {
        self.control(Message::Reopen);
    }

    /// Waits until what was handed over is written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        self.control(Message::Flush(done));
        // A writer that is gone or stuck has nothing to wait for.
        let _ = wait.recv_timeout(patience);
    }

    fn control(&self, message: Message) {
        if let Some(writer) = &self.writer
            && writer.try_send(message).is_err()
        {
            tracing::warn!("the access log's queue is full, a request to it is lost");
        }
    }
}

fn append_to(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

struct Sink {
    path: Option<PathBuf>,
    out: BufWriter<Box<dyn Write + Send>>,
}

impl Sink {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut failing = false;
        while let Ok(first) = messages.recv() {
            let result = self.batch(first, messages);
            if let Err(error) = &result
                && !failing
            {
                tracing::error!(%error, "cannot write the access log; lines are lost until it works again");
            }
            failing = result.is_err();
        }
    }

    /// Writes what waits, then flushes once.
    fn batch(&mut self, first: Message, messages: &Receiver<Message>) -> std::io::Result<()> {
        let mut next = Ok(first);
        loop {
            match next {
                Ok(Message::Line(line)) => self.out.write_all(&line)?,
                Ok(Message::Reopen) => self.reopen()?,
                Ok(Message::Flush(done)) => {
                    self.out.flush()?;
                    // Who asked may have stopped waiting.
                    let _ = done.try_send(());
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return self.out.flush(),
            }
            next = messages.try_recv();
        }
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        self.out.flush()?;
        if let Some(path) = &self.path {
            self.out = BufWriter::new(Box::new(append_to(path)?));
        }
        Ok(())
    }
}
