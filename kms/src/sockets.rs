//! Unix sockets: who may connect is checked for each connection by what the kernel says of the peer, or by the kernel alone
//! where a group may.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

/// The user at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub Option<u32>);

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug)]
pub enum Allowed<'a> {
    /// These users.
    Users(&'a [u32]),
    /// This user and the group of the socket's file.
    Group,
}

/// A socket that listens; its file goes with it.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Nothing if the file's mode says it all.
    allowed: Option<Arc<[u32]>>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else is there.
    #[error("`{}` is there and is not a socket: move it away, or name another path", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens.
    #[error("another process listens on `{}`: stop it, or name another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot listen on `{}`: {source}", path.display())]
    Failed {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Socket {
    /// Listens on `path`, for whoever is `allowed`. The file is this user's alone (mode 0600) unless others are allowed, or
    /// its group is (0660).
    ///
    /// # Errors
    /// [`SocketError`]; a file that a process which is no more left behind is replaced.
    pub fn listen(path: &Path, allowed: Allowed<'_>) -> Result<Socket, SocketError> {
        let failed = |source| SocketError::Failed { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::Taken { path: path.to_owned() });
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
                Ok(_) => return Err(SocketError::InUse { path: path.to_owned() }),
            },
        }
        // Nobody else can connect between the file's making and its mode.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        let (mode, allowed) = match allowed {
            Allowed::Users(users) => {
                let others = users.iter().any(|user| *user != own && *user != 0);
                (if others { 0o666 } else { 0o600 }, Some(users.into()))
            }
            Allowed::Group => (0o660, None),
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Socket { listener, path: path.to_owned(), allowed })
    }

    /// Answers with `router` until `stop` is done; what is under way then is answered first.
    ///
    /// # Errors
    /// If the system accepts no more connections.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router = match self.allowed {
            Some(allowed) => router.layer(middleware::from_fn_with_state(allowed, check_peer)),
            None => router,
        };
        let service = router.into_make_service_with_connect_info::<Peer>();
        let result = axum::serve(self.listener, service).with_graceful_shutdown(stop).await;
        // It is gone already if somebody cleaned up.
        let _ = std::fs::remove_file(&self.path);
        result
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        Peer(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

async fn check_peer(
    State(allowed): State<Arc<[u32]>>,
    ConnectInfo(Peer(user)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if user.is_some_and(|user| allowed.contains(&user)) {
        return next.run(request).await;
    }
    let user = user.map_or("that the system does not name".into(), |user| user.to_string());
    tracing::warn!(user, path = request.uri().path(), "a user who may not was turned away");
    let message = format!(
        "user {user} may not use this socket: `allowed_users` in the KMS's configuration says who may"
    );
    let body = axum::Json(serde_json::json!({ "code": "not-allowed", "message": message }));
    (StatusCode::FORBIDDEN, body).into_response()
}
