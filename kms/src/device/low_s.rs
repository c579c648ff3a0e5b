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

#[cfg(test)]
mod tests {
    use super::*;

    /// r, s and n - s for one signature on each curve.
    macro_rules! both_halves {
        ($curve:ident, $size:literal) => {{
            use $curve::ecdsa::signature::hazmat::PrehashSigner as _;
            let key = $curve::ecdsa::SigningKey::from_slice(&[1; $size]).expect("a scalar");
            let signature: $curve::ecdsa::Signature = key.sign_prehash(&[7; 32]).expect("signed");
            let low = signature.normalize_s();
            let (r, s) = low.split_scalars();
            let high =
                $curve::ecdsa::Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).expect("scalars");
            [low, high].map(|signature| RawSignature(signature.to_bytes().to_vec()))
        }};
    }

    #[test]
    fn of_two_signatures_of_one_nonce_there_is_one_form() {
        let pairs = [(Algorithm::ES256, both_halves!(p256, 32)), (Algorithm::ES384, both_halves!(p384, 48))];
        for (algorithm, [low, high]) in pairs {
            assert_ne!(low, high);
            assert_eq!(low_s(algorithm, &high).as_ref(), Ok(&low), "{algorithm}");
            assert_eq!(low_s(algorithm, &low).as_ref(), Ok(&low), "{algorithm}");
            let cut = RawSignature(low.0[1..].to_vec());
            assert_eq!(low_s(algorithm, &cut), Err(DeviceError::WrongSignature), "{algorithm}");
        }
        let rsa = RawSignature(vec![0xff; 384]);
        assert_eq!(low_s(Algorithm::PS256, &rsa).as_ref(), Ok(&rsa));
    }
}
