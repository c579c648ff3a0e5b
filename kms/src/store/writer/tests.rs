use assent_consensus::json::Integer;
use assent_consensus::operational_key::RawSignature;
use assent_consensus::time::UnixMillis;

use super::*;
use crate::audit::Entry;
use crate::signing::Order;
use crate::testing::order;

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
    assert_eq!(crate::audit::verify(&store, &[]).map(|report| report.entries), Ok(4));
}

/// A signature of an order whose intent is on disk.
async fn intended(writer: &Writer, order: Order) -> Conclusion {
    let duty = order.duty();
    let intended = writer.write(move |batch| batch.intend(UnixMillis::new(2), order)).await.expect("written");
    let recorded = intended.expect("not limited").recorded;
    let signature = RawSignature(vec![7; 64]);
    Conclusion { at: UnixMillis::new(3), duty, intent: recorded.intent, signature }
}

#[tokio::test]
async fn a_result_is_written_with_the_next_work_and_before_it() {
    let (directory, writer) = writer();
    let result = intended(&writer, order(1, "a")).await;
    let (duty, intent) = (result.duty, result.intent);
    assert!(writer.conclude_later(result));
    let after = writer.write(|batch| batch.append(&entry(1))).await.expect("written");
    assert_eq!(after.number, intent.number + 2);
    let store = Store::open_reader(directory.path()).expect("it opens");
    assert_eq!(store.duty(duty), Ok(Some((intent.number, Some(intent.number + 1)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_writes_alone_writes_first_what_waits() {
    let (directory, writer) = writer();
    let result = intended(&writer, order(1, "a")).await;
    let (duty, intent) = (result.duty, result.intent);
    assert!(writer.conclude_later(result));
    let after = writer.write_alone(|batch| batch.append(&entry(1))).await.expect("written");
    assert_eq!(after.number, intent.number + 2);
    let store = Store::open_reader(directory.path()).expect("it opens");
    assert_eq!(store.duty(duty), Ok(Some((intent.number, Some(intent.number + 1)))));
    let failed = writer.write_alone(|batch| {
        batch.append(&entry(2))?;
        Err::<(), _>(StoreError::Busy)
    });
    assert_eq!(failed.await, Err(StoreError::Busy));
    assert_eq!(store.head().expect("read").number, after.number);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_would_write_alone_waits_while_another_writes() {
    let (_directory, writer) = writer();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let first = writer.write(move |batch| {
        begin.send(()).expect("the test waits");
        wait.recv().expect("the test goes on");
        batch.append(&entry(0))
    });
    let second = async {
        begun.recv().expect("the first is being written");
        writer.write_alone(|batch| batch.append(&entry(1))).await
    };
    let all = async { tokio::join!(first, second, async { go.send(()).expect("it waits") }) };
    let (first, second, ()) = all.await;
    assert_eq!([first, second].map(|head| head.expect("written").number), [2, 3]);
}

#[tokio::test]
async fn results_are_on_disk_when_the_writer_is_dropped() {
    let (directory, writer) = writer();
    let result = intended(&writer, order(1, "a")).await;
    let duty = result.duty;
    assert!(writer.conclude_later(result));
    drop(writer);
    let store = Store::open_reader(directory.path()).expect("it opens");
    assert!(store.duty(duty).expect("read").is_some_and(|(_, result)| result.is_some()));
}

#[tokio::test]
async fn a_result_that_could_not_be_written_is_written_later() {
    let (directory, writer) = writer();
    let result = intended(&writer, order(1, "a")).await;
    let duty = result.duty;
    let file = rusqlite::Connection::open(directory.path().join(crate::store::FILE)).expect("it opens");
    file.execute_batch("ALTER TABLE audit RENAME TO away").expect("renamed");
    assert!(writer.conclude_later(result));
    writer.write(|batch| batch.append(&entry(1))).await.expect_err("there is no log");
    file.execute_batch("ALTER TABLE away RENAME TO audit").expect("renamed");
    writer.write(|batch| batch.append(&entry(2))).await.expect("written");
    let store = Store::open_reader(directory.path()).expect("it opens");
    assert!(store.duty(duty).expect("read").is_some_and(|(_, result)| result.is_some()));
}
