//! A real nginx as upstream, from Debian's package.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{eventually, free_port, raw};

/// An nginx that serves files from a folder (`/files/`, with a length; `/chunked/`, without),
/// stores what is put to `/stored/`, and counts its connections at `/status`.
pub struct Nginx {
    child: Child,
    folder: TempDir,
    pub port: u16,
}

impl Nginx {
    pub async fn start() -> Self {
        Self::at(free_port()).await
    }

    /// The same at a port of its own.
    pub async fn at(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["files", "stored", "temp"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let root = folder.path().display();
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log; user root;
             events {{ worker_connections 4096; }}
             http {{
               log_format posts '$arg_id'; access_log {root}/posts.log posts if=$posted;
               map $request_method $posted {{ POST 1; default 0; }}
               keepalive_requests 100000000; client_max_body_size 0;
               client_body_temp_path {root}/temp; proxy_temp_path {root}/temp; fastcgi_temp_path {root}/temp;
               uwsgi_temp_path {root}/temp; scgi_temp_path {root}/temp;
               server {{
                 listen 127.0.0.1:{port} backlog=4096;
                 location /files/ {{ alias {root}/files/; }}
                 location /chunked/ {{ alias {root}/files/; sub_filter_types *; sub_filter 'never in these files' ''; }}
                 location /stored/ {{ alias {root}/stored/; dav_methods PUT; }}
                 location = /status {{ stub_status; }}
                 location = /healthz {{ return 204; }}
                 location / {{ return 200 'ok'; }}
               }}
             }}"
        );
        // Without root, nginx warns that `user` has no effect and goes on.
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        // Where Debian puts it, which is not on everybody's path.
        let search = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let child = Command::new("nginx")
            .env("PATH", search)
            .arg("-c")
            .arg(&path)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx must be installed: run `make deps`");
        let nginx = Self { child, folder, port };
        eventually("nginx is ready", async || raw::get(port, "/", &[]).await.ok()).await;
        nginx
    }

    /// Kills all its processes without warning.
    pub fn kill(self) {
        self.signal("9");
    }

    /// Sends all its processes a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").arg(format!("-{name}")).args(self.processes()).status().unwrap().success());
    }

    fn processes(&self) -> Vec<String> {
        let master = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        // The master first: it would replace a worker that dies.
        std::iter::once(master.to_string()).chain(children.split_whitespace().map(str::to_owned)).collect()
    }

    /// The ids (`?id=`) of the POST requests that it served.
    pub fn posted(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("posts.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// The file that `/files/NAME` and `/chunked/NAME` serve.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    /// The file that a PUT to `/stored/NAME` made.
    pub fn stored(&self, name: &str) -> PathBuf {
        self.folder.path().join("stored").join(name)
    }

    /// Connections that ended so far.
    pub async fn closed(&self) -> u64 {
        let text = raw::get(self.port, "/status", &[]).await.unwrap().text();
        let first = |line: &str| line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
        let mut lines = text.lines();
        let active = first(lines.next().unwrap());
        first(lines.nth(1).unwrap()) - active
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master passes it on to its workers.
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
