//! Limits through the engines that people use: podman and containerd ask for them, the kernel enforces them, the
//! engines tell of it. Where cgroup version 2 has all controllers: ignored on other machines, run in the virtual machine
//! (`cargo xtask vm vm_engines`). What engines do without limits is in `engines.rs`. They were proven over
//! runc.

mod common;

use std::path::PathBuf;

use common::bundle::runtime;
use common::containerd::Containerd;
use common::podman::Podman;
use common::wait_until;

/// Whose containers they are.
#[derive(Clone, Copy)]
enum Whose {
    Ours,
    Runc,
}

impl Whose {
    fn program(self) -> PathBuf {
        match self {
            Whose::Ours => runtime(),
            Whose::Runc => PathBuf::from("/usr/sbin/runc"),
        }
    }
}

macro_rules! each {
    ($module:ident $whose:ident: $($name:ident),*) => {
        mod $module {
            $(#[test]
            #[ignore = "needs cgroup v2 controllers"]
            fn $name() {
                super::$name(super::Whose::$whose);
            })*
        }
    };
}

each!(ours Ours: podman_limits, podman_memory, podman_life, containerd_limits, containerd_memory);
// All have passed over it; an emulated machine has not the time for all each time.
each!(runc Runc: podman_memory, containerd_limits);

/// Prints what limits a container, one line each.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max";

/// What it prints for [`ASKED`].
const LIMITED: &str = "67108864\n50000 100000\n50\n";

const ASKED: &[&str] = &["--memory=64m", "--cpus=0.5", "--pids-limit=50"];

/// The limits are in the container's own cgroup, which is all that it sees; they are changed while it lives; and they
/// hold: of processes, and of time.
fn podman_limits(whose: Whose) {
    let podman = Podman::over(&whose.program());
    let mut flags = ASKED.to_vec();
    flags.extend(["--detach", "--name=x"]);
    let (code, text) = podman.run(&flags, &["/bin/sh", "-c", "while :; do :; done"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(podman.good(&["exec", "x", "/bin/sh", "-c", LIMITS]), LIMITED);
    let throttled =
        || podman.good(&["exec", "x", "grep", "nr_throttled", "/sys/fs/cgroup/cpu.stat"]);
    wait_until("the loop is held back", || throttled().trim() != "nr_throttled 0");
    let forks = "for i in $(seq 80); do sleep 100 & done; echo made";
    let (_, text) = podman.call(&["exec", "x", "/bin/sh", "-c", forks]);
    assert!(text.contains("can't fork") && !text.contains("made"), "{text}");
    podman.good(&["update", "--memory=48m", "--cpus=0.25", "x"]);
    let changed = podman.good(&["exec", "x", "/bin/sh", "-c", LIMITS]);
    assert_eq!(changed, "50331648\n25000 100000\n50\n");
    podman.good(&["rm", "--force", "--time=0", "x"]);
    podman.assert_nothing_left();
}

/// Takes too much memory when it is told to, for whoever watches it must have begun to: once in a child, once itself.
const GREEDY: &[&str] = &[
    "/bin/sh",
    "-c",
    "take='dd if=/dev/zero of=/dev/null bs=100M'
     until [ -e /go ]; do sleep 0.1; done; $take
     until [ -e /on ]; do sleep 0.1; done; exec $take",
];

/// Too much memory ends what takes it. (Nobody here says OOMKilled: Debian 12's conmon overlooks it, with runc, too.)
fn podman_memory(whose: Whose) {
    let podman = Podman::over(&whose.program());
    let flags = ["--memory=24m", "--memory-swap=24m", "--detach", "--name=x"];
    let (code, text) = podman.run(&flags, GREEDY);
    assert_eq!(code, 0, "{text}");
    podman.good(&["exec", "x", "touch", "/go"]);
    let events = || podman.good(&["exec", "x", "cat", "/sys/fs/cgroup/memory.events"]);
    wait_until("the child is killed", || events().contains("oom_kill 1\n"));
    podman.good(&["exec", "x", "touch", "/on"]);
    assert_eq!(podman.good(&["wait", "x"]), "137\n");
    podman.good(&["rm", "x"]);
    podman.assert_nothing_left();
}

/// Run, enter, with a terminal, read, stop, remove: all with limits.
fn podman_life(whose: Whose) {
    let podman = Podman::over(&whose.program());
    let program = "trap 'echo ended; exit 9' TERM; echo begun; while :; do sleep 0.05; done";
    let mut flags = ASKED.to_vec();
    flags.extend(["--detach", "--name=x"]);
    let (code, text) = podman.run(&flags, &["/bin/sh", "-c", program]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(podman.call(&["exec", "x", "/bin/sh", "-c", "echo in; exit 7"]), (7, "in\n".into()));
    let (code, text) = podman.call(&["exec", "--tty", "x", "tty"]);
    assert_eq!((code, text.trim()), (0, "/dev/pts/0"));
    podman.good(&["pause", "x"]);
    assert_eq!(podman.good(&["inspect", "--format={{.State.Status}}", "x"]), "paused\n");
    podman.good(&["unpause", "x"]);
    podman.good(&["stop", "--time=60", "x"]);
    assert_eq!(podman.good(&["logs", "x"]), "begun\nended\n");
    assert_eq!(podman.good(&["wait", "x"]), "9\n");
    // The second time it has the same limits.
    podman.good(&["start", "x"]);
    assert_eq!(podman.good(&["exec", "x", "/bin/sh", "-c", LIMITS]), LIMITED);
    podman.good(&["kill", "--signal=KILL", "x"]);
    assert_eq!(podman.good(&["wait", "x"]), "137\n");
    podman.good(&["rm", "x"]);
    let mut flags = ASKED.to_vec();
    flags.extend(["--rm", "--tty"]);
    let (code, text) = podman.run(&flags, &["/bin/sh", "-c", &format!("tty; {LIMITS}")]);
    assert_eq!((code, text.replace('\r', "")), (0, format!("/dev/pts/0\n{LIMITED}")));
    podman.assert_nothing_left();
}

/// What ctr can ask for; it knows no limit of processes.
fn containerd_limits(whose: Whose) {
    let containerd = Containerd::over(&whose.program());
    let flags = ["--detach", "--memory-limit=67108864", "--cpus=0.5"];
    let (code, text) = containerd.run("x", &flags, &["/bin/sh", "-c", "while :; do :; done"]);
    assert_eq!(code, 0, "{text}");
    // ctr's containers see no cgroup.
    let file = |name: &str| containerd.room.read(&format!("default/x/{name}"));
    assert_eq!(file("memory.max"), "67108864\n");
    assert_eq!(file("cpu.max"), "50000 100000\n");
    wait_until("the loop is held back", || !file("cpu.stat").contains("nr_throttled 0\n"));
    let metrics = containerd.good(&["tasks", "metrics", "x"]);
    let line = metrics.lines().find(|line| line.starts_with("memory.usage_limit")).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("67108864"), "{metrics}");
    containerd.good(&["tasks", "kill", "--signal=SIGKILL", "x"]);
    remove(&containerd);
    containerd.assert_nothing_left();
}

/// Too much memory ends it; whoever listens to containerd hears why.
fn containerd_memory(whose: Whose) {
    let containerd = Containerd::over(&whose.program());
    let heard = containerd.listen();
    let flags = ["--detach", "--memory-limit=25165824"];
    let (code, text) = containerd.run("x", &flags, GREEDY);
    assert_eq!(code, 0, "{text}");
    containerd.good(&["tasks", "exec", "--exec-id", "e", "x", "touch", "/go", "/on"]);
    wait_until("the event", || heard.text().contains("/tasks/oom"));
    remove(&containerd);
    drop(heard);
    containerd.assert_nothing_left();
}

/// Removes the container that was killed.
fn remove(containerd: &Containerd) {
    containerd.wait_for("end of the task", || containerd.status("x") == "STOPPED");
    let (code, text) = containerd.call(&["tasks", "delete", "x"]);
    assert!(code == 137 || text.contains("137"), "{code} {text}");
    containerd.good(&["containers", "delete", "x"]);
}
