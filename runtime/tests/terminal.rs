//! Terminals of the command line: our own made transparent in the foreground, a socket that takes the master
//! otherwise. Needs root and busybox-static. `RUNTIME=/usr/sbin/runc` runs the same tests against another runtime,
//! which is how they were proven.

mod common;

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::bundle::{Bundle, is_peer};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

/// A container that has a terminal and executes `script`.
fn bundle(name: &str, script: &str) -> Bundle {
    let bundle = Bundle::new(name, &["/bin/sh", "-c", script]);
    bundle.configure(|config| {
        config["process"]["terminal"] = true.into();
        let tools = ["stty", "tr"];
        for tool in tools {
            let link = bundle.rootfs().join("bin").join(tool);
            std::os::unix::fs::symlink("busybox", link).unwrap();
        }
    });
    bundle
}

/// A terminal with somebody who reads what is on it.
struct Screen {
    master: File,
    slave: OwnedFd,
    lines: Receiver<Vec<u8>>,
    seen: String,
}

impl Screen {
    fn new() -> Screen {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        kobune_runtime::resize_terminal(&master, 91, 33).unwrap();
        let (sender, lines) = channel();
        let mut reader = File::from(master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0u8; 65536];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Screen { master: master.into(), slave, lines, seen: String::new() }
    }

    fn spawn(&self, bundle: &Bundle, words: &[&str]) -> Child {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        bundle.command(words).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    /// Waits until `text` has been seen.
    fn expect(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.lines.recv_timeout(Duration::from_secs(20)) {
                Ok(more) => self.seen.push_str(&String::from_utf8_lossy(&more)),
                Err(_) => panic!("{text:?} never came: {:?}", self.seen),
            }
        }
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn the_foreground_has_our_terminal() {
    let bundle = bundle(
        "fore",
        "tty; stty size; trap 'echo got; exit 4' INT; echo ready; while :; do sleep 0.05; done",
    );
    let mut screen = Screen::new();
    let before = screen.settings();
    let mut runtime = screen.spawn(&bundle, &["run", "--bundle", "BUNDLE", "ID"]);
    screen.expect("ready");
    // Control-C is not for the runtime.
    screen.type_in("\x03");
    assert_eq!(runtime.wait().unwrap().code(), Some(4));
    screen.expect("got");
    assert!(screen.seen.contains("/dev/pts/0") && screen.seen.contains("33 91"), "{}", screen.seen);
    assert_eq!(screen.settings(), before, "the terminal was not put back");
}

#[test]
fn input_is_not_echoed_twice() {
    let bundle = bundle("echo", "stty -echo; echo ready; read x; echo got-$x");
    let mut screen = Screen::new();
    let mut runtime = screen.spawn(&bundle, &["run", "--bundle", "BUNDLE", "ID"]);
    screen.expect("ready");
    screen.type_in("secret\r");
    screen.expect("got-secret");
    assert!(runtime.wait().unwrap().success());
    assert_eq!(screen.seen.matches("secret").count(), 1, "{}", screen.seen);
}

#[test]
fn the_size_follows() {
    let bundle =
        bundle("size", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done");
    let mut screen = Screen::new();
    let mut runtime = screen.spawn(&bundle, &["run", "--bundle", "BUNDLE", "ID"]);
    screen.expect("ready");
    kobune_runtime::resize_terminal(&screen.master, 60, 20).unwrap();
    kill(Pid::from_raw(runtime.id() as i32), Signal::SIGWINCH).unwrap();
    screen.expect("20 60");
    assert!(runtime.wait().unwrap().success());
}

#[test]
fn nothing_of_much_output_is_lost() {
    let bundle = bundle("much", "head -c 1000000 /dev/zero | tr '\\0' x; echo end");
    let mut screen = Screen::new();
    let mut runtime = screen.spawn(&bundle, &["run", "--bundle", "BUNDLE", "ID"]);
    screen.expect("end");
    assert!(runtime.wait().unwrap().success());
    assert_eq!(screen.seen.matches('x').count(), 1_000_000);
}

#[test]
fn without_a_terminal_of_our_own_bytes_still_flow() {
    if is_peer() {
        // runc wants /dev/tty then.
        return;
    }
    let bundle = bundle("pipe", "tty; read x; echo got $x");
    let mut command = bundle.command(&["run", "--bundle", "BUNDLE", "ID"]);
    let mut runtime = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    runtime.stdin.take().unwrap().write_all(b"hi\n").unwrap();
    let output = runtime.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("/dev/pts/0"), "{output:?}");
    assert!(text.contains("got hi"), "{text}");
}

#[test]
fn an_exec_has_one_of_its_own() {
    let bundle = Bundle::new("exectty", &["/bin/sleep", "1000"]);
    bundle.start();
    let mut screen = Screen::new();
    let before = screen.settings();
    let words = ["exec", "--tty", "ID", "/bin/sh", "-c", "tty; exit 6"];
    let mut runtime = screen.spawn(&bundle, &words);
    assert_eq!(runtime.wait().unwrap().code(), Some(6));
    screen.expect("/dev/pts/0");
    assert_eq!(screen.settings(), before);
}

#[test]
fn a_console_socket_gets_the_master() {
    let bundle = bundle("socket", "tty; exec sleep 1000");
    let path = bundle.directory.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.good(&format!("create --bundle BUNDLE --console-socket {} ID", path.display()));
    let (connection, _) = listener.accept().unwrap();
    let mut name = [0u8; 4096];
    let mut data = [IoSliceMut::new(&mut name)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::empty();
    let message =
        recvmsg::<()>(connection.as_raw_fd(), &mut data, Some(&mut control), flags).unwrap();
    let fds: Vec<RawFd> = message
        .cmsgs()
        .unwrap()
        .filter_map(|item| match item {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(fds.len(), 1);
    bundle.good("start ID");
    // A shell owns the number without unsafe code.
    let line = format!("head -n1 <&{}", fds[0]);
    let head = std::process::Command::new("bash").args(["-c", &line]).output();
    assert_eq!(head.unwrap().stdout, b"/dev/pts/0\r\n");
}

#[test]
fn a_terminal_must_have_somebody_behind_it() {
    let bundle = bundle("nobody", "true");
    for words in ["create --bundle BUNDLE ID", "run --detach --bundle BUNDLE ID"] {
        let (_, error) = bundle.bad(words);
        assert!(error.contains("cannot allocate tty"), "{error}");
        assert!(error.contains("without setting console socket"), "{error}");
    }
    bundle.configure(|config| config["process"]["terminal"] = false.into());
    let (_, error) = bundle.bad("create --bundle BUNDLE --console-socket /tmp/none ID");
    assert!(error.contains("cannot use console socket"), "{error}");
    bundle.bad("state ID");
}
