//! Sockets, opened before anything is served, so that a start fails clearly.

use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::snapshot::{AdminAddress, Snapshot};

use super::StartError;

/// Connections that may wait to be accepted; the system caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 65_535;

/// A socket that listens.
pub struct Socket {
    /// Its address as text.
    pub address: String,
    /// The descriptor; whoever takes it closes it.
    pub descriptor: RawFd,
}

/// Opens the sockets of all listeners, or none.
pub fn all(snapshot: &Snapshot) -> Result<Vec<Socket>, StartError> {
    snapshot.listeners.iter().map(|listener| open(listener.address)).collect()
}

fn open(address: SocketAddr) -> Result<Socket, StartError> {
    let listener = tcp(address).and_then(TcpListener::into_std);
    let listener = listener.map_err(|cause| StartError::Listen { address: address.to_string(), cause })?;
    Ok(Socket { address: address.to_string(), descriptor: listener.into_raw_fd() })
}

fn tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The admin listener's socket.
pub enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Opens the admin listener's socket.
pub fn admin(address: &AdminAddress) -> Result<AdminSocket, StartError> {
    match address {
        AdminAddress::Tcp(address) => {
            let socket = tcp(*address).map_err(|cause| StartError::Listen { address: address.to_string(), cause })?;
            Ok(AdminSocket::Tcp(socket))
        }
        AdminAddress::Unix(path) => {
            let socket = unix(path)
                .map_err(|cause| StartError::Listen { address: format!("unix:{}", path.display()), cause })?;
            Ok(AdminSocket::Unix(socket))
        }
    }
}

/// A socket that only the gateway's own user may use. One that a dead process left is replaced.
fn unix(path: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl AdminSocket {
    /// Serves the admin listener for as long as the process runs.
    pub async fn serve(self, router: Router) {
        let result = match self {
            Self::Tcp(listener) => axum::serve(listener, router).await,
            Self::Unix(listener) => axum::serve(listener, router).await,
        };
        if let Err(error) = result {
            tracing::error!(%error, "the admin listener ended");
        }
    }
}
