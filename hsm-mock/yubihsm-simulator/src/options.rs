//! Options of the whole device: whether audit is forced, and which commands are written into the log.

use crate::command::{Command, LISTED, LISTED_BEFORE_2_4};
use crate::device::Firmware;
use crate::wire::{ErrorCode, Reader};

/// How an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Setting {
    Off = 0,
    On = 1,
    /// On until the device is reset.
    Fixed = 2,
}

const FORCE_AUDIT: u8 = 0x01;
const COMMAND_AUDIT: u8 = 0x03;

/// Commands that never are in the log: the envelope of all others, what needs no session, and the reading of the log itself.
const NEVER_LOGGED: [Command; 6] = [
    Command::ECHO,
    Command::SESSION_MESSAGE,
    Command::DEVICE_INFO,
    Command::GET_LOG_ENTRIES,
    Command(0x07),
    Command(0x09),
];

pub(crate) struct DeviceOptions {
    force_audit: Setting,
    commands: Vec<(Command, Setting)>,
}

impl DeviceOptions {
    /// As they are after a reset: before 2.4 commands were logged, since then none is until it is asked for.
    pub(crate) fn new(firmware: Firmware) -> DeviceOptions {
        let listed = match firmware {
            Firmware::V2_2 => &LISTED[..LISTED_BEFORE_2_4],
            Firmware::V2_4 => &LISTED[..],
        };
        let by_default = |command: Command| match firmware {
            Firmware::V2_2 if !NEVER_LOGGED.contains(&command) => Setting::On,
            _ => Setting::Off,
        };
        let commands = listed.iter().map(|code| (Command(*code), by_default(Command(*code)))).collect();
        DeviceOptions { force_audit: Setting::Off, commands }
    }

    pub(crate) fn is_audit_forced(&self) -> bool {
        self.force_audit != Setting::Off
    }

    /// Whether a command is written into the log.
    pub(crate) fn logs(&self, command: Command) -> bool {
        !NEVER_LOGGED.contains(&command)
            && self.commands.iter().any(|(known, setting)| *known == command && *setting != Setting::Off)
    }

    pub(crate) fn get(&self, option: u8) -> Result<Vec<u8>, ErrorCode> {
        match option {
            FORCE_AUDIT => Ok(vec![self.force_audit as u8]),
            COMMAND_AUDIT => {
                let pair = |(command, setting): &(Command, Setting)| [command.0, *setting as u8];
                Ok(self.commands.iter().flat_map(pair).collect())
            }
            _ => Err(ErrorCode::InvalidData),
        }
    }

    /// Sets an option, or changes nothing.
    pub(crate) fn set(&mut self, option: u8, value: &[u8]) -> Result<(), ErrorCode> {
        match option {
            FORCE_AUDIT => {
                let mut reader = Reader(value);
                let wanted = Setting::read(reader.byte()?)?;
                reader.end()?;
                self.force_audit.become_allowed(wanted)
            }
            COMMAND_AUDIT => {
                let (pairs, []) = value.as_chunks::<2>() else { return Err(ErrorCode::WrongLength) };
                let mut commands = self.commands.clone();
                for [code, wanted] in pairs {
                    let wanted = Setting::read(*wanted)?;
                    let known = commands.iter_mut().find(|(command, _)| command.0 == *code);
                    known.ok_or(ErrorCode::InvalidData)?.1.become_allowed(wanted)?;
                }
                self.commands = commands;
                Ok(())
            }
            _ => Err(ErrorCode::InvalidData),
        }
    }
}

impl Setting {
    fn read(byte: u8) -> Result<Setting, ErrorCode> {
        match byte {
            0 => Ok(Setting::Off),
            1 => Ok(Setting::On),
            2 => Ok(Setting::Fixed),
            _ => Err(ErrorCode::InvalidData),
        }
    }

    /// Assumed: what is fixed can be set to nothing else, and the device calls that a lack of permission.
    fn become_allowed(&mut self, wanted: Setting) -> Result<(), ErrorCode> {
        match *self {
            Setting::Fixed if wanted != Setting::Fixed => Err(ErrorCode::InsufficientPermissions),
            _ => {
                *self = wanted;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fixed_is_never_switched_off_and_a_wrong_pair_changes_nothing() {
        let mut options = DeviceOptions::new(Firmware::V2_4);
        assert!(!options.logs(Command::SIGN_ECDSA));
        let bad = [Command::SIGN_ECDSA.0, 1, 0xee, 1];
        assert_eq!(options.set(COMMAND_AUDIT, &bad), Err(ErrorCode::InvalidData));
        assert!(!options.logs(Command::SIGN_ECDSA));
        assert_eq!(options.set(COMMAND_AUDIT, &bad[..2]), Ok(()));
        assert!(options.logs(Command::SIGN_ECDSA));
        assert_eq!(options.set(FORCE_AUDIT, &[2]), Ok(()));
        assert_eq!(options.set(FORCE_AUDIT, &[0]), Err(ErrorCode::InsufficientPermissions));
        assert!(options.is_audit_forced());
    }
}
