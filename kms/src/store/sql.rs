//! All SQL of the KMS: its migrations, and its queries by name.

/// `PRAGMA application_id`: `AsKm`.
pub(crate) const APPLICATION_ID: i64 = 0x4173_4b6d;

/// Migration n leads from `PRAGMA user_version` n to n + 1.
pub(crate) const MIGRATIONS: [&str; 10] = ["
-- `pending` is the epoch that is being put on the token.
CREATE TABLE kms (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    instance BLOB NOT NULL CHECK (length(instance) = 16),
    epoch    INTEGER NOT NULL,
    pending  INTEGER
) STRICT;
-- Keys that the device holds. Rows are never deleted, but those of keys that were given up before they were in force.
CREATE TABLE key (
    device      TEXT NOT NULL,
    object      BLOB NOT NULL CHECK (length(object) BETWEEN 1 AND 64),
    kind        TEXT NOT NULL CHECK (kind IN ('contract', 'key')),
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    point       BLOB NOT NULL CHECK (length(point) = 65),
    state       TEXT NOT NULL,
    governed_by TEXT,
    policy      BLOB,
    created     INTEGER NOT NULL,
    activated   INTEGER,
    changed     INTEGER NOT NULL,
    PRIMARY KEY (kind, name, version),
    UNIQUE (device, object)
) STRICT;
CREATE TABLE genesis (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    bytes  BLOB NOT NULL,
    pinned INTEGER NOT NULL
) STRICT;
CREATE TABLE trusted (
    chain  TEXT PRIMARY KEY,
    height INTEGER NOT NULL,
    id     BLOB NOT NULL CHECK (length(id) = 32)
) STRICT;
CREATE TABLE suspended_voter (
    thumbprint BLOB PRIMARY KEY CHECK (length(thumbprint) = 32),
    at         INTEGER NOT NULL
) STRICT;
CREATE TABLE released_request (
    request BLOB PRIMARY KEY CHECK (length(request) = 32),
    at      INTEGER NOT NULL
) STRICT;
-- The log: `head` is H(`assent-audit-v1`, the head before, entry).
CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    entry  BLOB NOT NULL,
    head   BLOB NOT NULL CHECK (length(head) = 32)
) STRICT;
-- Where the log says what is, or was, signed for a duty: numbers of its entries.
CREATE TABLE duty (
    id     BLOB PRIMARY KEY CHECK (length(id) = 32),
    intent INTEGER NOT NULL,
    result INTEGER
) STRICT, WITHOUT ROWID;
", "
-- Keys of other algorithms than ES256, and keys that were on the device before the KMS took them over.
CREATE TABLE new_key (
    device      TEXT NOT NULL,
    object      BLOB NOT NULL CHECK (length(object) BETWEEN 1 AND 64),
    kind        TEXT NOT NULL CHECK (kind IN ('contract', 'key')),
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    algorithm   TEXT NOT NULL,
    -- An uncompressed point, or an RSA modulus.
    public_key  BLOB NOT NULL CHECK (length(public_key) IN (65, 97, 384, 512)),
    adopted     INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    state       TEXT NOT NULL,
    governed_by TEXT,
    policy      BLOB,
    created     INTEGER NOT NULL,
    activated   INTEGER,
    changed     INTEGER NOT NULL,
    PRIMARY KEY (kind, name, version),
    UNIQUE (device, object)
) STRICT;
INSERT INTO new_key SELECT device, object, kind, name, version, 'ES256', point, 0, state, governed_by, policy, created,
    activated, changed FROM key;
DROP TABLE key;
ALTER TABLE new_key RENAME TO key;
", "
-- How far a device's own log was read: `entry` is the number in the audit log, `item` and `digest` are the device's.
CREATE TABLE device_log (
    device TEXT NOT NULL,
    serial TEXT NOT NULL,
    entry  INTEGER NOT NULL,
    item   INTEGER NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    PRIMARY KEY (device, serial)
) STRICT, WITHOUT ROWID;
", "
-- Devices that were not there when the epoch was advanced: their mark is of `epoch` or later.
CREATE TABLE behind (
    device TEXT PRIMARY KEY,
    epoch  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
", "
-- Approved rotations: what each says, and its two messages once both are signed.
CREATE TABLE transition (
    request BLOB PRIMARY KEY CHECK (length(request) = 32),
    kind    TEXT NOT NULL CHECK (kind IN ('contract', 'key')),
    name    TEXT NOT NULL,
    version INTEGER NOT NULL,
    says    BLOB NOT NULL,
    first   TEXT,
    new     TEXT,
    UNIQUE (kind, name, version)
) STRICT, WITHOUT ROWID;
", "
-- Set when the file was put back: of requests that are older, what was signed may not be known here.
CREATE TABLE fence (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    at  INTEGER NOT NULL
) STRICT;
", "
ALTER TABLE key ADD COLUMN limits BLOB;
-- The last uses of keys whose uses are counted: as many as their rate looks back on, and the last one, whose number is the
-- count.
CREATE TABLE key_use (
    kind    TEXT NOT NULL CHECK (kind IN ('contract', 'key')),
    name    TEXT NOT NULL,
    version INTEGER NOT NULL,
    nth     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (kind, name, version, nth)
) STRICT, WITHOUT ROWID;
", "
-- Approved policies, the `place`-th since genesis of each contract: what the change says, until when it may be done, and its
-- message once that is signed.
CREATE TABLE policy (
    request  BLOB PRIMARY KEY CHECK (length(request) = 32),
    contract TEXT NOT NULL,
    place    INTEGER NOT NULL,
    says     BLOB NOT NULL,
    document BLOB NOT NULL,
    act_by   INTEGER NOT NULL,
    message  TEXT,
    UNIQUE (contract, place)
) STRICT, WITHOUT ROWID;
", "
-- Where the log says what came of an intent: beside `duty`, whose rows stand in no order of time, so that results that are
-- written together change one page, and not one each.
CREATE TABLE result (
    intent INTEGER PRIMARY KEY,
    entry  INTEGER NOT NULL
) STRICT;
INSERT INTO result SELECT intent, result FROM duty WHERE result IS NOT NULL;
ALTER TABLE duty DROP COLUMN result;
", "
-- When it was approved.
ALTER TABLE policy ADD COLUMN decided INTEGER NOT NULL DEFAULT 0;
"];

pub(crate) const INSERT_KMS: &str = "INSERT INTO kms (one, instance, epoch, pending) VALUES (1, ?1, 0, NULL)";
pub(crate) const KMS: &str = "SELECT instance, epoch, pending FROM kms WHERE one = 1";
pub(crate) const SET_PENDING: &str = "UPDATE kms SET pending = ?1 WHERE one = 1";
pub(crate) const BEHIND: &str = "SELECT epoch FROM behind WHERE device = ?1";
pub(crate) const SET_BEHIND: &str =
    "INSERT INTO behind (device, epoch) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
pub(crate) const SET_ABREAST: &str = "DELETE FROM behind WHERE device = ?1";
pub(crate) const SET_EPOCH: &str = "UPDATE kms SET epoch = ?1, pending = NULL WHERE one = 1";

pub(crate) const KEYS: &str =
    "SELECT object, kind, name, version, public_key, state, governed_by, created, activated, device, algorithm, adopted,
        changed, limits, (SELECT max(nth) FROM key_use AS used
            WHERE used.kind = key.kind AND used.name = key.name AND used.version = key.version)
    FROM key ORDER BY kind, name, version";
pub(crate) const INSERT_KEY: &str = "INSERT INTO key
    (device, object, kind, name, version, algorithm, public_key, adopted, state, created, changed)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)";
pub(crate) const REMOVE_KEY: &str = "DELETE FROM key WHERE kind = ?1 AND name = ?2 AND version = ?3
    AND state IN ('compromised', 'destroyed')
    AND NOT EXISTS (SELECT 1 FROM transition WHERE kind = ?1 AND name = ?2 AND version = ?3)";
pub(crate) const REMOVE_USES: &str = "DELETE FROM key_use WHERE kind = ?1 AND name = ?2 AND version = ?3";
pub(crate) const REMOVE_UNSIGNED_TRANSITION: &str =
    "DELETE FROM transition WHERE kind = ?1 AND name = ?2 AND version = ?3 AND new IS NULL";
pub(crate) const SET_KEY_STATE: &str = "UPDATE key SET state = ?4, changed = ?5
    WHERE kind = ?1 AND name = ?2 AND version = ?3";
pub(crate) const ACTIVATE_KEY: &str = "UPDATE key
    SET state = ?4, governed_by = ?5, policy = ?6, activated = ?7, changed = ?7
    WHERE kind = ?1 AND name = ?2 AND version = ?3";

pub(crate) const SET_ACTIVATION: &str =
    "UPDATE key SET activated = ?4 WHERE kind = ?1 AND name = ?2 AND version = ?3";

pub(crate) const SET_LIMITS: &str =
    "UPDATE key SET limits = ?4 WHERE kind = ?1 AND name = ?2 AND version = ?3";
pub(crate) const LIMITED: &str = "SELECT kind, name, version, limits FROM key WHERE limits IS NOT NULL";
pub(crate) const USES: &str = "SELECT kind, name, version, nth, at FROM key_use";
pub(crate) const USED: &str = "SELECT max(nth) FROM key_use WHERE kind = ?1 AND name = ?2 AND version = ?3";
pub(crate) const USE: &str =
    "SELECT at FROM key_use WHERE kind = ?1 AND name = ?2 AND version = ?3 AND nth = ?4";
pub(crate) const INSERT_USE: &str =
    "INSERT INTO key_use (kind, name, version, nth, at) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(crate) const FORGET_USES: &str =
    "DELETE FROM key_use WHERE kind = ?1 AND name = ?2 AND version = ?3 AND nth <= ?4";

pub(crate) const INSERT_TRANSITION: &str =
    "INSERT INTO transition (request, kind, name, version, says) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(crate) const COMPLETE_TRANSITION: &str = "UPDATE transition SET first = ?2, new = ?3 WHERE request = ?1";
pub(crate) const TRANSITION: &str = "SELECT says FROM transition WHERE request = ?1";
pub(crate) const TRANSITIONS: &str =
    "SELECT says FROM transition WHERE new IS NOT NULL ORDER BY kind, name, version";

pub(crate) const POLICY: &str = "SELECT says FROM policy WHERE request = ?1";
pub(crate) const POLICIES: &str = "SELECT contract, says, document, act_by, message IS NOT NULL, request, decided FROM policy ORDER BY contract, place";
pub(crate) const DROP_UNSIGNED_POLICY: &str = "DELETE FROM policy WHERE contract = ?1 AND message IS NULL";
pub(crate) const INSERT_POLICY: &str =
    "INSERT INTO policy (request, contract, place, says, document, act_by, decided)
    SELECT ?1, ?2, count(*) + 1, ?3, ?4, ?5, ?6 FROM policy WHERE contract = ?2";
pub(crate) const COMPLETE_POLICY: &str = "UPDATE policy SET message = ?2 WHERE request = ?1";
pub(crate) const PIN_POLICY: &str = "UPDATE key SET policy = ?2
    WHERE governed_by = ?1 OR (governed_by IS NULL AND kind = 'contract' AND name = ?1)";

pub(crate) const GENESIS: &str = "SELECT bytes FROM genesis WHERE one = 1";
pub(crate) const INSERT_GENESIS: &str = "INSERT INTO genesis (one, bytes, pinned) VALUES (1, ?1, ?2)";

pub(crate) const TRUSTED: &str = "SELECT chain, height, id FROM trusted ORDER BY chain";
pub(crate) const PUT_TRUSTED: &str = "INSERT INTO trusted (chain, height, id) VALUES (?1, ?2, ?3)
    ON CONFLICT (chain) DO UPDATE SET height = excluded.height, id = excluded.id WHERE excluded.height > trusted.height";
pub(crate) const SUSPENDED_VOTERS: &str = "SELECT thumbprint FROM suspended_voter";
pub(crate) const SUSPEND_VOTER: &str =
    "INSERT OR IGNORE INTO suspended_voter (thumbprint, at) VALUES (?1, ?2)";
pub(crate) const RELEASED: &str = "SELECT request FROM released_request";
pub(crate) const RELEASE: &str = "INSERT OR IGNORE INTO released_request (request, at) VALUES (?1, ?2)";

pub(crate) const FENCE: &str = "SELECT at FROM fence WHERE one = 1";
pub(crate) const PUT_FENCE: &str = "INSERT OR REPLACE INTO fence (one, at) VALUES (1, ?1)";

pub(crate) const DEVICE_LOGS: &str = "SELECT device, serial, entry, item, digest FROM device_log";
pub(crate) const PUT_DEVICE_LOG: &str =
    "INSERT OR REPLACE INTO device_log (device, serial, entry, item, digest)
    VALUES (?1, ?2, ?3, ?4, ?5)";

pub(crate) const HEAD: &str = "SELECT number, head FROM audit ORDER BY number DESC LIMIT 1";
pub(crate) const APPEND: &str = "INSERT INTO audit (number, entry, head) VALUES (?1, ?2, ?3)";
pub(crate) const ENTRY: &str = "SELECT entry, head FROM audit WHERE number = ?1";
pub(crate) const ENTRIES: &str = "SELECT number, entry, head FROM audit WHERE number >= ?1 ORDER BY number";

pub(crate) const DUTY: &str =
    "SELECT intent, (SELECT entry FROM result WHERE result.intent = duty.intent) FROM duty WHERE id = ?1";
// A result without an intent is there too, as that of no duty.
pub(crate) const DUTIES: &str =
    "SELECT ifnull(id, zeroblob(32)), ifnull(duty.intent, result.intent) AS number, entry
    FROM duty FULL JOIN result ON result.intent = duty.intent ORDER BY number";
pub(crate) const OPEN_INTENTS: &str =
    "SELECT intent FROM duty WHERE intent NOT IN (SELECT intent FROM result) ORDER BY intent";
pub(crate) const INSERT_DUTY: &str = "INSERT OR IGNORE INTO duty (id, intent) VALUES (?1, ?2)";
pub(crate) const INSERT_RESULT: &str =
    "INSERT OR IGNORE INTO result (intent, entry) SELECT intent, ?2 FROM duty WHERE id = ?1";

pub(crate) const SAVEPOINT: &str = "SAVEPOINT work";
pub(crate) const RELEASE_SAVEPOINT: &str = "RELEASE work";
pub(crate) const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO work";

pub(crate) const COPY: &str = "VACUUM INTO ?1";
pub(crate) const INTEGRITY: &str = "PRAGMA integrity_check(1)";
