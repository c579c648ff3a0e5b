//! The file of an earlier program.

use super::format::FORMAT;
use super::*;
use crate::signing::{Order, Purpose};
use crate::testing::{NOW, SmallKms, order, release};

/// Makes the file what the program before this one would have made of it.
fn age(file: &Connection) {
    file.execute_batch(
        "CREATE TABLE old_key (
            device TEXT NOT NULL, object BLOB NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
            point BLOB NOT NULL CHECK (length(point) = 65), state TEXT NOT NULL, governed_by TEXT, policy BLOB,
            created INTEGER NOT NULL, activated INTEGER, changed INTEGER NOT NULL,
            PRIMARY KEY (kind, name, version), UNIQUE (device, object)
        ) STRICT;
        INSERT INTO old_key SELECT device, object, kind, name, version, public_key, state, governed_by, policy, created,
            activated, changed FROM key;
        DROP TABLE key;
        ALTER TABLE old_key RENAME TO key;
        DROP TABLE device_log;
        DROP TABLE behind;
        DROP TABLE transition;
        DROP TABLE fence;
        DROP TABLE key_use;
        DROP TABLE policy;
        ALTER TABLE duty ADD COLUMN result INTEGER;
        UPDATE duty SET result = (SELECT entry FROM result WHERE result.intent = duty.intent);
        DROP TABLE result;
        PRAGMA user_version = 1;",
    )
    .expect("aged");
}

#[tokio::test]
async fn the_file_of_an_earlier_program_is_brought_up_with_all_that_is_in_it() {
    let kms = SmallKms::new().await;
    kms.signing.sign(order(1, "x")).await.expect("signed");
    kms.settled().await;
    let before = kms.store().keys().expect("read");
    let head = kms.store().head().expect("read");
    let SmallKms { writer, signing, directory, .. } = kms;
    drop((writer, signing));
    age(&Connection::open(directory.path().join(FILE)).expect("it opens"));

    let old = Store::open_reader(directory.path()).map(drop).expect_err("it is not read as it is");
    assert!(matches!(old, StoreError::TooOld { found: 1, known: FORMAT, .. }), "{old}");
    for _ in 0..2 {
        Store::migrate(directory.path()).expect("brought up");
        let store = Store::open_reader(directory.path()).expect("it opens");
        assert_eq!(store.keys().expect("read"), before);
        assert_eq!(store.head().expect("read"), head);
        crate::audit::verify(&store, &[head.digest]).expect("the log and the tables agree");
    }
}

#[tokio::test]
async fn limits_that_were_not_written_count_nothing() {
    let SmallKms { writer, signing, directory, .. } = SmallKms::new().await;
    drop((writer, signing));
    let store = Store::open(directory.path()).expect("it opens");
    let mut batch = Batch::new(&store, store.head().expect("read"));
    let (at, version) = (UnixMillis::new(NOW), KeyVersion::first());
    let limits = Limits { uses: Integer::new(1), ..Limits::NONE };
    let action = |number| Order { purpose: Purpose::Action, ..order(number, "x") };
    let failed = batch.apart(|batch| {
        batch.set_first_limits(at, None, (&release(), version), &limits)?;
        assert_eq!(batch.intend(at, action(1))?.map(|intended| intended.used), Ok(Some(1)));
        Err::<(), _>(StoreError::Busy)
    });
    assert_eq!(failed, Ok(Err(StoreError::Busy)));
    for number in 1..4 {
        let intended = batch.intend(at, action(number)).expect("written");
        assert_eq!(intended.map(|intended| intended.used), Ok(None));
    }
}

#[tokio::test]
async fn the_file_of_a_later_program_is_left_alone() {
    let kms = SmallKms::new().await;
    kms.file().pragma_update(None, "user_version", FORMAT + 1).expect("changed");
    let path = kms.directory.path();
    assert!(matches!(Store::migrate(path), Err(StoreError::TooNew { .. })));
    assert!(matches!(Store::open_reader(path).map(drop), Err(StoreError::TooNew { .. })));
}
