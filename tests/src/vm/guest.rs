//! What a test inside of the virtual machine may ask of it. Works nowhere else.

use std::fs;

/// The serial port on which the guest says how it ended; see [`super::machine`].
pub const RESULT_PORT: &str = "/dev/ttyS1";

/// Word for "reset on purpose: boot me again with the same disk".
pub const RESET: &str = "reset";

/// Word before the exit code of the suite.
pub const EXIT: &str = "exit";

/// How often this machine was booted with its disk; 1 is the first time.
pub fn boot() -> u32 {
    let number = parameter("kobune.boot").and_then(|text| text.parse().ok());
    number.expect("not inside of the test machine: run `cargo xtask vm`")
}

/// The value of a word of the kernel command line.
pub fn parameter(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| {
        let (key, value) = word.split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

/// Resets the machine at once: nothing is synced, nobody is told. The disk keeps what had reached it;
/// the suite is started again.
pub fn hard_reset() -> ! {
    fs::write(RESULT_PORT, format!("{RESET}\n")).expect("write to the result port");
    fs::write("/proc/sysrq-trigger", "b").expect("sysrq b");
    loop {
        std::thread::park();
    }
}
