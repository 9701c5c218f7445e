//! What moves while one waits: a spinner on a terminal, a line per finished phase anywhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The phases of one demo, with when each was over.
pub(crate) struct Progress {
    start: Instant,
    spinner: Option<ProgressBar>,
    pub(super) phases: Vec<(String, Duration)>,
}

impl Progress {
    /// Times count from `start`.
    pub(crate) fn new(start: Instant) -> Self {
        let spinner = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {spinner:.cyan} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::stdout());
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self { start, spinner, phases: Vec::new() }
    }

    /// On a terminal?
    pub(crate) fn is_live(&self) -> bool {
        self.spinner.is_some()
    }

    /// What is waited for now.
    pub(crate) fn waiting(&self, what: impl Into<String>) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(what.into());
        }
    }

    /// A phase is over.
    pub(crate) fn done(&mut self, what: impl Into<String>) {
        let what = what.into();
        let at = self.start.elapsed();
        let mark = if self.is_live() { "\x1b[32m✓\x1b[0m" } else { "ok" };
        self.say(&format!("  {mark} {what:<36} {:>7.3} s", at.as_secs_f64()));
        self.phases.push((what, at));
    }

    /// A line above the spinner.
    pub(crate) fn say(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(line),
            None => println!("{line}"),
        }
    }

    /// Nothing moves any more.
    pub(crate) fn clear(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
