//! The functions that the application calls in the place of the real ones, by the names that PKCS#11 gives them.
#![allow(non_snake_case)]

use std::ffi::c_void;
use std::sync::atomic::Ordering;
use std::{ptr, slice};

use cryptoki_sys::*;

use crate::code_of;
use crate::engine::{Decision, complain};
use crate::real::{ABSENT, Wrapped, function_list, wrapped};
use crate::script::{Vendor, What};
use crate::vendor::{self, OwnTemplates};

/// The module's only export: the list of its functions, PKCS#11 v2.40 section 5.4.
///
/// # Safety
/// `list` is null or points to where a pointer may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    match function_list() {
        Ok(functions) => {
            // SAFETY: the caller's pointer may be written.
            unsafe { *list = functions };
            CKR_OK
        }
        Err(why) => {
            complain(&why);
            CKR_GENERAL_ERROR
        }
    }
}

/// The name under which a script means the call of `C_Sign` that asks only for the signature's length.
pub const LENGTH_OF_SIGNATURE: &str = "C_Sign:length";

/// The name under which the number of the real module's open sessions is written down, in hexadecimal, after each that is
/// opened.
pub const SESSION_COUNT: &str = "sessions";

/// A call that is to be made.
struct Call<'c> {
    function: &'static str,
    session: Option<CK_SESSION_HANDLE>,
    /// What is signed.
    data: Option<&'c [u8]>,
    /// The device itself has to do something that takes its time.
    is_work: bool,
}

/// Does what the script says of a call. `real` is the call of the real module, `finish` what ends the operation that the
/// call would have ended.
fn answer(
    call: &Call<'_>,
    real: &dyn Fn(&Wrapped, &Decision) -> CK_RV,
    finish: &dyn Fn(&Wrapped),
    refused: &dyn Fn(&Wrapped, Vendor) -> Option<CK_RV>,
) -> CK_RV {
    let Some(wrapped) = wrapped() else { return CKR_CRYPTOKI_NOT_INITIALIZED };
    let others = wrapped.engine.calls.fetch_add(1, Ordering::SeqCst);
    if call.function == "C_Finalize" && others > 0 {
        // Undefined by the standard (PKCS#11 v2.40 section 5.4): whoever does it must not live on as if nothing was.
        complain(&format!("C_Finalize was called while {others} other calls had not returned"));
        std::process::abort();
    }
    let code = answer_to(wrapped, call, real, finish, refused);
    wrapped.engine.calls.fetch_sub(1, Ordering::SeqCst);
    code
}

fn answer_to(
    wrapped: &Wrapped,
    call: &Call<'_>,
    real: &dyn Fn(&Wrapped, &Decision) -> CK_RV,
    finish: &dyn Fn(&Wrapped),
    refused: &dyn Fn(&Wrapped, Vendor) -> Option<CK_RV>,
) -> CK_RV {
    let decision = match wrapped.engine.decide(call.function) {
        Ok(decision) => decision,
        Err(error) => {
            complain(&error.to_string());
            return CKR_GENERAL_ERROR;
        }
    };
    let code = match decision.vendor.and_then(|vendor| refused(wrapped, vendor)) {
        Some(code) => code,
        None => decided(wrapped, call, &decision, real, finish),
    };
    wrapped.engine.note(call.function, code, call.data);
    code
}

fn decided(
    wrapped: &Wrapped,
    call: &Call<'_>,
    decision: &Decision,
    real: &dyn Fn(&Wrapped, &Decision) -> CK_RV,
    finish: &dyn Fn(&Wrapped),
) -> CK_RV {
    let pass = || {
        if decision.is_removed
            && let Some(code) = without_token(call.function)
        {
            return code;
        }
        let turn = (call.is_work && decision.is_one_at_a_time).then(|| wrapped.engine.turn());
        if call.is_work && !decision.latency.is_zero() {
            std::thread::sleep(decision.latency);
        }
        let in_real = wrapped.engine.in_real.read();
        let code = real(wrapped, decision);
        drop((in_real, turn));
        if code == CKR_OK {
            count_sessions(wrapped, call.function);
        }
        code
    };
    let named = |code: &str| code_of(code).unwrap_or(CKR_GENERAL_ERROR);
    match &decision.what {
        None | Some(What::WrongSignature) => pass(),
        Some(What::Answer(code)) => {
            finish(wrapped);
            named(code)
        }
        Some(What::AnswerUnfinished(code)) => named(code),
        Some(What::AnswerDone(code)) => {
            pass();
            named(code)
        }
        Some(What::Delay(milliseconds)) => {
            std::thread::sleep(std::time::Duration::from_millis(*milliseconds));
            pass()
        }
        Some(What::Hang) => {
            wrapped.engine.wait_for_another(decision.version);
            pass()
        }
        Some(What::DropSession) => {
            if let (Some(session), Some(close)) = (call.session, wrapped.real.C_CloseSession)
                // SAFETY: it takes a number, of a session or not.
                && unsafe { close(session) } == CKR_OK
            {
                count_sessions(wrapped, "C_CloseSession");
            }
            pass()
        }
        Some(What::LogOut) => {
            let alone = wrapped.engine.in_real.write();
            if let (Some(session), Some(logout)) = (call.session, wrapped.real.C_Logout) {
                // SAFETY: it takes a number, of a session or not.
                unsafe { logout(session) };
            }
            drop(alone);
            pass()
        }
        Some(What::RemoveToken) => {
            let _alone = wrapped.engine.in_real.write();
            close_all_sessions(wrapped);
            count_sessions(wrapped, "C_CloseAllSessions");
            wrapped.engine.remove_token();
            without_token(call.function).unwrap_or_else(|| real(wrapped, decision))
        }
    }
}

/// Keeps count of the real module's sessions: SoftHSM does not say how many there are.
fn count_sessions(wrapped: &Wrapped, function: &str) {
    let sessions = &wrapped.engine.sessions;
    match function {
        "C_OpenSession" => {
            let count = sessions.fetch_add(1, Ordering::Relaxed) + 1;
            wrapped.engine.note(SESSION_COUNT, CKR_OK, Some(&count.to_be_bytes()));
        }
        "C_CloseSession" => drop(sessions.fetch_sub(1, Ordering::Relaxed)),
        "C_CloseAllSessions" | "C_Finalize" | "C_Initialize" => sessions.store(0, Ordering::Relaxed),
        _ => {}
    }
}

/// What a function says whose token is taken out; nothing if it has nothing to do with the token.
fn without_token(function: &str) -> Option<CK_RV> {
    match function {
        "C_Initialize" | "C_Finalize" | "C_GetInfo" | "C_GetSlotList" | "C_GetSlotInfo" => None,
        "C_GetTokenInfo" | "C_GetMechanismList" | "C_GetMechanismInfo" | "C_OpenSession"
        | "C_CloseAllSessions" => Some(CKR_TOKEN_NOT_PRESENT),
        "C_CloseSession" => Some(CKR_SESSION_HANDLE_INVALID),
        _ => Some(CKR_DEVICE_REMOVED),
    }
}

/// Sessions end with the token that they are with (PKCS#11 v2.40 section 5.6).
fn close_all_sessions(wrapped: &Wrapped) {
    let (Some(slots), Some(close)) = (wrapped.real.C_GetSlotList, wrapped.real.C_CloseAllSessions) else {
        return;
    };
    let mut found = [0; SLOT_LIMIT];
    let mut count = SLOT_LIMIT as CK_ULONG;
    // SAFETY: there is space for as many slots as `count` says.
    if unsafe { slots(CK_TRUE, found.as_mut_ptr(), &mut count) } == CKR_OK {
        for slot in found.iter().take(count as usize) {
            // SAFETY: it takes a number.
            unsafe { close(*slot) };
        }
    }
}

/// The template that a caller hands over.
///
/// # Safety
/// `template` is null or points to `count` attributes, which stay for as long as the slice is used.
unsafe fn template<'t>(template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> &'t [CK_ATTRIBUTE] {
    if template.is_null() {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts(template, count as usize) }
}

/// Whether a key pair has this label already.
fn has_label(wrapped: &Wrapped, session: CK_SESSION_HANDLE, label: &[u8]) -> bool {
    let real = &wrapped.real;
    let (Some(init), Some(find), Some(end)) =
        (real.C_FindObjectsInit, real.C_FindObjects, real.C_FindObjectsFinal)
    else {
        return false;
    };
    let mut class = CKO_PRIVATE_KEY;
    let mut label = label.to_vec();
    let mut wanted = [
        CK_ATTRIBUTE {
            type_: CKA_CLASS,
            pValue: ptr::from_mut(&mut class).cast(),
            ulValueLen: size_of_val(&class) as CK_ULONG,
        },
        CK_ATTRIBUTE {
            type_: CKA_LABEL,
            pValue: label.as_mut_ptr().cast(),
            ulValueLen: label.len() as CK_ULONG,
        },
    ];
    let (mut object, mut count) = (0, 0);
    // SAFETY: the template and what it points to live until the end of this function, and there is space for one handle.
    unsafe {
        if init(session, wanted.as_mut_ptr(), wanted.len() as CK_ULONG) != CKR_OK {
            return false;
        }
        find(session, &mut object, 1, &mut count);
        end(session);
    }
    count > 0
}

/// The most slots that are looked at.
const SLOT_LIMIT: usize = 64;

/// Functions that the script may fail, delay and so on, and that are else the real ones.
macro_rules! plain {
    ($($name:ident($($argument:ident: $type:ty),*) $(of $session:ident)? $(work $work:literal)? $(refused $vendor:ident => $refused:expr)?;)*) => {
        $(
            unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
                #[allow(unused_mut, unused_assignments)]
                let mut call = Call { function: stringify!($name), session: None, data: None, is_work: false };
                $(call.session = Some($session);)?
                $(call.is_work = $work;)?
                let real = |wrapped: &Wrapped, _: &Decision| match wrapped.real.$name {
                    // SAFETY: the arguments are those that the application hands over to this very function.
                    Some(real) => unsafe { real($($argument),*) },
                    None => ABSENT,
                };
                #[allow(unused_mut, unused_assignments)]
                let refused = |_: &Wrapped, _vendor: Vendor| -> Option<CK_RV> {
                    let mut refused = None;
                    $(
                        let $vendor = _vendor;
                        refused = $refused;
                    )?
                    refused
                };
                answer(&call, &real, &|_| (), &refused)
            }
        )*

        /// The functions that a script may name.
        pub const FUNCTIONS: &[&str] = &[
            "C_GetSlotList",
            "C_FindObjectsFinal",
            "C_Sign",
            "C_GenerateKeyPair",
            $(stringify!($name)),*
        ];

        fn wrap_plain(list: &mut CK_FUNCTION_LIST) {
            $(if list.$name.is_some() { list.$name = Some($name); })*
        }
    };
}

plain! {
    C_Initialize(arguments: *mut c_void);
    C_Finalize(reserved: *mut c_void);
    C_GetInfo(info: *mut CK_INFO);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList(slot: CK_SLOT_ID, mechanisms: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_GetMechanismInfo(slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    C_OpenSession(
        slot: CK_SLOT_ID, flags: CK_FLAGS, application: *mut c_void, notify: CK_NOTIFY, session: *mut CK_SESSION_HANDLE
    ) refused vendor => {
        (vendor.refuses_read_only() && flags & CKF_RW_SESSION == 0).then_some(CKR_TOKEN_WRITE_PROTECTED)
    };
    C_CloseSession(session: CK_SESSION_HANDLE) of session;
    C_CloseAllSessions(slot: CK_SLOT_ID);
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) of session;
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) of session;
    C_Logout(session: CK_SESSION_HANDLE) of session;
    C_CreateObject(
        session: CK_SESSION_HANDLE, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE
    ) of session work true refused vendor => {
        // SAFETY: PKCS#11 says that the application hands over as many attributes.
        vendor.refuses_object(unsafe { template(attributes, count) })
    };
    C_CopyObject(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG,
        copy: *mut CK_OBJECT_HANDLE
    ) of session work true;
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) of session work true;
    C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: *mut CK_ULONG) of session;
    C_GetAttributeValue(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG
    ) of session;
    C_SetAttributeValue(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG
    ) of session work true;
    C_FindObjectsInit(session: CK_SESSION_HANDLE, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG) of session;
    C_FindObjects(
        session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, most: CK_ULONG, count: *mut CK_ULONG
    ) of session;
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) of session;
    C_GenerateKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE
    ) of session work true;
    C_WrapKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        wrapped_key: *mut CK_BYTE, length: *mut CK_ULONG
    ) of session work true refused _vendor => Some(CKR_KEY_UNEXTRACTABLE);
    C_UnwrapKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE, wrapped_key: *mut CK_BYTE,
        length: CK_ULONG, attributes: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE
    ) of session work true refused _vendor => Some(CKR_FUNCTION_NOT_SUPPORTED);
    C_GenerateRandom(session: CK_SESSION_HANDLE, bytes: *mut CK_BYTE, length: CK_ULONG) of session;
}

/// A token that is taken out is in no slot.
unsafe extern "C" fn C_GetSlotList(
    with_token: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    let call = Call { function: "C_GetSlotList", session: None, data: None, is_work: false };
    let real = |wrapped: &Wrapped, decision: &Decision| {
        if with_token != CK_FALSE && !count.is_null() && decision.is_removed {
            // SAFETY: it is not null, and the application's.
            unsafe { *count = 0 };
            return CKR_OK;
        }
        match wrapped.real.C_GetSlotList {
            // SAFETY: the arguments are the application's.
            Some(real) => unsafe { real(with_token, slots, count) },
            None => ABSENT,
        }
    };
    answer(&call, &real, &|_| (), &|_, _| None)
}

/// A failed end of a search has ended it all the same.
unsafe extern "C" fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    let call = Call { function: "C_FindObjectsFinal", session: Some(session), data: None, is_work: false };
    let end = |wrapped: &Wrapped| match wrapped.real.C_FindObjectsFinal {
        // SAFETY: it takes a number, of a session or not.
        Some(real) => unsafe { real(session) },
        None => ABSENT,
    };
    let finish = |wrapped: &Wrapped| {
        end(wrapped);
    };
    answer(&call, &|wrapped, _| end(wrapped), &finish, &|_, _| None)
}

/// A failed call of `C_Sign` has ended the operation (PKCS#11 v2.40 section 5.11), be it one for the length.
unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let is_query = signature.is_null();
    let signed = (!is_query && !data.is_null())
        // SAFETY: PKCS#11 says that the application hands over as many bytes.
        .then(|| unsafe { slice::from_raw_parts(data, data_length as usize) });
    let call = Call {
        function: if is_query { LENGTH_OF_SIGNATURE } else { "C_Sign" },
        session: Some(session),
        data: signed,
        is_work: !is_query,
    };
    let sign = |wrapped: &Wrapped, signature: *mut CK_BYTE, length: *mut CK_ULONG| match wrapped.real.C_Sign {
        // SAFETY: the data is the application's, and the other two are its as well or a place of our own.
        Some(real) => unsafe { real(session, data, data_length, signature, length) },
        None => ABSENT,
    };
    let real = |wrapped: &Wrapped, decision: &Decision| {
        let code = sign(wrapped, signature, length);
        if code == CKR_OK && !is_query && decision.what == Some(What::WrongSignature) {
            // SAFETY: the real module has written as many bytes there.
            if let Some(last) = unsafe { slice::from_raw_parts_mut(signature, *length as usize) }.last_mut() {
                *last ^= 1;
            }
        }
        code
    };
    let finish = |wrapped: &Wrapped| {
        let mut nowhere = [0; SIGNATURE_LIMIT];
        let mut space = SIGNATURE_LIMIT as CK_ULONG;
        sign(wrapped, nowhere.as_mut_ptr(), &mut space);
    };
    answer(&call, &real, &finish, &|_, _| None)
}

/// Google's module is told a name and an algorithm, and fills the rest of both templates in by itself.
unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let call = Call { function: "C_GenerateKeyPair", session: Some(session), data: None, is_work: true };
    // SAFETY: PKCS#11 says that the application hands over as many attributes.
    let (publics, privates) = unsafe { (template(public, public_count), template(private, private_count)) };
    let real = |wrapped: &Wrapped, decision: &Decision| {
        let Some(real) = wrapped.real.C_GenerateKeyPair else { return ABSENT };
        let vendor = decision.vendor.filter(|vendor| *vendor == Vendor::GoogleKms);
        let own = vendor.map(|_| OwnTemplates::new(vendor::value(privates, CKA_LABEL).unwrap_or_default()));
        let (mut publics, mut privates) = match &own {
            Some(own) => (own.public(), own.private()),
            None => (publics.to_vec(), privates.to_vec()),
        };
        // SAFETY: the handles' places are the application's, and the templates live until the call ends.
        unsafe {
            real(
                session,
                mechanism,
                publics.as_mut_ptr(),
                publics.len() as CK_ULONG,
                privates.as_mut_ptr(),
                privates.len() as CK_ULONG,
                public_key,
                private_key,
            )
        }
    };
    let refused = |wrapped: &Wrapped, vendor: Vendor| {
        let twice = || {
            let label = vendor::value(privates, CKA_LABEL)?;
            vendor.refuses_second_label().filter(|_| has_label(wrapped, session, label))
        };
        vendor.refuses_pair(publics, privates).or_else(twice)
    };
    answer(&call, &real, &|_| (), &refused)
}

/// The most bytes of a signature: those of RSA with 8192 bits.
const SIGNATURE_LIMIT: usize = 1024;

/// The real list with our functions in the place of those that we have and it has.
pub(crate) fn wrap(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
    let mut list = *real;
    // The list of a later version would be taken for more than it is.
    list.version = CK_VERSION { major: 2, minor: 40 };
    list.C_GetFunctionList = Some(C_GetFunctionList);
    wrap_plain(&mut list);
    list.C_GetSlotList = Some(C_GetSlotList);
    list.C_FindObjectsFinal = Some(C_FindObjectsFinal);
    list.C_Sign = Some(C_Sign);
    list.C_GenerateKeyPair = Some(C_GenerateKeyPair);
    list
}
