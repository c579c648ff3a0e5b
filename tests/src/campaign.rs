//! A long hunt: many trials, each named by a number from which it can be repeated.

use std::fmt::Display;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

/// Counts trials, shows how far it is, and says how to repeat those that failed.
pub struct Campaign {
    name: &'static str,
    bar: ProgressBar,
    passed: u64,
    failed: u64,
}

impl Campaign {
    /// A campaign called `name` of `count` trials. Its progress is shown if a terminal is there.
    pub fn new(name: &'static str, count: u64) -> Campaign {
        let bar = ProgressBar::new(count);
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len}, {elapsed}");
        bar.set_style(style.expect("the template is right"));
        bar.set_message(name);
        Campaign { name, bar, passed: 0, failed: 0 }
    }

    /// One trial went well.
    pub fn pass(&mut self) {
        self.passed += 1;
        self.bar.inc(1);
    }

    /// One trial did not; `seed` repeats it.
    pub fn fail(&mut self, seed: u64, why: impl Display) {
        self.failed += 1;
        let name = self.name;
        self.bar.suspend(|| {
            println!("{name}: seed {seed} failed: {why}");
            println!("to repeat it: scripts/campaign {name} --count 1 --seed {seed}");
        });
        self.bar.inc(1);
    }

    /// Shows that so many trials are done, though it is not known yet how they ended.
    pub fn show(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Prints a line that stays.
    pub fn say(&self, line: impl Display) {
        self.bar.suspend(|| println!("{}: {line}", self.name));
    }

    /// Prints the count, and gives the exit code: 0 if nothing failed.
    pub fn end(self) -> ExitCode {
        self.bar.finish_and_clear();
        println!("{} passed, {} failed", self.passed, self.failed);
        ExitCode::from(u8::from(self.failed > 0))
    }
}
