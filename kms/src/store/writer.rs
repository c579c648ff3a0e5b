//! All that is written: what waits goes into one transaction, so that many share one fsync. Each piece of work has a
//! savepoint of its own: one that fails leaves nothing of its own, and takes nothing from the others.
//!
//! A thread of its own writes, or whoever is the only one who has something to write and need not wait for that thread.
//!
//! Results of signatures that are out already go along with what is written next, and are tried again until they are on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Transaction, TransactionBehavior};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::Span;

use super::queue::{Queue, Taken};
use super::{Batch, Conclusion, Store, StoreError};
use crate::pins::Pins;

/// How long results wait for work to go along with.
const LINGER: Duration = Duration::from_millis(10);
/// How long they wait when they could not be written.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Writes work, or hands it to the writing thread, which ends when this is dropped.
pub struct Writer {
    queue: Arc<WorkQueue>,
    pen: Arc<Mutex<Pen>>,
    thread: Option<JoinHandle<()>>,
}

type WorkQueue = Queue<Work, Conclusion>;

/// Whoever holds it writes. What is taken from the queue is taken by who holds it, so that it is written in the order in
/// which it came.
struct Pen {
    store: Store,
    pins: Pins,
    /// Why nothing is written any more.
    stopped: Option<StoreError>,
}

/// Writes something, or tells its caller why nothing of it is written.
type Work = Box<dyn FnOnce(Result<&mut Batch<'_>, StoreError>) -> Result<Reply, StoreError> + Send>;
/// Told once whether the transaction is on disk.
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Writer {
    /// Starts the thread. `pins` may have trusted headers that are to be written with whatever is written next.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn start(directory: &Path, pins: Pins) -> Result<Writer, StoreError> {
        let store = Store::open(directory)?;
        // Nothing is promised on a log whose end cannot be read.
        store.head()?;
        let queue = Arc::new(Queue::new());
        let path: PathBuf = store.path().into();
        let failed =
            |error: std::io::Error| StoreError::Failed { path: path.clone(), why: error.to_string() };
        let pen = Arc::new(Mutex::new(Pen { store, pins, stopped: None }));
        let (waiting, shared) = (queue.clone(), pen.clone());
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || write_all(&waiting, &shared))
            .map_err(failed)?;
        Ok(Writer { queue, pen, thread: Some(thread) })
    }

    /// Does `work` in the next transaction. Its result is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of it is written then. [`StoreError::Busy`] if [`WRITER_QUEUE`](super::WRITER_QUEUE) pieces of work wait.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.enqueue(work)?;
        answer.await.map_err(|_| StoreError::Busy)?
    }

    /// The same for one who has found nobody else at work. It is written on this thread, unless another is writing, or this
    /// is the only one that runs async tasks: to wake the writing thread and be woken by it would take longer.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn write_alone<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let has_others = Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1);
        let Some(mut pen) = self.pen.try_lock().ok().filter(|_| has_others) else {
            return self.write(work).await;
        };
        let (work, mut answer) = prepared(work);
        let mut taken = self.queue.take();
        taken.works.push(work);
        // What fails is told to whoever waits for it.
        let _ = pen.write(&self.queue, taken);
        drop(pen);
        answer.try_recv().map_err(|_| StoreError::Busy)?
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`Writer::write`].
    ///
    /// # Panics
    /// On a thread that runs async tasks.
    pub fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.enqueue(work)?;
        answer.blocking_recv().map_err(|_| StoreError::Busy)?
    }

    /// Has the result of a signature written with what is written next, or soon by itself; again and again, if it cannot be.
    /// False, and nothing done, if [`WRITER_QUEUE`](super::WRITER_QUEUE) wait already.
    pub fn conclude_later(&self, conclusion: Conclusion) -> bool {
        self.queue.put_result(conclusion)
    }

    /// How many pieces of work wait to be written, and how many results of signatures that are out, of
    /// [`WRITER_QUEUE`](super::WRITER_QUEUE) at most each.
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.lengths()
    }

    fn enqueue<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let (work, answer) = prepared(work);
        if self.queue.put(work) { Ok(answer) } else { Err(StoreError::Busy) }
    }
}

/// A piece of work as it is written, and where its answer will be.
fn prepared<T: Send + 'static>(
    work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
) -> (Work, oneshot::Receiver<Result<T, StoreError>>) {
    let (reply, answer) = oneshot::channel();
    let span = Span::current();
    // A caller who has gone needs no answer.
    let work: Work =
        Box::new(move |batch| match batch.and_then(|batch| span.in_scope(|| tried(batch, work))) {
            Ok(value) => Ok(Box::new(move |committed: Result<(), StoreError>| {
                let _ = reply.send(committed.map(|()| value));
            })),
            Err(error) => {
                let _ = reply.send(Err(error.clone()));
                Err(error)
            }
        });
    (work, answer)
}

fn tried<T>(
    batch: &mut Batch<'_>,
    work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    work(batch).inspect_err(|error| tracing::error!(%error, "a piece of work was not written"))
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // What it had taken is written; if it panicked, nothing of that transaction is.
            let _ = thread.join();
        }
    }
}

fn write_all(queue: &WorkQueue, pen: &Mutex<Pen>) {
    let mut patience = LINGER;
    while queue.wait(patience) {
        // Those who are about to put in more, if there are any, share the transaction.
        let mut seen = 0;
        while let (works, _) = queue.lengths()
            && works > seen
        {
            seen = works;
            std::thread::yield_now();
        }
        let mut pen = pen.lock().unwrap_or_else(PoisonError::into_inner);
        let written = pen.write(queue, queue.take());
        patience = if written.is_ok() { LINGER } else { RETRY_PAUSE };
    }
}

impl Pen {
    /// Writes what was taken, and tells all who wait for it.
    fn write(&mut self, queue: &WorkQueue, taken: Taken<Work, Conclusion>) -> Result<(), StoreError> {
        let Taken { results, works } = taken;
        if results.is_empty() && works.is_empty() {
            return Ok(());
        }
        let mut replies = Vec::with_capacity(works.len());
        let mut works = works.into_iter();
        let written = match &self.stopped {
            Some(error) => Err(error.clone()),
            None => write_batch(&self.store, &results, &mut works, &mut replies, &self.pins),
        };
        if let Err(error) = &written {
            tracing::error!(%error, "nothing was written");
            if matches!(error, StoreError::Stopped { .. }) {
                self.stopped = Some(error.clone());
            }
            for work in works {
                // It says the same to its caller.
                let _ = work(Err(error.clone()));
            }
            keep(queue, results, self.stopped.is_some());
        }
        for reply in replies {
            reply(written.clone());
        }
        written
    }
}

/// Keeps results that were not written for the next transaction, if there will be one.
fn keep(queue: &WorkQueue, results: Vec<Conclusion>, is_last: bool) {
    let lost = if is_last { results } else { queue.put_back(results).err().unwrap_or_default() };
    for lost in lost {
        let intent = lost.intent.number;
        tracing::error!(intent, "a signature that is out is not in the log; its bytes are, in the intent");
    }
}

fn write_batch(
    store: &Store,
    results: &[Conclusion],
    works: &mut impl Iterator<Item = Work>,
    replies: &mut Vec<Reply>,
    pins: &Pins,
) -> Result<(), StoreError> {
    let begun = Transaction::new_unchecked(&store.connection, TransactionBehavior::Immediate);
    let transaction = store.sql(begun)?;
    // From the file, not from memory: whatever failed before, the log goes on where its last durable entry is.
    let mut batch = Batch::new(store, store.head()?);
    // Before the work, so that whoever asks again for what was signed finds it.
    for result in results {
        if let Err(error) = batch.apart(|batch| batch.conclude(result))? {
            tracing::error!(intent = result.intent.number, %error, "a signature that is out is not in the log");
        }
    }
    for work in works {
        // One that failed has told its caller.
        if let Ok(reply) = batch.apart(|batch| work(Ok(batch)))? {
            replies.push(reply);
        }
    }
    // After the work was taken: what an intent relies on was trusted before it was sent.
    let trusted = pins.unwritten_trusted();
    for (chain, header) in &trusted {
        batch.put_trusted(chain, header)?;
    }
    match transaction.commit() {
        Ok(()) => {
            pins.trusted_are_written(&trusted);
            Ok(())
        }
        Err(error) => Err(after_commit(store, error)),
    }
}

/// What a failed commit means: after a failed fsync nobody knows what is on disk, and a second one may lie.
fn after_commit(store: &Store, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error() {
        Some(failure) if matches!(failure.extended_code, FSYNC_FAILED | DIRECTORY_FSYNC_FAILED) => {
            StoreError::Stopped { path: store.path.clone() }
        }
        _ => StoreError::sqlite(&store.path, error),
    }
}

/// `SQLITE_IOERR_FSYNC`
const FSYNC_FAILED: i32 = rusqlite::ffi::SQLITE_IOERR_FSYNC;
/// `SQLITE_IOERR_DIR_FSYNC`
const DIRECTORY_FSYNC_FAILED: i32 = rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC;

#[cfg(test)]
mod tests;
