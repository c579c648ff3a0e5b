//! Taking over a key that was on its device before. Nobody can say how it came there, so it is marked for ever: in the log,
//! in the table, and in genesis.

use assent_consensus::digest::Tuple;
use assent_consensus::encoding::Bytes;
use assent_consensus::message::KeyVersion;
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind, VerificationKey};

use super::act::{Admin, AdminError, by};
use crate::audit::{Entry, LoggedKey};
use crate::device::{Adoptable, DeviceError, ObjectId};
use crate::life::{Limited, Limits};
use crate::signing::KeyName;
use crate::sockets::Peer;
use crate::store::{KeyRow, NewKey};
use crate::trial::Trial;

impl Admin {
    /// Takes over a key pair of a device, the first one of the configuration if none is named, as the first version of an
    /// operational key. An RSA key does not say by itself how it is to sign: then `algorithm` must.
    ///
    /// What the device vouches for is looked at: that the private half is in the token, sensitive, not to be extracted,
    /// and able to sign. It signs once, so that both halves are seen to belong together; that signature is not kept.
    ///
    /// # Errors
    /// [`AdminError`]; nothing is changed then.
    pub async fn adopt_key(
        &self,
        name: Name,
        algorithm: Option<Algorithm>,
        object: ObjectId,
        device: Option<Name>,
        limits: Limits,
        peer: Peer,
    ) -> Result<KeyRow, AdminError> {
        let name = KeyName::Operational(name);
        limits.check(Limited::NEW, (self.clock)())?;
        let _turn = self.turn.lock().await;
        let rows = self.pins.keys();
        if rows.iter().any(|row| row.name == name) {
            return Err(AdminError::KeyExists(name));
        }
        let device = device.unwrap_or_else(|| self.devices.first().clone());
        let pool = self.devices.get(&device)?;
        let found = pool.run(move |device| device.adoptable(object)).await?;
        let Adoptable { public_key, doubts } = found.ok_or(DeviceError::NoKey(object))?;
        let is_this = |row: &&KeyRow| {
            (row.device == device && row.object == object) || *row.public_key.public_key() == public_key
        };
        if let Some(row) = rows.iter().find(is_this) {
            return Err(AdminError::Taken { object, by: row.name.clone() });
        }
        let algorithm = match (algorithm, public_key.kind()) {
            (Some(algorithm), _) => algorithm,
            (None, KeyKind::P256) => Algorithm::ES256,
            (None, KeyKind::P384) => Algorithm::ES384,
            (None, kind @ (KeyKind::Rsa3072 | KeyKind::Rsa4096)) => {
                return Err(AdminError::WhichAlgorithm(kind));
            }
        };
        let key = VerificationKey::new(algorithm, public_key.clone())?;

        let (version, at, by) = (KeyVersion::first(), (self.clock)(), by(peer));
        let logged = LoggedKey::new(&name, version);
        let tried = Tuple::new("assent-adopt-v1")
            .text(device.as_str())
            .bytes(object.as_bytes())
            .bytes(key.thumbprint().as_bytes());
        let trial = Trial {
            logged: logged.clone(),
            device: device.clone(),
            object,
            key: key.clone(),
            digest: tried.hash(),
            by,
        };
        match trial.run(pool, &self.writer, at).await? {
            Ok(()) => {}
            Err(DeviceError::WrongSignature) => return Err(AdminError::Halves(object)),
            Err(error) => return Err(error.into()),
        }

        let created = (self.clock)();
        let entry = Entry::KeyAdopted {
            at: created,
            by,
            key: logged,
            device: device.clone(),
            object: Bytes(object.as_bytes().to_vec()),
            alg: algorithm,
            public_key,
            doubts: doubts.iter().map(|doubt| (*doubt).to_owned()).collect(),
        };
        let row = NewKey {
            device,
            object,
            name: name.clone(),
            version,
            public_key: key,
            is_adopted: true,
            created,
        };
        self.writer
            .write(move |batch| {
                batch.insert_key(&row)?;
                batch.append(&entry)?;
                batch.set_first_limits(created, Some(by), (&row.name, version), &limits)
            })
            .await?;
        self.reload().await?;
        let doubts = doubts.join(", ");
        tracing::warn!(alarm = true, key = %name, %object, not_vouched_for = doubts, "a key was taken over");
        self.pins.key_row(&name, version).ok_or(AdminError::Broken)
    }
}
