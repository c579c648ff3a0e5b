//! A key that came from elsewhere signs once, so that it is seen whether both its halves belong together.

use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::json::Integer;
use assent_consensus::name::Name;
use assent_consensus::operational_key::{MessageDigest, VerificationKey};
use assent_consensus::time::UnixMillis;

use crate::audit::{Entry, LoggedKey};
use crate::device::{DeviceError, ObjectId, Pool};
use crate::store::{StoreError, Writer};

/// A key that is to be tried, and the digest, which stands for nothing else, that it is to sign.
pub(crate) struct Trial {
    pub logged: LoggedKey,
    /// The device whose pool it is tried on.
    pub device: Name,
    pub object: ObjectId,
    pub key: VerificationKey,
    pub digest: Digest,
    /// The user who asks for it.
    pub by: Integer,
}

impl Trial {
    /// Says so in the audit log, and has the key sign. The signature is verified and not kept.
    pub(crate) async fn run(
        self,
        pool: &Pool,
        writer: &Writer,
        at: UnixMillis,
    ) -> Result<Result<(), DeviceError>, StoreError> {
        let Trial { logged, device, object, key, digest, by } = self;
        let bytes = Bytes(object.as_bytes().to_vec());
        let entry = Entry::KeyTried { at, by, key: logged, device, object: bytes, digest };
        writer.write(move |batch| batch.append(&entry).map(drop)).await?;
        Ok(pool.sign(object, key, MessageDigest::Sha256(digest)).await.map(drop))
    }
}
