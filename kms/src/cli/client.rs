//! One HTTP/1.1 exchange with the daemon over its socket for administration.

use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::screen::Failure;
use crate::config::Config;
use crate::daemon::DaemonError;

/// The largest answer, in bytes.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends one call to the daemon and reads its answer.
pub(super) fn call<T: DeserializeOwned>(
    config: &Config,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::System)?;
    let socket = &config.admin_socket;
    // The time-out needs the runtime around it.
    let exchange = async { tokio::time::timeout(PATIENCE, exchange(socket, method, path, body)).await };
    let answer = runtime.block_on(exchange).map_err(|_| {
        Failure::failed(format!("`{}` did not answer in {} s", socket.display(), PATIENCE.as_secs()))
    })??;
    match answer {
        (true, body) => serde_json::from_slice(&body).map_err(|error| {
            Failure::failed(format!(
                "what listens on `{}` is no KMS of this version: {error}",
                socket.display()
            ))
        }),
        (false, body) => Err(refused(&body)),
    }
}

fn refused(body: &[u8]) -> Failure {
    #[derive(serde::Deserialize)]
    struct Body {
        message: String,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(body) => Failure::failed(body.message),
        Err(_) => Failure::failed("the KMS refused, and did not say why; its log may"),
    }
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(bool, Bytes), Failure> {
    let broken = |why: String| {
        Failure::failed(format!("the connection to the KMS at `{}` broke: {why}", socket.display()))
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let failure =
            Failure::failed(format!("cannot connect to the KMS at `{}`: {error}", socket.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => failure.help("run this as the KMS's user, or as root"),
            _ => failure.help("is it running? `assent-kms serve` starts it"),
        }
    })?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "assent-kms")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    // The connection must be driven while the answer is awaited; it ends with the sender.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let is_good = response.status().is_success();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|error| broken(error.to_string()))?;
    Ok((is_good, body.to_bytes()))
}
