//! The sockets of the API.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::node::config::Config;

use super::connections::{Bounded, CONNECTIONS};

/// The mode of the Unix socket: this user and group may call.
const SOCKET_MODE: u32 = 0o660;

/// Open sockets that nobody is answered on yet.
pub struct Listeners {
    unix: UnixListener,
    path: PathBuf,
    tcp: Option<TcpListener>,
}

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error(
        "the socket `{}` is in use by another process; stop that one first, or give this node another `socket`",
        .0.display()
    )]
    SocketInUse(PathBuf),
    /// Something else is there.
    #[error("`{}` is there already and is no socket; move it away, or give another `socket`", .0.display())]
    NotASocket(PathBuf),
    /// The Unix socket cannot be made.
    #[error("cannot make the socket `{}`: {source}", .path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The port is taken.
    #[error(
        "the address `{0}` is in use by another process; stop that one first, or give this node another `listen`"
    )]
    AddressInUse(SocketAddr),
    /// The TCP socket cannot be opened.
    #[error("cannot listen on `{address}`: {source}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl Listeners {
    /// Opens the sockets that the configuration names. The socket that a node left behind which was killed is replaced.
    ///
    /// # Errors
    /// [`ListenError`]
    pub async fn open(config: &Config) -> Result<Listeners, ListenError> {
        let tcp = match config.listen {
            None => None,
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| match source.kind() {
                    io::ErrorKind::AddrInUse => ListenError::AddressInUse(address),
                    _ => ListenError::Address { address, source },
                })?)
            }
        };
        let path = config.socket.clone();
        remove_left_behind(&path).await?;
        let failed = |source| ListenError::Socket { path: path.clone(), source };
        let unix = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        Ok(Listeners { unix, path, tcp })
    }

    /// The loopback address, if there is one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Answers calls until `stop` is set, and then those that have begun.
    pub async fn serve(self, router: Router, stop: watch::Receiver<bool>) {
        let mut servers = JoinSet::new();
        let stopped = |mut stop: watch::Receiver<bool>| async move {
            // A sender that is gone is as good as one that says so.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let unix = Bounded { listener: self.unix, room: room.clone() };
        let serve = axum::serve(unix, router.clone()).with_graceful_shutdown(stopped(stop.clone()));
        servers.spawn(serve.into_future());
        if let Some(tcp) = self.tcp {
            let tcp = tcp.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "answers may be slow over this connection");
                }
            });
            let serve = axum::serve(Bounded { listener: tcp, room }, router);
            servers.spawn(serve.with_graceful_shutdown(stopped(stop)).into_future());
        }
        while let Some(ended) = servers.join_next().await {
            if let Err(error) = ended.map_err(io::Error::other).and_then(|ended| ended) {
                tracing::error!(%error, "a socket of the API has failed");
            }
        }
        // The next node finds its place free; what is left is replaced anyway.
        let _ = fs::remove_file(&self.path);
    }
}

async fn remove_left_behind(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(ListenError::SocketInUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}
