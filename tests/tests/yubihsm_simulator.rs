//! The simulator is what the library of the device's maker takes for a YubiHSM 2.

use std::path::Path;
use std::process::Command;

use assent_tests::program;
use assent_yubihsm_simulator::{Fault, Firmware, Settings, Simulator, What};

/// What the script says of a simulator, and its exit code.
fn drive(simulator: &Simulator) -> (String, Option<i32>) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("root.der");
    std::fs::write(&root, simulator.root_certificate()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("drive_yubihsm.py");
    let mut command = Command::new(program::python().expect("installed"));
    command.arg(script).arg("--connector").arg(simulator.url()).arg("--root").arg(root);
    let output = command.output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.code())
}

#[test]
fn the_makers_library_finds_every_part_as_it_must_be() {
    for firmware in [Firmware::V2_2, Firmware::V2_4] {
        let simulator = Simulator::start(Settings { firmware, ..Settings::default() }).expect("started");
        let (said, code) = drive(&simulator);
        assert_eq!(code, Some(0), "{firmware:?}: {said}");
        assert_eq!(said.lines().filter(|line| line.ends_with(": as it must be")).count(), 9, "{said}");
    }
}

#[test]
fn the_makers_library_sees_a_signature_by_another_key() {
    let simulator = Simulator::start(Settings::default()).expect("started");
    simulator.script(vec![Fault::of_all(What::WrongKey)]);
    let (said, code) = drive(&simulator);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("InvalidSignature"), "{said}");
}
