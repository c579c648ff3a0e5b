//! Figures, as a table or as JSON lines.

use serde::Serialize;

use super::Usage;

/// One line of the outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The bench.
    pub bench: &'static str,
    /// What was measured, such as `vote-request/8`.
    pub case: String,
    /// How much the subject does.
    pub value: f64,
    /// How much the baseline does.
    pub baseline: f64,
    /// Of what `value` and `baseline` are.
    pub unit: &'static str,
    /// The median of the rounds' ratios.
    pub ratio: f64,
    /// What `ratio` should reach.
    pub goal: f64,
    /// Whether it does.
    pub met: bool,
    /// What part of `baseline` is reached by one who does the same for callers at a socket, and nothing else, if that was
    /// measured: the median of the rounds.
    pub at_socket: Option<f64>,
    /// What the subject's process cost, if that was measured: the medians of the rounds.
    #[serde(flatten)]
    pub usage: Option<Usage>,
}

/// Prints figures as they come.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// JSON lines, and not a table.
    pub json: bool,
}

impl Figure {
    /// The medians of rounds, each the subject's and the baseline's rate a second.
    pub fn of(bench: &'static str, case: String, goal: f64, rounds: &[(f64, f64)]) -> Figure {
        let value = median(rounds.iter().map(|(subject, _)| *subject));
        let baseline = median(rounds.iter().map(|(_, baseline)| *baseline));
        let ratio = median(rounds.iter().map(|(subject, baseline)| subject / baseline));
        let tenths = |number: f64| (number * 10.0).round() / 10.0;
        let ratio = thousandths(ratio);
        let (value, baseline) = (tenths(value), tenths(baseline));
        let (met, at_socket, usage) = (ratio >= goal, None, None);
        Figure { bench, case, value, baseline, unit: "1/s", ratio, goal, met, at_socket, usage }
    }

    /// The same, with the ratio that one at a socket reached in each round.
    pub fn with_socket(self, rounds: impl Iterator<Item = f64>) -> Figure {
        Figure { at_socket: Some(thousandths(median(rounds))), ..self }
    }

    /// The same, with what the subject's process cost in each round.
    pub fn with_usage(self, rounds: &[Usage]) -> Figure {
        let cpu_ms = median(rounds.iter().map(|usage| usage.cpu_ms));
        let peak_mib = median(rounds.iter().map(|usage| usage.peak_mib));
        let hundredths = |number: f64| (number * 100.0).round() / 100.0;
        let usage = Usage { cpu_ms: hundredths(cpu_ms), peak_mib: hundredths(peak_mib) };
        Figure { usage: Some(usage), ..self }
    }
}

impl Report {
    /// What stands above the figures of a table.
    pub fn head(self) {
        if !self.json {
            println!(
                "| bench | case | Assent, 1/s | bare, 1/s | ratio | goal | met | at a socket | CPU, ms | peak, MiB |"
            );
            println!("|---|---|---:|---:|---:|---:|---|---:|---:|---:|");
        }
    }

    /// One line.
    ///
    /// # Panics
    /// Never: a figure is JSON.
    pub fn figure(self, figure: &Figure) {
        let Figure { bench, case, value, baseline, ratio, goal, met, at_socket, usage, .. } = figure;
        if self.json {
            println!("{}", serde_json::to_string(figure).expect("a figure is JSON"));
        } else {
            let met = if *met { "yes" } else { "no" };
            let (cpu, peak) = match usage {
                Some(Usage { cpu_ms, peak_mib }) => (format!("{cpu_ms:.2}"), format!("{peak_mib:.0}")),
                None => Default::default(),
            };
            let at_socket = at_socket.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            println!(
                "| {bench} | {case} | {value:.0} | {baseline:.0} | {ratio:.2} | {goal} | {met} | {at_socket} | {cpu} | {peak} |"
            );
        }
    }
}

fn thousandths(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        let figure = Figure::of("b", "c".into(), 0.8, &[(10.0, 10.0), (9.0, 10.0), (1.0, 10.0)]);
        assert_eq!((figure.value, figure.baseline, figure.ratio, figure.met), (9.0, 10.0, 0.9, true));
        assert!(!Figure::of("b", "c".into(), 0.8, &[(7.99, 10.0)]).met);
    }
}
