//! Worker threads, one for each session, behind one bounded queue. A worker whose session is lost opens a new one, with
//! longer and longer pauses; what waits meanwhile is answered that the device is gone.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use assent_consensus::digest::Digest;
use assent_consensus::jwk::{PublicKey, Signature};
use p256::ecdsa;
use tokio::sync::oneshot;

use super::{Device, DeviceError, Driver, ObjectId};

/// The most jobs that wait for a session.
pub const POOL_QUEUE: usize = 1_024;
/// The first pause before a lost device is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A pool of sessions with one device. Its threads end when it is dropped.
pub struct Pool {
    queue: Arc<Queue>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&mut Seat<'_>) + Send>;

/// What waits, and a bell for the workers. The pool puts in, the workers take out.
struct Queue {
    jobs: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// Starts `sessions` workers.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(driver: Arc<dyn Driver>, sessions: usize) -> std::io::Result<Pool> {
        let queue = Arc::new(Queue { jobs: Mutex::default(), bell: Condvar::new() });
        let mut pool = Pool { queue: queue.clone(), threads: Vec::new() };
        for number in 0..sessions {
            let (queue, driver) = (queue.clone(), driver.clone());
            let work = move || {
                let mut seat = Seat { driver: &*driver, device: None, pause: None };
                while let Some(job) = queue.next() {
                    job(&mut seat);
                }
            };
            pool.threads.push(std::thread::Builder::new().name(format!("session-{number}")).spawn(work)?);
        }
        Ok(pool)
    }

    /// Signs with a key and verifies: the signature has its s in the low half.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn sign(
        &self,
        object: ObjectId,
        key: PublicKey,
        digest: Digest,
    ) -> Result<Signature, DeviceError> {
        self.run(move |device| {
            let signature = low_s(device.sign(object, &digest)?)?;
            key.verify_digest(&digest, &signature).map_err(|_| DeviceError::WrongSignature)?;
            Ok(signature)
        })
        .await
    }

    /// Does `work` with one session. If that is lost on the way, `work` is done once more with a new one.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&mut dyn Device) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.queue.put(Box::new(move |seat| {
            // Nobody waits for the answer any more: the caller has gone.
            let _ = reply.send(seat.run(&work));
        }))?;
        answer.await.map_err(|_| DeviceError::Gone("its worker ended".into()))?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A worker that panicked has dropped its session on the way.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn put(&self, job: Job) -> Result<(), DeviceError> {
        let mut waiting = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.jobs.len() >= POOL_QUEUE {
            return Err(DeviceError::Busy);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.bell.notify_one();
        Ok(())
    }

    /// The next job; nothing when the pool is dropped and all is done.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.bell.notify_all();
    }
}

/// One worker's session.
struct Seat<'d> {
    driver: &'d dyn Driver,
    device: Option<Box<dyn Device>>,
    pause: Option<Pause>,
}

/// No new session before a moment, because the last try failed.
struct Pause {
    until: Instant,
    length: Duration,
    why: DeviceError,
}

impl Seat<'_> {
    fn run<T>(&mut self, work: &dyn Fn(&mut dyn Device) -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        let is_fresh = self.device.is_none();
        let result = self.try_once(work);
        match result {
            Err(error) if error.is_lost() && !is_fresh => self.try_once(work),
            result => result,
        }
    }

    fn try_once<T>(
        &mut self,
        work: &dyn Fn(&mut dyn Device) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let result = work(self.device()?);
        if result.as_ref().is_err_and(DeviceError::is_lost) {
            self.device = None;
        }
        result
    }

    fn device(&mut self) -> Result<&mut dyn Device, DeviceError> {
        if let Some(pause) = self.pause.as_ref().filter(|_| self.device.is_none())
            && Instant::now() < pause.until
        {
            return Err(pause.why.clone());
        }
        if self.device.is_none() {
            match self.driver.connect() {
                Ok(device) => {
                    self.device = Some(device);
                    self.pause = None;
                }
                Err(why) => {
                    let length = self.pause.as_ref().map_or(FIRST_PAUSE, |pause| pause.length * 2);
                    let length = length.min(LAST_PAUSE);
                    tracing::warn!(error = %why, "no session with the token; the next try is in {length:?}");
                    self.pause = Some(Pause { until: Instant::now() + length, length, why: why.clone() });
                    return Err(why);
                }
            }
        }
        match &mut self.device {
            Some(device) => Ok(device.as_mut()),
            None => Err(DeviceError::Gone("there is no session".into())),
        }
    }
}

/// The same signature with s in the low half: both are valid, and one form leaves nothing to choose.
fn low_s(signature: Signature) -> Result<Signature, DeviceError> {
    let signature = ecdsa::Signature::from_slice(&signature).map_err(|_| DeviceError::WrongSignature)?;
    Ok(signature.normalize_s().to_bytes().into())
}
