//! Promise 4: what is gone comes back, what is sick gets no requests.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kobune_tests::harness::recorder::Seen;
use kobune_tests::harness::{Host, eventually, http};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn a_deleted_pod_is_replaced() {
    let host = Host::with_node("replace");
    host.apply_example("myapp.yaml").ok();
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    let victim = host.pods("app=myapp")[0]["metadata"]["name"].as_str().expect("name").to_owned();
    host.kubectl_ok(&["delete", "pod", &victim]);
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    eventually("three Pods without the deleted one", Duration::from_secs(30), || {
        let pods = host.pods("app=myapp");
        let names: Vec<_> = pods.iter().filter_map(|p| p["metadata"]["name"].as_str()).collect();
        let fine = names.len() == 3 && !names.contains(&victim.as_str());
        if fine { Ok(()) } else { Err(format!("{names:?}")) }
    });
}

#[test]
fn a_killed_container_is_restarted() {
    let host = Host::with_node("restart");
    host.kubectl_ok(&["run", "one", "--image=myapp:1.0"]);
    host.wait_for("pod/one", "condition=Ready");
    let pid = host.pids("one", "one")[0];
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the container");
    host.until_field("pod/one", ".status.containerStatuses[0].restartCount", "1");
    host.wait_for("pod/one", "condition=Ready");
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(host.field("pod/one", last), "137");
    assert_ne!(host.pids("one", "one"), [pid]);
}

fn with_probed(purpose: &str) -> (Host, SocketAddr) {
    let host = Host::with_node(purpose);
    host.apply_example("probes.yaml").ok();
    host.wait_for("pod/probed", "condition=Ready");
    let address = host.pod_address("probed", 8080);
    (host, address)
}

#[test]
fn a_failing_liveness_probe_restarts() {
    let (host, pod) = with_probed("liveness");
    host.http(pod, "/fail/healthz").expect("switch");
    host.until_field("pod/probed", ".status.containerStatuses[0].restartCount", "1");
    host.wait_for("pod/probed", "condition=Ready");
    let events = host.kubectl_ok(&["events", "--for", "pod/probed"]);
    assert!(events.contains("Unhealthy") && events.contains("Liveness probe failed"), "{events}");
    assert!(events.contains("Killing"), "{events}");
}

/// Whether a recorded slice names the address as ready.
fn ready_in_slice(slice: &Value, ip: &str) -> bool {
    slice["endpoints"].as_array().is_some_and(|endpoints| {
        endpoints.iter().any(|endpoint| {
            endpoint["addresses"][0] == ip && endpoint["conditions"]["ready"] == true
        })
    })
}

/// The moment from which the VIP refuses connections; polled as fast as the kernel answers.
fn refused_at(host: &Host, vip: SocketAddr) -> Instant {
    host.run(|| {
        eventually("the VIP refuses", Duration::from_secs(15), || match TcpStream::connect_timeout(
            &vip,
            Duration::from_millis(200),
        ) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Instant::now()),
            other => Err(format!("{other:?}")),
        })
    })
}

#[test]
fn a_failing_readiness_probe_takes_the_pod_out_of_slice_and_vip_within_a_second() {
    let (host, pod) = with_probed("readiness");
    let vip = host.service_address("probed", 80);
    eventually("the VIP answers", Duration::from_secs(10), || {
        host.run(|| http::get(vip, "/", TIMEOUT)).map(drop)
    });
    let api = host.api();
    let slices = api.record(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
         ?labelSelector=kubernetes.io/service-name%3Dprobed",
    );
    let ip = pod.ip().to_string();
    let ready = |events: &[Seen]| events.last().is_some_and(|e| ready_in_slice(&e.object, &ip));
    slices.until("the slice has the Pod", Duration::from_secs(10), |e| ready(e).then_some(()));

    let told = Instant::now();
    host.http(pod, "/fail/readyz").expect("switch");
    let out_of_vip = refused_at(&host, vip);
    let out_of_slice =
        slices.until("the slice leaves the Pod out", Duration::from_secs(5), |events| {
            (!ready(events)).then(|| events.last().map(|event| event.at))?
        });
    // periodSeconds 1 and failureThreshold 1: the threshold is reached at most one second after the switch.
    let bound = Duration::from_secs(2);
    let (slice, vip_took) = (out_of_slice - told, out_of_vip - told);
    assert!(slice <= bound, "out of the slice after {slice:?}");
    assert!(vip_took <= bound, "out of the VIP after {vip_took:?}");
    assert_eq!(host.field("pod/probed", ".status.containerStatuses[0].restartCount"), "0");

    host.http(pod, "/pass/readyz").expect("switch");
    eventually("the VIP answers again", Duration::from_secs(5), || {
        host.run(|| http::get(vip, "/", TIMEOUT)).map(drop)
    });
}
