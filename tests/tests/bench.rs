//! Promise 10: the figures of the README, from one run. `cargo xtask bench` runs this alone and prints
//! the table; as a test among others it would only disturb and be disturbed.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use kobune_tests::harness::Host;
use kobune_tests::harness::api::Api;
use kobune_tests::harness::recorder::{Recorder, Seen};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MINUTE: Duration = Duration::from_secs(60);
const SAMPLES: usize = 50;
const REPLICAS: usize = 30;
const ROUNDS: usize = 5;

fn running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "app", "image": "myapp:1.0" }],
    })
}

/// POST → seen Running, POST → seen Ready, for one Pod; it is gone again afterwards.
fn one_pod(api: &Api<'_>, pods: &Recorder, name: &str) -> (Duration, Duration) {
    let object =
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec() });
    let posted = Instant::now();
    api.create(PODS, &object);
    let first = |events: &[Seen], what: &dyn Fn(&Value) -> bool| {
        events.iter().find(|e| e.name() == name && what(&e.object)).map(|e| e.at)
    };
    let ran = pods.until("the Pod runs", MINUTE, |events| first(events, &running));
    let was_ready = pods.until("the Pod is ready", MINUTE, |events| first(events, &ready));
    api.request("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=0"), None).expect("delete");
    pods.until("the Pod is gone", MINUTE, |events| {
        events.iter().any(|e| e.name() == name && e.kind == "DELETED").then_some(())
    });
    (ran - posted, was_ready - posted)
}

/// The value below which `percent` of the sorted samples lie.
fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort();
    samples[(samples.len() * percent).div_ceil(100).max(1) - 1]
}

/// Proportional set size, in KiB.
fn pss(pid: i32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a Pss line");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let models: Vec<_> = cpu
        .lines()
        .filter_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "model name"))
        .map(|(_, value)| value.trim())
        .collect();
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let model = models.first().unwrap_or(&"?");
    format!("{} × {model}, {} GiB, Linux {}", models.len(), kib >> 20, kernel.trim())
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn mib(kib: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
    let mib = kib as f64 / 1024.0;
    format!("{mib:.1} MiB")
}

/// 0 → REPLICAS, the last one seen Ready.
fn deployment(api: &Api<'_>, round: usize) -> Duration {
    let name = format!("many-{round}");
    let labels = json!({ "app": name });
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": REPLICAS,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec() },
        },
    });
    let pods = api.record(&format!("{PODS}?labelSelector=app%3D{name}"));
    let posted = Instant::now();
    api.create(DEPLOYMENTS, &object);
    let last = pods.until("all replicas are ready", 3 * MINUTE, |events| {
        // Not `states`: copying every past state at every event takes the processors that are measured.
        let newest: BTreeMap<&str, &Seen> = events.iter().map(|e| (e.name(), e)).collect();
        let up = |seen: &&&Seen| seen.kind != "DELETED" && ready(&seen.object);
        let count = newest.values().filter(up).count();
        (count == REPLICAS).then(|| events.last().map(|event| event.at))?
    });
    if round < ROUNDS {
        api.request("DELETE", &format!("{DEPLOYMENTS}/{name}"), None).expect("delete");
        pods.until("all replicas are gone", 3 * MINUTE, |events| {
            let gone = events.iter().filter(|e| e.kind == "DELETED").count();
            (gone == REPLICAS).then_some(())
        });
    }
    last - posted
}

#[test]
#[ignore = "measures: cargo xtask bench"]
fn the_figures() {
    let host = Host::with_node("bench");
    let api = host.api();
    let pods = api.record(PODS);
    let idle = pss(host.pid());

    let samples: Vec<_> =
        (0..SAMPLES).map(|n| one_pod(&api, &pods, &format!("sample-{n}"))).collect();
    let (mut ran, mut was_ready): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
    drop(pods);
    let mut many: Vec<_> = (1..=ROUNDS).map(|round| deployment(&api, round)).collect();
    let supervisors = host.supervisors();
    assert_eq!(supervisors.len(), REPLICAS, "one supervisor per Pod");
    let of_supervisors: u64 = supervisors.iter().map(|pid| pss(*pid)).sum();
    let of_node = pss(host.pid());

    let size = fs::metadata(kobune_tests::paths::kobune()).map_or(0, |file| file.len() >> 10);
    println!("\n| what | figure |\n|---|---|");
    for (what, figure) in [
        ("Pod POST → Running, p50 of 50", ms(percentile(&mut ran, 50))),
        ("Pod POST → Running, p99 of 50", ms(percentile(&mut ran, 99))),
        ("Pod POST → Ready, p50 of 50", ms(percentile(&mut was_ready, 50))),
        ("Pod POST → Ready, p99 of 50", ms(percentile(&mut was_ready, 99))),
        ("Deployment 0 → 30 replicas Ready, median of 5", ms(percentile(&mut many, 50))),
        ("Deployment 0 → 30 replicas Ready, slowest of 5", ms(percentile(&mut many, 100))),
        ("`kobune` idle (node and control plane), PSS", mib(idle)),
        ("`kobune` with 30 Pods, after 170 others, PSS", mib(of_node)),
        ("one Pod's supervisor, PSS, mean of 30", mib(of_supervisors / REPLICAS as u64)),
        ("size of the program", mib(size)),
    ] {
        println!("| {what} | {figure} |");
    }
    println!("\nMeasured on {}; seen by a watch, requests through `kubectl proxy`.", machine());
}
