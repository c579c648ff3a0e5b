//! The one thread that writes: all that waits goes into one transaction, so that many share one fsync. Each piece of work
//! has a savepoint of its own: one that fails leaves nothing of its own, and takes nothing from the others.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rusqlite::{Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Store, StoreError};
use crate::pins::Pins;

/// The most pieces of work that wait to be written.
pub const WRITER_QUEUE: usize = 2_048;
/// The most pieces of work in one transaction.
const BATCH_LIMIT: usize = 512;

/// Hands work to the writing thread, which ends when this is dropped.
pub struct Writer {
    sender: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
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
        let (sender, receiver) = mpsc::channel(WRITER_QUEUE);
        let path: PathBuf = store.path().into();
        let failed =
            |error: std::io::Error| StoreError::Failed { path: path.clone(), why: error.to_string() };
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || write_all(&store, receiver, &pins))
            .map_err(failed)?;
        Ok(Writer { sender: Some(sender), thread: Some(thread) })
    }

    /// Does `work` in the next transaction. Its result is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of it is written then. [`StoreError::Busy`] if [`WRITER_QUEUE`] pieces of work wait.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.enqueue(work)?;
        answer.await.map_err(|_| StoreError::Busy)?
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

    fn enqueue<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let (reply, answer) = oneshot::channel();
        // A caller who has gone needs no answer.
        let work: Work = Box::new(move |batch| match batch.and_then(work) {
            Ok(value) => Ok(Box::new(move |committed: Result<(), StoreError>| {
                let _ = reply.send(committed.map(|()| value));
            })),
            Err(error) => {
                let _ = reply.send(Err(error.clone()));
                Err(error)
            }
        });
        let sender = self.sender.as_ref().ok_or(StoreError::Busy)?;
        sender.try_send(work).map_err(|_| StoreError::Busy)?;
        Ok(answer)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // What it had taken is written; if it panicked, nothing of that transaction is.
            let _ = thread.join();
        }
    }
}

fn write_all(store: &Store, mut receiver: mpsc::Receiver<Work>, pins: &Pins) {
    let mut stopped = None;
    let mut waiting = Vec::with_capacity(BATCH_LIMIT);
    while receiver.blocking_recv_many(&mut waiting, BATCH_LIMIT) > 0 {
        let mut replies = Vec::with_capacity(waiting.len());
        let mut works = waiting.drain(..);
        let result = match &stopped {
            Some(error) => Err(StoreError::clone(error)),
            None => write_batch(store, &mut works, &mut replies, pins),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "nothing was written");
            if matches!(error, StoreError::Stopped { .. }) {
                stopped = Some(error.clone());
            }
            for work in works {
                // It says the same to its caller.
                let _ = work(Err(error.clone()));
            }
        }
        for reply in replies {
            reply(result.clone());
        }
    }
}

fn write_batch(
    store: &Store,
    works: &mut impl Iterator<Item = Work>,
    replies: &mut Vec<Reply>,
    pins: &Pins,
) -> Result<(), StoreError> {
    let begun = Transaction::new_unchecked(&store.connection, TransactionBehavior::Immediate);
    let transaction = store.sql(begun)?;
    // From the file, not from memory: whatever failed before, the log goes on where its last durable entry is.
    let mut batch = Batch::new(store, store.head()?);
    for work in works {
        match batch.apart(|batch| work(Ok(batch)))? {
            Ok(reply) => replies.push(reply),
            Err(error) => tracing::error!(%error, "a piece of work was not written"),
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
