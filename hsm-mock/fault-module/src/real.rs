//! The real module, loaded once for the process.

use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_FUNCTION_FAILED, CKR_OK};
use libloading::Library;

use crate::engine::Engine;
use crate::exports;

/// The real module, and what stands before it.
pub(crate) struct Wrapped {
    pub(crate) engine: Engine,
    /// The real functions.
    pub(crate) real: CK_FUNCTION_LIST,
    /// The same with ours in the place of those that are wrapped.
    list: CK_FUNCTION_LIST,
    /// Kept loaded, since the functions are in it.
    _library: Library,
}

// SAFETY: all that is not `Sync` by itself are function pointers of the library, which are the same for all threads.
unsafe impl Sync for Wrapped {}
// SAFETY: as above.
unsafe impl Send for Wrapped {}

static WRAPPED: OnceLock<Wrapped> = OnceLock::new();

/// What `C_GetFunctionList` made; nothing before its first call.
pub(crate) fn wrapped() -> Option<&'static Wrapped> {
    WRAPPED.get()
}

/// The function list that the application gets.
pub(crate) fn function_list() -> Result<*mut CK_FUNCTION_LIST, String> {
    if WRAPPED.get().is_none() {
        let loaded = load()?;
        // Another thread may have been faster; what it loaded is the same.
        let _ = WRAPPED.set(loaded);
    }
    let wrapped = WRAPPED.get().ok_or("it is not loaded")?;
    Ok(ptr::from_ref(&wrapped.list).cast_mut())
}

fn load() -> Result<Wrapped, String> {
    let engine = Engine::start().map_err(|error| error.to_string())?;
    let path = engine.module();
    let unusable = |error: libloading::Error| format!("the module `{}`: {error}", path.display());
    // SAFETY: the script's author says that it is a PKCS#11 module.
    let library = unsafe { Library::new(&path) }.map_err(unusable)?;
    // SAFETY: PKCS#11 gives the function of this name this type.
    let entry = unsafe {
        library.get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(b"C_GetFunctionList\0")
    };
    let mut list = ptr::null_mut();
    // SAFETY: it writes one pointer.
    let code = unsafe { entry.map_err(unusable)?(&mut list) };
    if code != CKR_OK || list.is_null() {
        return Err(format!(
            "the module `{}` has no function list: {}",
            path.display(),
            crate::code_name(code)
        ));
    }
    // SAFETY: PKCS#11 says that the list is valid as long as the library is loaded; it is a structure of pointers.
    let real = unsafe { ptr::read(list) };
    let list = exports::wrap(&real);
    Ok(Wrapped { engine, real, list, _library: library })
}

/// What a function says that the real module does not have.
pub(crate) const ABSENT: CK_RV = CKR_FUNCTION_FAILED;
