//! From Pod and image to the OCI spec, case by case.

use super::*;
use crate::container::mounts::{PodFiles, VolumeBind};
use crate::container::resources::HostSize;
use serde_json::{Value, json};

fn build(container: &str, image: &str) -> Result<Value, String> {
    let pod: Pod =
        serde_json::from_str(r#"{"metadata":{"name":"p"},"spec":{"containers":[]}}"#).unwrap();
    let container: Container = serde_json::from_str(container).unwrap();
    let image: ImageConfig = serde_json::from_str(image).unwrap();
    let files = PodFiles {
        hosts: "/d/hosts".into(),
        hostname: "/d/hostname".into(),
        resolv_conf: "/d/resolv.conf".into(),
        shm: "/r/shm".into(),
        termination_log: "/d/log".into(),
    };
    let bind = |source: &str, destination: &str, read_only| VolumeBind {
        source: source.into(),
        destination: destination.into(),
        read_only,
    };
    let volumes = vec![bind("/v/inner", "/data/inner", true), bind("/v/outer", "/data", false)];
    let namespaces = PodNamespaces {
        net: Some("/run/netns/p".into()),
        ipc: "/proc/7/ns/ipc".into(),
        uts: "/proc/7/ns/uts".into(),
    };
    let built = spec(Input {
        pod: &pod,
        container: &container,
        image: &image,
        env: &[("A".into(), "1".into())],
        identity: &Identity { uid: 5, gid: 6, groups: vec![6, 7] },
        namespaces: &namespaces,
        mounts: mounts::all(&container, &files, volumes),
        devices: Vec::new(),
        cgroup: "/kobune/podu/c".into(),
        seccomp: None,
        host: HostSize { cpu_millis: 1000, memory_bytes: 1 << 30 },
    });
    built.map(|spec| serde_json::to_value(spec).unwrap()).map_err(|error| error.to_string())
}

const IMAGE: &str = r#"{"Entrypoint":["/entry","e"],"Cmd":["c"],"WorkingDir":"/work"}"#;

fn args(container: &str) -> Value {
    build(container, IMAGE).unwrap()["process"]["args"].clone()
}

#[test]
fn command_and_args_against_the_image() {
    assert_eq!(args(r#"{"name":"c"}"#), json!(["/entry", "e", "c"]));
    assert_eq!(args(r#"{"name":"c","args":["x"]}"#), json!(["/entry", "e", "x"]));
    assert_eq!(args(r#"{"name":"c","command":["/bin"]}"#), json!(["/bin"]));
    assert_eq!(
        args(r#"{"name":"c","command":["/bin"],"args":["$(A)","$(B)"]}"#),
        json!(["/bin", "1", "$(B)"])
    );
    assert!(build(r#"{"name":"c"}"#, "{}").unwrap_err().contains("no command specified"));
}

#[test]
fn the_process() {
    let spec = build(r#"{"name":"c","securityContext":{"allowPrivilegeEscalation":false}}"#, IMAGE)
        .unwrap();
    let process = &spec["process"];
    assert_eq!(process["cwd"], "/work");
    assert_eq!(process["env"], json!(["A=1"]));
    assert_eq!(process["user"], json!({ "uid": 5, "gid": 6, "additionalGids": [6, 7] }));
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["oomScoreAdj"], 1000);
    assert!(process["rlimits"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(spec["hostname"], Value::Null, "the Pod's own is set already");
    let plain = build(r#"{"name":"c","workingDir":"/own"}"#, IMAGE).unwrap();
    assert_eq!(plain["process"]["noNewPrivileges"], false);
    assert_eq!(plain["process"]["cwd"], "/own");
}

#[test]
fn namespaces_are_own_or_the_pods() {
    let spec = build(r#"{"name":"c"}"#, IMAGE).unwrap();
    let expected = json!([
        { "type": "pid" }, { "type": "mount" }, { "type": "cgroup" },
        { "type": "ipc", "path": "/proc/7/ns/ipc" },
        { "type": "uts", "path": "/proc/7/ns/uts" },
        { "type": "network", "path": "/run/netns/p" },
    ]);
    assert_eq!(spec["linux"]["namespaces"], expected);
    assert_eq!(spec["linux"]["cgroupsPath"], "/kobune/podu/c");
    let keys: Vec<&String> = spec.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["linux", "mounts", "ociVersion", "process", "root"], "nothing by default");
    let keys: Vec<&String> = spec["linux"].as_object().unwrap().keys().collect();
    let expected = [
        "cgroupsPath",
        "maskedPaths",
        "namespaces",
        "readonlyPaths",
        "resources",
        "rootfsPropagation",
    ];
    assert_eq!(keys, expected, "nothing by default");
}

#[test]
fn mounts_are_in_order_and_complete() {
    let spec =
        build(r#"{"name":"c","securityContext":{"readOnlyRootFilesystem":true}}"#, IMAGE).unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    let at = |path: &str| mounts.iter().position(|mount| mount["destination"] == path).unwrap();
    assert!(at("/data") < at("/data/inner"), "outer before inner");
    assert!(at("/dev") < at("/dev/termination-log"));
    assert_eq!(mounts[at("/data/inner")]["options"], json!(["rbind", "rprivate", "ro"]));
    assert_eq!(
        mounts[at("/etc/hosts")]["options"],
        json!(["rbind", "rprivate", "ro"]),
        "as the root"
    );
    assert_eq!(mounts[at("/dev/termination-log")]["source"], "/d/log");
    assert_eq!(spec["root"]["readonly"], true);
}

#[test]
fn a_privileged_container_sees_everything() {
    let plain = build(r#"{"name":"c"}"#, IMAGE).unwrap();
    assert!(plain["linux"]["maskedPaths"].as_array().is_some_and(|paths| !paths.is_empty()));
    assert!(plain["linux"]["readonlyPaths"].as_array().is_some_and(|paths| !paths.is_empty()));
    let privileged = build(r#"{"name":"c","securityContext":{"privileged":true}}"#, IMAGE).unwrap();
    let nothing = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    assert!(nothing(&privileged["linux"]["maskedPaths"]), "{}", privileged["linux"]["maskedPaths"]);
    assert!(nothing(&privileged["linux"]["readonlyPaths"]));
    assert_eq!(privileged["linux"]["resources"]["devices"][0]["allow"], true);
}
