//! What waits to be written: work that somebody waits for, which is taken at once, and results, which nobody waits for any
//! more. They go along with the work, or after a while by themselves.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most pieces of work, and the most results, that wait to be written.
pub const WRITER_QUEUE: usize = 2_048;
/// The most pieces of work in one transaction.
const BATCH_LIMIT: usize = 512;

/// A queue that one thread waits at.
pub(super) struct Queue<W, R> {
    waiting: Mutex<Waiting<W, R>>,
    bell: Condvar,
}

struct Waiting<W, R> {
    works: VecDeque<W>,
    results: Vec<R>,
    /// Whether the one who waits does so for as long as nobody rings; else it looks again by itself.
    sleeps: bool,
    closed: bool,
}

/// What goes into one transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken<W, R> {
    /// All that waited, in the order in which they came; they are older than the work.
    pub(super) results: Vec<R>,
    /// At most [`BATCH_LIMIT`], in the order in which they came.
    pub(super) works: Vec<W>,
}

impl<W, R> Queue<W, R> {
    pub(super) fn new() -> Queue<W, R> {
        let waiting = Waiting { works: VecDeque::new(), results: Vec::new(), sleeps: false, closed: false };
        Queue { waiting: Mutex::new(waiting), bell: Condvar::new() }
    }

    /// Appends a piece of work; false, and nothing done, if [`WRITER_QUEUE`] wait already or nothing is taken any more.
    pub(super) fn put(&self, work: W) -> bool {
        let mut waiting = self.lock();
        if waiting.closed || waiting.works.len() >= WRITER_QUEUE {
            return false;
        }
        waiting.works.push_back(work);
        drop(waiting);
        self.bell.notify_one();
        true
    }

    /// Appends a result; false, and nothing done, if [`WRITER_QUEUE`] wait already or nothing is taken any more.
    pub(super) fn put_result(&self, result: R) -> bool {
        let mut waiting = self.lock();
        if waiting.closed || waiting.results.len() >= WRITER_QUEUE {
            return false;
        }
        waiting.results.push(result);
        self.ring_if_asleep(waiting);
        true
    }

    /// Puts results that were taken before all that came since; nothing more is given out if the queue is closed, and then
    /// they are handed back.
    pub(super) fn put_back(&self, mut results: Vec<R>) -> Result<(), Vec<R>> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(results);
        }
        results.append(&mut waiting.results);
        waiting.results = results;
        self.ring_if_asleep(waiting);
        Ok(())
    }

    /// Waits until there is something to write, which for results alone is after `patience`; false once it is closed and all
    /// is taken. What there was may be taken by somebody else meanwhile.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let mut waiting = self.lock();
        // At first it does not sleep, so that a result that is put in soon after the last transaction needs no bell.
        let mut until = Instant::now() + patience;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let is_late = waiting.closed || rest.is_zero();
            if !waiting.works.is_empty() || (is_late && !waiting.results.is_empty()) {
                return true;
            }
            if waiting.closed {
                return false;
            }
            waiting = if rest.is_zero() {
                waiting.sleeps = true;
                let mut woken = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                woken.sleeps = false;
                until = Instant::now() + patience;
                woken
            } else {
                self.bell.wait_timeout(waiting, rest).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// What is to be written next.
    pub(super) fn take(&self) -> Taken<W, R> {
        let mut waiting = self.lock();
        let count = waiting.works.len().min(BATCH_LIMIT);
        Taken { results: std::mem::take(&mut waiting.results), works: waiting.works.drain(..count).collect() }
    }

    /// How many pieces of work wait, and how many results.
    pub(super) fn lengths(&self) -> (usize, usize) {
        let waiting = self.lock();
        (waiting.works.len(), waiting.results.len())
    }

    /// Takes nothing more; what waits is still given out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    /// For results: one who does not sleep comes upon them by himself.
    fn ring_if_asleep(&self, waiting: MutexGuard<'_, Waiting<W, R>>) {
        let must_ring = waiting.sleeps;
        drop(waiting);
        if must_ring {
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<W, R>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So long that a test that waits for it fails.
    const LONG: Duration = Duration::from_secs(3_600);

    fn next<W, R>(queue: &Queue<W, R>, patience: Duration) -> Option<Taken<W, R>> {
        queue.wait(patience).then(|| queue.take())
    }

    #[test]
    fn results_go_along_with_the_work_that_is_awaited() {
        let queue = Queue::new();
        assert!(queue.put_result('a') && queue.put(1) && queue.put(2) && queue.put_result('b'));
        assert_eq!(next(&queue, LONG), Some(Taken { results: vec!['a', 'b'], works: vec![1, 2] }));
    }

    #[test]
    fn results_alone_are_given_out_in_the_end() {
        let queue: Queue<(), char> = Queue::new();
        queue.put_result('a');
        assert_eq!(next(&queue, Duration::ZERO).map(|taken| taken.results), Some(vec!['a']));
    }

    #[test]
    fn one_who_sleeps_hears_of_a_result() {
        let put: [fn(&Queue<(), char>); 2] =
            [|queue| assert!(queue.put_result('a')), |queue| queue.put_back(vec!['a']).expect("it is open")];
        for put in put {
            let queue: Queue<(), char> = Queue::new();
            std::thread::scope(|scope| {
                let taker = scope.spawn(|| next(&queue, Duration::ZERO));
                while !queue.lock().sleeps {
                    std::thread::yield_now();
                }
                put(&queue);
                assert_eq!(taker.join().expect("no panic").map(|taken| taken.results), Some(vec!['a']));
            });
        }
    }

    #[test]
    fn results_that_are_put_back_come_before_the_later_ones() {
        let queue: Queue<(), char> = Queue::new();
        queue.put_result('b');
        assert_eq!(queue.put_back(vec!['a']), Ok(()));
        queue.close();
        assert_eq!(next(&queue, LONG).map(|taken| taken.results), Some(vec!['a', 'b']));
        assert_eq!(queue.put_back(vec!['a']), Err(vec!['a']));
    }

    #[test]
    fn what_waits_when_it_is_closed_is_still_given_out_and_nothing_more_is_taken() {
        let queue = Queue::new();
        queue.put_result('a');
        queue.close();
        assert!(!queue.put(2) && !queue.put_result('b'));
        assert_eq!(next(&queue, LONG), Some(Taken { results: vec!['a'], works: vec![] }));
        assert_eq!(next(&queue, LONG), None);
    }

    #[test]
    fn the_queue_has_an_end_and_so_has_a_transaction() {
        let queue = Queue::new();
        for number in 0..WRITER_QUEUE {
            assert!(queue.put(number) && queue.put_result(number));
        }
        assert!(!queue.put(0) && !queue.put_result(0));
        assert_eq!(queue.lengths(), (WRITER_QUEUE, WRITER_QUEUE));
        let mut taken = Vec::new();
        for _ in 0..WRITER_QUEUE / BATCH_LIMIT {
            let works = next(&queue, LONG).expect("work").works;
            assert_eq!(works.len(), BATCH_LIMIT);
            taken.extend(works);
        }
        assert_eq!(taken, (0..WRITER_QUEUE).collect::<Vec<_>>());
    }
}
