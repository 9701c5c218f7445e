//! Promise 6: `kill -9` of the program harms no container and loses no acknowledged write.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kobune_tests::harness::api::send;
use kobune_tests::harness::{Host, eventually, start_time};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

/// Pod → (pid, start time in ticks, restarts, startedAt).
fn containers(host: &Host) -> BTreeMap<String, (i32, Option<u64>, String)> {
    let pods = host.get(&["pods"]);
    let pods = pods["items"].as_array().expect("a list");
    pods.iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().expect("name").to_owned();
            let status = &pod["status"]["containerStatuses"][0];
            let container = status["name"].as_str().expect("a container status");
            let pid = host.pids(&name, container)[0];
            let told = format!("{} {}", status["restartCount"], status["state"]["running"]);
            (name, (pid, start_time(pid), told))
        })
        .collect()
}

fn log_file(host: &Host, pod: &str, container: &str, attempt: u32) -> PathBuf {
    let uid = host.field(&format!("pod/{pod}"), ".metadata.uid");
    host.dir.join(format!("log/default_{pod}_{uid}/{container}/{attempt}.log"))
}

fn ticks_in(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.rsplit_once("tick ")?.1.parse().ok()).collect()
}

#[test]
fn containers_live_on_and_their_logs_are_complete() {
    let mut host = Host::with_node("survive");
    host.apply_example("myapp.yaml").ok();
    host.apply_example("myapp-service.yaml").ok();
    let ticks = ["run", "ticker", "--image=myapp:1.0", "--command", "--"];
    host.kubectl_ok(&[&ticks[..], &["/bin/testapp", "ticks", "20"]].concat());
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    host.wait_for("pod/ticker", "condition=Ready");
    let log = log_file(&host, "ticker", "ticker", 0);
    let vip = host.service_address("myapp", 80);
    let before = containers(&host);

    host.kill_node();
    let at_kill = ticks_in(&fs::read_to_string(&log).expect("read the log")).len();
    eventually("the log grows while nobody is there", MINUTE, || {
        let now = ticks_in(&fs::read_to_string(&log).expect("read the log")).len();
        if now > at_kill + 20 { Ok(()) } else { Err(format!("{at_kill}, then {now} lines")) }
    });
    assert_eq!(host.who_answers(vip, "/", 60).len(), 3, "the VIP works without the program");

    host.up();
    assert_eq!(containers(&host), before, "pids, start times, restart counts");
    let logs = ticks_in(&host.kubectl_ok(&["logs", "ticker"]));
    assert!(logs.len() > at_kill + 20, "kubectl logs has only {} lines", logs.len());
    assert!(logs.iter().copied().eq(0..logs.len() as u64), "a line is missing or twice");

    // It still holds them: what ends now is noticed and restarted.
    kill(Pid::from_raw(before["ticker"].0), Signal::SIGKILL).expect("kill the container");
    host.until_field("pod/ticker", ".status.containerStatuses[0].restartCount", "1");
}

#[test]
fn what_happened_meanwhile_is_told_afterwards() {
    let mut host = Host::with_node("meanwhile");
    host.kubectl_ok(&["run", "stays", "--image=myapp:1.0"]);
    let job = ["run", "ends", "--image=myapp:1.0", "--restart=Never"];
    host.kubectl_ok(&job);
    host.wait_for("pod/stays", "condition=Ready");
    host.wait_for("pod/ends", "condition=Ready");
    let ends = host.pod_address("ends", 8080);
    host.kill_node();
    // The program in the Pod ends with exit code 3 while nobody watches; the connection just breaks.
    let _ = host.http(ends, "/exit/3");
    host.up();
    host.until_field("pod/ends", ".status.phase", "Failed");
    let code = ".status.containerStatuses[0].state.terminated.exitCode";
    assert_eq!(host.field("pod/ends", code), "3");
    assert_eq!(host.field("pod/stays", ".status.containerStatuses[0].restartCount"), "0");
}

/// Numbers that differ from run to run; the seed is printed, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let seed = u64::from(now.subsec_nanos()) | 1;
        println!("seed {seed}");
        Self(seed)
    }

    /// xorshift64.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Creates ConfigMaps one after another until told to stop; returns the numbers of the acknowledged ones.
fn write_until(stop: &AtomicBool, to: SocketAddr) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": format!("write-{number}") },
            "data": { "number": number.to_string(), "filler": "x".repeat(500) },
        });
        let path = "/api/v1/namespaces/default/configmaps";
        match send(to, "POST", path, Some(&object)) {
            Ok(answer) if answer.status == 201 => acknowledged.push(number),
            // Refused, cut off, or behind a proxy without a server: not acknowledged.
            _ => thread::yield_now(),
        }
    }
    acknowledged
}

/// A few kills in the middle of a rolling update: it goes on each time and ends as without them.
#[test]
fn a_rollout_goes_on_after_kills() {
    let mut host = Host::with_node("killroll");
    host.apply_example("rollout.yaml").ok();
    host.kubectl_ok(&["rollout", "status", "deployment/rolling", "--timeout=60s"]);
    let mut dice = Dice::new();
    for version in ["1.1", "1.0", "1.1"] {
        let image = format!("app=myapp:{version}");
        host.kubectl_ok(&["set", "image", "deployment/rolling", &image]);
        thread::sleep(Duration::from_millis(dice.below(1500)));
        host.kill_node();
        host.up();
    }
    host.kubectl_ok(&["rollout", "status", "deployment/rolling", "--timeout=90s"]);
    eventually("four new Pods and nothing else", MINUTE, || {
        let pods = host.pods("app=rolling");
        let good = |pod: &serde_json::Value| {
            pod["spec"]["containers"][0]["image"] == "myapp:1.1"
                && pod["status"]["containerStatuses"][0]["restartCount"] == 0
                && pod["status"]["containerStatuses"][0]["ready"] == true
        };
        let fine = pods.iter().filter(|pod| good(pod)).count();
        let supervisors = host.supervisors().len();
        if (pods.len(), fine, supervisors) == (4, 4, 4) {
            Ok(())
        } else {
            Err(format!("{} Pods, {fine} good, {supervisors} supervisors", pods.len()))
        }
    });
    let vip = host.service_address("rolling", 80);
    eventually("the VIP leads to all four", MINUTE, || {
        match host.who_answers(vip, "/", 80).len() {
            4 => Ok(()),
            few => Err(format!("{few} answer")),
        }
    });
}

const KILLS: usize = 50;

#[test]
fn fifty_kills_during_writes_lose_no_acknowledged_write() {
    let mut host = Host::new("fifty");
    host.up();
    let uid = host.field("namespace/default", ".metadata.uid");
    let mut command = host.kubectl_command(&["proxy", "--port=8001"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut proxy = host.run(|| command.spawn()).expect("start kubectl proxy");
    let to: SocketAddr = "127.0.0.1:8001".parse().expect("an address");
    let answers = |host: &Host| {
        host.run(|| {
            eventually("the API answers", MINUTE, || match send(to, "GET", "/readyz", None) {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            });
        });
    };
    answers(&host);

    let mut dice = Dice::new();
    let stop = AtomicBool::new(false);
    let namespaces = host.entry();
    let acknowledged = thread::scope(|scope| {
        let writer = scope.spawn(|| namespaces.run(|| write_until(&stop, to)));
        for _ in 0..KILLS {
            thread::sleep(Duration::from_millis(dice.below(120)));
            host.kill_node();
            host.start();
            answers(&host);
        }
        stop.store(true, Ordering::SeqCst);
        writer.join().expect("the writer ends")
    });
    proxy.kill().and_then(|()| proxy.wait()).expect("end the proxy");

    let list = host.get(&["configmaps"]);
    let found: BTreeMap<&str, &serde_json::Value> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|object| Some((object["metadata"]["name"].as_str()?, object)))
        .collect();
    println!("{} writes acknowledged, {} objects found", acknowledged.len(), found.len());
    assert!(acknowledged.len() >= KILLS, "too few writes to prove anything");
    for number in &acknowledged {
        let object = found.get(format!("write-{number}").as_str());
        let object = object.unwrap_or_else(|| panic!("acknowledged write {number} is lost"));
        assert_eq!(object["data"]["number"], number.to_string());
    }
    let whole = |object: &&serde_json::Value| object["data"]["filler"].as_str().map(str::len);
    let written = found.iter().filter(|(name, _)| name.starts_with("write-"));
    assert!(written.clone().all(|(_, object)| whole(object) == Some(500)), "a write is half there");
    assert_eq!(host.field("namespace/default", ".metadata.uid"), uid, "the same cluster");
}
