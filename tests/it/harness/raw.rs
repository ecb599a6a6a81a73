//! HTTP/1.1 by hand: what is written is what is sent.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// An answer as it was received.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header's first line.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The reason of the gateway's own answer.
    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// GET; the connection is closed afterwards.
pub async fn get(port: u16, path: &str, headers: &[&str]) -> io::Result<Answer> {
    let named = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
    let host = if named { "" } else { "Host: localhost\r\n" };
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    exchange(port, format!("GET {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n").as_bytes()).await
}

/// Sends bytes and reads one answer.
pub async fn exchange(port: u16, request: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request).await?;
    read(&mut stream, request.starts_with(b"HEAD")).await
}

/// Reads one answer from a connection.
pub async fn read(stream: &mut TcpStream, bodiless: bool) -> io::Result<Answer> {
    tokio::time::timeout(PATIENCE, read_patiently(stream, bodiless)).await?
}

async fn read_patiently(stream: &mut TcpStream, bodiless: bool) -> io::Result<Answer> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, String::from_utf8_lossy(&received).into_owned()));
        }
    };
    let mut body = received.split_off(end);
    let head = String::from_utf8_lossy(&received).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    let bodiless = bodiless || status < 200 || status == 204 || status == 304;
    let length = answer.header("content-length").map(|length| length.parse::<usize>().unwrap());
    if answer.header("transfer-encoding").is_some() {
        answer.body = dechunk(stream, body).await?;
    } else if !bodiless {
        while length.is_none_or(|length| body.len() < length) && stream.read_buf(&mut body).await? > 0 {}
        if length.is_some_and(|length| body.len() != length) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends early"));
        }
        answer.body = body;
    }
    Ok(answer)
}

async fn dechunk(stream: &mut TcpStream, mut raw: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(at) = raw.windows(2).position(|window| window == b"\r\n") {
                break at;
            }
            if stream.read_buf(&mut raw).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the chunks end early"));
            }
        };
        let size = usize::from_str_radix(String::from_utf8_lossy(&raw[..line]).trim(), 16).unwrap();
        while raw.len() < line + 2 + size + 2 {
            if stream.read_buf(&mut raw).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a chunk ends early"));
            }
        }
        body.extend_from_slice(&raw[line + 2..line + 2 + size]);
        raw.drain(..line + 2 + size + 2);
        if size == 0 {
            return Ok(body);
        }
    }
}

/// GET for a task of its own.
pub async fn get_owned(port: u16, path: String) -> io::Result<Answer> {
    get(port, &path, &[]).await
}

/// Sends bytes and reads one answer at the same time, as for an answer that comes before the
/// request is sent whole.
pub async fn exchange_both_ways(port: u16, request: Vec<u8>) -> io::Result<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?.into_std()?;
    let mut writer = TcpStream::from_std(stream.try_clone()?)?;
    let mut reader = TcpStream::from_std(stream)?;
    // A server that answered early may not read the rest.
    let writing = tokio::spawn(async move { drop(writer.write_all(&request).await) });
    let answer = read(&mut reader, false).await;
    writing.abort();
    answer
}
