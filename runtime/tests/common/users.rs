//! A user namespace to run the runtime in: the kernel counts, exactly, which namespaces were made in it and still exist
//! (user_namespaces(7), /proc/sys/user), whatever else the machine is doing.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

/// Everybody is who they are outside.
const SAME: &str = "0 0 4294967295";

/// Lives as long as its holder.
pub struct UserNamespace {
    holder: Child,
}

/// What a container makes one of each; and how many of them the holder has.
pub const KINDS: [(&str, u32); 6] =
    [("mnt", 1), ("pid", 0), ("net", 0), ("ipc", 0), ("uts", 0), ("cgroup", 0)];

impl UserNamespace {
    pub fn new() -> UserNamespace {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "/bin/busybox", "sh", "-c"]);
        // It says when the namespace is there, and is told when it is mapped.
        command.arg("echo; read mapped; exec sleep 100000");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        holder.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", holder.id()), SAME).unwrap();
        }
        holder.stdin.take().unwrap().write_all(b"\n").unwrap();
        UserNamespace { holder }
    }

    /// The command in there.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.holder.id().to_string(), "--user", "--mount"]);
        inside.args(["--preserve-credentials", "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// The kinds of which there are others than the holder's own: one more than those finds no room.
    pub fn left(&self) -> Vec<&'static str> {
        let left = KINDS.into_iter().filter(|(kind, held)| {
            let limit = held + 1;
            let script = format!("echo {limit} >/proc/sys/user/max_{kind}_namespaces");
            assert!(self.shell(&script), "{script}");
            let kind = if *kind == "mnt" { "mount" } else { kind };
            let found_room = self.shell(&format!("unshare --{kind} --fork /bin/true 2>/dev/null"));
            let script = script.replace(&format!("echo {limit}"), "echo 10000");
            assert!(self.shell(&script), "{script}");
            !found_room
        });
        left.map(|(kind, _)| kind).collect()
    }

    fn shell(&self, script: &str) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        self.wrap(&command).status().unwrap().success()
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
