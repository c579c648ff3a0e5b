//! The port, over loopback, before calls that wait until they are told to go on.

use assent_edge::tls::{Client, ClientStream};
use assent_hsm_mock::{Authority, Term, Usage};
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::reload::Settings;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: kms\r\n\r\n";

/// A port on which each call waits until it is told to go on.
struct Port {
    directory: tempfile::TempDir,
    authority: Authority,
    settings: watch::Sender<Settings>,
    address: SocketAddr,
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Port {
    async fn open(age: Duration) -> Port {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let authority = Authority::of_pair(path, "127.0.0.1", "node.example").expect("made");
        let list = authority.revocation_list(&[], Term::Now).expect("signed");
        std::fs::write(path.join("ca.crl"), list.der()).expect("writable");
        let config = TlsConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: path.join("kms.crt"),
            private_key: path.join("kms.key"),
            clients_ca: path.join("ca.crt"),
            clients_crl: Some(path.join("ca.crl")),
            clients: Vec::new(),
        };
        let socket = TlsSocket::listen(&config).await.expect("open");
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (begun.clone(), go_on.clone());
        let call = async move || {
            tell.notify_one();
            wait.notified().await;
            "done"
        };
        let router = Router::new().route("/", get(call));
        let (stop, stopped) = watch::channel(false);
        let (settings, in_force) = watch::channel(letting_in(&["dns:node.example"]));
        let address = socket.address().expect("bound");
        let served = tokio::spawn(TlsSocket { age, ..socket }.serve(router, in_force, stopped));
        Port { directory, authority, settings, address, begun, go_on, stop, served }
    }

    async fn connect(&self) -> ClientStream {
        let path = self.directory.path();
        let files = Files {
            certificate: path.join("node.crt"),
            private_key: path.join("node.key"),
            authorities: path.join("ca.crt"),
        };
        let own = Rotating::open(files).expect("good files");
        let host = self.address.ip().to_string().parse().expect("a host");
        Client::new(own, host, self.address.port()).connect().await.expect("connected")
    }
}

/// Settings that let these clients in.
fn letting_in(clients: &[&str]) -> Settings {
    let clients = clients.iter().map(|client| client.parse().expect("a client"));
    Settings { tls_clients: clients.collect(), ..Settings::default() }
}

/// Everything that comes until the connection ends.
async fn rest(stream: &mut ClientStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // It may be broken off rather than ended.
    let _ = read.expect("in time");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn a_connection_ends_at_its_age_and_what_has_begun_is_answered_first() {
    let port = Port::open(Duration::ZERO).await;
    assert_eq!(rest(&mut port.connect().await).await, "");
    let port = Port::open(CONNECTION_AGE).await;
    let mut stream = port.connect().await;
    stream.write_all(REQUEST).await.expect("sent");
    port.begun.notified().await;
    port.stop.send(true).expect("it listens");
    port.go_on.notify_one();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    tokio::time::timeout(PATIENCE, port.served).await.expect("in time").expect("whole");
    TcpStream::connect(port.address).await.expect_err("closed");
}

#[tokio::test]
async fn who_was_taken_off_the_list_is_answered_once_more_and_then_let_in_no_more() {
    let port = Port::open(CONNECTION_AGE).await;
    let mut stays = port.connect().await;
    let issued = port.authority.issue(&["other.example"], Usage::Client, Term::Now).expect("issued");
    issued.write(port.directory.path(), "node").expect("writable");
    port.settings.send_replace(letting_in(&["dns:node.example", "dns:other.example"]));
    let mut leaves = port.connect().await;
    leaves.write_all(REQUEST).await.expect("sent");
    port.begun.notified().await;
    port.settings.send_replace(letting_in(&["dns:node.example"]));
    // He is let in no more while his call is under way, which ends well.
    assert_eq!(rest(&mut port.connect().await).await, "");
    port.go_on.notify_one();
    let answer = rest(&mut leaves).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");

    stays.write_all(REQUEST).await.expect("sent");
    port.begun.notified().await;
    port.go_on.notify_one();
    assert_eq!(stays.read_u8().await.expect("an answer"), b'H');
}

#[tokio::test]
async fn whose_certificate_was_revoked_has_his_connection_ended_when_the_configuration_is_read_again() {
    let port = Port::open(CONNECTION_AGE).await;
    let revoked = port.authority.issue(&["node.example"], Usage::Client, Term::Now).expect("issued");
    revoked.write(port.directory.path(), "node").expect("writable");
    let mut ends = port.connect().await;
    ends.write_all(REQUEST).await.expect("sent");
    port.begun.notified().await;
    port.go_on.notify_one();
    assert_eq!(ends.read_u8().await.expect("an answer"), b'H');
    let list = port.authority.revocation_list(&[&revoked], Term::Now).expect("signed");
    std::fs::write(port.directory.path().join("ca.crl"), list.der()).expect("writable");
    assert_eq!(rest(&mut port.connect().await).await, "", "the next connection is refused at once");
    port.settings.send_replace(letting_in(&["dns:node.example"]));
    assert!(rest(&mut ends).await.ends_with("done"));
}

#[tokio::test]
async fn one_client_too_many_is_sent_away_and_comes_in_when_another_has_gone() {
    let port = Port::open(CONNECTION_AGE).await;
    let mut connected = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = port.connect().await;
        // It has a place of its own once its call has begun.
        stream.write_all(REQUEST).await.expect("sent");
        port.begun.notified().await;
        connected.push(stream);
    }
    assert_eq!(rest(&mut port.connect().await).await, "");
    port.go_on.notify_waiters();
    drop(connected);
    let comes_in = async {
        loop {
            let mut stream = port.connect().await;
            let sent = stream.write_all(REQUEST).await;
            tokio::select! {
                () = port.begun.notified(), if sent.is_ok() => break,
                end = rest(&mut stream) => assert_eq!(end, "", "sent away, as places become free one by one"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, comes_in).await.expect("in time");
}
