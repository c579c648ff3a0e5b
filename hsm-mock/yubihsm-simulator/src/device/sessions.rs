//! The device's sixteen sessions.

use std::time::Duration;

use crate::channel::{CHALLENGE, CRYPTOGRAM, Channel, MAC};
use crate::command::Command;
use crate::log::NOTHING;
use crate::object::{Content, fill_random};
use crate::simulator::SessionCounts;
use crate::store::{Rights, Store};
use crate::wire::{ErrorCode, Frame, Reader};

/// How many there can be.
const SESSIONS: usize = 16;
/// How long one may idle.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Sessions {
    slots: [Option<Session>; SESSIONS],
    most: usize,
    refused: u64,
}

struct Session {
    rights: Rights,
    channel: Channel,
    is_authenticated: bool,
    last_use: Duration,
}

/// A command that came in a session.
pub(super) struct Call {
    pub(super) id: u8,
    pub(super) rights: Rights,
    pub(super) plain: Vec<u8>,
    chain: [u8; 16],
}

impl Sessions {
    /// Begins a session: a place is taken from now on, whether the host proves that it knows the key or not.
    pub(super) fn create(&mut self, data: &[u8], store: &Store, now: Duration) -> Result<Vec<u8>, ErrorCode> {
        let mut reader = Reader(data);
        let (key, host): (u16, [u8; CHALLENGE]) = (reader.number()?, reader.array()?);
        reader.end()?;
        let object = store.authentication_key(key)?;
        let Content::Authentication(keys) = &object.content else { return Err(ErrorCode::InvalidData) };
        self.close_idle(now);
        let Some(place) = self.slots.iter().position(Option::is_none) else {
            self.refused += 1;
            return Err(ErrorCode::SessionsFull);
        };
        let mut card = [0; CHALLENGE];
        fill_random(&mut card);
        let channel = Channel::new(keys, host, card);
        let id = u8::try_from(place).expect("there are sixteen");
        let answer = [&[id][..], &card, &channel.card_cryptogram()].concat();
        let rights = Rights {
            key,
            domains: object.domains,
            capabilities: object.capabilities,
            delegated: object.delegated,
        };
        self.slots[place] = Some(Session { rights, channel, is_authenticated: false, last_use: now });
        self.most = self.most.max(self.slots.iter().flatten().count());
        Ok(answer)
    }

    /// The host's proof. A wrong one ends the session.
    pub(super) fn authenticate(&mut self, data: &[u8], now: Duration) -> Result<Vec<u8>, ErrorCode> {
        let mut reader = Reader(data);
        let (id, cryptogram, mac): (u8, [u8; CRYPTOGRAM], [u8; MAC]) =
            (reader.byte()?, reader.array()?, reader.array()?);
        reader.end()?;
        self.close_idle(now);
        let session =
            self.slot(id).filter(|session| !session.is_authenticated).ok_or(ErrorCode::InvalidSession)?;
        if session.channel.authenticate(id, &cryptogram, &mac).is_none() {
            self.close(id);
            return Err(ErrorCode::AuthenticationFailed);
        }
        (session.is_authenticated, session.last_use) = (true, now);
        Ok(Vec::new())
    }

    /// The authentication key of the session that a frame names.
    pub(super) fn key_of(&self, data: &[u8]) -> u16 {
        let session = data.first().and_then(|id| self.slots.get(usize::from(*id))?.as_ref());
        session.map_or(NOTHING, |session| session.rights.key)
    }

    /// Opens a command. One that is not this session's next one ends it: somebody changed or repeated it.
    pub(super) fn open(&mut self, data: &[u8], now: Duration) -> Result<Call, ErrorCode> {
        let (id, sealed) = data.split_first().ok_or(ErrorCode::WrongLength)?;
        let id = *id;
        self.close_idle(now);
        let session =
            self.slot(id).filter(|session| session.is_authenticated).ok_or(ErrorCode::InvalidSession)?;
        match session.channel.open(id, sealed) {
            Some(opened) => {
                session.last_use = now;
                Ok(Call { id, rights: session.rights, chain: opened.chain(), plain: opened.plain })
            }
            None => {
                self.close(id);
                Err(ErrorCode::AuthenticationFailed)
            }
        }
    }

    /// The command that a message carries.
    pub(super) fn peek(&self, data: &[u8]) -> Option<Command> {
        let (id, sealed) = data.split_first()?;
        let session =
            self.slots.get(usize::from(*id))?.as_ref().filter(|session| session.is_authenticated)?;
        let opened = session.channel.open(*id, sealed)?;
        Frame::read(&opened.plain).ok().map(|frame| Command(frame.code))
    }

    /// Seals the answer to a call.
    pub(super) fn seal(&mut self, call: &Call, answer: &[u8]) -> Vec<u8> {
        let session = self.slot(call.id).expect("a call's session is closed after its answer");
        session.channel.seal(call.id, call.chain, answer)
    }

    pub(super) fn close(&mut self, id: u8) {
        if let Some(slot) = self.slots.get_mut(usize::from(id)) {
            *slot = None;
        }
    }

    pub(super) fn close_all(&mut self) {
        self.slots = Default::default();
    }

    pub(super) fn counts(&mut self, now: Duration) -> SessionCounts {
        self.close_idle(now);
        SessionCounts { open: self.slots.iter().flatten().count(), most: self.most, refused: self.refused }
    }

    fn slot(&mut self, id: u8) -> Option<&mut Session> {
        self.slots.get_mut(usize::from(id))?.as_mut()
    }

    fn close_idle(&mut self, now: Duration) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|session| now.saturating_sub(session.last_use) >= IDLE) {
                *slot = None;
            }
        }
    }
}
