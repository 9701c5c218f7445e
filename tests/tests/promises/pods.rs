//! What else makes a Pod a Pod: volumes, every kind of probe, graceful ends, back-off, logs that follow, the
//! way out.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kobune_tests::harness::{Host, eventually, http};
use kobune_tests::paths;
use serde_json::{Value, json};

fn pod(name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

#[test]
fn a_pod_ends_gracefully_within_its_time() {
    let host = Host::with_node("graceful");
    host.kubectl_ok(&["run", "polite", "--image=myapp:1.0"]);
    host.wait_for("pod/polite", "condition=Ready");
    let mut command = host.kubectl_command(&["logs", "-f", "polite"]);
    command.stdout(Stdio::piped());
    let mut follow = host.run(|| command.spawn()).expect("follow the log");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    assert!(lines.next().expect("a line").expect("text").contains("serving"));

    let started = Instant::now();
    host.kubectl_ok(&["delete", "pod", "polite"]);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?} of 30 s, though it ends at SIGTERM");
    assert_eq!(lines.next().expect("a line").expect("text"), "terminating");
    assert!(follow.wait().expect("kubectl ends with the log").success());
}

#[test]
fn who_ignores_sigterm_is_killed_when_the_time_is_over() {
    let host = Host::with_node("deaf");
    // Process 1 without a handler: the kernel does not deliver SIGTERM.
    let spec = json!({
        "terminationGracePeriodSeconds": 2,
        "containers": [{ "name": "app", "image": "busybox:1.35", "command": ["sleep", "3600"] }],
    });
    host.apply(&pod("deaf", &spec)).ok();
    host.wait_for("pod/deaf", "condition=Ready");
    let started = Instant::now();
    host.kubectl_ok(&["delete", "pod", "deaf"]);
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2), "killed after {took:?}");
    assert!(took < Duration::from_secs(12), "killed after {took:?}");
}

#[test]
fn a_container_that_keeps_failing_is_backed_off() {
    let host = Host::with_node("backoff");
    let spec = json!({
        "containers": [{ "name": "app", "image": "myapp:1.0", "args": ["exit", "5"] }],
    });
    host.apply(&pod("failing", &spec)).ok();
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    host.until_field("pod/failing", waiting, "CrashLoopBackOff");
    let code = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(host.field("pod/failing", code), "5");
    host.until_field("pod/failing", ".status.containerStatuses[0].restartCount", "2");
    let events = host.kubectl_ok(&["events", "--for", "pod/failing"]);
    assert!(events.contains("BackOff"), "{events}");
}

#[test]
fn exec_and_tcp_probes_decide_like_http_probes() {
    let host = Host::with_node("probes");
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "app", "image": "myapp:1.0",
            "readinessProbe": {
                "exec": { "command": ["/bin/testapp", "get", "127.0.0.1:8080", "/readyz"] },
                "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5,
            },
            "livenessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        }],
    });
    host.apply(&pod("probed", &spec)).ok();
    host.wait_for("pod/probed", "condition=Ready");
    let address = host.pod_address("probed", 8080);
    host.http(address, "/fail/readyz").expect("switch");
    host.wait_for("pod/probed", "condition=Ready=false");
    host.http(address, "/pass/readyz").expect("switch");
    host.wait_for("pod/probed", "condition=Ready");
    assert_eq!(host.field("pod/probed", ".status.containerStatuses[0].restartCount"), "0");
}

#[test]
fn volumes_are_shared_kept_over_restarts_and_read_only_where_asked() {
    let host = Host::with_node("volumes");
    let outside = host.dir.join("outside");
    fs::create_dir(&outside).expect("make the host's directory");
    fs::write(outside.join("given"), "by the host").expect("write");
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "app", "image": "busybox:1.35", "command": ["sleep", "3600"],
            "volumeMounts": [
                { "name": "host", "mountPath": "/host", "readOnly": true },
                { "name": "kept", "mountPath": "/kept" },
            ],
        }],
        "volumes": [
            { "name": "host", "hostPath": { "path": outside, "type": "Directory" } },
            { "name": "kept", "emptyDir": {} },
        ],
    });
    host.apply(&pod("volumes", &spec)).ok();
    host.wait_for("pod/volumes", "condition=Ready");
    let sh = |script: &str| host.kubectl(&["exec", "volumes", "--", "sh", "-c", script]);
    assert_eq!(sh("cat /host/given").ok(), "by the host");
    assert!(
        sh("echo x > /host/new").err().contains("Read-only"),
        "a read-only mount is written to"
    );
    sh("echo kept > /kept/file; echo gone > /tmp/file").ok();
    let pid = nix::unistd::Pid::from_raw(host.pids("volumes", "app")[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    host.until_field("pod/volumes", ".status.containerStatuses[0].restartCount", "1");
    host.wait_for("pod/volumes", "condition=Ready");
    assert_eq!(sh("cat /kept/file").ok(), "kept\n");
    assert!(sh("cat /tmp/file").code != Some(0), "a new container has a new root");
}

#[test]
fn a_config_map_that_is_missing_holds_the_pod_back_until_it_comes() {
    let host = Host::with_node("missing");
    let manifest = fs::read_to_string(paths::example("config.yaml")).expect("read the example");
    let (settings, rest) = manifest.split_once("---").expect("several documents");
    host.apply(rest).ok();
    eventually("an event names what is missing", Duration::from_secs(30), || {
        let events = host.kubectl(&["events", "--for", "pod/configured"]).result()?;
        if events.contains("settings") { Ok(()) } else { Err(events) }
    });
    host.apply(settings).ok();
    // The kubelet's own pace of trying again is up to two minutes for volumes; ours must not be slower.
    host.kubectl_ok(&["wait", "pod/configured", "--for=condition=Ready", "--timeout=120s"]);
}

#[test]
fn the_outside_sees_the_node_not_the_pod() {
    let host = Host::with_node("outside");
    for line in [
        "netns add outside",
        "link set wire netns outside",
        "-n outside address add 192.0.2.1/24 dev wire",
        "-n outside link set wire up",
    ] {
        host.tool("ip", &line.split(' ').collect::<Vec<_>>()).ok();
    }
    let mut server = std::process::Command::new(paths::on_path("ip").expect("iproute2"));
    server.args(["netns", "exec", "outside"]).arg(paths::testapp()).args(["serve", "--port", "80"]);
    server.stdout(Stdio::null());
    let mut server = host.run(|| server.spawn()).expect("start a server outside");
    host.kubectl_ok(&["run", "inside", "--image=myapp:1.0"]);
    host.wait_for("pod/inside", "condition=Ready");
    let pod = host.pod_address("inside", 8080);
    let seen = eventually("the Pod reaches the outside", Duration::from_secs(10), || {
        let answer =
            host.run(|| http::get(pod, "/fetch/192.0.2.1:80/peer", Duration::from_secs(5)));
        answer
            .map_err(|e| e.to_string())
            .and_then(|a| if a.status == 200 { Ok(a.body) } else { Err(a.body) })
    });
    assert_eq!(seen.trim(), "192.0.2.10", "masquerade");
    server.kill().and_then(|()| server.wait()).expect("end the server");
}

#[test]
fn a_pod_speaks_to_the_api_as_its_account_and_only_where_it_may() {
    let host = Host::with_node("account");
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "app", "image": "busybox:1.35", "command": ["sleep", "3600"] }],
    });
    host.apply(&pod("speaker", &spec)).ok();
    host.wait_for("pod/speaker", "condition=Ready");
    let sh = |script: &str| host.kubectl(&["exec", "speaker", "--", "sh", "-c", script]);
    let file =
        |name: &str| sh(&format!("cat /var/run/secrets/kubernetes.io/serviceaccount/{name}")).ok();
    let (token, ca) = (file("token"), host.dir.join("ca.crt"));
    fs::write(&ca, file("ca.crt")).expect("write the CA");
    assert_eq!(file("namespace"), "default");
    let written = sh("echo x > /var/run/secrets/kubernetes.io/serviceaccount/token").err();
    assert!(written.contains("Read-only"), "{written}");

    // A client in the Pod's network, with what the Pod was given and nothing else.
    let server = sh("echo -n https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT").ok();
    let process = host.pids("speaker", "app")[0].to_string();
    let ask = |server: &str, prefix: &[&str], words: &[&str]| {
        let kubectl = paths::kubectl().expect("kubectl").display().to_string();
        let ca = ca.display().to_string();
        let mut command = std::process::Command::new("env");
        command.arg("-i").arg(format!("HOME={}", host.dir.display())).args(prefix).arg(kubectl);
        command.args(["--server", server, "--certificate-authority", &ca, "--token", &token]);
        command.args(words);
        host.command(command, "")
    };
    let nsenter = paths::on_path("nsenter").expect("util-linux").display().to_string();
    let inside = [nsenter.as_str(), "-t", &process, "-n"];
    let refused = ask(&server, &inside, &["get", "pods"]).err();
    let who = r#"User "system:serviceaccount:default:default" cannot list resource "pods""#;
    assert!(refused.contains(who), "{refused}");
    let account = "--serviceaccount=default:default";
    host.kubectl_ok(&["create", "rolebinding", "looks", "--clusterrole=view", account]);
    assert_eq!(ask(&server, &inside, &["get", "pods", "-o", "name"]).ok(), "pod/speaker\n");
    let refused = ask(&server, &inside, &["get", "secrets"]).err();
    assert!(refused.contains("Forbidden"), "{refused}");
    let refused = ask(&server, &inside, &["get", "pods", "-n", "kube-system"]).err();
    assert!(refused.contains("Forbidden"), "{refused}");

    // The token ends with its Pod.
    let outside = host.kubeconfig_value("server");
    ask(&outside, &[], &["get", "pods"]).ok();
    host.kubectl_ok(&["delete", "pod", "speaker"]);
    let refused = ask(&outside, &[], &["get", "pods"]).err();
    assert!(refused.contains("Unauthorized") || refused.contains("logged in"), "{refused}");
}

#[test]
fn system_calls_are_refused_as_the_profile_says() {
    let host = Host::with_node("seccomp");
    let profiles = host.dir.join("data/seccomp/team");
    fs::create_dir_all(&profiles).expect("make the node's directory of profiles");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }],
    });
    fs::write(profiles.join("no-mkdir.json"), profile.to_string()).expect("write a profile");
    let container = |name: &str, context: Value| {
        json!({ "name": name, "image": "busybox:1.35", "command": ["sleep", "3600"],
            "securityContext": context })
    };
    let local =
        |path: &str| json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": path } });
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [
            container("usual", json!({})),
            container("open", json!({ "seccompProfile": { "type": "Unconfined" } })),
            container("file", local("team/no-mkdir.json")),
        ],
    });
    host.apply(&pod("confined", &spec)).ok();
    host.wait_for("pod/confined", "condition=Ready");
    let sh = |container: &str, script: &str| {
        host.kubectl(&["exec", "confined", "-c", container, "--", "sh", "-c", script])
    };
    // A new user namespace is anybody's to make, unless a filter refuses it.
    let refused = sh("usual", "mkdir /d && unshare -U true").err();
    assert!(refused.contains("Operation not permitted"), "{refused}");
    sh("open", "mkdir /d && unshare -U true").ok();
    let refused = sh("file", "unshare -U true && mkdir /d").err();
    assert!(refused.contains("No space left"), "{refused}");
    // The container itself, not only what is executed in it.
    let mode = |name: &str| sh(name, "grep Seccomp: /proc/1/status | cut -f 2").ok();
    assert_eq!((mode("usual").as_str(), mode("open").as_str()), ("2\n", "0\n"));

    let spec = json!({ "containers": [container("app", local("team/none.json"))] });
    host.apply(&pod("missing", &spec)).ok();
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    host.until_field("pod/missing", waiting, "CreateContainerError");
    let message = host.field("pod/missing", ".status.containerStatuses[0].state.waiting.message");
    assert!(message.contains("seccomp/team/none.json"), "{message}");
}
