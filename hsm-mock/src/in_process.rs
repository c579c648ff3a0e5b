//! Tests that load the module into their own process.

use std::process::Command;

use assent_fault_module::SCRIPT_VARIABLE;

use crate::SoftHsmToken;
use crate::fault_module::SCRIPT_FILE;
use crate::other_modules::{KRYOPTIC_FILE, KRYOPTIC_VARIABLE, P11_KIT_HOME, P11_KIT_VARIABLE};

/// Runs a test's body in a process of its own whose `SOFTHSM2_CONF` is a fresh token's, and whose
/// fault-injecting module, p11-kit's proxy and Kryoptic, if it loads one, read their files in the token's directory.
///
/// A process cannot change its own environment safely, and SoftHSM reads it just once. So the test
/// makes the token, starts its own executable again for this one test, and only there runs the body;
/// the outer test fails if the inner one does. The body takes `&SoftHsmToken`.
///
/// ```no_run
/// #[test]
/// fn a_token_has_a_label() {
///     assent_hsm_mock::with_token!("label", |token| {
///         assert_eq!(token.label(), "label");
///     });
/// }
/// ```
///
/// It stands in the test function itself, since the function's path is the test's name.
#[macro_export]
macro_rules! with_token {
    ($label:expr, $body:expr) => {{
        fn here() {}
        $crate::run_with_token($label, ::std::any::type_name_of_val(&here), $body)
    }};
}

/// What [`with_token!`](crate::with_token) expands to. `here` is the path of an item within the test.
///
/// # Panics
///
/// If there is no token, or the test fails in the child process.
pub fn run_with_token(label: &str, here: &str, body: impl FnOnce(&SoftHsmToken)) {
    let test = test_name(here);
    if std::env::var(TEST_VARIABLE).as_deref() == Ok(&test) {
        let variable = |name: &str| std::env::var(name).expect("set by the outer test");
        let directory = std::path::PathBuf::from(variable(DIRECTORY_VARIABLE));
        let token = SoftHsmToken::open(&directory, label, &variable(SERIAL_VARIABLE))
            .unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(directory.join(STARTED_FILE), "").expect("the token's directory is writable");
        return body(&token);
    }

    let token = SoftHsmToken::create(label).unwrap_or_else(|error| panic!("{error}"));
    let executable = std::env::current_exe().expect("a test knows its executable");
    let status = Command::new(executable)
        .args(["--exact", &test, "--nocapture", "--include-ignored"])
        .env("SOFTHSM2_CONF", token.config())
        .env(SCRIPT_VARIABLE, token.directory().join(SCRIPT_FILE))
        .env(P11_KIT_VARIABLE, token.directory().join(P11_KIT_HOME))
        .env(KRYOPTIC_VARIABLE, token.directory().join(KRYOPTIC_FILE))
        .env(TEST_VARIABLE, &test)
        .env(DIRECTORY_VARIABLE, token.directory())
        .env(SERIAL_VARIABLE, token.serial())
        .status()
        .expect("a test can start its executable");
    assert!(status.success(), "`{test}` failed with its token: {status}");
    // The test harness also exits with 0 when no test has this name.
    assert!(token.directory().join(STARTED_FILE).exists(), "`{test}` was not found to be run");
}

/// `krate::module::test::here` or `krate::module::test::{{closure}}::here` without its ends.
fn test_name(here: &str) -> String {
    let (_, path) = here.split_once("::").expect("an item's path begins with its crate");
    let path = path.strip_suffix("::here").unwrap_or(path);
    path.trim_end_matches("::{{closure}}").to_owned()
}

const TEST_VARIABLE: &str = "ASSENT_HSM_MOCK_TEST";
const DIRECTORY_VARIABLE: &str = "ASSENT_HSM_MOCK_DIRECTORY";
const SERIAL_VARIABLE: &str = "ASSENT_HSM_MOCK_SERIAL";
const STARTED_FILE: &str = "started";

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_runs_with_the_tokens_configuration() {
        crate::with_token!("inner", |token| {
            let configured = std::env::var_os("SOFTHSM2_CONF").expect("set");
            assert_eq!(configured, token.config());
            assert_eq!(token.label(), "inner");
        });
    }

    #[test]
    #[should_panic(expected = "failed with its token")]
    fn a_failure_of_the_body_is_one_of_the_test() {
        crate::with_token!("failing", |_| std::process::exit(9));
    }

    #[test]
    #[should_panic(expected = "was not found to be run")]
    fn a_body_that_no_process_ran_is_a_failure() {
        super::run_with_token("unfound", "krate::no::such::test::here", |_| ());
    }
}
