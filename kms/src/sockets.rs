//! Unix sockets: who may connect is checked for each connection by what the kernel says of the peer, or by the kernel alone
//! where a group may.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

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
    door: Option<Door>,
}

/// The users who may connect to a socket: who is not among them any more is turned away with his next request.
#[derive(Clone)]
pub struct Door {
    path: Arc<Path>,
    users: Arc<RwLock<Vec<u32>>>,
}

impl Door {
    /// Lets these users in, and nobody else. The socket's file is this user's alone (mode 0600) unless others are among them.
    ///
    /// # Errors
    /// [`SocketError::Failed`], if the file's mode cannot be changed; the users are as they should be then.
    pub fn admit(&self, users: &[u32]) -> Result<(), SocketError> {
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users.to_owned();
        let own = rustix::process::geteuid().as_raw();
        let others = users.iter().any(|user| *user != own && *user != 0);
        set_mode(&self.path, if others { 0o666 } else { 0o600 })
    }

    fn admits(&self, user: u32) -> bool {
        self.users.read().unwrap_or_else(PoisonError::into_inner).contains(&user)
    }
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
        let door = match allowed {
            Allowed::Users(users) => {
                let door = Door { path: path.into(), users: Arc::default() };
                door.admit(users)?;
                Some(door)
            }
            Allowed::Group => {
                set_mode(path, 0o660)?;
                None
            }
        };
        Ok(Socket { listener, path: path.to_owned(), door })
    }

    /// Who may connect, if that is a matter of users.
    pub fn door(&self) -> Option<Door> {
        self.door.clone()
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
        let router = match self.door {
            Some(door) => router.layer(middleware::from_fn_with_state(door, check_peer)),
            None => router,
        };
        let service = router.into_make_service_with_connect_info::<Peer>();
        let result = axum::serve(self.listener, service).with_graceful_shutdown(stop).await;
        // It is gone already if somebody cleaned up.
        let _ = std::fs::remove_file(&self.path);
        result
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), SocketError> {
    let set = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    set.map_err(|source| SocketError::Failed { path: path.to_owned(), source })
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        Peer(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

async fn check_peer(
    State(door): State<Door>,
    ConnectInfo(Peer(user)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if user.is_some_and(|user| door.admits(user)) {
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
