//! The functions of PKCS#11 that the driver calls, and the return codes that the standard lists for each (PKCS#11 v2.40,
//! section 5, as of 14 April 2015; `CKR_OK` is none of them).

/// How a call of a function is brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a signature.
    Sign,
    /// By a signature whose session is found to be closed.
    Reopen,
    /// By a signature for which the module is found not to be initialised.
    Reinitialise,
    /// By the epoch's advance, which follows on every signature here.
    Epoch,
    /// By a person who has a key made.
    CreateKey,
    /// By a person who runs `assent-kms doctor`.
    Doctor,
    /// By a person who runs `assent-kms doctor --probe`.
    Probe,
}

/// A function, the way to its call, and its return codes.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) way: Way,
    pub(super) codes: &'static [&'static str],
}

const ANY: [&str; 3] = ["CKR_GENERAL_ERROR", "CKR_HOST_MEMORY", "CKR_FUNCTION_FAILED"];
const DEVICE: [&str; 3] = ["CKR_DEVICE_ERROR", "CKR_DEVICE_MEMORY", "CKR_DEVICE_REMOVED"];
const SESSION: [&str; 2] = ["CKR_SESSION_HANDLE_INVALID", "CKR_SESSION_CLOSED"];

/// What section 5.1 says of all functions, of all that use the token, and of all that use a session.
const SHARED: [Shared; 3] = [
    Shared { codes: &ANY, not_of: &[] },
    Shared { codes: &DEVICE, not_of: &["C_Initialize", "C_Finalize", "C_GetInfo", "C_GetSlotList"] },
    Shared {
        codes: &SESSION,
        not_of: &[
            "C_Initialize",
            "C_Finalize",
            "C_GetInfo",
            "C_GetSlotList",
            "C_GetTokenInfo",
            "C_GetMechanismList",
            "C_OpenSession",
        ],
    },
];

struct Shared {
    codes: &'static [&'static str],
    not_of: &'static [&'static str],
}

/// All of them. Codes that [`SHARED`] gives are not repeated.
pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "C_Initialize",
        way: Way::Reinitialise,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_CANT_LOCK",
            "CKR_CRYPTOKI_ALREADY_INITIALIZED",
            "CKR_NEED_TO_CREATE_THREADS",
        ],
    },
    Function {
        name: "C_Finalize",
        way: Way::Reinitialise,
        codes: &["CKR_ARGUMENTS_BAD", "CKR_CRYPTOKI_NOT_INITIALIZED"],
    },
    Function {
        name: "C_GetInfo",
        way: Way::Doctor,
        codes: &["CKR_ARGUMENTS_BAD", "CKR_CRYPTOKI_NOT_INITIALIZED"],
    },
    Function {
        name: "C_GetSlotList",
        way: Way::Reopen,
        codes: &["CKR_ARGUMENTS_BAD", "CKR_BUFFER_TOO_SMALL", "CKR_CRYPTOKI_NOT_INITIALIZED"],
    },
    Function {
        name: "C_GetTokenInfo",
        way: Way::Reopen,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_SLOT_ID_INVALID",
            "CKR_TOKEN_NOT_PRESENT",
            "CKR_TOKEN_NOT_RECOGNIZED",
        ],
    },
    Function {
        name: "C_GetMechanismList",
        way: Way::Probe,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_BUFFER_TOO_SMALL",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_SLOT_ID_INVALID",
            "CKR_TOKEN_NOT_PRESENT",
            "CKR_TOKEN_NOT_RECOGNIZED",
        ],
    },
    Function {
        name: "C_OpenSession",
        way: Way::Reopen,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_SESSION_COUNT",
            "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
            "CKR_SESSION_READ_WRITE_SO_EXISTS",
            "CKR_SLOT_ID_INVALID",
            "CKR_TOKEN_NOT_PRESENT",
            "CKR_TOKEN_NOT_RECOGNIZED",
            "CKR_TOKEN_WRITE_PROTECTED",
        ],
    },
    Function { name: "C_CloseSession", way: Way::Reopen, codes: &["CKR_CRYPTOKI_NOT_INITIALIZED"] },
    Function {
        name: "C_GetSessionInfo",
        way: Way::Reopen,
        codes: &["CKR_ARGUMENTS_BAD", "CKR_CRYPTOKI_NOT_INITIALIZED"],
    },
    Function {
        name: "C_Login",
        way: Way::Reopen,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_FUNCTION_CANCELED",
            "CKR_OPERATION_NOT_INITIALIZED",
            "CKR_PIN_INCORRECT",
            "CKR_PIN_LOCKED",
            "CKR_SESSION_READ_ONLY_EXISTS",
            "CKR_USER_ALREADY_LOGGED_IN",
            "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
            "CKR_USER_PIN_NOT_INITIALIZED",
            "CKR_USER_TOO_MANY_TYPES",
            "CKR_USER_TYPE_INVALID",
        ],
    },
    Function {
        name: "C_FindObjectsInit",
        way: Way::Reopen,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_ATTRIBUTE_VALUE_INVALID",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_OPERATION_ACTIVE",
            "CKR_PIN_EXPIRED",
        ],
    },
    Function {
        name: "C_FindObjects",
        way: Way::Reopen,
        codes: &["CKR_ARGUMENTS_BAD", "CKR_CRYPTOKI_NOT_INITIALIZED", "CKR_OPERATION_NOT_INITIALIZED"],
    },
    Function {
        name: "C_FindObjectsFinal",
        way: Way::Reopen,
        codes: &["CKR_CRYPTOKI_NOT_INITIALIZED", "CKR_OPERATION_NOT_INITIALIZED"],
    },
    Function {
        name: "C_SignInit",
        way: Way::Sign,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_FUNCTION_CANCELED",
            "CKR_KEY_FUNCTION_NOT_PERMITTED",
            "CKR_KEY_HANDLE_INVALID",
            "CKR_KEY_SIZE_RANGE",
            "CKR_KEY_TYPE_INCONSISTENT",
            "CKR_MECHANISM_INVALID",
            "CKR_MECHANISM_PARAM_INVALID",
            "CKR_OPERATION_ACTIVE",
            "CKR_PIN_EXPIRED",
            "CKR_USER_NOT_LOGGED_IN",
        ],
    },
    Function { name: "C_Sign:length", way: Way::Sign, codes: SIGN },
    Function { name: "C_Sign", way: Way::Sign, codes: SIGN },
    Function {
        name: "C_GenerateKeyPair",
        way: Way::CreateKey,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_ATTRIBUTE_READ_ONLY",
            "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_ATTRIBUTE_VALUE_INVALID",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_DOMAIN_PARAMS_INVALID",
            "CKR_FUNCTION_CANCELED",
            "CKR_MECHANISM_INVALID",
            "CKR_MECHANISM_PARAM_INVALID",
            "CKR_OPERATION_ACTIVE",
            "CKR_PIN_EXPIRED",
            "CKR_SESSION_READ_ONLY",
            "CKR_TEMPLATE_INCOMPLETE",
            "CKR_TEMPLATE_INCONSISTENT",
            "CKR_TOKEN_WRITE_PROTECTED",
            "CKR_USER_NOT_LOGGED_IN",
        ],
    },
    Function {
        name: "C_GetAttributeValue",
        way: Way::CreateKey,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_ATTRIBUTE_SENSITIVE",
            "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_BUFFER_TOO_SMALL",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_OBJECT_HANDLE_INVALID",
        ],
    },
    Function {
        name: "C_CreateObject",
        way: Way::Epoch,
        codes: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_ATTRIBUTE_READ_ONLY",
            "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_ATTRIBUTE_VALUE_INVALID",
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_DOMAIN_PARAMS_INVALID",
            "CKR_PIN_EXPIRED",
            "CKR_SESSION_READ_ONLY",
            "CKR_TEMPLATE_INCOMPLETE",
            "CKR_TEMPLATE_INCONSISTENT",
            "CKR_TOKEN_WRITE_PROTECTED",
            "CKR_USER_NOT_LOGGED_IN",
        ],
    },
    Function {
        name: "C_DestroyObject",
        way: Way::Epoch,
        codes: &[
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_OBJECT_HANDLE_INVALID",
            "CKR_PIN_EXPIRED",
            "CKR_SESSION_READ_ONLY",
            "CKR_TOKEN_WRITE_PROTECTED",
        ],
    },
];

const SIGN: &[&str] = &[
    "CKR_ARGUMENTS_BAD",
    "CKR_BUFFER_TOO_SMALL",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_DATA_INVALID",
    "CKR_DATA_LEN_RANGE",
    "CKR_FUNCTION_CANCELED",
    "CKR_FUNCTION_REJECTED",
    "CKR_OPERATION_NOT_INITIALIZED",
    "CKR_USER_NOT_LOGGED_IN",
];

/// All codes of a function.
pub(super) fn codes_of(function: &Function) -> Vec<&'static str> {
    let shared = SHARED.iter().filter(|shared| !shared.not_of.contains(&function.name));
    let shared = shared.flat_map(|shared| shared.codes);
    function.codes.iter().chain(shared).copied().collect()
}
