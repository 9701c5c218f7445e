//! Descriptors that the caller of the command line hands through to the program, besides the standard streams: those of
//! socket activation (LISTEN_FDS) first, then those of `--preserve-fds`, all from number 3 on, as they came.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;

use crate::plan::ProcessPlan;
use crate::sys::process as sys;

/// The first number after the standard streams.
pub(super) const FIRST: RawFd = 3;

/// How many descriptors, from number 3 on, a program gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Preserved {
    activation: u16,
    count: u16,
}

impl Preserved {
    /// Those of `--preserve-fds`. To be called before anything is opened: a number that is closed now would be taken
    /// by a file of ours, which would leak into the container.
    pub(crate) fn asked(count: u16) -> io::Result<Preserved> {
        Preserved { activation: 0, count }.check()
    }

    /// The same, behind those of socket activation that our environment tells of.
    pub(crate) fn with_activation(asked: u16) -> io::Result<Preserved> {
        let activation = activation(|name| std::env::var(name).ok(), std::process::id());
        Preserved { activation, count: asked.saturating_add(activation) }.check()
    }

    fn check(self) -> io::Result<Preserved> {
        let mut numbers = (FIRST..).take(self.count.into());
        match numbers.find(|fd| !sys::is_open(*fd)) {
            Some(fd) => Err(io::Error::other(format!("descriptor {fd} is not open"))),
            None => Ok(self),
        }
    }

    /// Gives them to the process, and tells it about socket activation as an init would.
    pub(crate) fn give(self, plan: &mut ProcessPlan) {
        plan.preserved = self.count;
        if self.activation > 0 {
            let count = CString::new(format!("LISTEN_FDS={}", self.activation));
            plan.env.extend(count.into_iter().chain([c"LISTEN_PID=1".to_owned()]));
        }
    }
}

/// The descriptors of socket activation that are meant for the process `pid` (sd_listen_fds(3)).
fn activation(variable: impl Fn(&str) -> Option<String>, pid: u32) -> u16 {
    let meant = variable("LISTEN_PID").is_some_and(|text| text.parse() == Ok(pid));
    let count = variable("LISTEN_FDS").filter(|_| meant);
    count.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activation_is_for_one_process() {
        let of = |pid: &'static str, fds: &'static str| {
            activation(
                move |name| Some(if name == "LISTEN_PID" { pid } else { fds }.to_owned()),
                42,
            )
        };
        assert_eq!(of("42", "2"), 2);
        assert_eq!(of("41", "2"), 0);
        assert_eq!(of("42", "x"), 0);
        assert_eq!(activation(|_| None, 42), 0);
    }

    #[test]
    fn a_closed_number_is_refused() {
        let error = Preserved::asked(u16::MAX).unwrap_err();
        assert!(error.to_string().ends_with("is not open"), "{error}");
        assert_eq!(Preserved::asked(0).unwrap(), Preserved::default());
    }
}
