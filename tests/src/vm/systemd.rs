//! systemd for a guest, from the host's packages: the program, a bus, and as few units as make these two run. The suite starts
//! it, as the first process of a pid namespace; see `runtime/tests/vm_systemd.rs`.

use std::fs;
use std::path::Path;

use super::disk::{copy, copy_with_libraries};
use super::io;
use crate::paths;

/// The suite that asks for it.
pub(super) const SUITE: &str = "vm_systemd";

const PROGRAM: &str = "/lib/systemd/systemd";

/// Since systemd 254 it starts programs through this.
const EXECUTOR: &str = "/usr/lib/systemd/systemd-executor";

const BUS: &str = "\
<busconfig><type>system</type><listen>systemd:</listen><auth>EXTERNAL</auth><policy context=\"default\">
<allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>
</policy></busconfig>
";

const UNITS: [(&str, &str); 3] = [
    ("default.target", "[Unit]\nWants=dbus.socket dbus.service\nDefaultDependencies=no\n"),
    (
        "dbus.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    ),
    (
        "dbus.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\n\
         StandardError=file:/tmp/bus.log\nExecStart=/usr/sbin/dbus-daemon --config-file=/etc/bus.conf --address=systemd: \
         --nofork --nopidfile --systemd-activation\n",
    ),
];

pub(super) fn fill(root: &Path) -> Result<(), String> {
    for (program, package) in [("dbus-daemon", "dbus"), ("systemctl", "systemd")] {
        paths::on_path(program).ok_or_else(|| format!("no {program} (package {package})"))?;
        copy_with_libraries(Path::new(program), root)?;
    }
    copy_with_libraries(Path::new(PROGRAM), root)?;
    if Path::new(EXECUTOR).exists() {
        copy_with_libraries(Path::new(EXECUTOR), root)?;
        let to = root.join(EXECUTOR.trim_start_matches('/'));
        copy(Path::new(EXECUTOR), &to)?;
    }
    let units = root.join("etc/systemd/system");
    io("make directory", &units, fs::create_dir_all(&units))?;
    for (name, text) in UNITS {
        io("write", &units, fs::write(units.join(name), text))?;
    }
    io("write", root, fs::write(root.join("etc/bus.conf"), BUS))
}
