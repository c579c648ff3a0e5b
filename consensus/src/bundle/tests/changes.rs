//! One changed character in genesis, or in any value in a bundle, makes verification fail (invariant I6).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::*;
use crate::genesis::Genesis;
use crate::json;

/// How many characters of each value are changed at most, beside its first and last.
const CHANGES: usize = 64;

/// Every value that a bundle can have, and that is more than an empty list; `*` is each of a list.
const BUNDLE_VALUES: &[&str] = &[
    "/ballots/*/at",
    "/ballots/*/jws",
    "/cancel/at",
    "/cancel/jws",
    "/decision",
    "/definition",
    "/genesis",
    "/inclusion/certificate/block",
    "/inclusion/certificate/height",
    "/inclusion/certificate/round",
    "/inclusion/certificate/signatures/*/kid",
    "/inclusion/certificate/signatures/*/signature",
    "/inclusion/chain",
    "/inclusion/event",
    "/inclusion/header",
    "/inclusion/index",
    "/inclusion/path/*",
    "/inclusion/size",
    "/policy",
    "/result/format",
    "/result/inclusion/certificate/block",
    "/result/inclusion/certificate/height",
    "/result/inclusion/certificate/round",
    "/result/inclusion/certificate/signatures/*/kid",
    "/result/inclusion/certificate/signatures/*/signature",
    "/result/inclusion/chain",
    "/result/inclusion/event",
    "/result/inclusion/header",
    "/result/inclusion/index",
    "/result/inclusion/path/*",
    "/result/inclusion/size",
    "/result/key",
    "/result/public_key/crv",
    "/result/public_key/kty",
    "/result/public_key/x",
    "/result/public_key/y",
    "/result/signature",
    "/result/version",
    "/start",
    "/version",
    "/vote_request",
];

/// Every value that a genesis file can have.
const GENESIS_VALUES: &[&str] = &[
    "/chains/*/id",
    "/chains/*/validators/*/crv",
    "/chains/*/validators/*/kty",
    "/chains/*/validators/*/x",
    "/chains/*/validators/*/y",
    "/contracts/*/attestation/*",
    "/contracts/*/chain",
    "/contracts/*/governed_by",
    "/contracts/*/key/crv",
    "/contracts/*/key/kty",
    "/contracts/*/key/x",
    "/contracts/*/key/y",
    "/contracts/*/name",
    "/contracts/*/policy",
    "/created",
    "/environment",
    "/keys/*/alg",
    "/keys/*/attestation/*",
    "/keys/*/format",
    "/keys/*/governed_by",
    "/keys/*/key/crv",
    "/keys/*/key/kty",
    "/keys/*/key/x",
    "/keys/*/key/y",
    "/keys/*/name",
    "/name",
    "/processes/*/chain",
    "/processes/*/definition",
    "/processes/*/governed_by",
    "/processes/*/name",
    "/recovery/delay",
    "/recovery/keys/*/crv",
    "/recovery/keys/*/kty",
    "/recovery/keys/*/x",
    "/recovery/keys/*/y",
    "/recovery/threshold",
    "/version",
];

/// The values of a JSON text that are texts or numbers: where each stands, without its quotes.
struct Values<'t> {
    text: &'t [u8],
    at: usize,
    found: Vec<(String, Range<usize>)>,
}

impl Values<'_> {
    fn of(text: &[u8]) -> Vec<(String, Range<usize>)> {
        let mut values = Values { text, at: 0, found: Vec::new() };
        values.value("");
        assert_eq!(values.next(), None, "nothing comes after the value");
        values.found
    }

    fn next(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn value(&mut self, pointer: &str) {
        match self.next() {
            Some(b'{') => self.members(b'}', |values| {
                let name = values.string();
                assert_eq!(values.next(), Some(b':'));
                values.at += 1;
                let name = std::str::from_utf8(&values.text[name]).unwrap();
                values.value(&format!("{pointer}/{name}"));
            }),
            Some(b'[') => self.members(b']', |values| values.value(&format!("{pointer}/*"))),
            Some(b'"') => {
                let range = self.string();
                self.found.push((pointer.to_owned(), range));
            }
            _ => {
                let from = self.at;
                while !matches!(self.text[self.at], b',' | b'}' | b']' | b'\n') {
                    self.at += 1;
                }
                self.found.push((pointer.to_owned(), from..self.at));
            }
        }
    }

    fn members(&mut self, end: u8, mut each: impl FnMut(&mut Self)) {
        self.at += 1;
        while self.next() != Some(end) {
            each(self);
            if self.next() == Some(b',') {
                self.at += 1;
            }
        }
        self.at += 1;
    }

    /// The range between the quotes.
    fn string(&mut self) -> Range<usize> {
        let from = self.at + 1;
        self.at = from;
        while self.text[self.at] != b'"' {
            self.at += 1 + usize::from(self.text[self.at] == b'\\');
        }
        self.at += 1;
        from..self.at - 1
    }
}

/// The text with one character of a value changed, again and again: places all over every value, to characters that are
/// most likely to be taken there.
fn changed(text: &[u8], mut each: impl FnMut(&str, usize, &[u8])) -> BTreeMap<String, usize> {
    let mut touched = BTreeMap::new();
    for (turn, (pointer, range)) in Values::of(text).into_iter().enumerate() {
        let length = range.len();
        let spread = (0..CHANGES).map(|place| range.start + (place * length + turn) / CHANGES % length);
        let places: BTreeSet<usize> = spread.chain([range.start, range.end - 1]).collect();
        for at in places {
            let mut changed = text.to_vec();
            changed[at] = replacement(text[at], at + turn);
            each(&pointer, at, &changed);
            *touched.entry(pointer.clone()).or_default() += 1;
        }
    }
    touched
}

/// Another character of the same kind.
fn replacement(old: u8, seed: usize) -> u8 {
    let kind: &[u8] = match old {
        b'0'..=b'9' => b"0123456789",
        b'a'..=b'f' => b"abcdef",
        b'g'..=b'z' => b"ghijklmnopqrstuvwxyz",
        b'A'..=b'Z' => b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        _ => b"-_ A",
    };
    let from = seed % kind.len();
    *kind[from..].iter().chain(kind).find(|new| **new != old).unwrap()
}

fn add(total: &mut BTreeMap<String, usize>, touched: BTreeMap<String, usize>) {
    for (pointer, count) in touched {
        *total.entry(pointer).or_default() += count;
    }
}

fn vector(file: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Bundles of all kinds with their genesis files, from here and from elsewhere.
fn bundles() -> Vec<(Vec<u8>, Vec<u8>)> {
    use SignatureFormat::{Der, Dsse, Jws, Raw};
    let mut made: Vec<(World, Bundle)> = [Der, Raw, Dsse, Jws].map(signed_in).into();
    made.extend([cancelled(), timed(true), timed(false)]);
    let ours = made.iter().map(|(world, bundle)| (world.genesis.bytes().to_vec(), json::write(bundle)));
    let elsewhere = [("flat", "approved"), ("deep", "levels-and-window")].map(|(genesis, bundle)| {
        (vector(&format!("{genesis}.genesis.json")), vector(&format!("{bundle}.bundle.json")))
    });
    ours.chain(elsewhere).collect()
}

fn is_valid(genesis: &Genesis, bundle: &[u8]) -> bool {
    json::read::<Bundle>(bundle).is_ok_and(|bundle| verify(genesis, &bundle, &BTreeSet::new()).is_ok())
}

#[test]
fn any_changed_character_in_a_value_of_a_bundle_makes_it_invalid() {
    let mut touched = BTreeMap::new();
    for (genesis, bundle) in bundles() {
        let genesis = Genesis::parse(&genesis).unwrap();
        assert!(is_valid(&genesis, &bundle), "valid as it is");
        let changes = changed(&bundle, |pointer, at, changed| {
            let text = || String::from_utf8_lossy(changed).into_owned();
            assert!(!is_valid(&genesis, changed), "{pointer}, byte {at} changed in: {}", text());
        });
        add(&mut touched, changes);
    }
    assert_eq!(touched.keys().collect::<Vec<_>>(), BUNDLE_VALUES);
    assert!(touched.values().sum::<usize>() >= 10_000, "{touched:?}");
}

#[test]
fn any_changed_character_in_a_value_of_genesis_makes_its_bundles_invalid() {
    let mut touched = BTreeMap::new();
    for (genesis, bundle) in bundles().into_iter().take(2) {
        let bundle: Bundle = json::read(&bundle).unwrap();
        let changes = changed(&genesis, |pointer, at, changed| {
            let valid = Genesis::parse(changed)
                .is_ok_and(|genesis| verify(&genesis, &bundle, &BTreeSet::new()).is_ok());
            assert!(!valid, "{pointer}, byte {at}");
        });
        add(&mut touched, changes);
    }
    assert_eq!(touched.keys().collect::<Vec<_>>(), GENESIS_VALUES);
    assert!(touched.values().sum::<usize>() > 2_000, "{touched:?}");
}
