//! The daemon, restricted in what it may ask of the system, before tokens of several makers.

use std::path::{Path, PathBuf};
use std::process::Command;

use assent_hsm_mock::{P11KitProxy, find_kryoptic, kryoptic_configuration};
use secrecy::ExposeSecret as _;

use crate::adoption::entries;
use crate::daemon::{Home, done};

/// Does something on the token of a module with a tool that is not ours.
fn pkcs11_tool(home: &Home, module: &Path, arguments: &[&str]) {
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(module)
        .args(arguments)
        .env("TOKEN_PIN", home.token.pin().expose_secret())
        .env("TOKEN_SO_PIN", home.token.so_pin().expose_secret())
        .env("SOFTHSM2_CONF", home.token.config())
        .envs(home.environment.clone())
        .output()
        .expect("pkcs11-tool is installed");
    done(&output);
}

fn softhsm(home: &mut Home) -> (PathBuf, String) {
    (home.token.module().to_owned(), home.token.uri())
}

fn p11_kit(home: &mut Home) -> (PathBuf, String) {
    let proxy =
        P11KitProxy::over(&home.token).expect("written").expect("`scripts/setup --test` installs p11-kit");
    let (name, value) = proxy.variable();
    home.environment = vec![(name, value.to_owned())];
    (proxy.module().to_owned(), home.token.uri())
}

fn kryoptic(home: &mut Home) -> (PathBuf, String) {
    let module = find_kryoptic().expect("`scripts/setup --test` builds Kryoptic");
    kryoptic_configuration(&home.token).expect("written");
    home.environment = vec![("KRYOPTIC_CONF", home.token.directory().join("kryoptic.conf"))];
    let so_pin = ["--so-pin", "env:TOKEN_SO_PIN"];
    pkcs11_tool(home, &module, &[&["--init-token", "--label", "kms"][..], &so_pin].concat());
    let new_pin = ["--init-pin", "--login", "--login-type", "so", "--new-pin", "env:TOKEN_PIN"];
    pkcs11_tool(home, &module, &[&new_pin[..], &so_pin].concat());
    (module, "pkcs11:token=kms".into())
}

/// Whether a process may gain rights, and whether its system calls are filtered: `NoNewPrivs` and `Seccomp` of
/// proc_pid_status(5).
fn restrictions(status: &str) -> [String; 2] {
    ["NoNewPrivs", "Seccomp"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
    })
}

#[test]
fn the_daemon_gives_up_system_calls_and_signs_on_tokens_of_several_makers() {
    for make in [softhsm, p11_kit, kryoptic] {
        let mut home = Home::new();
        let (module, token) = make(&mut home);
        home.configure(&module, &token, home.token.pin_file(), "");
        done(&home.run(&["init"]));
        let id = ["--id", "0a01", "--label", "old", "--usage-sign"];
        let login = ["--token-label", "kms", "--login", "--pin", "env:TOKEN_PIN"];
        let key = ["--keypairgen", "--key-type", "EC:prime256v1"];
        pkcs11_tool(&home, &module, &[&login[..], &key, &id].concat());
        let kms = home.serve();
        assert_eq!(restrictions(&kms.status()), ["1", "2"]);
        assert!(!kms.log.contains("system calls are not restricted"), "{}", kms.log);
        done(&home.run(&["key", "adopt", "old", "--object-id", "0a01"]));
        assert_eq!(entries(&home, "key-tried").len(), 1, "it has signed");
        assert_eq!(home.json(&["key", "create", "--key", "new"])["key"], "new");
        let doctor = home.json(&["doctor"]);
        let findings = doctor["findings"].as_array().expect("a list");
        assert!(findings.iter().all(|finding| finding["well"] == true), "{doctor}");
        assert_eq!(kms.stop(), Some(0));
    }
}

#[test]
fn a_daemon_that_is_to_start_programs_or_whose_kernel_cannot_do_it_says_that_it_is_not_restricted() {
    let mut home = Home::made();
    let without = "restrict_system_calls = false\n";
    home.configure(home.token.module(), &home.token.uri(), home.token.pin_file(), without);
    let kms = home.serve();
    let own = std::fs::read_to_string("/proc/self/status").expect("readable");
    assert_eq!(restrictions(&kms.status()), restrictions(&own), "as whoever started it");
    assert!(
        kms.log.contains("system calls are not restricted: `restrict_system_calls` is false"),
        "{}",
        kms.log
    );
    assert_eq!(kms.stop(), Some(0));

    home.configure(home.token.module(), &home.token.uri(), home.token.pin_file(), "");
    home.wrapper = vec!["python3".into(), "-c".into(), WITHOUT_SECCOMP.into()];
    let kms = home.serve();
    assert!(kms.log.contains("this kernel has no seccomp: Function not implemented"), "{}", kms.log);
    done(&home.run(&["key", "create", "--key", "release"]));
    assert_eq!(kms.stop(), Some(0));
}

/// Runs a program as under a kernel without seccomp(2): a filter has it answer ENOSYS (prctl(2), `PR_SET_NO_NEW_PRIVS` and
/// `PR_SET_SECCOMP`; linux/filter.h). The system call has number 317 on x86-64 and 277 elsewhere.
const WITHOUT_SECCOMP: &str = r#"
import ctypes, os, platform, struct, sys
number = 317 if platform.machine() == "x86_64" else 277
program = b"".join(struct.pack("HBBI", *line) for line in [
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)])
text = ctypes.create_string_buffer(program, len(program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(text)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.addressof(filter), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"#;
