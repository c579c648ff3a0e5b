//! Where things stand in a ledger's state.
//!
//! A key is the name of its table, a slash, and the parts that it is ordered by. Numbers are big-endian, so that the
//! order of keys is that of numbers. All that belongs to one request begins with the request's id.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::State;
use crate::digest::Digest;
use crate::json;
use crate::jwk::Thumbprint;
use crate::message::RequestId;
use crate::name::Name;

/// A key of the state, part by part.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// The table of this name.
    pub(super) fn table(name: &str) -> Key {
        let mut key = Vec::with_capacity(96);
        key.extend_from_slice(name.as_bytes());
        key.push(b'/');
        Key(key)
    }

    /// What belongs to one request: `part` of it.
    pub(super) fn request(request: RequestId, part: &str) -> Key {
        Key::table("request").digest(&request.0).part(part)
    }

    /// What belongs to one case: `part` of it.
    pub(super) fn case(requester: Thumbprint, case: &Name, part: &str) -> Key {
        Key::table("case").bytes(requester.as_bytes()).part(case.as_str()).part(part)
    }

    /// Appends a slash and text that has no slash in it.
    pub(super) fn part(mut self, part: &str) -> Key {
        self.0.push(b'/');
        self.bytes(part.as_bytes())
    }

    /// Appends a number.
    pub(super) fn number(self, number: u64) -> Key {
        self.bytes(&number.to_be_bytes())
    }

    /// Appends a digest's bytes.
    pub(super) fn digest(self, digest: &Digest) -> Key {
        self.bytes(digest.as_bytes())
    }

    /// Appends bytes of a fixed length, or the last ones.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The key's bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a record.
pub(super) fn read<T: DeserializeOwned>(state: &dyn State, key: &Key) -> Option<T> {
    serde_json::from_slice(&state.get(key.as_bytes())?).ok()
}

/// Writes a record.
pub(super) fn write<T: Serialize>(state: &mut dyn State, key: &Key, record: &T) {
    state.put(key.as_bytes(), json::write(record));
}

/// A number and a digest at the end of an index's key.
pub(super) fn split_index(key: &[u8]) -> Option<(u64, Digest)> {
    let (rest, digest) = key.split_last_chunk::<32>()?;
    let (_, number) = rest.split_last_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), Digest::from_bytes(*digest)))
}

/// A table of requests in the order of a number: a moment, or a height.
#[derive(Clone, Copy)]
pub(super) struct Index(pub(super) &'static str);

/// When something happens by time alone: block time and request.
pub(super) const DUE: Index = Index("due");
/// What the agent still has to bring to the KMS: the height of the event that says so, and the request.
pub(super) const DUTY: Index = Index("duty");
/// Requests that were called and are not answered: the height of the call, and the request.
pub(super) const ASKING: Index = Index("asking");
/// Cancellations that the other ledger has yet to get: the height, and the request.
pub(super) const CANCEL: Index = Index("cancel");

impl Index {
    fn key(self, number: u64, request: RequestId) -> Key {
        Key::table(self.0).number(number).digest(&request.0)
    }

    /// Adds a request, with what is to be known of it.
    pub(super) fn add(self, state: &mut dyn State, number: u64, request: RequestId, value: Vec<u8>) {
        state.put(self.key(number, request).as_bytes(), value);
    }

    /// Takes a request out.
    pub(super) fn remove(self, state: &mut dyn State, number: u64, request: RequestId) {
        state.delete(self.key(number, request).as_bytes());
    }

    /// The first entries, or the first after `after`.
    pub(super) fn list(
        self,
        state: &dyn State,
        after: Option<(u64, RequestId)>,
        limit: usize,
    ) -> Vec<(u64, RequestId, Vec<u8>)> {
        let table = Key::table(self.0);
        let rows = match after {
            None => state.scan(table.as_bytes(), limit),
            Some((number, request)) => {
                state.scan_after(table.as_bytes(), self.key(number, request).as_bytes(), limit)
            }
        };
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let (number, digest) = split_index(&key)?;
            Some((number, RequestId(digest), value))
        };
        rows.into_iter().filter_map(entry).collect()
    }
}

/// Takes the next number of a list whose numbers are given without gaps, from 1, and puts `entry` there.
pub(super) fn append(state: &mut dyn State, list: &str, entry: Vec<u8>) -> u64 {
    let last = Key::table("last").bytes(list.as_bytes());
    let number = read::<u64>(state, &last).unwrap_or(0) + 1;
    write(state, &last, &number);
    state.put(Key::table(list).number(number).as_bytes(), entry);
    number
}
