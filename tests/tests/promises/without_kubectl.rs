//! The program's own small client, images, and configuration by file: for people who have nothing else.

use std::fs;

use kobune_tests::harness::{Host, image, squeeze};
use kobune_tests::paths;

#[test]
fn the_own_client_applies_shows_logs_executes_and_deletes() {
    let host = Host::with_node("client");
    let manifest = paths::example("sidecar.yaml").display().to_string();
    assert!(host.client(&["apply", "-f", &manifest]).ok().contains("sidecar"));
    host.wait_for("pod/sidecar", "condition=Ready");
    let shown = squeeze(&host.client(&["get", "pods"]).ok());
    assert!(shown.contains("NAME READY STATUS RESTARTS AGE"), "{shown}");
    assert!(shown.contains("sidecar 2/2 Running 0"), "{shown}");
    let logs = host.client(&["logs", "sidecar", "-c", "app"]).ok();
    assert!(logs.contains("serving version 1.0"), "{logs}");
    let exec = ["exec", "sidecar", "-c", "side", "--", "sh", "-c", "cat /shared/hello; exit 4"];
    let outcome = host.client(&exec);
    assert_eq!((outcome.stdout.as_str(), outcome.code), ("from-side\n", Some(4)), "{outcome}");
    host.client(&["delete", "pod/sidecar"]).ok();
    host.kubectl_ok(&["wait", "pod/sidecar", "--for=delete", "--timeout=60s"]);
}

#[test]
fn images_are_imported_listed_and_removed() {
    let host = Host::new("image");
    let archives = image::standard().expect("test images");
    let list = || {
        host.client(&["image", "ls", "--data-dir", &host.dir.join("data").display().to_string()])
    };
    host.import(&archives[0], Some("mine:7")).ok();
    let listed = squeeze(&list().ok());
    assert!(listed.contains("mine") && listed.contains('7'), "{listed}");
    let data = host.dir.join("data").display().to_string();
    host.client(&["image", "rm", "mine:7", "--data-dir", &data]).ok();
    assert!(!list().ok().contains("mine"));
    let said = host.import(&paths::example("myapp.yaml"), None).err();
    assert!(said.contains("myapp.yaml"), "{said}");
}

#[test]
fn the_configuration_file_has_the_names_of_the_flags() {
    let mut host = Host::new("file");
    fs::write(host.dir.join("config.yaml"), "secure-port: 7443\nservice-cidr: 10.97.0.0/16\n")
        .expect("write the configuration");
    host.up();
    assert!(host.kubeconfig_value("server").ends_with(":7443"));
    assert_eq!(host.field("service/kubernetes", ".spec.clusterIP"), "10.97.0.1");
    host.down();
}
