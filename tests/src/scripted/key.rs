//! Key pairs in memory.

use assent_consensus::digest::Digest;
use assent_consensus::encoding;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::jws::{Jws, Payload, Unsigned};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};

/// A P-256 key pair that is the same for the same number.
pub struct Key {
    secret: SigningKey,
    fast: EcdsaKeyPair,
    /// The public half.
    pub public: PublicKey,
}

impl Key {
    /// The key pair of this number.
    ///
    /// # Panics
    /// If the number is 0, which gives no key.
    pub fn new(number: u8) -> Key {
        let secret = SigningKey::from_slice(&[number; 32]).expect("every number but 0 gives a key");
        let point = secret.verifying_key().to_sec1_point(false);
        let public = PublicKey::from_point(point.as_bytes().try_into().expect("65 bytes"));
        let fast = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &[number; 32],
            point.as_bytes(),
        );
        Key { secret, fast: fast.expect("a pair"), public: public.expect("it is on the curve") }
    }

    /// Signs a message.
    ///
    /// # Panics
    /// If the system has no random bytes.
    pub fn sign<P: Payload>(&self, payload: P) -> Jws {
        let unsigned = Unsigned::new(self.public.thumbprint(), payload);
        let signature = self.fast.sign(&SystemRandom::new(), unsigned.signing_input()).expect("it signs");
        let signature = signature.as_ref().try_into().expect("r and s are 64 bytes");
        unsigned.attach(&signature, &self.public).expect("it verifies").jws().clone()
    }

    /// Signs a digest as it is.
    ///
    /// # Panics
    /// Never: a digest has 32 bytes.
    pub fn sign_digest(&self, digest: &Digest) -> Signature {
        let signature: p256::ecdsa::Signature =
            self.secret.sign_prehash(digest.as_bytes()).expect("a digest has 32 bytes");
        signature.to_bytes().into()
    }

    /// The private half as PKCS#8 PEM without a passphrase.
    ///
    /// # Panics
    /// Never: every key has this form.
    pub fn pem(&self) -> String {
        let secret = p256::SecretKey::from(&self.secret);
        secret.to_pkcs8_pem(LineEnding::LF).expect("a key has this form").to_string()
    }

    /// The public half as an inline table of TOML.
    pub fn toml(&self) -> String {
        let point = self.public.point();
        let (x, y) = (encoding::encode(&point[1..33]), encoding::encode(&point[33..]));
        format!(r#"{{ kty = "EC", crv = "P-256", x = "{x}", y = "{y}" }}"#)
    }
}
