//! Promise 9: mistakes are told with the name of what is wrong.

use std::process::Command;
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};
use kobune_tests::paths;

/// The README's manifest with one thing changed.
fn myapp_with(from: &str, to: &str) -> String {
    let manifest = std::fs::read_to_string(paths::example("myapp.yaml")).expect("read the example");
    assert!(manifest.contains(from), "{from} is not in the example");
    manifest.replace(from, to)
}

#[test]
fn a_bad_manifest_gets_the_field_path() {
    let host = Host::with_node("bad");
    for (from, to, complaint) in [
        (
            "replicas: 3",
            "replicas: -1",
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "name: app\n",
            "name: App\n",
            "spec.template.spec.containers[0].name: Invalid value: \"App\"",
        ),
        (
            "image: myapp:1.0",
            "image: \"\"",
            "spec.template.spec.containers[0].image: Required value",
        ),
        ("memory: 512Mi", "memory: 5twelve", "quantities must match the regular expression"),
        ("memory: 512Mi", "memory: 64Mi", "spec.template.spec.containers[0].resources.requests"),
        (
            "containerPort: 8080",
            "containerPort: 80800",
            "containers[0].ports[0].containerPort: Invalid value: 80800",
        ),
        (
            "        app: myapp\n    spec",
            "        app: other\n    spec",
            "`selector` does not match template `labels`",
        ),
        ("replicas: 3", "replicsa: 3", "unknown field \"spec.replicsa\""),
        ("  name: myapp\n", "  name: My_App\n", "metadata.name: Invalid value: \"My_App\""),
    ] {
        let said = host.apply(&myapp_with(from, to)).err();
        assert!(said.contains(complaint), "for {to:?} kubectl says: {said}");
    }
    assert_eq!(host.kubectl(&["get", "deployments"]).stdout, "", "a refused object is stored");
}

#[test]
fn an_unknown_image_is_told_by_state_and_event() {
    let host = Host::with_node("unknown");
    host.kubectl_ok(&["run", "lost", "--image=nowhere:9"]);
    let mut seen = std::collections::BTreeSet::new();
    let reason = [
        "get",
        "pod",
        "lost",
        "-o",
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}",
    ];
    eventually("ImagePullBackOff is shown", Duration::from_secs(60), || {
        let reason = host.kubectl(&reason).result()?;
        seen.insert(reason.clone());
        if reason == "ImagePullBackOff" { Ok(()) } else { Err(reason) }
    });
    let known = ["", "ContainerCreating", "ErrImagePull", "ImagePullBackOff"];
    assert!(seen.iter().all(|reason| known.contains(&reason.as_str())), "{seen:?}");
    let events = host.kubectl_ok(&["events", "--for", "pod/lost"]);
    assert!(events.contains("Failed") && events.contains("nowhere:9"), "{events}");
    assert!(events.contains("ErrImagePull"), "{events}");
    assert_eq!(host.field("pod/lost", ".status.phase"), "Pending");
}

#[test]
fn a_second_up_says_who_holds_the_directory() {
    let host = Host::with_node("second");
    let said = host.kobune(&["up"], &["--secure-port", "7443"]).err();
    let (holder, data) = (host.pid().to_string(), host.dir.join("data").display().to_string());
    assert!(said.contains(&holder), "no pid {holder} in: {said}");
    assert!(said.contains(&data), "no {data} in: {said}");
    // The first one did not mind.
    assert!(host.kubectl_ok(&["get", "nodes"]).contains(" Ready"));
}

/// The status line of the answer to a request without any credentials.
fn anonymous(host: &Host, server: &str, path: &str) -> String {
    let mut command = Command::new(paths::on_path("openssl").expect("openssl is installed"));
    command.args(["s_client", "-quiet", "-connect", server]);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let answer = host.command(command, &request);
    answer.stdout.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn strangers_see_health_and_version_only() {
    let host = Host::with_node("stranger");
    let server = host.kubeconfig_value("server").replace("https://", "");
    for path in ["/readyz", "/livez", "/healthz"] {
        assert_eq!(anonymous(&host, &server, path), "HTTP/1.1 200 OK", "{path}");
    }
    for path in ["/api/v1/pods", "/apis", "/api/v1/namespaces/default/secrets", "/openapi/v3"] {
        let status = anonymous(&host, &server, path);
        assert!(status.contains(" 401 ") || status.contains(" 403 "), "{path}: {status:?}");
    }
}

#[test]
fn nonsense_on_the_command_line_is_refused() {
    let host = Host::new("nonsense");
    let said = host.kobune(&["up"], &["--cluster-cidr", "10.244.0.0/99"]).err();
    assert!(said.contains("cluster-cidr"), "{said}");
    std::fs::write(host.dir.join("config.yaml"), "secure-prot: 1\n").expect("write the config");
    let said = host.kobune(&["up"], &[]).err();
    assert!(said.contains("secure-prot") && said.contains("config.yaml"), "{said}");
}
