//! The KMS's metrics, as a scraper that is not ours understands them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::program;
use crate::scripted::Connection;

/// What one scrape gave.
#[derive(Debug)]
pub struct Metrics {
    /// As it came.
    pub text: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Scrapes a socket, and has `read_metrics.py` read what comes.
    ///
    /// # Errors
    /// Nobody answers, the parser is not installed, or it does not take the text.
    pub fn scrape(socket: &Path) -> Result<Metrics> {
        let answer = Connection::open(socket)?.exchange("GET", "/metrics", b"")?;
        let text = String::from_utf8(answer.good()?.to_vec())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("read_metrics.py");
        let mut command = Command::new(program::python()?);
        let mut parser = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        parser.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
        let output = parser.wait_with_output()?;
        ensure!(output.status.success(), "the parser does not take this:\n{text}");
        Ok(Metrics { samples: serde_json::from_slice(&output.stdout)?, text })
    }

    /// The value of the one series of this name that has these labels, and maybe others; nothing if there is none.
    ///
    /// # Panics
    /// If there are several.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &Sample, (label, value): &(&str, &str)| {
            sample.labels.get(*label).is_some_and(|found| found == value)
        };
        let fits = |sample: &&Sample| sample.name == name && labels.iter().all(|label| has(sample, label));
        let mut found = self.samples.iter().filter(fits).map(|sample| sample.value);
        let first = found.next();
        assert!(found.next().is_none(), "several series `{name}` have {labels:?}:\n{}", self.text);
        first
    }

    /// The names of all metrics, also of those without a series.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let kinds = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        kinds.filter_map(|kind| kind.split(' ').next())
    }

    /// The sum of all series of this name.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
    }
}
