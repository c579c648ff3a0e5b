//! The machine's own root, with nothing written to it, is booted as a machine of its own; in it both services run under
//! their units and sign a file.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use assent_tests::program;

/// What starts when it has booted: `sign.sh`, and then it goes down, with the script's exit code.
const SIGN_SERVICE: &str = "[Unit]
Requires=basic.target dbus.socket
After=basic.target dbus.socket
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
StandardOutput=truncate:/said
StandardError=append:/said
ExecStart=/bin/bash /sign.sh
";
/// Of `kms/systemd/assent-kms.service`, "What a token needs": SoftHSM.
const SOFTHSM: &str = "[Service]
Environment=SOFTHSM2_CONF=/etc/assent-kms/softhsm2.conf
SupplementaryGroups=softhsm
ReadWritePaths=/var/lib/softhsm/tokens
";

#[test]
fn both_services_start_and_sign_under_their_units() {
    check().unwrap_or_else(|error| panic!("{error:#}"));
}

fn check() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("assent-").tempdir_in("/dev/shm")?;
    let here = directory.path();
    let written = here.join("written");
    let units = written.join("etc/systemd/system");
    fs::create_dir_all(units.join("assent-kms.service.d"))?;
    for name in ["work", "root"] {
        fs::create_dir(here.join(name))?;
    }
    for unit in super::units() {
        fs::copy(&unit, units.join(unit.file_name().context("a name")?))?;
    }
    fs::write(units.join("assent-kms.service.d/softhsm.conf"), SOFTHSM)?;
    fs::write(units.join("sign.service"), SIGN_SERVICE)?;
    fs::write(written.join("sign.sh"), include_str!("sign.sh"))?;

    let output = Command::new("timeout")
        .args(["--kill-after=5", "150"])
        .args(["unshare", "--mount", "--propagation=private", "sh", "-euc", BOOT, "boot"])
        .arg(here)
        .args([program::find("assent-kms")?, program::find("assent")?])
        .output()?;
    let booted = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let Ok(said) = fs::read_to_string(written.join("said")) else {
        // Not as root, without overlay file systems, or in a container that may not make another one.
        eprintln!("not tried: a machine within this one does not boot: {booted}");
        return Ok(());
    };
    ensure!(
        output.status.success() && said.ends_with("signed under both units\n"),
        "{}\n{said}\n{booted}",
        output.status
    );
    Ok(())
}

/// In a namespace of its own, so that nothing stays mounted. What it writes goes into the first directory.
const BOOT: &str = r#"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/written,workdir=$1/work" "$1/root"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --machine="assent-test-$$" --console=pipe \
    --directory="$1/root" --bind-ro="$2:/usr/bin/assent-kms" --bind-ro="$3:/usr/bin/assent" --boot -- --unit=sign.service
"#;
