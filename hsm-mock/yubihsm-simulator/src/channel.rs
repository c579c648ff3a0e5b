//! The secure channel of a session: GlobalPlatform SCP03 with 128-bit AES, as the device speaks it.

use aes::Aes128;
use aes::cipher::block_padding::Iso7816;
use aes::cipher::{BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit};
use cmac::{Cmac, Mac as _};
use subtle::ConstantTimeEq;

use crate::command::Command;
use crate::object::AuthenticationKey;

/// Bytes of a challenge.
pub(crate) const CHALLENGE: usize = 8;
/// Bytes of a cryptogram.
pub(crate) const CRYPTOGRAM: usize = 8;
/// Bytes of a MAC as it is sent; the chain keeps all sixteen.
pub(crate) const MAC: usize = 8;

/// Derivation constants of SCP03, table 4-1.
const CARD_CRYPTOGRAM: u8 = 0x00;
const HOST_CRYPTOGRAM: u8 = 0x01;
const S_ENC: u8 = 0x04;
const S_MAC: u8 = 0x06;
const S_RMAC: u8 = 0x07;

/// Either side's part of what a session's keys are derived from.
type Context = [u8; 2 * CHALLENGE];

/// One end of a secure channel: the device's.
pub(crate) struct Channel {
    encryption: [u8; 16],
    mac: [u8; 16],
    answer_mac: [u8; 16],
    context: Context,
    chain: [u8; 16],
    counter: u128,
}

/// A command that was opened, and the chain's next value.
pub(crate) struct Opened {
    pub(crate) plain: Vec<u8>,
    chain: [u8; 16],
}

impl Channel {
    pub(crate) fn new(key: &AuthenticationKey, host: [u8; CHALLENGE], card: [u8; CHALLENGE]) -> Channel {
        let mut context = [0; 2 * CHALLENGE];
        context[..CHALLENGE].copy_from_slice(&host);
        context[CHALLENGE..].copy_from_slice(&card);
        Channel {
            encryption: derive(&key.encryption, S_ENC, &context),
            mac: derive(&key.mac, S_MAC, &context),
            answer_mac: derive(&key.mac, S_RMAC, &context),
            context,
            chain: [0; 16],
            counter: 0,
        }
    }

    /// Proves that the device knows the key.
    pub(crate) fn card_cryptogram(&self) -> [u8; CRYPTOGRAM] {
        derive(&self.mac, CARD_CRYPTOGRAM, &self.context)
    }

    /// Whether the host knows the key; the channel can be used from then on.
    pub(crate) fn authenticate(
        &mut self,
        id: u8,
        cryptogram: &[u8; CRYPTOGRAM],
        mac: &[u8; MAC],
    ) -> Option<()> {
        let expected: [u8; CRYPTOGRAM] = derive(&self.mac, HOST_CRYPTOGRAM, &self.context);
        let chain = self.chained(&self.mac, Command::AUTHENTICATE_SESSION.0, id, cryptogram);
        let is_right = expected.ct_eq(cryptogram) & chain[..MAC].ct_eq(mac);
        if !bool::from(is_right) {
            return None;
        }
        self.chain = chain;
        self.counter = 1;
        Some(())
    }

    /// Opens a command and changes nothing. Nothing, if it is not the next one of this session.
    pub(crate) fn open(&self, id: u8, sealed: &[u8]) -> Option<Opened> {
        let (sealed, mac) = sealed.split_last_chunk::<MAC>()?;
        let chain = self.chained(&self.mac, Command::SESSION_MESSAGE.0, id, sealed);
        if !bool::from(chain[..MAC].ct_eq(mac)) {
            return None;
        }
        let cipher = cbc::Decryptor::<Aes128>::new(&self.encryption.into(), &self.initial_value().into());
        let plain = cipher.decrypt_padded_vec::<Iso7816>(sealed).ok()?;
        Some(Opened { plain, chain })
    }

    /// Goes on to the next command, and seals the answer to this one.
    pub(crate) fn seal(&mut self, id: u8, chain: [u8; 16], plain: &[u8]) -> Vec<u8> {
        self.chain = chain;
        let cipher = cbc::Encryptor::<Aes128>::new(&self.encryption.into(), &self.initial_value().into());
        let sealed = cipher.encrypt_padded_vec::<Iso7816>(plain);
        self.counter += 1;
        let mac = self.chained(&self.answer_mac, Command::SESSION_MESSAGE.0 | 0x80, id, &sealed);
        [&[id][..], &sealed, &mac[..MAC]].concat()
    }

    fn chained(&self, key: &[u8; 16], code: u8, id: u8, data: &[u8]) -> [u8; 16] {
        let length = u16::try_from(1 + data.len() + MAC).unwrap_or(u16::MAX);
        let mut mac = Cmac::<Aes128>::new(key.into());
        mac.update(&self.chain);
        mac.update(&[code]);
        mac.update(&length.to_be_bytes());
        mac.update(&[id]);
        mac.update(data);
        mac.finalize().into_bytes().into()
    }

    fn initial_value(&self) -> [u8; 16] {
        let mut block = self.counter.to_be_bytes().into();
        Aes128::new(&self.encryption.into()).encrypt_block(&mut block);
        block.into()
    }
}

impl Opened {
    pub(crate) fn chain(&self) -> [u8; 16] {
        self.chain
    }
}

/// SP 800-108 in counter mode, one block: section 4.1.5 of SCP03.
fn derive<const N: usize>(key: &[u8; 16], constant: u8, context: &Context) -> [u8; N] {
    let bits = u16::try_from(8 * N).expect("at most a block");
    let mut mac = Cmac::<Aes128>::new(key.into());
    mac.update(&[0; 11]);
    mac.update(&[constant, 0]);
    mac.update(&bits.to_be_bytes());
    mac.update(&[1]);
    mac.update(context);
    let block: [u8; 16] = mac.finalize().into_bytes().into();
    *block.first_chunk().expect("at most a block")
}
