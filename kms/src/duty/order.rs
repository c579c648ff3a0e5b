//! From what was verified to the bytes that a key signs. Orders are made here and nowhere else, in two ways: a contract's
//! key signs messages of contracts, an operational key signs approved artifacts, and neither signs the other's
//! (invariant I13).

use assent_consensus::artifact::{Artifact, ToSign};
use assent_consensus::bundle::ActionOutput;
use assent_consensus::duty::DutyAnswer;
use assent_consensus::encoding::{self, Bytes};
use assent_consensus::jws::{Jws, Payload, Signed, Unsigned};
use assent_consensus::message::{Decision, KeyVersion, RequestId, VoteRequest};
use assent_consensus::name::Name;
use assent_consensus::operational_key::VerificationKey;

use crate::pins::PinnedKey;
use crate::signing::{KeyName, Order, Purpose, SignedOrder};

/// A message that a consensus contract signs.
pub(super) trait ContractMessage: Payload {
    const PURPOSE: Purpose;

    fn contract(&self) -> &Name;
    fn request(&self) -> RequestId;
    fn key_version(&self) -> KeyVersion;
}

macro_rules! contract_message {
    ($($message:ident),*) => { $(
        impl ContractMessage for $message {
            const PURPOSE: Purpose = Purpose::$message;

            fn contract(&self) -> &Name {
                &self.contract
            }

            fn request(&self) -> RequestId {
                self.request
            }

            fn key_version(&self) -> KeyVersion {
                self.key_version
            }
        }
    )* };
}

contract_message!(VoteRequest, Decision);

/// A duty that may be done: what is to be signed, and what becomes of the signature.
pub(super) struct Prepared {
    pub(super) order: Order,
    release: Release,
}

/// What becomes of a signature.
enum Release {
    /// It makes a message of the bytes that were signed.
    Message,
    /// It makes the output of an action.
    Output { name: Name, key: VerificationKey, artifact: Box<Artifact> },
}

impl Prepared {
    /// A contract's key signs a message of that contract.
    pub(super) fn message<P: ContractMessage>(key: &PinnedKey, message: P) -> Prepared {
        let (request, version) = (message.request(), message.key_version());
        let name = KeyName::Contract(message.contract().clone());
        let unsigned = Unsigned::new(key.public_key.thumbprint(), message);
        let to_sign = ToSign::Message(unsigned.signing_input().to_vec());
        let order = Order { purpose: P::PURPOSE, request, key: name, version, to_sign };
        Prepared { order, release: Release::Message }
    }

    /// An operational key signs an approved artifact.
    pub(super) fn artifact(name: &Name, key: &PinnedKey, artifact: Artifact) -> Prepared {
        let order = Order {
            purpose: Purpose::Action,
            request: artifact.request,
            key: KeyName::Operational(name.clone()),
            version: key.version,
            to_sign: artifact.to_sign(&key.public_key),
        };
        let (name, key, artifact) = (name.clone(), key.public_key.clone(), Box::new(artifact));
        Prepared { order, release: Release::Output { name, key, artifact } }
    }

    /// What was ordered before in place of this vote request, if it asks the same and differs only in its times and versions.
    pub(super) fn into_ordered(self, before: Order) -> Option<Prepared> {
        let (new, old) =
            (ordered_message::<VoteRequest>(&self.order)?, ordered_message::<VoteRequest>(&before)?);
        let VoteRequest { opened, deadline, policy, key_version, .. } = old;
        let same = old == VoteRequest { opened, deadline, policy, key_version, ..new };
        same.then_some(Prepared { order: before, release: Release::Message })
    }

    /// The answer that carries the signature, which the signing service has verified.
    pub(super) fn answer(self, signed: &SignedOrder) -> Option<DutyAnswer> {
        let audit = signed.audit;
        match self.release {
            Release::Message => {
                let ToSign::Message(input) = &signed.order.to_sign else { return None };
                let mut compact = input.clone();
                compact.push(b'.');
                compact.extend_from_slice(encoding::encode(&signed.signature.0).as_bytes());
                let message = Jws::parse(&compact).ok()?;
                Some(DutyAnswer::Signed { message, audit })
            }
            Release::Output { name, key, artifact } => {
                let signature = artifact.assemble(&key, &signed.signature);
                let output = ActionOutput {
                    key: name,
                    version: signed.order.version,
                    public_key: key.public_key().clone(),
                    format: artifact.format,
                    signature: Bytes(signature),
                };
                Some(DutyAnswer::Performed { output, audit })
            }
        }
    }
}

/// Whether an order is for exactly this message, whatever its signature.
pub(super) fn orders_message(order: &Order, message: &Jws) -> bool {
    let input = message.as_str().rsplit_once('.').map(|(input, _)| input.as_bytes());
    matches!(&order.to_sign, ToSign::Message(ordered) if Some(&ordered[..]) == input)
}

/// The message that was ordered; nothing if that cannot be read.
fn ordered_message<P: ContractMessage + Clone>(order: &Order) -> Option<P> {
    let ToSign::Message(input) = &order.to_sign else { return None };
    let no_signature = encoding::encode(&[0; 64]);
    let compact = [input, &b"."[..], no_signature.as_bytes()].concat();
    let signed = Signed::<P>::parse(&compact).ok()?;
    Some(signed.unverified().clone())
}
