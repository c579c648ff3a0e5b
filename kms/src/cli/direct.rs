//! Commands that work on the state directory and the token themselves.

use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use assent_consensus::digest::Digest;
use assent_consensus::encoding;

use super::remote;
use super::screen::{Failure, Screen};
use crate::audit::{self, Bound, Format};
use crate::config::{Config, DeviceConfig, DriverConfig};
use crate::daemon::{self, DaemonError};
use crate::moment::Moment;
use crate::restore::{self, BackupDirectory};
use crate::store::{self, Store};

pub(super) fn init(config: &Config, path: &Path, screen: &Screen) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::System)?;
    let instance = runtime.block_on(daemon::init(config))?;
    let value = serde_json::json!({
        "instance": encoding::encode(&instance),
        "state_directory": config.state_directory,
    });
    screen.show(&value, |_| {
        vec![
            format!("made a KMS in `{}`", config.state_directory.display()),
            format!(
                "next: `assent-kms --config {} serve`, and then `key create` for each key",
                path.display()
            ),
        ]
    })
}

pub(super) fn serve(config: Config, path: &Path) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(DaemonError::System)?;
    Ok(runtime.block_on(daemon::serve(config, path))?)
}

pub(super) fn back_up(config: &Config, out: &Path, screen: &Screen) -> Result<(), Failure> {
    // What can fail does so before any key has left its device.
    store::check_directory(&config.state_directory)?;
    let directory = BackupDirectory::make(out)?;
    let wraps =
        |device: &DeviceConfig| matches!(device.driver, DriverConfig::YubiHsm { wrap_key: Some(_), .. });
    let wrapped = match config.devices.iter().any(wraps) {
        true => remote::export_wrapped(config)?,
        false => Vec::new(),
    };
    let made = directory.back_up(config, &wrapped)?;
    screen.show(&made, |made| {
        let keys = match made.wrapped {
            0 => {
                "no private key is in it: copy the token by its maker's means, and keep the two apart".into()
            }
            count => format!("{count} keys are beside it, wrapped: who has it and the wrap key has the keys"),
        };
        vec![
            format!("wrote `{}`: {} entries, head {}", made.database.display(), made.entries, made.head),
            keys,
        ]
    })
}

pub(super) fn restore(config: &Config, from: &Path, screen: &Screen) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::System)?;
    let restored = runtime.block_on(restore::restore(config, from))?;
    screen.show(&restored, |restored| {
        let mut lines: Vec<String> =
            restored.imported.iter().map(|key| format!("{key} was brought back onto its device")).collect();
        lines.extend(restored.tried.iter().map(|key| format!("{key} is on the token, and signs")));
        let suspended = restored.suspended.iter();
        lines.extend(suspended.map(|key| format!("{key} is suspended: find out why, and then `key resume`")));
        lines.extend([
            format!("put back, with epoch {}; the backup ends at {}", restored.epoch, Moment(restored.last_entry)),
            format!(
                "of requests from before {}, only what is on record is signed again; others need `assent-kms release`",
                Moment(restored.fence)
            ),
            "what was said since the backup is not known: start the daemon while the node is stopped, and say again which \
             keys are compromised or suspended, and which voters are suspended"
                .into(),
        ]);
        lines
    })
}

pub(super) fn retry_pin(config: &Config, screen: &Screen) -> Result<(), Failure> {
    store::check_directory(&config.state_directory)?;
    let mut was_marked = false;
    for device in &config.devices {
        was_marked |= daemon::pin(config, device)?.retry()?;
    }
    screen.show(&serde_json::json!({ "was_marked": was_marked }), |_| {
        vec![match was_marked {
            true => "the PIN will be tried once more".into(),
            false => "nothing kept the PIN from being tried".into(),
        }]
    })
}

pub(super) fn audit_verify(
    config: &Config,
    head: Option<Digest>,
    heads: Option<&Path>,
    screen: &Screen,
) -> Result<(), Failure> {
    let mut known: Vec<Digest> = head.into_iter().collect();
    if let Some(path) = heads {
        let failed = |why: &dyn std::fmt::Display| Failure::failed(format!("`{}`: {why}", path.display()));
        for line in std::fs::read_to_string(path).map_err(|error| failed(&error))?.lines() {
            known.push(line.parse().map_err(|error| failed(&error))?);
        }
    }
    let store = Store::open_reader(&config.state_directory)?;
    let report = audit::verify(&store, &known)?;
    screen.show(&report, |report| {
        vec![
            format!("the audit log is whole: {} entries, {} signatures", report.entries, report.signatures),
            format!("{} intents without a signature yet", report.open_intents),
            format!("head {}", report.head),
        ]
    })
}

pub(super) fn audit_export(
    config: &Config,
    from: Option<Bound>,
    to: Option<Bound>,
    format: Format,
) -> Result<(), Failure> {
    let store = Store::open_reader(&config.state_directory)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let failed = |error: io::Error| Failure::failed(format!("cannot write the entries: {error}"));
    let exported = audit::export(&store, from, to, format, |line| writeln!(out, "{line}").map_err(failed));
    // What was found right goes out, also if what comes after it is wrong.
    out.flush().map_err(failed)?;
    exported
}

pub(super) fn doctor(config: &Config, screen: &Screen) -> Result<(), Failure> {
    let report = crate::doctor::examine(config);
    screen.show(&report, crate::doctor::Report::lines)?;
    match report.is_well() {
        true => Ok(()),
        false => Err(Failure::failed("something is wrong; the lines above say what to do about it")),
    }
}

pub(super) fn probe(config: &Config, screen: &Screen) -> Result<(), Failure> {
    let probes = crate::doctor::probe(config);
    screen.show(&probes, |probes| probes.iter().flat_map(crate::doctor::Probed::lines).collect())?;
    match probes.iter().all(crate::doctor::Probed::is_usable) {
        true => Ok(()),
        false => Err(Failure::failed("a device cannot be used; the lines above say why")),
    }
}
