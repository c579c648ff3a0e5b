//! One session as the KMS uses it: looked over before it does anything, and replaced when the device has closed it.

use std::sync::Arc;

use ::yubihsm::audit::AuditCommand;
use ::yubihsm::object::{self, Type};
use ::yubihsm::{AuditOption, Capability, Client, client};

use super::Shared;
use super::calls::Failure;
use super::capability::{self, NEEDED};
use super::line::Line;
use super::log::{self, SET_OPTION, Use};
use crate::device::DeviceError;

/// One session with a YubiHSM 2. It is given back when this is dropped.
pub struct YubiHsmDevice {
    pub(super) shared: Arc<Shared>,
    line: Arc<Line>,
    is_broken: bool,
    is_closed: bool,
    /// The authentication key, once it was looked at and the session is as it must be.
    own: Option<object::Info>,
    is_checking: bool,
}

impl YubiHsmDevice {
    pub(super) fn new(shared: Arc<Shared>, line: Arc<Line>) -> YubiHsmDevice {
        YubiHsmDevice { shared, line, is_broken: false, is_closed: false, own: None, is_checking: false }
    }

    /// The same session, if its authentication key may do what the KMS needs.
    pub(super) fn checked(mut self) -> Result<YubiHsmDevice, DeviceError> {
        self.check()?;
        Ok(self)
    }

    fn check(&mut self) -> Result<(), DeviceError> {
        self.own = None;
        self.is_checking = true;
        let own = self.look_over();
        self.is_checking = false;
        self.own = Some(own?);
        Ok(())
    }

    fn look_over(&mut self) -> Result<object::Info, DeviceError> {
        let id = self.shared.settings.authentication_key;
        let own = self.look(|client| client.get_object_info(id, Type::AuthenticationKey))?;
        let lacking = NEEDED.difference(own.capabilities);
        let given = self.key_capabilities().difference(own.delegated_capabilities);
        if !lacking.is_empty() || !given.is_empty() {
            return Err(DeviceError::Setup(format!(
                "authentication key {id} of the YubiHSM lacks capabilities ({}) or delegated capabilities ({}): make one that \
                 has them, and name it with `authentication_key`",
                capability::names(lacking),
                capability::names(given)
            )));
        }
        if self.shared.has_log_keeper() {
            let first = self.shared.read_log_first(&self.line);
            self.settled(first).map_err(|failure| failure.error)?;
            self.force_audit()?;
        }
        Ok(own)
    }

    /// Switches forced audit on, and the audit of everything that uses or changes something: without them the log says
    /// nothing. Neither is ever switched off.
    fn force_audit(&mut self) -> Result<(), DeviceError> {
        let audited = self.look(Client::get_commands_audit_options)?;
        let is_off = |command: &AuditCommand| {
            command.audit_option() == AuditOption::Off && log::is_use(command.command_type().to_u8())
        };
        let mut off: Vec<_> =
            audited.into_iter().filter(is_off).map(|command| command.command_type()).collect();
        // The switching itself first, so that the log tells of all others.
        off.sort_by_key(|command| command.to_u8() != SET_OPTION);
        for command in off {
            self.switch_on(|client| client.set_command_audit_option(command, AuditOption::On))?;
        }
        match self.look(Client::get_force_audit_option)? {
            AuditOption::Off => self.switch_on(|client| client.set_force_audit_option(AuditOption::On)),
            AuditOption::On | AuditOption::Fix => Ok(()),
        }
    }

    fn switch_on(&mut self, work: impl Fn(&Client) -> Result<(), client::Error>) -> Result<(), DeviceError> {
        let used = Use { command: SET_OPTION, object: None };
        self.call(Some(used), work).map_err(|failure| match failure.error {
            DeviceError::Failed(why) => DeviceError::Setup(format!(
                "the YubiHSM does not log everything that is done with it, and cannot be told to: {why}"
            )),
            error => error,
        })
    }

    pub(super) fn key_capabilities(&self) -> Capability {
        match self.shared.settings.wrap_key {
            Some(_) => Capability::SIGN_ECDSA | Capability::EXPORTABLE_UNDER_WRAP,
            None => Capability::SIGN_ECDSA,
        }
    }

    pub(super) fn own(&self) -> Result<&object::Info, DeviceError> {
        self.own.as_ref().ok_or_else(|| DeviceError::Gone("the session was not looked at".into()))
    }

    pub(super) fn look<T>(
        &mut self,
        work: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, DeviceError> {
        self.call(None, work).map_err(|failure| failure.error)
    }

    pub(super) fn call<T>(
        &mut self,
        used: Option<Use>,
        work: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, Failure> {
        if self.own.is_none() && !self.is_checking {
            self.check().map_err(Failure::of_session)?;
        }
        match self.shared.call(&self.line, used, &work) {
            // The device has closed the session, and did nothing: it was idle for long, or pulled out.
            Err(failure) if failure.is_closed && !self.is_checking => {
                self.reopen().map_err(Failure::of_session)?;
                let again = self.shared.call(&self.line, used, work);
                self.settled(again)
            }
            result => self.settled(result),
        }
    }

    /// Goes on with another session. The device may have been reset meanwhile, so all is looked at again.
    fn reopen(&mut self) -> Result<(), DeviceError> {
        self.shared.give_back(&self.line, true, true);
        self.line = self.shared.take_line()?;
        self.check()
    }

    /// Remembers whether the session is of use after this.
    fn settled<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &result {
            self.is_broken |= failure.error.is_lost();
            self.is_closed |= failure.is_closed;
        }
        result
    }
}

impl Drop for YubiHsmDevice {
    fn drop(&mut self) {
        self.shared.give_back(&self.line, self.is_broken, self.is_closed);
    }
}
