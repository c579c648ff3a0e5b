//! The seam: the same blocks on every machine, and no other ones.

use std::time::{Duration, Instant};

use assent_consensus::header::SealedHeader;
use assent_consensus::json::Integer;
use assent_consensus::jws::CheckedSignatures;
use assent_consensus::time::UnixMillis;
use proptest::prelude::*;

use crate::testing::{Key, open, transaction, transactions};
use crate::{Block, BlockError, Built, Candidates, Fate, Ledger, LedgerError, Proposal, Replica};

fn build(ledger: &Ledger, time: u64, texts: &[String]) -> Result<Built, LedgerError> {
    ledger.build(
        ledger.tip().height + 1,
        Candidates {
            time: UnixMillis::new(time),
            transactions: texts.iter().map(|text| transaction(text)).collect(),
            checked: &CheckedSignatures::default(),
            deadline: Instant::now() + Duration::from_secs(60),
        },
    )
}

fn block(ledger: &Ledger, time: u64, texts: &[&str]) -> Block {
    let texts: Vec<_> = texts.iter().map(|text| text.to_string()).collect();
    build(ledger, time, &texts).unwrap().block.unwrap()
}

fn proposal(block: &Block) -> Proposal {
    Proposal { header: block.header().clone(), transactions: block.transactions().to_vec() }
}

fn why(result: Result<Block, LedgerError>) -> BlockError {
    match result {
        Err(LedgerError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_block_is_committed_once_and_never_another_of_its_height() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::new(1);
    let mut ledger = open(&folder.path().join("main.ledger")).unwrap();
    let (one, other) = (block(&ledger, 5, &["put a 1"]), block(&ledger, 5, &["put a 2"]));
    let stranger = Key::new(2).certificate(&one);
    assert!(matches!(
        ledger.commit(&one, &stranger),
        Err(LedgerError::Refused { why: BlockError::NotFinal(_), .. })
    ));
    ledger.commit(&one, &key.certificate(&one)).unwrap();
    ledger.commit(&one, &key.certificate(&one)).unwrap();
    assert_eq!(ledger.tip().height, 1);
    assert!(matches!(
        ledger.commit(&other, &key.certificate(&other)),
        Err(LedgerError::Refused { why: BlockError::Fork(id), .. }) if id == one.header().id()
    ));
    let decided = ledger.decided(1..=9).unwrap();
    assert_eq!(decided.len(), 1);
    assert_eq!(decided[0].0.header, *one.header());
}

#[test]
fn a_proposal_that_is_wrong_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder.path().join("main.ledger")).unwrap();
    let first = block(&ledger, 100, &["put a 1"]);
    ledger.commit(&first, &Key::new(1).certificate(&first)).unwrap();
    let now = UnixMillis::new(200);
    let good = proposal(&block(&ledger, 200, &["put a 2", "del b"]));
    let id = good.header.id();
    assert_eq!(ledger.check(2, good.clone(), now).unwrap().header().id(), id);

    let with = |change: &dyn Fn(&mut Proposal)| {
        let mut changed = good.clone();
        change(&mut changed);
        why(ledger.check(2, changed, now))
    };
    let with_header = |change: &dyn Fn(&mut assent_consensus::header::Header)| {
        with(&|proposal| {
            let mut header = proposal.header.header().clone();
            change(&mut header);
            proposal.header = SealedHeader::seal(header);
        })
    };
    assert_eq!(why(ledger.check(3, good.clone(), now)), BlockError::NotNext { expected: 3 });
    assert_eq!(with(&|p| p.transactions.clear()), BlockError::Empty);
    assert_eq!(with(&|p| p.transactions.reverse()), BlockError::Differs("transactions_root"));
    assert_eq!(
        with(&|p| p.transactions.push(transaction("del b"))),
        BlockError::Repeated(transaction("del b").digest())
    );
    assert!(matches!(with(&|p| p.transactions = transactions(&["put a 1"])), BlockError::Repeated(_)));
    assert!(matches!(with(&|p| p.transactions = transactions(&["bad a"])), BlockError::Rejected { .. }));
    assert_eq!(
        with_header(&|header| header.time = UnixMillis::new(100)),
        BlockError::Time { before: 100, found: 100 }
    );
    assert_eq!(
        with_header(&|header| header.time = UnixMillis::new(10_201)),
        BlockError::Ahead { now: 200, found: 10_201 }
    );
    assert_eq!(with_header(&|header| header.previous = id), BlockError::Differs("previous"));
    assert_eq!(with_header(&|header| header.headers_root = id), BlockError::Differs("headers_root"));
    assert_eq!(with_header(&|header| header.events_root = id), BlockError::Differs("events_root"));
    assert_eq!(with_header(&|header| header.state_digest = id), BlockError::Differs("state_digest"));
    assert_eq!(
        with_header(&|header| header.transactions_total = Integer::saturating(9)),
        BlockError::Differs("transactions_total")
    );
}

#[test]
fn undecided_proposals_are_kept_until_their_height_is_final() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    let mut ledger = open(&path).unwrap();
    let (one, other) = (block(&ledger, 5, &["put a 1", "put b 1"]), block(&ledger, 6, &["put a 2"]));
    ledger.save_undecided(0, &proposal(&one)).unwrap();
    ledger.save_undecided(1, &proposal(&other)).unwrap();
    ledger.save_undecided(1, &proposal(&other)).unwrap();
    drop(ledger);
    let mut ledger = open(&path).unwrap();
    let kept = ledger.undecided().unwrap();
    assert_eq!(kept.iter().map(|(round, _)| *round).collect::<Vec<_>>(), [0, 1]);
    let checked = ledger.check(1, kept[0].1.clone(), UnixMillis::new(5)).unwrap();
    assert_eq!(checked.header(), one.header());
    ledger.commit(&checked, &Key::new(1).certificate(&checked)).unwrap();
    assert!(ledger.undecided().unwrap().is_empty());
}

#[test]
fn a_full_disk_records_nothing_and_works_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder.path().join("main.ledger")).unwrap();
    let large = format!("put a {}", "x".repeat(1_000_000));
    let block = block(&ledger, 5, &[&large]);
    let certificate = Key::new(1).certificate(&block);
    ledger.store.pragma("max_page_count", 40).unwrap();
    assert!(matches!(ledger.commit(&block, &certificate), Err(LedgerError::Full { .. })));
    assert_eq!(ledger.tip().height, 0);
    assert!(Replica::tip(&ledger).unwrap().is_none());
    ledger.store.pragma("max_page_count", 1_000_000).unwrap();
    ledger.commit(&block, &certificate).unwrap();
    assert!(ledger.reader().tip().unwrap().is_some());
}

#[test]
fn what_has_no_room_in_a_block_is_left_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("main.ledger")).unwrap();
    let texts: Vec<_> = (0..6).map(|i| format!("put k{i} {}", "x".repeat(4_000_000))).collect();
    let built = build(&ledger, 5, &texts).unwrap();
    assert_eq!(built.block.unwrap().transactions().len(), 4);
    assert_eq!(built.fates.iter().filter(|fate| matches!(fate, Fate::Left(_))).count(), 2);
}

/// Transactions over few keys, so that they meet.
fn texts() -> impl Strategy<Value = Vec<Vec<String>>> {
    let text = (0..5u8, 0..6u8, 0..4u8).prop_map(|(word, key, value)| match word {
        0 => format!("put k{key} {value}"),
        1 => format!("del k{key} {value}"),
        2 => format!("once k{key} {value}"),
        3 => format!("at k{key} {} {value}", 10 * u32::from(value) + 15),
        _ => format!("bad k{key} {value}"),
    });
    proptest::collection::vec(proptest::collection::vec(text, 0..8), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_replica_makes_the_same_blocks_and_state_as_a_simple_model(batches in texts()) {
        use std::collections::{BTreeMap, BTreeSet};
        use assent_consensus::contract::State;

        let folder = tempfile::tempdir().unwrap();
        let key = Key::new(1);
        let mut one = open(&folder.path().join("one.ledger")).unwrap();
        let mut two = open(&folder.path().join("two.ledger")).unwrap();
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let (mut due, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for (batch, time) in batches.iter().zip((1u64..).map(|n| n * 10)) {
            let expired: Vec<(u64, String)> =
                due.iter().filter(|(at, _)| *at <= time).cloned().collect();
            let mut expected = !expired.is_empty();
            let mut next = model.clone();
            for entry in expired {
                next.insert(entry.1.clone(), "fired".into());
                due.remove(&entry);
            }
            for text in batch {
                let words: Vec<&str> = text.split(' ').collect();
                if seen.contains(text) {
                    continue;
                }
                match words[0] {
                    "put" => drop(next.insert(words[1].into(), words[2].into())),
                    "del" => drop(next.remove(words[1])),
                    "once" if next.contains_key(words[1]) => continue,
                    "once" => drop(next.insert(words[1].into(), "once".into())),
                    "at" => { due.insert((words[2].parse().unwrap(), words[1].to_string())); }
                    _ => continue,
                }
                seen.insert(text.clone());
                expected = true;
            }
            let built = build(&one, time, batch).unwrap();
            prop_assert_eq!(built.block.is_some(), expected);
            let Some(block) = built.block else { continue };
            let copy = two.check(block.height(), proposal(&block), UnixMillis::new(time)).unwrap();
            prop_assert_eq!(copy.header().bytes(), block.header().bytes());
            one.commit(&block, &key.certificate(&block)).unwrap();
            two.commit(&copy, &key.certificate(&copy)).unwrap();
            model = next;
            for ledger in [&one, &two] {
                let snapshot = ledger.reader().snapshot().unwrap();
                let found = snapshot.scan(b"k", 100);
                for (place, (key, _)) in found.iter().enumerate() {
                    let rest = &found[place + 1..];
                    prop_assert_eq!(snapshot.scan_after(b"k", key, 2), &rest[..rest.len().min(2)]);
                }
                prop_assert_eq!(&snapshot.scan_after(b"k", b"a", 100), &found);
                prop_assert_eq!(snapshot.scan_after(b"k", b"l", 100), Vec::new());
                let found: BTreeMap<String, String> = found
                    .into_iter()
                    .map(|(key, value)| (String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap()))
                    .collect();
                prop_assert_eq!(&found, &model);
            }
        }
    }
}
