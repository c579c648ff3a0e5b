//! The frames that go to the device and come from it: a code, the length in two bytes, the data.

/// What the device says when it does not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the device's own")]
pub enum ErrorCode {
    InvalidCommand = 0x01,
    InvalidData = 0x02,
    InvalidSession = 0x03,
    AuthenticationFailed = 0x04,
    SessionsFull = 0x05,
    SessionFailed = 0x06,
    StorageFailed = 0x07,
    WrongLength = 0x08,
    InsufficientPermissions = 0x09,
    LogFull = 0x0a,
    ObjectNotFound = 0x0b,
    InvalidId = 0x0c,
    SshCaConstraintViolation = 0x0e,
    InvalidOtp = 0x0f,
    DemoMode = 0x10,
    ObjectExists = 0x11,
    AlgorithmDisabled = 0x12,
    CommandUnexecuted = 0xff,
}

/// The code of a frame that carries an [`ErrorCode`].
const ERROR: u8 = 0x7f;
/// Set in the code of an answer.
const ANSWER: u8 = 0x80;
/// Bytes of code and length.
pub(crate) const HEAD: usize = 3;

/// A frame as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) code: u8,
    pub(crate) data: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Frame<'a>, ErrorCode> {
        let mut reader = Reader(bytes);
        let (code, length) = (reader.byte()?, reader.number()?);
        match reader.rest() {
            data if data.len() == usize::from(length) => Ok(Frame { code, data }),
            _ => Err(ErrorCode::WrongLength),
        }
    }
}

/// The frame with a command's answer.
pub(crate) fn answer(command: u8, data: &[u8]) -> Vec<u8> {
    frame(command | ANSWER, data)
}

/// The frame with an error.
pub(crate) fn refusal(code: ErrorCode) -> Vec<u8> {
    frame(ERROR, &[code as u8])
}

fn frame(code: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("no answer is longer than the device's buffer");
    [&[code][..], &length.to_be_bytes(), data].concat()
}

/// Takes fields off a command's data. Whatever is missing or too much is [`ErrorCode::WrongLength`].
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ErrorCode> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(ErrorCode::WrongLength)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ErrorCode> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn number(&mut self) -> Result<u16, ErrorCode> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn long(&mut self) -> Result<u64, ErrorCode> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(&self) -> Result<(), ErrorCode> {
        if self.0.is_empty() { Ok(()) } else { Err(ErrorCode::WrongLength) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_exactly_as_long_as_it_says() {
        assert!(Frame::read(&[6, 0, 1, 9]).is_ok_and(|frame| frame.code == 6 && frame.data == [9]));
        for bytes in [&[][..], &[6, 0], &[6, 0, 1], &[6, 0, 1, 9, 9]] {
            assert_eq!(Frame::read(bytes).err(), Some(ErrorCode::WrongLength), "{bytes:?}");
        }
    }
}
