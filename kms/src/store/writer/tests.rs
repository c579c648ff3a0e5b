use assent_consensus::json::Integer;
use assent_consensus::time::UnixMillis;

use super::*;
use crate::audit::Entry;

fn writer() -> (tempfile::TempDir, Writer) {
    let directory = tempfile::tempdir().expect("a directory");
    Store::create(directory.path(), UnixMillis::new(1)).expect("made");
    let pins = Pins::load(&Store::open_reader(directory.path()).expect("it opens")).expect("read");
    let writer = Writer::start(directory.path(), pins).expect("a writer");
    (directory, writer)
}

fn entry(number: u64) -> Entry {
    Entry::Started { at: UnixMillis::new(2), epoch: Integer::saturating(number), program: "test".into() }
}

#[tokio::test]
async fn work_that_fails_leaves_nothing_and_takes_nothing_from_what_is_written_with_it() {
    let (directory, writer) = writer();
    // It holds the thread up until all the others wait, so that they share a transaction.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let first = writer.write(move |batch| {
        wait.recv().expect("the test goes on");
        batch.append(&entry(0))
    });
    let good = writer.write(|batch| batch.append(&entry(1)));
    let bad = writer.write(|batch| {
        batch.append(&entry(2))?;
        Err::<(), _>(StoreError::Busy)
    });
    let after = writer.write(|batch| batch.append(&entry(3)));
    let all = async { tokio::join!(first, good, bad, after, async { go.send(()).expect("it waits") }) };
    let (first, good, bad, after, ()) = all.await;
    let numbers = [first, good, after].map(|head| head.expect("written").number);
    assert_eq!(numbers, [2, 3, 4]);
    assert_eq!(bad, Err(StoreError::Busy));
    let store = Store::open_reader(directory.path()).expect("it opens");
    assert_eq!(store.head().expect("read").number, 4);
    assert_eq!(crate::audit::verify(&store, None).map(|report| report.entries), Ok(4));
}
