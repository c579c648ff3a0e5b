//! Worker threads, one for each session, behind one bounded queue.
//!
//! ```text
//! run ─▶ queue ─▶ worker: session ── work ──▶ reply
//!                   │  lost: a new session, and the work once more
//!                   │  no session to be had: the work goes to those who have one, or is answered
//!                   └─ no return in time: the watch replies, and another thread takes the worker's place
//! ```
//!
//! A call into a device cannot be broken off. A thread that does not come back from one stays until it does, and is taken
//! up again then. There are at most twice as many threads as sessions; when all of them hang, work is refused at once.

mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use assent_consensus::operational_key::{
    KeyKind, MessageDigest, OperationalPublicKey, RawSignature, VerificationKey,
};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::oneshot;

use super::low_s::low_s;
use super::{Device, DeviceError, Driver, ObjectId};
use crate::tally::Tally;
pub use queue::PoolUse;
use queue::{Attempt, Job, Queue};

/// The most jobs that wait for a session.
pub const POOL_QUEUE: usize = 1_024;
/// How long a piece of work may keep a device, unless the configuration says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many times as long it may take to make a key, or to look at all keys.
pub const SLOW: u32 = 12;
/// The bounds of the classes into which the times of signatures fall, in seconds: from a token in software to the longest
/// wait that is usual.
const SIGNATURE_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A pool of sessions with one device. Its threads end when it is dropped, but for those that do not come back from the
/// device.
pub struct Pool {
    queue: Arc<Queue>,
    call_timeout: Duration,
    signature_seconds: Histogram,
    errors: Tally<&'static str>,
}

impl Pool {
    /// Starts `sessions` workers; a piece of work that keeps one for longer than `call_timeout` is answered as lost.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(driver: Arc<dyn Driver>, sessions: usize, call_timeout: Duration) -> std::io::Result<Pool> {
        let (signature_seconds, errors) = (Histogram::new(SIGNATURE_SECONDS), Tally::default());
        Ok(Pool { queue: Queue::start(driver, sessions)?, call_timeout, signature_seconds, errors })
    }

    /// What the pool does at this moment.
    pub fn in_use(&self) -> PoolUse {
        self.queue.in_use()
    }

    /// How long the device took for each signature that it gave, without the time in the queue.
    pub(crate) fn signature_seconds(&self) -> &Histogram {
        &self.signature_seconds
    }

    /// How often work failed, by [`DeviceError::reason`].
    pub(crate) fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.errors.counts()
    }

    /// Signs with a key and verifies: an ECDSA signature has its s in the low half.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn sign(
        &self,
        object: ObjectId,
        key: VerificationKey,
        digest: MessageDigest,
    ) -> Result<RawSignature, DeviceError> {
        let seconds = self.signature_seconds.clone();
        self.run(move |device| {
            let (algorithm, begun) = (key.algorithm(), Instant::now());
            let signature = device.sign(object, algorithm, &digest)?;
            seconds.observe(begun.elapsed().as_secs_f64());
            let signature = low_s(algorithm, &signature)?;
            key.verify(&digest, &signature).map_err(|_| DeviceError::WrongSignature)?;
            Ok(signature)
        })
        .await
    }

    /// Makes a key pair. One that is made too late for anybody to hear of it is destroyed.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn generate(
        &self,
        label: String,
        kind: KeyKind,
    ) -> Result<(ObjectId, OperationalPublicKey), DeviceError> {
        let undo = |device: &mut dyn Device, (object, _): (ObjectId, OperationalPublicKey)| {
            if let Err(error) = device.destroy(object) {
                tracing::error!(%object, %error, "a key that nobody waits for any more is left on the token");
            }
        };
        self.run_within(self.call_timeout * SLOW, move |device| device.generate(&label, kind), undo).await
    }

    /// Does `work` with one session. If that is lost on the way, `work` is done once more with a new one.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&mut dyn Device) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        self.run_within(self.call_timeout, work, |_, _| ()).await
    }

    /// The same for work that looks at many objects.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn run_slow<T: Send + 'static>(
        &self,
        work: impl Fn(&mut dyn Device) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        self.run_within(self.call_timeout * SLOW, work, |_, _| ()).await
    }

    /// Does what the device needs before the process ends; see [`Driver::finish`].
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn finish(&self) -> Result<(), DeviceError> {
        let driver = self.queue.driver()?;
        let finished = tokio::task::spawn_blocking(move || driver.finish()).await;
        finished.unwrap_or_else(|error| Err(DeviceError::Failed(error.to_string())))
    }

    /// `undo` takes back what was done too late for anybody to hear of it.
    async fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut dyn Device) -> Result<T, DeviceError> + Send + 'static,
        undo: impl Fn(&mut dyn Device, T) + Send + 'static,
    ) -> Result<T, DeviceError> {
        let done = self.try_within(limit, work, undo).await;
        done.inspect_err(|error| self.errors.count(error.reason()))
    }

    async fn try_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut dyn Device) -> Result<T, DeviceError> + Send + 'static,
        undo: impl Fn(&mut dyn Device, T) + Send + 'static,
    ) -> Result<T, DeviceError> {
        let (reply, answer) = oneshot::channel::<Result<T, DeviceError>>();
        // Both the worker and the watch may answer: whoever is first.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let take = move || reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        let take_to_fail = take.clone();
        self.queue.put(Job::new(
            limit,
            move |device| match work(device) {
                Err(why) if why.is_lost() => Attempt::Lost(why),
                result => {
                    let unheard = match take() {
                        Some(reply) => reply.send(result).err(),
                        None => Some(result),
                    };
                    if let Some(Ok(done)) = unheard {
                        undo(device, done);
                    }
                    Attempt::Done
                }
            },
            move |why| {
                // Nobody waits for the answer any more: the caller has gone.
                drop(take_to_fail().map(|reply| reply.send(Err(why))));
            },
        ))?;
        answer.await.map_err(|_| DeviceError::Gone("its worker ended".into()))?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close(self.call_timeout);
    }
}
