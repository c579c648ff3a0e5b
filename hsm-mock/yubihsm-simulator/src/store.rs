//! All objects of a device.

use std::collections::BTreeMap;

use crate::access::{Capabilities, Domains};
use crate::object::{Content, Kind, LABEL, Object, Origin, Wish, fill_random};
use crate::wire::{ErrorCode, Reader};

/// How many objects there is room for.
pub(crate) const OBJECTS: usize = 256;
/// Pages of storage and their bytes, as the device counts them.
const PAGES: u16 = 1024;
const PAGE: u16 = 126;

/// What a session may do: its authentication key's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    pub(crate) key: u16,
    pub(crate) domains: Domains,
    pub(crate) capabilities: Capabilities,
    pub(crate) delegated: Capabilities,
}

impl Rights {
    pub(crate) fn need(&self, capabilities: Capabilities) -> Result<(), ErrorCode> {
        match self.capabilities.contain(capabilities) {
            true => Ok(()),
            false => Err(ErrorCode::InsufficientPermissions),
        }
    }
}

#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<(u16, Kind), Object>,
    /// How often each id was used before.
    sequences: BTreeMap<(u16, Kind), u8>,
}

impl Store {
    /// An object that the session can see.
    pub(crate) fn get(&self, id: u16, kind: Kind, rights: &Rights) -> Result<&Object, ErrorCode> {
        let object = self.objects.get(&(id, kind)).filter(|object| object.domains.touch(rights.domains));
        object.ok_or(ErrorCode::ObjectNotFound)
    }

    /// The key with which a session is opened.
    pub(crate) fn authentication_key(&self, id: u16) -> Result<&Object, ErrorCode> {
        self.objects.get(&(id, Kind::AuthenticationKey)).ok_or(ErrorCode::ObjectNotFound)
    }

    pub(crate) fn authentication_key_mut(&mut self, id: u16) -> Option<&mut Object> {
        self.objects.get_mut(&(id, Kind::AuthenticationKey))
    }

    /// Puts an object in, whatever was there.
    pub(crate) fn replace(&mut self, object: Object) {
        self.objects.insert((object.id, object.kind), object);
    }

    /// Makes an object of what a command asks for; id 0 lets the device choose one.
    pub(crate) fn make(
        &mut self,
        wish: Wish,
        kind: Kind,
        origin: Origin,
        content: Content,
        rights: &Rights,
    ) -> Result<u16, ErrorCode> {
        let is_allowed = rights.delegated.contain(wish.capabilities | wish.delegated)
            && rights.domains.contain(wish.domains);
        if !is_allowed {
            return Err(ErrorCode::InsufficientPermissions);
        }
        if wish.domains.0 == 0 {
            return Err(ErrorCode::InvalidData);
        }
        let id = match wish.id {
            0 => self.free_id(kind)?,
            0xffff => return Err(ErrorCode::InvalidId),
            id => id,
        };
        let Wish { label, domains, capabilities, algorithm, delegated, .. } = wish;
        let object = Object {
            id,
            kind,
            label,
            domains,
            capabilities,
            delegated,
            algorithm,
            sequence: 0,
            origin,
            content,
        };
        self.insert(object)
    }

    /// Puts an object in, if its id is free and there is room.
    pub(crate) fn insert(&mut self, mut object: Object) -> Result<u16, ErrorCode> {
        let place = (object.id, object.kind);
        if self.objects.contains_key(&place) {
            return Err(ErrorCode::ObjectExists);
        }
        if self.objects.len() >= OBJECTS {
            return Err(ErrorCode::StorageFailed);
        }
        let sequence = self.sequences.entry(place).or_default();
        object.sequence = *sequence;
        *sequence = sequence.wrapping_add(1);
        self.objects.insert(place, object);
        Ok(place.0)
    }

    pub(crate) fn delete(&mut self, id: u16, kind: Kind, rights: &Rights) -> Result<(), ErrorCode> {
        self.get(id, kind, rights)?;
        self.objects.remove(&(id, kind));
        Ok(())
    }

    /// Gives an authentication key other keys.
    pub(crate) fn change(&mut self, id: u16, content: Content) -> Result<(), ErrorCode> {
        let object = self.objects.get_mut(&(id, Kind::AuthenticationKey)).ok_or(ErrorCode::ObjectNotFound)?;
        object.content = content;
        Ok(())
    }

    /// What "list objects" answers: of all that the session sees, what fits each filter.
    pub(crate) fn list(&self, filters: &[u8], rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        let filters = read_filters(filters)?;
        let seen = self.objects.values().filter(|object| object.domains.touch(rights.domains));
        let fitting = seen.filter(|object| filters.iter().all(|filter| filter.fits(object)));
        let entry = |object: &Object| {
            let [high, low] = object.id.to_be_bytes();
            [high, low, object.kind as u8, object.sequence]
        };
        Ok(fitting.flat_map(entry).collect())
    }

    /// What "get storage info" answers: records and pages, all and free, and a page's bytes.
    pub(crate) fn storage(&self) -> Vec<u8> {
        let pages =
            |object: &Object| u16::try_from(object.to_bytes().len()).unwrap_or(u16::MAX).div_ceil(PAGE);
        let used: u16 = self.objects.values().map(pages).sum();
        let records = u16::try_from(OBJECTS).expect("256");
        let free = records - u16::try_from(self.objects.len()).expect("no more than there is room for");
        [records, free, PAGES, PAGES.saturating_sub(used), PAGE]
            .into_iter()
            .flat_map(u16::to_be_bytes)
            .collect()
    }

    fn free_id(&self, kind: Kind) -> Result<u16, ErrorCode> {
        if self.objects.len() >= OBJECTS {
            return Err(ErrorCode::StorageFailed);
        }
        loop {
            let mut bytes = [0; 2];
            fill_random(&mut bytes);
            let id = u16::from_be_bytes(bytes);
            // Far more ids than places: this ends soon.
            if !matches!(id, 0 | 0xffff) && !self.objects.contains_key(&(id, kind)) {
                return Ok(id);
            }
        }
    }
}

enum Filter {
    Id(u16),
    Kind(u8),
    Domains(Domains),
    Capabilities(Capabilities),
    Algorithm(u8),
    Label([u8; LABEL]),
}

fn read_filters(bytes: &[u8]) -> Result<Vec<Filter>, ErrorCode> {
    let mut reader = Reader(bytes);
    let mut filters = Vec::new();
    while reader.end().is_err() {
        filters.push(match reader.byte()? {
            1 => Filter::Id(reader.number()?),
            2 => Filter::Kind(reader.byte()?),
            3 => Filter::Domains(Domains(reader.number()?)),
            4 => Filter::Capabilities(Capabilities(reader.long()?)),
            5 => Filter::Algorithm(reader.byte()?),
            6 => Filter::Label(reader.array()?),
            _ => return Err(ErrorCode::InvalidData),
        });
    }
    Ok(filters)
}

impl Filter {
    fn fits(&self, object: &Object) -> bool {
        match self {
            Filter::Id(id) => object.id == *id,
            Filter::Kind(kind) => object.kind as u8 == *kind,
            Filter::Domains(domains) => object.domains.touch(*domains),
            Filter::Capabilities(capabilities) => object.capabilities.touch(*capabilities),
            Filter::Algorithm(algorithm) => object.algorithm == *algorithm,
            Filter::Label(label) => object.label == *label,
        }
    }
}
