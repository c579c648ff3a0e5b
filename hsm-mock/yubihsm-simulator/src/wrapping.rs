//! Encryption under a wrap key: AES-CCM with a nonce of 13 bytes and a tag of 16.

use aes::{Aes128, Aes192, Aes256};
use ccm::Ccm;
use ccm::aead::{Aead, KeyInit};
use ccm::consts::{U13, U16};

use crate::object::fill_random;
use crate::wire::ErrorCode;

/// Bytes of a nonce, which is sent first.
const NONCE: usize = 13;

/// Encrypts under a key of 16, 24 or 32 bytes.
pub(crate) fn wrap(key: &[u8], plain: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    let mut nonce = [0; NONCE];
    fill_random(&mut nonce);
    let sealed = match key.len() {
        16 => seal::<Ccm<Aes128, U16, U13>>(key, &nonce, plain),
        24 => seal::<Ccm<Aes192, U16, U13>>(key, &nonce, plain),
        _ => seal::<Ccm<Aes256, U16, U13>>(key, &nonce, plain),
    };
    Ok([&nonce[..], &sealed.ok_or(ErrorCode::InvalidData)?].concat())
}

/// Decrypts what [`wrap`] made; what was changed or is of another key is [`ErrorCode::InvalidData`].
pub(crate) fn unwrap(key: &[u8], wrapped: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    let (nonce, sealed) = wrapped.split_first_chunk::<NONCE>().ok_or(ErrorCode::WrongLength)?;
    let plain = match key.len() {
        16 => open::<Ccm<Aes128, U16, U13>>(key, nonce, sealed),
        24 => open::<Ccm<Aes192, U16, U13>>(key, nonce, sealed),
        _ => open::<Ccm<Aes256, U16, U13>>(key, nonce, sealed),
    };
    plain.ok_or(ErrorCode::InvalidData)
}

fn seal<C: KeyInit + Aead<NonceSize = U13>>(
    key: &[u8],
    nonce: &[u8; NONCE],
    plain: &[u8],
) -> Option<Vec<u8>> {
    C::new_from_slice(key).ok()?.encrypt(nonce.into(), plain).ok()
}

fn open<C: KeyInit + Aead<NonceSize = U13>>(
    key: &[u8],
    nonce: &[u8; NONCE],
    sealed: &[u8],
) -> Option<Vec<u8>> {
    C::new_from_slice(key).ok()?.decrypt(nonce.into(), sealed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrapped_is_unwrapped_by_the_same_key_and_unchanged_alone() {
        for size in [16, 24, 32] {
            let key = vec![7; size];
            let wrapped = wrap(&key, b"secret").expect("wrapped");
            assert_eq!(wrapped.len(), NONCE + 6 + 16);
            assert_eq!(unwrap(&key, &wrapped).as_deref(), Ok(&b"secret"[..]));
            assert_eq!(unwrap(&vec![8; size], &wrapped), Err(ErrorCode::InvalidData));
            for place in 0..wrapped.len() {
                let mut changed = wrapped.clone();
                changed[place] ^= 1;
                assert_eq!(unwrap(&key, &changed), Err(ErrorCode::InvalidData), "byte {place}");
            }
        }
    }
}
