//! The connector's HTTP: `POST /connector/api` takes a command to the device, `GET /connector/status` says who is there.

use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Sleep, sleep};

use crate::command::Command;
use crate::device::Treatment;
use crate::script::What;
use crate::simulator::Shared;

/// The longest request, in bytes; the device refuses what is longer than its own buffer.
const REQUEST_LIMIT: usize = 8_192;

/// Takes connections until the test lets go of the simulator.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connector = Arc::new(Connector { shared, turn: Mutex::new(()) });
    loop {
        let (stream, _) = tokio::select! {
            // The sender was dropped, which is how it says so.
            _ = &mut stopped => return Ok(()),
            accepted = listener.accept() => accepted?,
        };
        stream.set_nodelay(true)?;
        let connector = connector.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let connector = connector.clone();
                async move { connector.answer(request).await }
            });
            // The crate `yubihsm` reads "Content-Length" in this case alone.
            let served = http1::Builder::new()
                .title_case_headers(true)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // A connection that broke is the host's to deal with; one that the script broke, too.
            drop(served);
        });
    }
}

struct Connector {
    shared: Arc<Shared>,
    /// The device does one thing at a time.
    turn: Mutex<()>,
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the script closes the connection")]
struct Closed;

type Answer = Result<Response<Pieces>, Closed>;

impl Connector {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/connector/status") => self.status(),
            (&Method::POST, "/connector/api") => {
                let body = Limited::new(request.into_body(), REQUEST_LIMIT).collect().await;
                match body {
                    Ok(body) => self.command(&body.to_bytes()).await,
                    Err(_) => refused(StatusCode::BAD_REQUEST),
                }
            }
            (_, "/connector/status" | "/connector/api") => refused(StatusCode::METHOD_NOT_ALLOWED),
            _ => refused(StatusCode::NOT_FOUND),
        }
    }

    fn status(&self) -> Answer {
        let text = format!(
            "status=OK\nserial=*\nversion=3.0.4\npid={}\naddress=localhost\nport=12345\n",
            std::process::id()
        );
        whole("text/plain", Pieces::whole(text.into_bytes()))
    }

    async fn command(&self, bytes: &[u8]) -> Answer {
        let turn = self.turn.lock().await;
        let command = self.shared.device().peek(bytes);
        let what = self.shared.script.next(command);
        let treatment = match &what {
            Some(What::NoDevice) => return refused(StatusCode::SERVICE_UNAVAILABLE),
            Some(What::DropCall) => return Err(Closed),
            Some(What::Refuse(code)) => Treatment::Refused(*code),
            Some(What::WrongKey) => Treatment::WrongKey,
            _ => Treatment::AsItIs,
        };
        if command == Some(Command::SIGN_ECDSA) {
            pause(self.shared.signature_time).await;
        }
        match &what {
            Some(What::Delay(time)) => pause(*time).await,
            Some(What::Reset) => self.shared.device().reset(),
            _ => {}
        }
        if let Some(command) = command {
            self.shared.note(command);
        }
        let mut answer = self.shared.device().handle(bytes, treatment);
        drop(turn);
        let pieces = match what {
            Some(What::DropReply) => return Err(Closed),
            Some(What::Hang) => std::future::pending().await,
            Some(What::Garble) => {
                if let Some(byte) = answer.last_mut() {
                    *byte ^= 1;
                }
                Pieces::whole(answer)
            }
            Some(What::Pieces(size, time)) => Pieces::of(answer, size, time),
            _ => Pieces::whole(answer),
        };
        whole("application/octet-stream", pieces)
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn whole(kind: &str, pieces: Pieces) -> Answer {
    let answer = Response::builder().header("content-type", kind).header("content-length", pieces.rest.len());
    Ok(answer.body(pieces).expect("the headers are right"))
}

fn refused(status: StatusCode) -> Answer {
    let answer = Response::builder().status(status).header("content-length", 0);
    Ok(answer.body(Pieces::whole(Vec::new())).expect("the headers are right"))
}

/// An answer in pieces, each sent before the next is there.
struct Pieces {
    rest: Bytes,
    size: usize,
    time: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pieces {
    fn whole(answer: Vec<u8>) -> Pieces {
        Pieces { rest: answer.into(), size: usize::MAX, time: Duration::ZERO, pause: None }
    }

    fn of(answer: Vec<u8>, size: usize, time: Duration) -> Pieces {
        // The first piece, too, comes after the header was sent.
        let pause = Some(Box::pin(sleep(time)));
        Pieces { rest: answer.into(), size: size.max(1), time, pause }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let pieces = self.get_mut();
        if let Some(pause) = &mut pieces.pause {
            std::task::ready!(pause.as_mut().poll(context));
            pieces.pause = None;
        }
        if pieces.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = pieces.rest.split_to(pieces.size.min(pieces.rest.len()));
        if !pieces.rest.is_empty() {
            pieces.pause = Some(Box::pin(sleep(pieces.time)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
