//! `assent-kms doctor --probe`: what each token takes, and what its `[[device]]` must say for it.

use serde::Serialize;

use crate::config::{Config, DriverConfig};
use crate::daemon::{self, DaemonError};
use crate::device::pkcs11::Probe;

/// What was found out about one device.
#[derive(Clone, Debug, Serialize)]
pub struct Probed {
    /// Its name in the configuration.
    pub device: String,
    /// What it takes; nothing for a device that is no PKCS#11 token, which all take the same.
    pub probe: Option<Probe>,
    /// Why nothing could be found out.
    pub error: Option<String>,
}

/// Probes every PKCS#11 token of the configuration.
pub fn probe(config: &Config) -> Vec<Probed> {
    let probed = config.devices.iter().map(|device| {
        let name = device.name.to_string();
        if !matches!(device.driver, DriverConfig::Pkcs11 { .. }) {
            return Probed { device: name, probe: None, error: None };
        }
        let (config, of) = (config.clone(), device.clone());
        let probe = super::within(device, move || -> Result<Probe, DaemonError> {
            Ok(daemon::pkcs11_driver(&of, daemon::pin(&config, &of)?)?.probe()?)
        });
        match probe.map_err(DaemonError::from).and_then(|probe| probe) {
            Ok(probe) => Probed { device: name, probe: Some(probe), error: None },
            Err(error) => Probed { device: name, probe: None, error: Some(error.to_string()) },
        }
    });
    probed.collect()
}

impl Probed {
    /// Whether keys of a contract can be made on it.
    pub fn is_usable(&self) -> bool {
        self.error.is_none() && self.probe.as_ref().is_none_or(|probe| probe.key_template.is_some())
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("device `{}`", self.device)];
        if let Some(error) = &self.error {
            lines.push(format!("  it cannot be probed: {error}"));
        }
        let Some(probe) = &self.probe else {
            if self.error.is_none() {
                lines.push("  not a PKCS#11 token: it needs no profile".into());
            }
            return lines;
        };
        let algorithms: Vec<String> = probe.algorithms.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "  signs by: {}",
            if algorithms.is_empty() { "none that is known here".into() } else { algorithms.join(", ") }
        ));
        match probe.key_template {
            Some(_) => lines.push("  made a P-256 key that signs and cannot leave it".into()),
            None => lines.push("  made no P-256 key that could be used:".into()),
        }
        if probe.key_template.is_none() {
            lines.extend(probe.refused.iter().map(|why| format!("    {why}")));
        }
        if let Some(why) = &probe.no_data_objects {
            lines.push(format!("  takes no data objects: {why}"));
        }
        let configuration = probe.configuration();
        if configuration.is_empty() {
            lines.push("  its `[[device]]` needs nothing more".into());
        } else {
            lines.push("  its `[[device]]` needs:".into());
            lines.extend(configuration.iter().map(|line| format!("    {line}")));
        }
        lines
    }
}
