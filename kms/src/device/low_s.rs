//! One of the two signatures that ECDSA has for each nonce.

use assent_consensus::operational_key::{Algorithm, RawSignature};

use super::DeviceError;

/// The same signature, if it is one of ECDSA with its s in the low half: both are valid, and one form leaves nothing to
/// choose.
pub(super) fn low_s(algorithm: Algorithm, signature: &RawSignature) -> Result<RawSignature, DeviceError> {
    let wrong = |_| DeviceError::WrongSignature;
    let bytes = match algorithm {
        Algorithm::ES256 => {
            let signature = p256::ecdsa::Signature::from_slice(&signature.0).map_err(wrong)?;
            signature.normalize_s().to_bytes().to_vec()
        }
        Algorithm::ES384 => {
            let signature = p384::ecdsa::Signature::from_slice(&signature.0).map_err(wrong)?;
            signature.normalize_s().to_bytes().to_vec()
        }
        Algorithm::RS256 | Algorithm::PS256 => signature.0.clone(),
    };
    Ok(RawSignature(bytes))
}
