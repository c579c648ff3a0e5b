//! HTTP/1.1 with the KMS over its Unix socket, one request after the other on one connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use assent_consensus::duty::{DutyBatch, DutyReport, TrustedHeaders};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// A connection that stays open.
pub struct Connection {
    stream: BufReader<UnixStream>,
}

/// A status and a body.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects to a socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(socket: &Path) -> Result<Connection> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to `{}`", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// What the KMS trusts.
    ///
    /// # Errors
    /// It does not say.
    pub fn trusted(&mut self) -> Result<TrustedHeaders> {
        let answer = self.exchange("GET", "/v1/trusted", b"")?;
        serde_json::from_slice(answer.good()?).context("the trusted headers cannot be read")
    }

    /// Hands over a batch.
    ///
    /// # Errors
    /// The batch as a whole is refused.
    pub fn perform(&mut self, batch: &DutyBatch) -> Result<DutyReport> {
        let answer = self.send(&serde_json::to_vec(batch)?)?;
        serde_json::from_slice(answer.good()?).context("the report cannot be read")
    }

    /// Hands over the bytes of a batch.
    ///
    /// # Errors
    /// There is no answer.
    pub fn send(&mut self, batch: &[u8]) -> Result<Answer> {
        self.exchange("POST", "/v1/duties", batch)
    }

    /// One exchange.
    ///
    /// # Errors
    /// There is no answer.
    pub fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: kms\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        self.wait()?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("the connection was closed")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        if length > ANSWER_LIMIT {
            bail!("an answer of {length} bytes");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, body })
    }

    /// Waits for the beginning of an answer, as a node does: one who waits in `read` instead is woken by the kernel also when
    /// what he sent is read.
    fn wait(&self) -> Result<()> {
        let mut stream = [PollFd::new(self.stream.get_ref(), PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE)?;
        let ready = retry_on_intr(|| poll(&mut stream, Some(&patience)))?;
        ensure!(ready > 0, "no answer in {PATIENCE:?}");
        Ok(())
    }
}

impl Answer {
    /// The body of a good answer.
    ///
    /// # Errors
    /// The status is not 200.
    pub fn good(&self) -> Result<&[u8]> {
        if self.status != 200 {
            bail!("status {}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(&self.body)
    }

    /// The `code` of a refusal as a whole.
    pub fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get("code")?.as_str()?.to_owned())
    }
}
