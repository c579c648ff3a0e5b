//! Policies that followed those of genesis: the history by which the KMS goes.

use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::jws::Jws;
use assent_consensus::message::{Change, RequestId};
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use rusqlite::OptionalExtension;

use super::{Batch, Store, StoreError, integer, sql};

/// One policy that followed another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// What approved it.
    pub request: RequestId,
    /// When that was decided.
    pub decided: UnixMillis,
    /// Whose it is.
    pub contract: Name,
    /// What the governing contract says.
    pub says: Change,
    /// The exact document.
    pub document: Vec<u8>,
    /// Until when the change may be done.
    pub act_by: UnixMillis,
    /// Whether the governing contract has signed it.
    pub is_signed: bool,
}

impl Store {
    /// What the change of a policy that a request approved says, once that is fixed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn policy_by(&self, request: RequestId) -> Result<Option<Change>, StoreError> {
        let mut statement = self.statement(sql::POLICY)?;
        let found = statement.query_row([request.0.as_bytes()], |row| row.get::<_, Vec<u8>>(0)).optional();
        self.sql(found)?.map(|bytes| self.change(&bytes)).transpose()
    }

    /// The policies that followed those of genesis, in order of contract and place; the last one of a contract may not be
    /// signed yet.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn policies(&self) -> Result<Vec<PolicyRow>, StoreError> {
        let mut statement = self.statement(sql::POLICIES)?;
        let mut rows = self.sql(statement.query([]))?;
        let mut policies = Vec::new();
        while let Some(row) = self.sql(rows.next())? {
            let contract: String = self.sql(row.get(0))?;
            let request: [u8; 32] = self.sql(row.get(5))?;
            policies.push(PolicyRow {
                request: RequestId(Digest::from_bytes(request)),
                decided: UnixMillis::new(self.sql(row.get::<_, i64>(6))?.cast_unsigned()),
                contract: contract.parse().map_err(|_| self.damaged("a contract's name is none"))?,
                says: self.change(&self.sql(row.get::<_, Vec<u8>>(1))?)?,
                document: self.sql(row.get(2))?,
                act_by: UnixMillis::new(self.sql(row.get::<_, i64>(3))?.cast_unsigned()),
                is_signed: self.sql(row.get(4))?,
            });
        }
        Ok(policies)
    }

    fn change(&self, bytes: &[u8]) -> Result<Change, StoreError> {
        json::read(bytes).map_err(|error| self.damaged(format!("a row of `policy` cannot be read: {error}")))
    }
}

impl Batch<'_> {
    /// Puts an approved policy into the file, before its change is signed, in the place of one that was not signed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn insert_policy(&self, row: &PolicyRow) -> Result<(), StoreError> {
        let contract = row.contract.as_str();
        self.run(sql::DROP_UNSIGNED_POLICY, [contract])?;
        let (says, document, act_by) = (json::write(&row.says), &row.document, integer(row.act_by.get()));
        self.run(
            sql::INSERT_POLICY,
            (row.request.0.as_bytes(), contract, says, document, act_by, integer(row.decided.get())),
        )
    }

    /// Puts the message of a change beside its policy, by which the contract's keys are used from now on.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn complete_policy(
        &self,
        request: RequestId,
        contract: &Name,
        policy: &Digest,
        message: &Jws,
    ) -> Result<(), StoreError> {
        self.run(sql::COMPLETE_POLICY, (request.0.as_bytes(), message.as_str()))?;
        self.run(sql::PIN_POLICY, (contract.as_str(), policy.as_bytes()))
    }
}
