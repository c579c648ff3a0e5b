use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};

use assent_consensus::operational_key::{Algorithm, KeyKind, OperationalPublicKey};

use super::*;
use crate::device::{Adoptable, DeviceInfo, DeviceKey, EpochMark};

const SHORT: Duration = Duration::from_millis(50);

/// A device whose calls wait for a gate, and of which there are only so many sessions.
#[derive(Clone, Default)]
struct Gated(Arc<GatedState>);

#[derive(Default)]
struct GatedState {
    shut: Mutex<bool>,
    opened: Condvar,
    sessions: AtomicUsize,
    most: AtomicUsize,
    calls: AtomicUsize,
}

impl Gated {
    fn shut(&self, shut: bool) {
        *self.0.shut.lock().expect("no panic") = shut;
        self.0.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.shut.lock().expect("no panic");
        drop(self.0.opened.wait_while(shut, |shut| *shut).expect("no panic"));
    }

    fn of_at_most(sessions: usize) -> Gated {
        let gated = Gated::default();
        gated.0.most.store(sessions, Ordering::SeqCst);
        gated
    }
}

struct Seat(Gated);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Driver for Gated {
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError> {
        if self.0.sessions.fetch_add(1, Ordering::SeqCst) >= self.0.most.load(Ordering::SeqCst) {
            self.0.sessions.fetch_sub(1, Ordering::SeqCst);
            return Err(DeviceError::Full("that is all".into()));
        }
        Ok(Box::new(Seat(self.clone())))
    }
}

impl Device for Seat {
    fn info(&mut self) -> Result<DeviceInfo, DeviceError> {
        self.0.pass();
        self.0.0.calls.fetch_add(1, Ordering::SeqCst);
        Err(DeviceError::Failed("it came through".into()))
    }

    fn generate(&mut self, _: &str, _: KeyKind) -> Result<(ObjectId, OperationalPublicKey), DeviceError> {
        Err(DeviceError::Failed("not here".into()))
    }

    fn adoptable(&mut self, _: ObjectId) -> Result<Option<Adoptable>, DeviceError> {
        Ok(None)
    }

    fn public_key(&mut self, _: ObjectId) -> Result<Option<OperationalPublicKey>, DeviceError> {
        Ok(None)
    }

    fn sign(
        &mut self,
        object: ObjectId,
        _: Algorithm,
        _: &MessageDigest,
    ) -> Result<RawSignature, DeviceError> {
        Err(DeviceError::NoKey(object))
    }

    fn list(&mut self) -> Result<Vec<DeviceKey>, DeviceError> {
        Ok(Vec::new())
    }

    fn destroy(&mut self, _: ObjectId) -> Result<(), DeviceError> {
        Ok(())
    }

    fn epoch_marks(&mut self) -> Result<Vec<EpochMark>, DeviceError> {
        Ok(Vec::new())
    }

    fn put_epoch_mark(&mut self, _: EpochMark) -> Result<(), DeviceError> {
        Ok(())
    }
}

async fn ask(pool: &Pool) -> String {
    pool.run(|device| device.info().map(drop)).await.expect_err("it never does it").to_string()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[tokio::test]
async fn calls_that_hang_are_answered_replaced_and_taken_up_again() {
    let gated = Gated::of_at_most(100);
    let pool = Pool::start(Arc::new(gated.clone()), 2, SHORT).expect("threads");
    assert!(ask(&pool).await.contains("came through"));
    let before = threads();
    gated.shut(true);
    // Two workers, and the two that take their places; then nobody is left, and it is said at once.
    for _ in 0..4 {
        assert!(ask(&pool).await.contains("has not returned"));
    }
    let refused = ask(&pool).await;
    assert!(refused.contains("have not returned, and no other is made"), "{refused}");
    assert!(threads() <= before + 2, "{} threads", threads());
    gated.shut(false);
    let by = std::time::Instant::now() + Duration::from_secs(20);
    while !ask(&pool).await.contains("came through") {
        assert!(std::time::Instant::now() < by, "the workers do not come back");
        tokio::task::yield_now().await;
    }
    while threads() > before {
        assert!(std::time::Instant::now() < by, "{} threads, {before} before", threads());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_device_of_fewer_sessions_than_workers_serves_with_those_that_it_has() {
    let gated = Gated::of_at_most(1);
    let pool = Arc::new(Pool::start(Arc::new(gated.clone()), 4, CALL_TIMEOUT).expect("threads"));
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { ask(&pool).await })
        })
        .collect();
    for asked in asked {
        let said = asked.await.expect("no panic");
        assert!(said.contains("came through"), "{said}");
    }
    assert_eq!(gated.0.calls.load(Ordering::SeqCst), 40);
}

#[tokio::test]
async fn a_pool_that_is_dropped_waits_for_its_sessions_and_not_for_one_that_hangs() {
    let gated = Gated::of_at_most(100);
    let pool = Pool::start(Arc::new(gated.clone()), 2, SHORT).expect("threads");
    assert!(ask(&pool).await.contains("came through"));
    drop(pool);
    assert_eq!(gated.0.sessions.load(Ordering::SeqCst), 0);
    assert_eq!(Arc::strong_count(&gated.0), 1, "the driver, and so its module, has ended too");
    let pool = Pool::start(Arc::new(gated.clone()), 2, SHORT).expect("threads");
    gated.shut(true);
    assert!(ask(&pool).await.contains("has not returned"));
    drop(pool);
    gated.shut(false);
}
