//! Bodies arrive byte for byte, whatever their size, with the gateway's memory flat. curl in
//! front, nginx behind.

use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::harness::{Gateway, Nginx};

const SIZES: [usize; 5] = [0, 1, 64 << 10, (64 << 10) + 1, 100 << 20];
/// More than this over the idle gateway would mean that a body is held in memory (MiB).
const MEMORY: u64 = 48;

async fn before_nginx() -> (Gateway, Nginx) {
    let nginx = Nginx::start().await;
    let gateway = Gateway::start(&format!("routes: [{{ path: /*, to: \"http://127.0.0.1:{}\" }}]\n", nginx.port)).await;
    (gateway, nginx)
}

/// Bytes that repeat nowhere near.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn hash(path: &Path) -> Vec<u8> {
    Sha256::digest(std::fs::read(path).unwrap()).to_vec()
}

fn curl(arguments: &[&str]) -> String {
    let output =
        Command::new("curl").args(["-sS", "--max-time", "60", "-w", "%{http_code}"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn downloads_arrive_byte_for_byte() {
    let (gateway, nginx) = before_nginx().await;
    let (idle, _) = gateway.memory();
    let target = gateway.path("download");
    for size in SIZES {
        std::fs::write(nginx.file("f"), content(size)).unwrap();
        for place in ["files", "chunked"] {
            let url = format!("http://127.0.0.1:{}/{place}/f", gateway.port);
            let status = curl(&["-o", target.to_str().unwrap(), &url]);
            assert_eq!(status, "200");
            // An empty body makes curl create no file.
            let received = if size == 0 { Sha256::digest(b"").to_vec() } else { hash(&target) };
            assert_eq!(received, hash(&nginx.file("f")), "{size} bytes from {place}");
        }
    }
    let (_, highest) = gateway.memory();
    assert!(highest < idle + MEMORY, "memory rose from {idle} to {highest} MiB");
}

#[tokio::test]
async fn uploads_arrive_byte_for_byte() {
    let (gateway, nginx) = before_nginx().await;
    let (idle, _) = gateway.memory();
    let source = gateway.path("upload");
    for size in SIZES {
        std::fs::write(&source, content(size)).unwrap();
        for (name, header) in [("length", "X-Nothing: 1"), ("chunked", "Transfer-Encoding: chunked")] {
            let path = format!("/stored/{name}-{size}");
            if size == 0 && name == "chunked" {
                // curl 7.88 never sends the last chunk of an empty upload.
                let request = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
                assert_eq!(gateway.send(request.as_bytes()).await.status, 201);
                continue;
            }
            let url = format!("http://127.0.0.1:{}{path}", gateway.port);
            let status = curl(&["-T", source.to_str().unwrap(), "-H", header, "-o", "/dev/null", &url]);
            assert_eq!(status, "201", "{size} bytes, {name}");
            assert_eq!(hash(&nginx.stored(&format!("{name}-{size}"))), hash(&source), "{size} bytes, {name}");
        }
    }
    let (_, highest) = gateway.memory();
    assert!(highest < idle + MEMORY, "memory rose from {idle} to {highest} MiB");
}
