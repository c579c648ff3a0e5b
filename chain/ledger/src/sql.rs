//! All SQL of a ledger: its migrations, and its queries by name.

/// `PRAGMA application_id`: `Asnt`.
pub(crate) const APPLICATION_ID: i64 = 0x4173_6e74;

/// Migration n leads from `PRAGMA user_version` n to n + 1.
pub(crate) const MIGRATIONS: [&str; 1] = ["
CREATE TABLE ledger (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    deployment BLOB NOT NULL CHECK (length(deployment) = 32),
    chain      TEXT NOT NULL
) STRICT;
CREATE TABLE block (
    height            INTEGER PRIMARY KEY,
    header            BLOB NOT NULL,
    certificate       BLOB NOT NULL,
    first_transaction INTEGER NOT NULL,
    first_event       INTEGER NOT NULL
) STRICT;
-- Numbered from 0 since genesis; `prefix` is the first 8 bytes of the digest, which keeps the index small.
CREATE TABLE recorded (
    number INTEGER PRIMARY KEY,
    height INTEGER NOT NULL,
    prefix INTEGER NOT NULL,
    bytes  BLOB NOT NULL
) STRICT;
CREATE INDEX recorded_by_prefix ON recorded (prefix);
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;
CREATE TABLE state (
    key   BLOB PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
-- The completed subtrees of the Merkle tree over block ids: any path costs O(log n).
CREATE TABLE header_tree (
    level INTEGER NOT NULL,
    place INTEGER NOT NULL,
    hash  BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE undecided (
    height INTEGER NOT NULL,
    round  INTEGER NOT NULL,
    id     BLOB NOT NULL,
    header BLOB NOT NULL,
    bytes  BLOB NOT NULL,
    PRIMARY KEY (height, round, id)
) STRICT;
"];

pub(crate) const INSERT_LEDGER: &str = "INSERT INTO ledger (one, deployment, chain) VALUES (1, ?1, ?2)";
pub(crate) const LEDGER: &str = "SELECT deployment, chain FROM ledger WHERE one = 1";

pub(crate) const INSERT_BLOCK: &str = "INSERT INTO block
    (height, header, certificate, first_transaction, first_event) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(crate) const INSERT_RECORDED: &str =
    "INSERT INTO recorded (number, height, prefix, bytes) VALUES (?1, ?2, ?3, ?4)";
pub(crate) const INSERT_EVENT: &str = "INSERT INTO event (number, bytes) VALUES (?1, ?2)";
pub(crate) const INSERT_SUBTREE: &str = "INSERT INTO header_tree (level, place, hash) VALUES (?1, ?2, ?3)";
pub(crate) const PUT_STATE: &str = "INSERT INTO state (key, value) VALUES (?1, ?2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";
pub(crate) const DELETE_STATE: &str = "DELETE FROM state WHERE key = ?1";

pub(crate) const TIP: &str = "SELECT header, certificate, first_transaction, first_event
    FROM block ORDER BY height DESC LIMIT 1";
pub(crate) const BLOCK: &str = "SELECT header, certificate, first_transaction, first_event
    FROM block WHERE height = ?1";
pub(crate) const RECORDED_IN: &str =
    "SELECT bytes FROM recorded WHERE number >= ?1 AND number < ?2 ORDER BY number";
pub(crate) const RECORDED_BY_PREFIX: &str =
    "SELECT recorded.bytes, recorded.height, recorded.number - block.first_transaction
    FROM recorded JOIN block ON block.height = recorded.height WHERE recorded.prefix = ?1";
pub(crate) const EVENTS_IN: &str =
    "SELECT bytes FROM event WHERE number >= ?1 AND number < ?2 ORDER BY number";
pub(crate) const SUBTREE: &str = "SELECT hash FROM header_tree WHERE level = ?1 AND place = ?2";
pub(crate) const STATE: &str = "SELECT value FROM state WHERE key = ?1";
pub(crate) const STATE_FROM: &str = "SELECT key, value FROM state WHERE key >= ?1 ORDER BY key";

pub(crate) const INSERT_UNDECIDED: &str =
    "INSERT OR IGNORE INTO undecided (height, round, id, header, bytes) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(crate) const UNDECIDED: &str =
    "SELECT round, header, bytes FROM undecided WHERE height > ?1 ORDER BY height, round, id";
pub(crate) const DELETE_UNDECIDED: &str = "DELETE FROM undecided WHERE height <= ?1";

/// What `assent ledger check` compares with a replay, each in one order.
pub(crate) const ALL_STATE: &str = "SELECT key, value FROM state ORDER BY key";
pub(crate) const ALL_SUBTREES: &str = "SELECT level, place, hash FROM header_tree ORDER BY level, place";
pub(crate) const ALL_PLACES: &str = "SELECT number, height, prefix FROM recorded ORDER BY number";
pub(crate) const ALL_FIRSTS: &str =
    "SELECT height, first_transaction, first_event FROM block ORDER BY height";
pub(crate) const EVENT_NUMBERS: &str = "SELECT count(*), min(number), max(number) FROM event";
pub(crate) const INTEGRITY: &str = "PRAGMA integrity_check(1)";
