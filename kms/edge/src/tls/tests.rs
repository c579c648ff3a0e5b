//! Handshakes over loopback, with certificates of a throw-away authority.

use std::path::Path;

use assent_hsm_mock::{Authority, Issued, Term, Usage};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::private_file::NotPrivate;

const NODE: &str = "node.example";
const KMS: &str = "127.0.0.1";

/// A KMS and a node, each with its files, and what they trust.
struct Pair {
    directory: TempDir,
    authority: Authority,
    kms: Server,
    clients: Arc<[ClientName]>,
    listener: TcpListener,
}

impl Pair {
    /// The KMS takes the client [`NODE`] alone.
    fn new() -> Pair {
        Pair::with_clients(&["dns:node.example"])
    }

    fn with_clients(clients: &[&str]) -> Pair {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::of_pair(directory.path(), KMS, NODE).expect("made");
        let clients = clients.iter().map(|client| client.parse().expect("a client")).collect();
        let kms = Server::new(open(directory.path(), "kms"), None);
        let listener = std::net::TcpListener::bind((KMS, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(listener).expect("a runtime");
        Pair { directory, authority, kms, clients, listener }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The node connects and says a word, and the KMS answers with another one: what each side has to say of that.
    async fn meet(&self, node: &Client) -> (Result<String, TurnedAway>, Result<(), String>) {
        let serve = async {
            let (stream, _) = self.listener.accept().await.expect("somebody");
            let (mut stream, visitor) = self.kms.accept(stream, self.clients.clone()).await?;
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.expect("a word");
            stream.write_all(b"well?").await.expect("sent");
            stream.shutdown().await.expect("ended");
            Ok(visitor.to_string())
        };
        let call = async {
            let mut stream = node.connect().await.map_err(|error| error.to_string())?;
            let exchange = async {
                stream.write_all(b"hello").await?;
                let mut word = [0; 5];
                stream.read_exact(&mut word).await
            };
            let exchanged: std::io::Result<usize> = exchange.await;
            exchanged.map(drop).map_err(|error| refusal(&error).unwrap_or_else(|| error.to_string()))
        };
        tokio::join!(serve, call)
    }

    /// The node with what is in its files meets the KMS.
    async fn meet_node(&self) -> (Result<String, TurnedAway>, Result<(), String>) {
        self.meet(&self.node()).await
    }

    fn node(&self) -> Client {
        let port = self.listener.local_addr().expect("bound").port();
        Client::new(open(self.path(), "node"), KMS.parse().expect("a host"), port)
    }
}

fn issue(authority: &Authority, names: &[&str], usage: Usage, term: Term) -> Issued {
    authority.issue(names, usage, term).expect("issued")
}

fn files(directory: &Path, name: &str) -> Files {
    Files {
        certificate: directory.join(format!("{name}.crt")),
        private_key: directory.join(format!("{name}.key")),
        authorities: directory.join("ca.crt"),
    }
}

fn open(directory: &Path, name: &str) -> Rotating {
    Rotating::open(files(directory, name)).expect("good files")
}

#[tokio::test]
async fn those_who_are_listed_by_dns_name_uri_or_key_come_in() {
    let pair = Pair::new();
    let (came, called) = pair.meet_node().await;
    assert_eq!(called, Ok(()));
    let came = came.expect("in");
    assert!(came.starts_with("dns:node.example, sha256:"), "{came}");

    let key = came.split(", ").last().expect("the key");
    let by_key = Pair { clients: [key.parse().expect("a key")].into(), ..pair };
    assert_eq!(by_key.meet_node().await.1, Ok(()));

    let by_uri = Pair::with_clients(&["dns:other", "uri:spiffe://example/node"]);
    let names = ["spiffe://example/node", "node.example"];
    issue(&by_uri.authority, &names, Usage::Client, Term::Now)
        .write(by_uri.path(), "node")
        .expect("writable");
    assert_eq!(by_uri.meet_node().await.1, Ok(()));
}

#[tokio::test]
async fn who_may_not_come_in_is_told_why_and_so_is_the_kms() {
    let pair = Pair::new();
    let foreign = Authority::new("foreign").expect("made");
    let of = |names: &[&str], usage, term| issue(&pair.authority, names, usage, term);
    for (issued, for_kms, for_node) in [
        (of(&[NODE], Usage::Client, Term::Past), "it expired on 2021-01-01T00:00:00Z", "it has expired"),
        (of(&[NODE], Usage::Client, Term::Future), "not valid before 4000-01-01", "or is not valid yet"),
        (
            of(&["other.example"], Usage::Client, Term::Now),
            "`clients` lists neither",
            "its `clients` list neither",
        ),
        (
            of(&["sub.node.example"], Usage::Client, Term::Now),
            "`clients` lists neither",
            "its `clients` list neither",
        ),
        (
            of(&["uri:node.example"], Usage::Client, Term::Now),
            "`clients` lists neither",
            "its `clients` list neither",
        ),
        (of(&[], Usage::Client, Term::Now), "`clients` lists neither", "its `clients` list neither"),
        (of(&[NODE], Usage::Server, Term::Now), "clientAuth", "clientAuth"),
        (
            issue(&foreign, &[NODE], Usage::Client, Term::Now),
            "no authority",
            "no authority in its `clients_ca`",
        ),
    ] {
        issued.write(pair.path(), "node").expect("writable");
        let (came, called) = pair.meet_node().await;
        let turned_away = came.expect_err("turned away").to_string();
        assert!(turned_away.contains(for_kms) && turned_away.contains("sha256:"), "{turned_away}");
        let called = called.expect_err("refused");
        assert!(called.starts_with("the KMS does not take this node's certificate"), "{called}");
        assert!(called.contains(for_node), "{called}");
    }
}

#[tokio::test]
async fn who_is_turned_away_while_he_talks_still_learns_why() {
    let pair = Pair::new();
    issue(&pair.authority, &["other.example"], Usage::Client, Term::Now)
        .write(pair.path(), "node")
        .expect("writable");
    let node = pair.node();
    let serve = async {
        let (stream, _) = pair.listener.accept().await.expect("somebody");
        pair.kms.accept(stream, pair.clients.clone()).await.map(drop).expect_err("turned away")
    };
    let call = async {
        let mut stream = node.connect().await.expect("the KMS has yet to look");
        stream.get_ref().0.readable().await.expect("the alert");
        for _ in 0..2 {
            stream.write_all(b"hello").await.expect("the KMS still listens");
        }
        refusal(&stream.read_u8().await.expect_err("an alert"))
    };
    let (_, why) = tokio::join!(serve, call);
    assert!(why.is_some_and(|why| why.contains("its `clients` list neither")));
}

#[tokio::test]
async fn a_node_talks_to_nobody_but_the_kms_that_it_names() {
    let pair = Pair::new();
    let foreign = Authority::new("foreign").expect("made");
    let of = |names: &[&str], usage, term| issue(&pair.authority, names, usage, term);
    for (issued, why) in [
        (of(&[KMS], Usage::Server, Term::Past), "it expired on 2021-01-01T00:00:00Z"),
        (of(&["127.0.0.2", "kms.example"], Usage::Server, Term::Now), "it is for"),
        (of(&[KMS], Usage::Client, Term::Now), "serverAuth"),
        (issue(&foreign, &[KMS], Usage::Server, Term::Now), "no authority"),
    ] {
        issued.write(pair.path(), "kms").expect("writable");
        let (came, called) = pair.meet_node().await;
        assert!(came.expect_err("the node broke off").why.contains("it refuses the KMS's certificate"));
        let called = called.expect_err("refused");
        assert!(called.contains("the certificate of the KMS is not good for `127.0.0.1`"), "{called}");
        assert!(called.contains(why), "{called}");
    }
}

#[tokio::test]
async fn certificates_that_are_replaced_are_used_from_the_next_connection_on() {
    let pair = Pair::new();
    let node = pair.node();
    let before = pair.meet(&node).await.0.expect("in");
    issue(&pair.authority, &[NODE], Usage::Client, Term::Now).write(pair.path(), "node").expect("writable");
    let after = pair.meet(&node).await.0.expect("in");
    assert_ne!(before, after, "another key");
    let shown = pair.kms.look().0.certificate().to_string();
    issue(&pair.authority, &[KMS], Usage::Server, Term::Now).write(pair.path(), "kms").expect("writable");
    assert_eq!(pair.meet(&node).await.1, Ok(()));
    assert_ne!(pair.kms.look().0.certificate().to_string(), shown);

    // Another authority: first it is trusted beside the old one, then the certificates are replaced, then the old one goes.
    let next = Authority::new("next").expect("made");
    let both = pair.authority.certificate().to_owned() + next.certificate();
    std::fs::write(pair.path().join("ca.crt"), both).expect("writable");
    assert_eq!(pair.meet(&node).await.1, Ok(()));
    issue(&next, &[KMS], Usage::Server, Term::Now).write(pair.path(), "kms").expect("writable");
    assert_eq!(pair.meet(&node).await.1, Ok(()));
    std::fs::write(pair.path().join("ca.crt"), next.certificate()).expect("writable");
    assert!(pair.meet(&node).await.0.expect_err("of the old authority").why.contains("no authority"));
    issue(&next, &[NODE], Usage::Client, Term::Now).write(pair.path(), "node").expect("writable");
    assert_eq!(pair.meet(&node).await.1, Ok(()));
}

#[tokio::test]
async fn files_that_do_not_belong_together_or_cannot_be_read_leave_the_old_ones_in_use() {
    let pair = Pair::new();
    let own = open(pair.path(), "node");
    let before = own.look().certificate().clone();
    let new = issue(&pair.authority, &[NODE], Usage::Client, Term::Now);
    let (certificate, key) = (pair.path().join("node.crt"), pair.path().join("node.key"));
    let old_key = std::fs::read(&key).expect("there");
    for (broken, wrong) in [
        (
            Issued { private_key: String::from_utf8(old_key).expect("PEM"), ..new.clone() },
            "is not for the private key",
        ),
        (
            Issued { certificate: "none".into(), ..new.clone() },
            "does not hold certificates in PEM: there is none",
        ),
        (Issued { private_key: "none".into(), ..new.clone() }, "there is none without a passphrase"),
        (
            Issued { private_key: new.private_key.replace('M', "?"), ..new.clone() },
            "does not hold a private key",
        ),
    ] {
        broken.write(pair.path(), "node").expect("writable");
        assert_eq!(*own.look().certificate(), before, "{wrong}");
        let error = files(pair.path(), "node").read().expect_err("broken").to_string();
        assert!(error.contains(wrong), "{error}");
    }
    std::fs::remove_file(&certificate).expect("there");
    assert_eq!(*own.look().certificate(), before);
    new.write(pair.path(), "node").expect("writable");
    assert_ne!(*own.look().certificate(), before);
}

#[tokio::test]
async fn a_private_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let pair = Pair::new();
    for mode in [0o640, 0o604, 0o660, 0o602] {
        let private = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(pair.path().join("node.key"), private).expect("ours");
        let error = files(pair.path(), "node").read().expect_err("refused");
        assert!(matches!(error, CredentialsError::Open { why: NotPrivate::Mode { .. }, .. }), "{error}");
    }
    std::fs::create_dir(pair.path().join("directory")).expect("made");
    let directory = Files { private_key: pair.path().join("directory"), ..files(pair.path(), "node") };
    assert!(matches!(directory.read(), Err(CredentialsError::Read { .. })));
}

#[tokio::test]
async fn who_is_on_a_revocation_list_is_refused_and_everybody_without_one_that_is_good() {
    let list = "ca.crl";
    let mut pair = Pair::new();
    pair.kms = Server::new(open(pair.path(), "kms"), Some(pair.path().join(list)));
    let put = |content: &[u8]| std::fs::write(pair.path().join(list), content).expect("writable");
    let revoking =
        |of: &Authority, revoked: &[&Issued], term| of.revocation_list(revoked, term).expect("signed");
    let [good, stolen] = [(); 2].map(|()| issue(&pair.authority, &[NODE], Usage::Client, Term::Now));
    good.write(pair.path(), "node").expect("writable");

    let unknown = "nobody is let in, since it is not known who is revoked: ";
    let unusable = "or its `clients_crl` is not usable";
    let (came, called) = pair.meet_node().await;
    let came = came.expect_err("there is no list");
    assert!(came.why.starts_with(&format!("{unknown}cannot read `")) && came.shown.is_some(), "{came}");
    let called = called.expect_err("refused");
    assert!(called.contains(unusable), "{called}");

    let empty = revoking(&pair.authority, &[], Term::Now);
    let with_stolen = revoking(&pair.authority, &[&stolen], Term::Now);
    let foreign = Authority::new("foreign").expect("made");
    for (content, why) in [
        (Vec::new(), "there is none"),
        (b"x".to_vec(), "there is none"),
        (pair.authority.certificate().as_bytes().to_vec(), "there is none"),
        (empty.pem().expect("PEM").replace('M', "?").into_bytes(), "it is broken"),
        (empty.der()[..empty.der().len() - 1].to_vec(), "one is broken"),
        (revoking(&foreign, &[], Term::Now).der().to_vec(), "no list in `clients_crl` is of the authority"),
        (revoking(&pair.authority, &[], Term::Past).der().to_vec(), "would name it expired on 2021-01-01"),
        (vec![b'x'; 5_000_000], "it has more than 4194304 bytes"),
    ] {
        put(&content);
        let (came, called) = pair.meet_node().await;
        let came = came.expect_err("turned away").to_string();
        assert!(came.contains(why), "{why}: {came}");
        let called = called.expect_err("refused");
        assert!(called.contains(unusable), "{called}");
    }

    let both = revoking(&foreign, &[], Term::Now).pem().expect("PEM") + &with_stolen.pem().expect("PEM");
    for content in [both.as_bytes(), with_stolen.der()] {
        put(content);
        good.write(pair.path(), "node").expect("writable");
        assert_eq!(pair.meet_node().await.1, Ok(()));
        stolen.write(pair.path(), "node").expect("writable");
        let (came, called) = pair.meet_node().await;
        assert!(came.expect_err("revoked").why.contains("its authority has revoked it"));
        assert!(called.expect_err("refused").ends_with("its authority has revoked it"));
    }
    put(empty.der());
    assert_eq!(pair.meet_node().await.1, Ok(()), "as the file is now");
}
