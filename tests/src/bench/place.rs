//! Where it is measured: nothing of the machine's own network, cgroups of version 2 only (peers take a mixed tree for
//! version 1 and do less), memory for disk.

use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use super::Who;
use super::bundle::{Bundle, Kind};
use super::programs::Programs;
use crate::harness::namespaces::Namespaces;

/// Where mixed hosts have version 2.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) struct Place(Namespaces);

impl Place {
    pub(super) fn new() -> Place {
        let namespaces = Namespaces::new().unwrap_or_else(|error| panic!("{error}"));
        namespaces.run(|| {
            if Path::new(UNIFIED).is_dir() {
                let bind = MsFlags::MS_BIND;
                mount(Some(UNIFIED), CGROUPS, None::<&str>, bind, None::<&str>)
                    .expect("show the cgroup2 tree alone");
            }
        });
        Place(namespaces)
    }

    pub(super) fn run(&self, work: impl FnOnce() + Send) {
        self.0.run(work);
    }
}

/// Whether crun can run a container whose devices are restricted: it wants to raise its limit of locked memory for
/// that, which needs a capability that some machines do not give.
pub(super) fn can_restrict_devices(programs: &Programs) -> bool {
    let kind = Kind { new_network: false, restrict_devices: true };
    let line = Bundle::make(programs, kind, &["/bin/true"]).run(Who::Crun, "devices");
    let output = Command::new(&line[0]).args(&line[1..]).output();
    output.is_ok_and(|output| output.status.success())
}
