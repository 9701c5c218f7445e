//! What kubectl carries between a terminal and a Pod: port-forward and exec, over both of the protocols that
//! kubectl speaks. Another kubectl is tested with `KUBECTL=…`.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kobune_tests::harness::{Host, http};

/// With these set to false kubectl uses SPDY; versions that know nothing else do not know them.
const SWITCHES: [&str; 2] =
    ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"];
const PATIENCE: Duration = Duration::from_secs(10);

fn kubectl(host: &Host, websocket: bool, arguments: &[&str]) -> Command {
    let mut command = host.kubectl_command(arguments);
    for switch in SWITCHES {
        command.env(switch, websocket.to_string());
    }
    command
}

fn with_app(purpose: &str) -> Host {
    let host = Host::with_node(purpose);
    host.kubectl_ok(&["run", "app", "--image=myapp:1.0", "--restart=Never"]);
    host.kubectl_ok(&["run", "box", "--image=busybox:1.35", "--command", "--", "sleep", "3600"]);
    host.wait_for("pod/app", "condition=Ready");
    host.wait_for("pod/box", "condition=Ready");
    host
}

/// `kubectl port-forward`, ready, with the address where it listens; it ends with this value.
struct Forward(Child, SocketAddr);

impl Forward {
    fn start(host: &Host, websocket: bool, port: u16) -> Self {
        let mut command =
            kubectl(host, websocket, &["port-forward", "pod/app", &format!(":{port}")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = host.run(|| command.spawn()).expect("start kubectl");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("read from kubectl");
        let address = line.split(' ').nth(2).and_then(|word| word.parse().ok());
        Self(child, address.unwrap_or_else(|| panic!("kubectl port-forward said {line:?}")))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn port_forward_carries_many_connections_over_both_protocols() {
    let host = with_app("forward");
    for websocket in [true, false] {
        let forward = Forward::start(&host, websocket, 8080);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = || host.run(|| http::get(forward.1, "/", PATIENCE));
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for answer in answers {
            let answer = answer.expect("an answer through the tunnel");
            assert!(answer.status == 200 && answer.body.contains("app"), "{answer:?}");
        }
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_told_to_kubectl() {
    let host = with_app("refused");
    for websocket in [true, false] {
        let mut forward = Forward::start(&host, websocket, 81);
        assert!(host.run(|| http::get(forward.1, "/", PATIENCE)).is_err());
        let stderr = BufReader::new(forward.0.stderr.take().expect("a pipe"));
        let told = stderr.lines().next().expect("a line").expect("text");
        assert!(told.contains("error forwarding port 81 to pod default/app"), "{told}");
        assert!(told.contains("refused"), "{told}");
    }
}

#[test]
fn exec_carries_streams_and_exit_codes_over_both_protocols() {
    let host = with_app("exec");
    for websocket in [true, false] {
        let exec = |input: &str, script: &str| {
            let words = ["exec", "-i", "box", "--", "sh", "-c", script];
            host.command(kubectl(&host, websocket, &words), input)
        };
        let outcome = exec("", "echo out; echo err >&2; exit 7");
        assert_eq!(
            (outcome.code, outcome.stdout.as_str(), outcome.stderr.lines().next()),
            (Some(7), "out\n", Some("err")),
            "websocket {websocket}: {outcome}"
        );
        let much = "0123456789abcdef".repeat(64 << 10);
        assert_eq!(exec(&much, "busybox wc -c").ok().trim(), much.len().to_string());
        assert_eq!(exec(&much, "cat").ok(), much, "websocket {websocket}");
    }
}

#[test]
#[ignore = "fails at times: what a terminal shows last is missing; the reason is not known yet"]
fn a_terminal_has_the_size_of_the_users_over_both_protocols() {
    let host = with_app("size");
    for websocket in [true, false] {
        let mut command = in_terminal(&host, websocket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = host.run(|| command.spawn()).expect("start script");
        // It ends with its input, too.
        let _input = script.stdin.take();
        let mut said = String::new();
        script.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
        script.wait().expect("wait for script");
        assert!(said.contains("31 97"), "websocket {websocket}: {said}");
    }
}

/// `kubectl exec -it` on a terminal of 31 rows and 97 columns, which script(1) makes.
fn in_terminal(host: &Host, websocket: bool) -> Command {
    // The size comes after the beginning, upstream too; without a size stty fails.
    let wait = "'n=0; until busybox stty size || [ $n = 100 ]; do n=$((n+1)); sleep 0.1; done'";
    let exec = kubectl(host, websocket, &["exec", "-it", "box", "--", "sh", "-c", wait]);
    let words: Vec<_> = std::iter::once(exec.get_program())
        .chain(exec.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 31 cols 97; {}", words.join(" ")), "/dev/null"]);
    script.envs(exec.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script
}

#[test]
fn cp_copies_both_ways() {
    let host = with_app("cp");
    let path = |name: &str| host.dir.join(name).display().to_string();
    let text = "to the Pod and back\n".repeat(50_000);
    std::fs::write(path("sent"), &text).expect("write a file");
    // The image has its programs under one name only.
    let prepare = "busybox mkdir -p /tmp; busybox ln -s busybox /bin/tar";
    host.kubectl_ok(&["exec", "box", "--", "sh", "-c", prepare]);
    for websocket in [true, false] {
        let cp = |from: &str, to: &str| {
            host.command(kubectl(&host, websocket, &["cp", from, to]), "").ok();
        };
        cp(&path("sent"), "box:/tmp/copy");
        cp("box:/tmp/copy", &path("received"));
        assert_eq!(std::fs::read_to_string(path("received")).expect("the copy"), text);
        std::fs::remove_file(path("received")).expect("remove the copy");
    }
}

#[test]
fn attach_shows_what_is_written_from_now_until_the_end() {
    let host = with_app("attach");
    for (name, websocket) in [("first", true), ("second", false)] {
        let script = "echo before; while ! [ -e /go ]; do sleep 0.1; done; \
                      while [ -e /go ]; do echo out; echo err >&2; sleep 0.1; done; echo last";
        host.kubectl_ok(&[
            "run",
            name,
            "--image=busybox:1.35",
            "--restart=Never",
            "--command",
            "--",
            "sh",
            "-c",
            script,
        ]);
        host.wait_for(&format!("pod/{name}"), "condition=Ready");
        let mut command = kubectl(&host, websocket, &["attach", name]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut attach = host.run(|| command.spawn()).expect("start kubectl");
        host.kubectl_ok(&["exec", name, "--", "sh", "-c", "echo > /go"]);
        let (out, err) = (attach.stdout.take(), attach.stderr.take());
        let mut out = BufReader::new(out.expect("a pipe")).lines();
        let mut err = BufReader::new(err.expect("a pipe")).lines();
        assert_eq!(out.next().expect("a line").expect("text"), "out");
        assert!(err.any(|line| line.expect("text") == "err"));
        host.kubectl_ok(&["exec", name, "--", "busybox", "rm", "/go"]);
        let rest: Vec<_> = out.map(|line| line.expect("text")).collect();
        assert_eq!(rest.last().map(String::as_str), Some("last"));
        assert!(attach.wait().expect("kubectl ends with the container").success());
    }
}
