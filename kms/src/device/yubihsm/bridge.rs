//! Between the crate `yubihsm` and the connector: a loopback bridge, one for each session.
//!
//! ```text
//! yubihsm::Client ─TCP, 127.0.0.1─▶ Bridge (one thread) ─HTTP/1.1, kept alive, with time-outs─▶ connector ─▶ device
//! ```
//!
//! The crate's own HTTP client reads an answer that comes in several pieces wrongly, and has a time-out of its own that
//! cannot be changed. The bridge takes each answer in whole, looks whether it can be the answer to what was asked, and
//! hands it on in one write. It never asks twice: a command may have been carried out although its answer was lost. Then it
//! closes its side, and the crate gives the session up. A bridge takes one connection and stops listening.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::device::DeviceError;

/// The port of a connector whose URL names none.
const CONNECTOR_PORT: u16 = 12_345;
/// The longest answer of a connector, in bytes: a message of the device has at most 2,048 bytes of data.
const ANSWER_LIMIT: usize = 4_096;
/// The longest request of the crate, with its header.
const REQUEST_LIMIT: usize = 8_192;
/// How long the crate may take to connect to a bridge that was made for it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The longest that an answer is waited for: the crate's own client gives up after 20 seconds.
pub(super) const ANSWER_PATIENCE_LIMIT: Duration = Duration::from_secs(18);
/// The answer of a device to what it refuses: this code, and one byte that says why.
const REFUSED: u8 = 0x7f;
/// `YH_DEVICE_INFO`
const DEVICE_INFO: u8 = 0x06;

/// Where the connector is, and how long it may take.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    host: String,
    port: u16,
    patience: Duration,
}

impl Upstream {
    /// A connector at `http://HOST[:PORT]`.
    pub(super) fn parse(url: &str, patience: Duration) -> Result<Upstream, DeviceError> {
        let wrong = |why: &str| {
            DeviceError::Setup(format!(
                "`connector` in the configuration is `{}`: {why}; it must be like `http://127.0.0.1:12345`, or `usb`",
                url.escape_debug()
            ))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("that is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(
                    "TLS is not needed and not built in, since all that matters is encrypted and authenticated between \
                     the KMS and the device",
                ));
            }
            _ => return Err(wrong("it does not begin with `http://`")),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("it has a path"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
        let patience = patience.min(ANSWER_PATIENCE_LIMIT);
        Ok(Upstream { host: host.to_owned(), port: uri.port_u16().unwrap_or(CONNECTOR_PORT), patience })
    }

    /// Asks the device what it is, outside of any session and before the password is used.
    pub(super) fn device_info(&self) -> Result<Vec<u8>, DeviceError> {
        let failed = |why: String| DeviceError::Gone(why);
        let runtime = runtime().map_err(|error| failed(error.to_string()))?;
        let question = vec![DEVICE_INFO, 0, 0];
        let answer = runtime.block_on(Connection::new(self).ask(question)).map_err(failed)?;
        match answer.split_at_checked(3) {
            Some(([code, ..], data)) if *code == DEVICE_INFO | 0x80 => Ok(data.to_vec()),
            _ => Err(failed("the device does not say what it is".into())),
        }
    }
}

/// What a bridge saw, for whoever wants to know why a session ended.
#[derive(Default)]
pub(super) struct Wire {
    asked: AtomicUsize,
    refusal: AtomicU8,
    failure: Mutex<Option<String>>,
}

impl Wire {
    /// Whether anything was sent to the device.
    pub(super) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// The error code of the last answer that was not encrypted; 0 if there was none.
    pub(super) fn refusal(&self) -> u8 {
        self.refusal.load(Ordering::Relaxed)
    }

    /// Why the bridge closed its side.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A bridge that listens for its one connection.
pub(super) struct Bridge {
    /// Where.
    pub(super) port: u16,
    /// What it sees.
    pub(super) wire: Arc<Wire>,
}

impl Bridge {
    /// Starts the thread, which ends when the crate's client is dropped, or does not come.
    pub(super) fn open(upstream: &Upstream) -> std::io::Result<Bridge> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let wire = Arc::new(Wire::default());
        let (upstream, seen) = (upstream.clone(), wire.clone());
        let runtime = runtime()?;
        std::thread::Builder::new().name("yubihsm-bridge".into()).spawn(move || {
            if let Err(why) = runtime.block_on(serve(listener, &upstream, &seen)) {
                tracing::debug!(%why, "a bridge to the YubiHSM connector ends");
                *seen.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
            // Whatever is left of the connection to the connector ends with the runtime.
        })?;
        Ok(Bridge { port, wire })
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn serve(listener: TcpListener, upstream: &Upstream, wire: &Wire) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(text)?;
    let accepted = timeout(CONNECT_PATIENCE, listener.accept()).await;
    let (mut client, _) = accepted.map_err(|_| "nobody came to the bridge".to_owned())?.map_err(text)?;
    drop(listener);
    client.set_nodelay(true).map_err(text)?;
    let mut connection = Connection::new(upstream);
    while let Some(question) = read_question(&mut client).await? {
        wire.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match connection.ask(question).await {
            Ok(answer) => answer,
            Err(why) => {
                // Before the socket closes, so that whoever sees it closed can read why.
                *wire.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
                return Err(why);
            }
        };
        if let [REFUSED, _, _, code] = answer[..] {
            wire.refusal.store(code, Ordering::Relaxed);
        }
        let mut all = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).into_bytes();
        all.extend_from_slice(&answer);
        client.write_all(&all).await.map_err(text)?;
    }
    Ok(())
}

/// The body of the crate's next request; nothing when it has closed its side.
async fn read_question(client: &mut TcpStream) -> Result<Option<Vec<u8>>, String> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(END.len()).position(|window| window == END) {
            let header = std::str::from_utf8(&bytes[..end]).map_err(|_| "a request is not text")?;
            let length = header.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize =
                length.and_then(|length| length.parse().ok()).ok_or("a request has no length")?;
            let begin = end + END.len();
            if length > REQUEST_LIMIT {
                return Err("a request is too long".into());
            }
            if bytes.len() >= begin + length {
                return Ok(Some(bytes[begin..begin + length].to_vec()));
            }
        }
        if bytes.len() > REQUEST_LIMIT {
            return Err("a request is too long".into());
        }
        if client.read_buf(&mut bytes).await.map_err(|error| error.to_string())? == 0 {
            return match bytes.is_empty() {
                true => Ok(None),
                false => Err("a request was cut short".into()),
            };
        }
    }
}

/// One connection to the connector, opened again when it was closed between two questions.
struct Connection<'u> {
    upstream: &'u Upstream,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl<'u> Connection<'u> {
    fn new(upstream: &'u Upstream) -> Connection<'u> {
        Connection { upstream, sender: None }
    }

    /// The whole answer to a message for the device, which fits it.
    async fn ask(&mut self, question: Vec<u8>) -> Result<Vec<u8>, String> {
        let patience = self.upstream.patience;
        let command = question.first().copied().unwrap_or_default();
        let answer = match timeout(patience, self.exchange(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("the YubiHSM connector gave no answer within {patience:?}")),
        };
        // A late answer must not be taken for the one to the next question.
        let checked = answer.and_then(|answer| check(command, &answer).map(|()| answer));
        if checked.is_err() {
            self.sender = None;
        }
        checked
    }

    async fn exchange(&mut self, question: Vec<u8>) -> Result<Vec<u8>, String> {
        let Upstream { host, port, .. } = self.upstream;
        let request = Request::post("/connector/api")
            .header("host", format!("{host}:{port}"))
            .header("content-type", "application/octet-stream")
            .body(Full::new(Bytes::from(question)))
            .map_err(|error| error.to_string())?;
        let lost = |error: hyper::Error| format!("the YubiHSM connector broke off: {error}");
        let response = self.sender().await?.send_request(request).await.map_err(lost)?;
        if !response.status().is_success() {
            return Err(format!(
                "the YubiHSM connector answers `{}`: look whether the device is plugged in",
                response.status()
            ));
        }
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        Ok(body
            .map_err(|error| format!("the YubiHSM connector's answer broke off: {error}"))?
            .to_bytes()
            .to_vec())
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let kept = match self.sender.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match kept {
            Some(sender) => sender,
            None => {
                let Upstream { host, port, .. } = self.upstream;
                let failed = |why: String| {
                    format!(
                        "the YubiHSM connector at {host}:{port} is not there ({why}): look whether it runs"
                    )
                };
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(|error| failed(error.to_string()))?;
                stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
                let (sender, connection) =
                    handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
                tokio::spawn(async move {
                    // What went wrong is told to whoever waits for the answer.
                    let _: Result<(), Infallible> = connection.await.or(Ok(()));
                });
                sender
            }
        };
        Ok(self.sender.insert(sender))
    }
}

/// Whether an answer has the form that it must have after this command, so that nothing else reaches the crate.
fn check(command: u8, answer: &[u8]) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("the YubiHSM connector's answer is not one of the device: {why}"));
    let Some((header, data)) = answer.split_at_checked(3) else {
        return wrong("it is too short");
    };
    if usize::from(u16::from_be_bytes([header[1], header[2]])) != data.len() {
        return wrong("its length is wrong");
    }
    // Session and 8 bytes of MAC around at least one block; session and two values of 8 bytes; nothing.
    let fits = match header[0] {
        REFUSED => data.len() == 1,
        0x83 => data.len() == 17,
        0x84 => data.is_empty(),
        0x85 => data.len() >= 1 + 16 + 8,
        _ => true,
    };
    if !fits || (header[0] != REFUSED && header[0] != command | 0x80) {
        return wrong("it answers something else");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A connector that gives each connection these pieces of an answer, or closes it when they are at their end.
    fn connector(pieces: Vec<Vec<u8>>) -> Upstream {
        // Only an answer that never comes is waited for in vain.
        let patience = Duration::from_millis(if pieces.is_empty() { 300 } else { 10_000 });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                stream.set_nodelay(true).expect("set");
                let mut request = [0; 4_096];
                if stream.read(&mut request).is_err() {
                    continue;
                }
                for piece in &pieces {
                    // The other side may have gone.
                    let _ = stream.write_all(piece).and_then(|()| stream.flush());
                    std::thread::yield_now();
                }
                if pieces.is_empty() {
                    // Never: until the other side goes.
                    let _ = stream.read(&mut request);
                }
            }
        });
        Upstream::parse(&format!("http://127.0.0.1:{port}"), patience).expect("a URL")
    }

    fn answer(body: &[u8]) -> Vec<u8> {
        let mut all = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        all.extend_from_slice(body);
        all
    }

    #[test]
    fn an_answer_in_single_bytes_is_one_answer() {
        let mut body = vec![0x86, 0, 14];
        body.extend([7; 14]);
        let pieces = answer(&body).into_iter().map(|byte| vec![byte]).collect();
        assert_eq!(connector(pieces).device_info(), Ok(vec![7; 14]));
    }

    #[test]
    fn an_answer_that_breaks_off_never_comes_or_answers_something_else_is_none() {
        for (pieces, why) in [
            (vec![], "no answer within"),
            (vec![b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n\x86\0".to_vec()], "broke off"),
            (vec![b"rubbish\r\n\r\n".to_vec()], "broke off"),
            (vec![b"HTTP/1.1 503 Gone\r\ncontent-length: 0\r\n\r\n".to_vec()], "plugged in"),
            (vec![answer(&[0x86, 0])], "too short"),
            (vec![answer(&[0x86, 0, 9, 1])], "its length is wrong"),
            (vec![answer(&[0x85, 0, 1, 1])], "something else"),
            (vec![answer(&[0xc8, 0, 1, 1])], "something else"),
            (vec![answer(&[0; 5_000])], "broke off"),
        ] {
            match connector(pieces).device_info() {
                Err(DeviceError::Gone(said)) => assert!(said.contains(why), "no {why:?} in {said:?}"),
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_connector_must_be_a_plain_http_url() {
        for (url, why) in [
            ("127.0.0.1:1", "does not begin with `http://`"),
            ("https://hsm", "encrypted"),
            ("http://a/b", "a path"),
            ("http://", "no URL"),
        ] {
            let error = Upstream::parse(url, ANSWER_PATIENCE_LIMIT).expect_err("refused");
            assert!(error.to_string().contains(why), "{error}");
        }
        let upstream = Upstream::parse("http://localhost", Duration::from_secs(60)).expect("good");
        assert_eq!((upstream.port, upstream.patience), (12_345, ANSWER_PATIENCE_LIMIT));
    }
}
