//! What is done about each return code of PKCS#11 (v2.40 section 5.1, and what modules were seen to mean by it).

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use super::words;
use crate::device::DeviceError;

/// What a return code calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing was done, and nothing is wrong with the session: the same call again, once.
    Retry,
    /// The session is of no use: a new one, logged in.
    Reopen,
    /// The module's slots or its state are of no use: all sessions end, and it is initialised again.
    Reinitialise,
    /// No more sessions for now: work waits for those that there are.
    Full,
    /// Another try gives the same: this piece of work ends, and a person is told what to do.
    Person,
}

/// The reaction to an error of a call.
pub(super) fn reaction(error: &Error) -> Reaction {
    let Error::Pkcs11(code, function) = error else { return Reaction::Person };
    of_code(*code, *function)
}

fn of_code(code: RvError, function: Function) -> Reaction {
    use Reaction::{Full, Person, Reinitialise, Reopen, Retry};
    use RvError as R;
    match (code, function) {
        // A second pair, or a second mark, is no harm that a retry on the same session would notice.
        (
            R::Cancel | R::FunctionCanceled | R::HostMemory,
            Function::GenerateKeyPair | Function::CreateObject | Function::Login,
        ) => Reopen,
        (R::Cancel | R::FunctionCanceled | R::HostMemory, _) => Retry,
        // What the call before should have left is not there, or a buffer's size changed under our hands.
        (R::OperationNotInitialized | R::BufferTooSmall, _) => Retry,

        // A handle is the session's own: a new one looks for the object again, and finds out if there is none any more.
        (R::KeyHandleInvalid | R::ObjectHandleInvalid | R::KeyChanged, _) => Reopen,
        (R::SessionClosed | R::SessionHandleInvalid | R::OperationActive | R::UserNotLoggedIn, _) => Reopen,
        (R::DeviceError | R::FunctionFailed | R::FunctionRejected, _) => Reopen,
        // SoftHSM says so of a key whose file it cannot read now.
        (R::KeyFunctionNotPermitted, Function::Sign | Function::SignInit) => Reopen,
        // The token has no place for a new object; for anything else, it has no place now.
        (R::DeviceMemory, Function::GenerateKeyPair | Function::CreateObject) => Person,
        (R::DeviceMemory, _) => Reopen,
        // Nobody but the maker knows what it means; a new session is what helps most often.
        (R::VendorDefined(_) | R::UnknownErrorCode(_), _) => Reopen,

        (R::SessionCount, _) => Full,

        (R::CryptokiNotInitialized | R::GeneralError | R::LibraryLoadFailed, _) => Reinitialise,
        (R::DeviceRemoved | R::TokenNotPresent | R::TokenNotRecognized | R::SlotIdInvalid, _) => Reinitialise,
        (R::MutexBad | R::MutexNotLocked | R::CantLock | R::NeedToCreateThreads, _) => Reinitialise,

        _ => Person,
    }
}

/// The error for whoever asked. Whether the module must be initialised again was noted before.
pub(super) fn from_call(error: &Error) -> DeviceError {
    let text = words(error);
    match reaction(error) {
        Reaction::Retry | Reaction::Reopen | Reaction::Reinitialise => DeviceError::Gone(text),
        Reaction::Full => DeviceError::Full(text),
        Reaction::Person => DeviceError::Failed(match remedy(error) {
            Some(remedy) => format!("{text}: {remedy}"),
            None => text,
        }),
    }
}

/// What a person can do about it, where the code says enough.
fn remedy(error: &Error) -> Option<&'static str> {
    use RvError as R;
    let Error::Pkcs11(code, function) = error else { return None };
    Some(match code {
        R::DeviceMemory => "the token has no space left: destroy objects that nobody needs",
        R::TokenWriteProtected | R::SessionReadOnly | R::ActionProhibited => {
            "the token cannot be written: lift its write protection"
        }
        R::MechanismInvalid | R::MechanismParamInvalid | R::FunctionNotSupported => {
            "the token cannot do this: `assent-kms doctor --probe` shows what it can"
        }
        R::AttributeReadOnly
        | R::AttributeTypeInvalid
        | R::AttributeValueInvalid
        | R::TemplateIncomplete
        | R::TemplateInconsistent => {
            "the token refuses the object's attributes: `assent-kms doctor --probe` finds the `profile` that it takes"
        }
        R::UserPinNotInitialized => "the token has no user PIN yet: its security officer sets one",
        R::PinExpired => "the PIN has expired: change it with the maker's own tool, and in the PIN file",
        R::CurveNotSupported => {
            "the token knows no keys on this curve: use another `--alg`, or another `--device`"
        }
        R::KeySizeRange if matches!(function, Function::GenerateKeyPair) => {
            "the token makes no keys of this size: use other `--bits`, or another `--device`"
        }
        R::KeyTypeInconsistent | R::KeySizeRange => {
            "the object with this id is not the key that was made here"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: RvError, function: Function) -> Reaction {
        reaction(&Error::Pkcs11(code, function))
    }

    #[test]
    fn a_call_that_may_have_made_something_is_not_made_again_on_the_same_session() {
        for function in [Function::GenerateKeyPair, Function::CreateObject, Function::Login] {
            assert_eq!(of(RvError::FunctionCanceled, function), Reaction::Reopen);
        }
        assert_eq!(of(RvError::FunctionCanceled, Function::SignInit), Reaction::Retry);
    }

    #[test]
    fn a_full_token_needs_a_person_and_one_that_is_short_of_memory_now_does_not() {
        assert_eq!(of(RvError::DeviceMemory, Function::GenerateKeyPair), Reaction::Person);
        assert_eq!(of(RvError::DeviceMemory, Function::Sign), Reaction::Reopen);
    }

    #[test]
    fn an_error_for_a_person_says_what_to_do() {
        let error = Error::Pkcs11(RvError::TemplateInconsistent, Function::GenerateKeyPair);
        assert!(from_call(&error).to_string().contains("doctor --probe"), "{}", from_call(&error));
    }
}
