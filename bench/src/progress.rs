//! How far a run has come.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::{
    fmt::{self, Write},
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};

/// Hears how far a run has come.
pub trait Progress {
    /// So many steps there will be.
    fn begin(&mut self, steps: u64);
    /// The next step begins.
    fn step(&mut self, what: &str);
    /// A contestant can not be measured, so that some steps will not be.
    fn left_out(&mut self, contestant: &str, why: &str, steps: u64);
}

/// How often there is a line where no bar can be drawn.
const EVERY: Duration = Duration::from_secs(10);

/// A bar on the standard error output, with the time that is left. Where that is no terminal, a line now and then.
pub struct Bar {
    bar: ProgressBar,
    /// When the last line was, where there are lines.
    line: Option<Instant>,
}

impl Default for Bar {
    fn default() -> Self {
        let style = ProgressStyle::with_template("{bar:20} {percent:>3} %  {left}  {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("left", write_left);
        let bar = ProgressBar::no_length().with_style(style);
        let line = (!stderr().is_terminal()).then(|| Instant::now().checked_sub(EVERY).unwrap_or_else(Instant::now));
        Self { bar, line }
    }
}

impl Bar {
    /// Takes the bar away; to be called from anywhere.
    pub fn end(&self) -> impl FnOnce() + Send + 'static {
        let bar = self.bar.clone();
        move || bar.finish_and_clear()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&mut self, steps: u64) {
        self.bar.set_length(steps);
    }

    fn step(&mut self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
        if self.line.is_some_and(|last| last.elapsed() >= EVERY) {
            self.line = Some(Instant::now());
            let (step, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            eprintln!("{step} of {all}, {}: {what}", left(self.bar.elapsed(), step, all));
        }
    }

    fn left_out(&mut self, contestant: &str, why: &str, steps: u64) {
        self.bar.suspend(|| eprintln!("left out: {contestant}: {why}"));
        self.bar.inc(steps);
    }
}

fn write_left(state: &ProgressState, to: &mut dyn Write) {
    let text = left(state.elapsed(), state.pos(), state.len().unwrap_or(0));
    // A bar without it is drawn all the same.
    let _: fmt::Result = to.write_str(&text);
}

/// How much time is left if the steps that are left take as long as those before did.
fn left(elapsed: Duration, step: u64, all: u64) -> String {
    let each = elapsed.as_secs_f64() / step.max(1) as f64;
    match (each * all.saturating_sub(step) as f64) as u64 {
        seconds @ 0..100 => format!("{seconds} s left"),
        seconds => format!("{} min left", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_as_long_as_what_was() {
        assert_eq!(left(Duration::from_secs(30), 3, 10), "70 s left");
        assert_eq!(left(Duration::from_secs(60), 10, 110), "10 min left");
        assert_eq!(left(Duration::ZERO, 0, 0), "0 s left");
    }
}
