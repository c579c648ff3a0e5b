//! What waits, who works, and who watches how long that takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tracing::Span;

use super::POOL_QUEUE;
use crate::device::{Device, DeviceError, Driver};

/// The first pause before a device that gave no session is asked for one again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How often a job is tried with sessions that turn out to be lost.
const ATTEMPTS: u32 = 2;

/// How a try of a job ended.
pub(super) enum Attempt {
    /// It is answered.
    Done,
    /// The session was lost before there was an answer.
    Lost(DeviceError),
}

/// A piece of work, and how to say that it is not done.
pub(super) struct Job {
    limit: Duration,
    attempts: u32,
    work: Box<Work>,
    fail: Arc<Fail>,
    /// What it is part of, for the log.
    span: Span,
}

type Work = dyn Fn(&mut dyn Device) -> Attempt + Send;
type Fail = dyn Fn(DeviceError) + Send + Sync;

impl Job {
    /// `fail` may be called while `work` runs, or after: the first answer counts.
    pub(super) fn new(
        limit: Duration,
        work: impl Fn(&mut dyn Device) -> Attempt + Send + 'static,
        fail: impl Fn(DeviceError) + Send + Sync + 'static,
    ) -> Job {
        Job { limit, attempts: 0, work: Box::new(work), fail: Arc::new(fail), span: Span::current() }
    }
}

/// The queue of one device, its workers, and the watch over them.
pub(super) struct Queue {
    /// Until the queue is closed and nobody uses the device any more.
    driver: Mutex<Option<Arc<dyn Driver>>>,
    sessions: usize,
    state: Mutex<State>,
    /// For the workers: there is a job, or a reason to look again.
    bell: Condvar,
    /// For the watch: somebody began to work who may be late before it looks again, or it is over.
    watch: Condvar,
    /// For whoever closes: a worker ended.
    ended: Condvar,
}

/// What a pool does at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// How many sessions there are at most.
    pub sessions: usize,
    /// How many of them are open.
    pub open: usize,
    /// How many workers do something.
    pub busy: usize,
    /// How many calls were given up and have not returned.
    pub hanging: usize,
    /// How many jobs wait, of [`POOL_QUEUE`] at most.
    pub waiting: usize,
    /// How many sessions were lost since the start.
    pub lost: u64,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
    /// Workers that have not been given up.
    workers: usize,
    /// Threads that were given up and have not come back.
    hanging: usize,
    /// How many workers have a session.
    connected: usize,
    /// By worker, what it does and until when.
    running: BTreeMap<u64, Running>,
    next_worker: u64,
    /// When the watch looks again by itself.
    next_look: Option<Instant>,
    pause: Option<Pause>,
    /// How many sessions were lost.
    lost: u64,
}

struct Running {
    until: Instant,
    limit: Duration,
    fail: Arc<Fail>,
    span: Span,
    has_session: bool,
    /// It is asking for a session, and may get the last one.
    is_connecting: bool,
}

impl State {
    /// Whether a worker has a session, or may be about to: work is left to that one by those who get none.
    fn may_be_served(&self) -> bool {
        self.connected > 0 || self.running.values().any(|running| running.is_connecting)
    }
}

/// No new session before a moment, because the last try failed.
struct Pause {
    until: Instant,
    length: Duration,
    why: DeviceError,
}

impl Queue {
    pub(super) fn start(driver: Arc<dyn Driver>, sessions: usize) -> std::io::Result<Arc<Queue>> {
        let queue = Arc::new(Queue {
            driver: Mutex::new(Some(driver)),
            sessions,
            state: Mutex::default(),
            bell: Condvar::new(),
            watch: Condvar::new(),
            ended: Condvar::new(),
        });
        for _ in 0..sessions {
            queue.add_worker(&mut queue.state())?;
        }
        let watched = Arc::downgrade(&queue);
        thread::Builder::new().name("device-watch".into()).spawn(move || watch(&watched))?;
        Ok(queue)
    }

    pub(super) fn driver(&self) -> Result<Arc<dyn Driver>, DeviceError> {
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone();
        driver.ok_or_else(|| DeviceError::Gone("the KMS stops".into()))
    }

    pub(super) fn in_use(&self) -> PoolUse {
        let state = self.state();
        PoolUse {
            sessions: self.sessions,
            open: state.connected,
            busy: state.running.len(),
            hanging: state.hanging,
            waiting: state.jobs.len(),
            lost: state.lost,
        }
    }

    pub(super) fn put(&self, job: Job) -> Result<(), DeviceError> {
        let mut state = self.state();
        if state.jobs.len() >= POOL_QUEUE {
            return Err(DeviceError::Busy);
        }
        if state.workers == 0 {
            return Err(DeviceError::Gone(format!(
                "{} calls to it have not returned, and no other is made before one does",
                state.hanging
            )));
        }
        state.jobs.push_back(job);
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// Ends the workers when all that waits is done, and waits for them, but not for those that hang.
    pub(super) fn close(&self, patience: Duration) {
        let mut state = self.state();
        state.closed = true;
        self.bell.notify_all();
        self.watch.notify_all();
        let by = Instant::now() + patience;
        while state.workers > 0 {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(workers = state.workers, "calls to a device do not return; they are left");
                state.jobs.drain(..).for_each(|job| (job.fail)(DeviceError::Gone("the KMS stops".into())));
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // It ends here, with its module, and not in a worker or a watch beside the end of the process: what a module does
        // at that end waits for ever for a lock that goes meanwhile.
        drop(self.driver.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_worker(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let (number, queue) = (state.next_worker, self.clone());
        thread::Builder::new().name(format!("session-{number}")).spawn(move || {
            let mut worker = Worker { number, queue, device: None };
            worker.work();
        })?;
        state.next_worker += 1;
        state.workers += 1;
        Ok(())
    }

    /// A worker did not come back in time: it is given up, and another takes its place.
    fn give_up(self: &Arc<Self>, state: &mut State, number: u64) {
        let Some(running) = state.running.remove(&number) else { return };
        state.workers -= 1;
        state.hanging += 1;
        state.connected -= usize::from(running.has_session);
        running.span.in_scope(|| {
            tracing::error!(alarm = true, limit = ?running.limit, hanging = state.hanging, "a call to a device does not return");
        });
        (running.fail)(DeviceError::Gone(format!("a call has not returned after {:?}", running.limit)));
        if state.hanging <= self.sessions
            && let Err(error) = self.add_worker(state)
        {
            tracing::error!(%error, "no thread takes the place of one that hangs");
        }
        self.refuse_without_workers(state);
    }

    /// What waits is answered when nobody is left to do it.
    fn refuse_without_workers(&self, state: &mut State) {
        if state.workers == 0 {
            for job in state.jobs.drain(..) {
                (job.fail)(DeviceError::Gone("all calls to it hang".into()));
            }
        }
    }
}

/// A thread with a session, or none.
struct Worker {
    number: u64,
    queue: Arc<Queue>,
    device: Option<Box<dyn Device>>,
}

impl Worker {
    fn work(&mut self) {
        while let Some(job) = self.next() {
            let done = self.serve(job);
            if !done {
                // Given up meanwhile: the session may be in any state, and the place may be taken.
                self.device = None;
                if !self.come_back() {
                    return;
                }
            }
        }
        self.device = None;
        let mut state = self.queue.state();
        state.workers -= 1;
        drop(state);
        self.queue.ended.notify_all();
    }

    /// The next job; nothing when the queue is closed and all is done.
    fn next(&mut self) -> Option<Job> {
        let queue = self.queue.clone();
        let mut state = queue.state();
        loop {
            let now = Instant::now();
            // Without a session, and without a chance for one, work is left to those who have one.
            let pause = state.pause.as_ref().filter(|pause| self.device.is_none() && now < pause.until);
            let pause = pause.map(|pause| pause.until - now).filter(|_| state.may_be_served());
            if pause.is_none()
                && let Some(job) = state.jobs.pop_front()
            {
                self.begin(&mut state, &job);
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = match pause {
                Some(pause) => {
                    queue.bell.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
                None => queue.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn begin(&self, state: &mut State, job: &Job) {
        let running = Running {
            until: Instant::now() + job.limit,
            limit: job.limit,
            fail: job.fail.clone(),
            span: job.span.clone(),
            has_session: self.device.is_some(),
            is_connecting: false,
        };
        let is_sooner = state.next_look.is_some_and(|next_look| running.until < next_look);
        state.running.insert(self.number, running);
        if is_sooner {
            self.queue.watch.notify_all();
        }
    }

    /// Does a job, hands it on, or answers it; false if this worker was given up meanwhile.
    fn serve(&mut self, mut job: Job) -> bool {
        let _told = job.span.clone().entered();
        loop {
            let mut device = match self.device.take() {
                Some(device) => device,
                None => match self.connect() {
                    Connected::Yes(device) => device,
                    Connected::No(why) => return self.hand_on(job, why),
                    Connected::GivenUp => return false,
                },
            };
            job.attempts += 1;
            match (job.work)(device.as_mut()) {
                Attempt::Done => {
                    self.device = Some(device);
                    return self.end();
                }
                Attempt::Lost(why) => {
                    let mut state = self.queue.state();
                    let Some(running) = state.running.get_mut(&self.number) else { return false };
                    running.has_session = false;
                    running.until = Instant::now() + job.limit;
                    state.connected -= 1;
                    state.lost += 1;
                    drop(state);
                    drop(device);
                    if job.attempts >= ATTEMPTS {
                        (job.fail)(why);
                        return self.end();
                    }
                }
            }
        }
    }

    fn connect(&self) -> Connected {
        let mut state = self.queue.state();
        if let Some(pause) = &state.pause
            && Instant::now() < pause.until
        {
            return Connected::No(pause.why.clone());
        }
        let Some(running) = state.running.get_mut(&self.number) else { return Connected::GivenUp };
        running.is_connecting = true;
        drop(state);
        let connected = self.queue.driver().and_then(|driver| driver.connect());
        let mut state = self.queue.state();
        let Some(running) = state.running.get_mut(&self.number) else { return Connected::GivenUp };
        running.is_connecting = false;
        // Those who wait for the end of a pause, or left their work to this one, look again.
        self.queue.bell.notify_all();
        match connected {
            Ok(device) => {
                running.has_session = true;
                running.until = Instant::now() + running.limit;
                state.connected += 1;
                state.pause = None;
                Connected::Yes(device)
            }
            Err(why) => {
                let length = state.pause.as_ref().map_or(FIRST_PAUSE, |pause| pause.length * 2);
                let length = length.min(LAST_PAUSE);
                tracing::warn!(error = %why, "no session with the token; the next try is in {length:?}");
                state.pause = Some(Pause { until: Instant::now() + length, length, why: why.clone() });
                Connected::No(why)
            }
        }
    }

    /// A job for which this worker has no session: others may have one.
    fn hand_on(&mut self, job: Job, why: DeviceError) -> bool {
        let mut state = self.queue.state();
        if state.running.remove(&self.number).is_none() {
            return false;
        }
        if state.may_be_served() {
            state.jobs.push_front(job);
            drop(state);
            self.queue.bell.notify_all();
        } else {
            drop(state);
            (job.fail)(why);
        }
        true
    }

    /// The job is answered; false if this worker was given up meanwhile.
    fn end(&mut self) -> bool {
        self.queue.state().running.remove(&self.number).is_some()
    }

    /// A thread that was given up takes a place again, if there is one.
    fn come_back(&mut self) -> bool {
        let mut state = self.queue.state();
        state.hanging -= 1;
        let has_place = state.workers < self.queue.sessions && !state.closed;
        if has_place {
            self.number = state.next_worker;
            state.next_worker += 1;
            state.workers += 1;
        }
        has_place
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let mut state = self.queue.state();
        match state.running.remove(&self.number) {
            Some(running) => {
                state.workers -= 1;
                state.connected -= usize::from(running.has_session);
                (running.fail)(DeviceError::Gone("its worker broke off".into()));
                if let Err(error) = self.queue.add_worker(&mut state) {
                    tracing::error!(%error, "no thread takes the place of one that broke off");
                }
                self.queue.refuse_without_workers(&mut state);
            }
            None => state.hanging -= 1,
        }
    }
}

enum Connected {
    Yes(Box<dyn Device>),
    No(DeviceError),
    GivenUp,
}

/// Gives up workers that do not come back in time, until the queue is closed.
fn watch(queue: &Weak<Queue>) {
    while let Some(queue) = queue.upgrade() {
        let mut state = queue.state();
        if state.closed && state.workers == 0 {
            return;
        }
        let now = Instant::now();
        let late: Vec<u64> = state
            .running
            .iter()
            .filter(|(_, running)| running.until <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            queue.give_up(&mut state, number);
        }
        let soonest = state.running.values().map(|running| running.until).min();
        let patience = soonest.map_or(IDLE, |until| until.saturating_duration_since(now).min(IDLE));
        state.next_look = Some(now + patience);
        drop(queue.watch.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner));
    }
}

/// How often the watch looks whether there is still anything to watch.
const IDLE: Duration = Duration::from_secs(1);
