//! Kryoptic as a PKCS#11 module: a second token, by other people, for the device suite.
//!
//! Its crate has the functions and exports none; this one exports the way to their list.
#![allow(non_snake_case)]

use kryoptic_lib::fns::general::fn_get_function_list;
use kryoptic_lib::pkcs11::{CK_FUNCTION_LIST_PTR_PTR, CK_RV};

/// The list of Kryoptic's functions, PKCS#11 v2.40 section 5.4.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    fn_get_function_list(list)
}
