//! A progress bar on standard error, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The bar. Dropping it removes it from the screen.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar of so many steps. Drawn only where standard error is a terminal.
    pub(crate) fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {elapsed}  {msg}")
            .expect("the template is constant and valid");
        let bar = ProgressBar::new(steps).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// What is going on now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// So many steps of all are done.
    pub(crate) fn at(&self, steps: u64) {
        self.0.set_position(steps);
    }

    /// One more step is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    /// Prints a line on standard error without disturbing the bar, also where there is none.
    pub(crate) fn line(&self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("{text}");
        } else {
            self.0.println(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
