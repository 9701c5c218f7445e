//! User namespaces and idmapped mounts, through the command line. Needs root and busybox-static.
//!
//! Proven with `RUNTIME=/usr/bin/crun` (1.8.1, below a pure cgroup v2), and with runc 1.1.5 but for what it lacks:
//! idmapped mounts, and the host's sysfs in a user namespace. Neither names the fields of a mistake, and neither
//! reaches a root in a directory that is closed to the user namespace.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::bundle::Bundle;
use common::{Pod, namespace};
use serde_json::{Value, json};

/// The ids of the host that stand for 0 to 65535 in the container.
const BASE: u32 = 100_000;

fn maps(size: u32) -> Value {
    json!([{"containerID": 0, "hostID": BASE, "size": size}])
}

/// A bundle with a user namespace, whose root belongs to the container's root.
fn users(name: &str) -> Bundle {
    let bundle = Bundle::new(name, &["/bin/true"]);
    bundle.configure(|config| {
        namespaces(config).push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = maps(65536);
        config["linux"]["gidMappings"] = maps(65536);
    });
    own(&bundle.rootfs());
    bundle
}

fn own(path: &Path) {
    chown(path, Some(BASE), Some(BASE)).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            own(&entry.path());
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(BASE), Some(BASE)).unwrap();
        }
    }
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().unwrap()
}

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().unwrap()
}

#[test]
fn root_of_the_container_is_nobody_on_the_host() {
    let bundle = users("userns");
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups; touch /tmp/mine; \
        stat -c %u /proc/1; echo done";
    assert_eq!(
        bundle.sh(script).split_whitespace().collect::<Vec<_>>(),
        ["0", "0", "0", "100000", "65536", "allow", "0", "done"]
    );
    let mine = fs::metadata(bundle.rootfs().join("tmp/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (BASE, BASE));
}

#[test]
fn every_namespace_belongs_to_the_user_namespace() {
    let bundle = users("owner");
    // Who may set the hostname, make interfaces and mount is root of the namespace that owns these.
    bundle.configure(|config| {
        let all = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
        config["process"]["capabilities"] =
            json!({"bounding": all, "effective": all, "permitted": all});
        config["process"]["args"] = json!([
            "/bin/sh",
            "-c",
            "hostname changed && hostname && mount -t tmpfs none /tmp && \
             grep -c ' /tmp tmpfs' /proc/mounts && mount -t mqueue none /tmp && echo ipc"
        ]);
    });
    assert_eq!(bundle.output(), "changed\n1\nipc\n");
}

/// The user of the program divides a cgroup that it may write to, and cannot change its limits.
#[test]
fn a_writable_cgroup_belongs_to_the_user() {
    let script = "mkdir /sys/fs/cgroup/part && echo $$ >/sys/fs/cgroup/part/cgroup.procs && \
        cut -d: -f3 /proc/self/cgroup | tail -n1; stat -c '%u %n' /sys/fs/cgroup/cgroup.procs \
        /sys/fs/cgroup/cgroup.freeze /sys/fs/cgroup/cgroup.max.depth; echo end";
    let writable = |config: &mut Value, uid: u32| {
        let mount = mounts(config).iter_mut().find(|m| m["destination"] == "/sys/fs/cgroup");
        mount.unwrap()["options"] = json!(["nosuid", "noexec", "nodev"]);
        config["process"]["user"] = json!({"uid": uid, "gid": uid});
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    };
    let busybox = |bundle: &Bundle| {
        for tool in ["cut", "tail"] {
            std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin").join(tool)).unwrap();
        }
    };
    let expected = |uid: &str, other: &str| {
        let files = "cgroup.freeze cgroup.max.depth".split(' ');
        let own = format!("/part\n{uid} /sys/fs/cgroup/cgroup.procs\n");
        own + &files.map(|f| format!("{other} /sys/fs/cgroup/{f}\n")).collect::<String>() + "end\n"
    };
    // Root of a user namespace: the host's root is nobody there.
    let bundle = users("cgroup-owner");
    busybox(&bundle);
    bundle.configure(|config| writable(config, 0));
    assert_eq!(bundle.output(), expected("0", "65534"));
    // A user of the host.
    let bundle = Bundle::new("cgroup-user", &["/bin/true"]);
    busybox(&bundle);
    bundle.configure(|config| writable(config, 7));
    assert_eq!(bundle.output(), expected("7", "0"));
    // Read-only, or the host's: as it was.
    for hidden in [true, false] {
        bundle.configure(|config| {
            let mount = mounts(config).iter_mut().find(|m| m["destination"] == "/sys/fs/cgroup");
            let options = if hidden { json!(["ro"]) } else { json!([]) };
            mount.unwrap()["options"] = options;
            namespaces(config).retain(|namespace| hidden || namespace["type"] != "cgroup");
            config["process"]["args"] =
                json!(["/bin/stat", "-c", "%u", "/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs"]);
        });
        assert_eq!(bundle.output(), "0\n0\n", "{hidden}");
    }
}

#[test]
fn devices_and_filesystems_are_there() {
    let bundle = users("dev");
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c; ls /dev/mqueue /dev/pts; \
        ls /sys/class/net; cat /proc/sys/kernel/hostname; cat /proc/kcore | wc -c";
    let output = bundle.sh(script);
    assert_eq!(
        output.split_whitespace().collect::<Vec<_>>(),
        ["3", "/dev/mqueue:", "/dev/pts:", "ptmx", "lo", "box", "0"]
    );
}

/// "lists devices that MUST be available in the container", with owners of the container's (config-linux.md, devices).
/// Proven with crun's newest; runc, and crun 1.8, show the host's node if there is one.
#[test]
fn devices_are_made_for_who_may_not_make_them() {
    let bundle = users("nodes");
    // The host has no such names, and the second's directory is not there.
    bundle.configure(|config| {
        config["linux"]["devices"] = json!([
            {"path": "/dev/silence", "type": "c", "major": 1, "minor": 3, "uid": 10, "gid": 11, "fileMode": 0o646},
            {"path": "/srv/deep/random", "type": "c", "major": 1, "minor": 9},
            {"path": "/dev/disk", "type": "b", "major": 7, "minor": 200, "fileMode": 0o600},
            {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "uid": 5},
            {"path": "/dev/fifo", "type": "p", "major": 0, "minor": 0, "uid": 3},
        ]);
    });
    let script = "stat -c '%n %F %t:%T %u:%g %a' /dev/silence /srv/deep/random /dev/disk /dev/full \
        /dev/fifo; echo x > /dev/silence && echo open; head -c 3 /srv/deep/random | wc -c; \
        grep -c '/proc/fs ' /proc/self/mountinfo; grep ' /dev/null ' /proc/self/mountinfo";
    let output = bundle.sh(script);
    let (nodes, rest) = output.split_once("3\n0\n").unwrap_or((&output, ""));
    assert_eq!(
        nodes,
        "/dev/silence character special file 1:3 10:11 646\n\
         /srv/deep/random character special file 1:9 0:0 666\n\
         /dev/disk block special file 7:c8 0:0 600\n\
         /dev/full character special file 1:7 5:0 666\n\
         /dev/fifo fifo 0:0 3:0 666\nopen\n"
    );
    assert!(rest.contains("nosuid") && rest.contains("noexec"), "{rest}");
}

#[test]
fn a_root_in_a_user_namespace_is_shared() {
    let bundle = users("shared");
    bundle.configure(|config| config["linux"]["rootfsPropagation"] = "shared".into());
    for option in ["", "--no-pivot "] {
        bundle.configure(|config| {
            config["process"]["args"] = json!(["/bin/grep", " / r", "/proc/self/mountinfo"]);
        });
        let mounts = bundle.good(&format!("run {option}--bundle BUNDLE ID"));
        assert!(mounts.contains("shared:"), "{option}{mounts}");
    }
}

/// In a user namespace that is joined, the host's are shown; one of that name that is another device is none.
#[test]
fn another_device_of_the_host_is_not_shown() {
    let owner = users("nodes-owner");
    owner.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    owner.good("run --detach --bundle BUNDLE ID");
    let state: Value = serde_json::from_str(&owner.good("state ID")).unwrap();
    let bundle = users("nodes-joined");
    let devices = |minor: u32| {
        bundle.configure(|config| {
            let all = namespaces(config);
            all.retain(|namespace| namespace["type"] != "user");
            all.push(json!({"type": "user", "path": format!("/proc/{}/ns/user", state["pid"])}));
            config["linux"]["devices"] =
                json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": minor}]);
        });
    };
    devices(11);
    assert_eq!(bundle.sh("stat -c %t:%T /dev/kmsg"), "1:b\n");
    devices(3);
    let (_, error) = bundle.bad("run --bundle BUNDLE ID");
    assert!(error.contains("/dev/kmsg") && error.contains("not permitted"), "{error}");
    owner.good("delete --force ID");
}

#[test]
fn owners_of_devices_are_mapped() {
    let bundle = users("nodes-unmapped");
    for (id, list) in [("uid", "uidMappings"), ("gid", "gidMappings")] {
        bundle.configure(|config| {
            config["linux"]["devices"] =
                json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, id: 65536}]);
        });
        let (_, error) = bundle.bad("run --bundle BUNDLE ID");
        let expected = format!("linux.devices[0].{id}: not mapped by linux.{list}");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn sources_that_only_the_host_may_reach_are_mounted() {
    let bundle = users("reach");
    let secret = bundle.directory.path().join("closed");
    fs::create_dir_all(secret.join("volume")).unwrap();
    fs::write(secret.join("volume/file"), "inside").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(bundle.directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    bundle.configure(|config| {
        mounts(config).push(json!({"destination": "/data", "type": "bind",
            "source": secret.join("volume"), "options": ["rbind", "ro"]}));
    });
    assert_eq!(
        bundle.sh("cat /data/file; touch /data/x 2>&1 || echo read-only"),
        "insidetouch: /data/x: Read-only file system\nread-only\n"
    );
}

#[test]
fn a_root_that_only_the_host_may_reach() {
    let bundle = users("closed");
    fs::set_permissions(bundle.directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bundle.sh("id -u"), "0\n");
}

#[test]
fn more_processes_enter_the_user_namespace() {
    let bundle = users("exec");
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    let pid = bundle.start();
    let output = bundle.run(&[
        "exec",
        "ID",
        "/bin/sh",
        "-c",
        "id -u; readlink /proc/self/ns/user; touch /tmp/e",
    ]);
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output, format!("0\n{}\n", namespace(pid, "user").display()));
    assert_ne!(namespace(pid, "user"), namespace(std::process::id() as i32, "user"));
    assert_eq!(fs::metadata(bundle.rootfs().join("tmp/e")).unwrap().uid(), BASE);
    let output = bundle.run(&[
        "exec",
        "--user",
        "1000:1000",
        "ID",
        "/bin/sh",
        "-c",
        "id -u; cat /proc/self/status",
    ]);
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.starts_with("1000\n") && output.contains("\nGroups:\t \n"), "{output}");
}

#[test]
fn another_user_writes_to_its_streams_by_name() {
    let bundle = users("user");
    bundle.configure(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    // Streams through pipes, which belong to the one who made them.
    bundle.configure(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", "echo by-name > /dev/stdout"]);
    });
    let output = bundle.command(&["run", "--bundle", "BUNDLE", "ID"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "by-name\n");
}

#[test]
fn user_and_network_namespaces_of_another_container_are_joined() {
    let first = users("first");
    first.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    let pid = first.start();
    let second = users("second");
    second.configure(|config| {
        for item in namespaces(config) {
            let kind = item["type"].as_str().unwrap();
            let file = match kind {
                "network" => "net",
                "user" | "ipc" | "uts" => kind,
                _ => continue,
            };
            item["path"] = format!("/proc/{pid}/ns/{file}").into();
        }
        config["hostname"] = Value::Null;
    });
    let output = second.sh("id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; hostname; ls /sys/class/net");
    let of = |kind| namespace(pid, kind).display().to_string();
    let expected = format!("0\n{}\n{}\n{}\nbox\nlo\n", of("user"), of("net"), of("ipc"));
    assert_eq!(output, expected);
}

#[test]
fn a_new_user_namespace_beside_namespaces_of_the_host() {
    let bundle = users("host");
    let own = std::process::id() as i32;
    bundle.configure(|config| {
        for item in namespaces(config) {
            if item["type"] == "network" {
                item["path"] = format!("/proc/{own}/ns/net").into();
            }
        }
    });
    // Its sysfs cannot be mounted: it belongs to the host's network namespace. The host's is shown.
    let output = bundle
        .sh("id -u; readlink /proc/self/ns/net; ls -d /sys/class/net/lo; touch /sys/x 2>&1; true");
    assert!(
        output.starts_with(&format!("0\n{}\n/sys/class/net/lo\n", namespace(own, "net").display())),
        "{output}"
    );
}

#[test]
fn mistakes_in_maps_name_the_field() {
    let bundle = users("mistake");
    bundle.configure(|config| config["process"]["user"] = json!({"uid": 70_000, "gid": 0}));
    let error = bundle.refused();
    assert!(error.contains("process.user.uid: not mapped"), "{error}");
}

/// Files of root on the disk, seen through `options` and `more` in a bind mount.
fn owner_in_container(bundle: &Bundle, more: Value, options: Value) -> String {
    let volume = bundle.directory.path().join("volume");
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("file"), "").unwrap();
    chown(volume.join("file"), Some(3), Some(4)).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    bundle.configure(|config| {
        let mut mount =
            json!({"destination": "/data", "type": "bind", "source": volume, "options": options});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mounts(config).push(mount);
    });
    bundle.sh("stat -c %u:%g /data/file; touch /data/new")
}

#[test]
fn a_mount_takes_the_ids_of_the_user_namespace() {
    for more in [json!({}), json!({"uidMappings": maps(65536), "gidMappings": maps(65536)})] {
        let bundle = users("idmap");
        assert_eq!(owner_in_container(&bundle, more, json!(["bind", "idmap"])), "3:4\n");
        let new = fs::metadata(bundle.directory.path().join("volume/new")).unwrap();
        assert_eq!(
            (new.uid(), new.gid()),
            (0, 0),
            "what the container's root makes is root's on the disk"
        );
    }
}

#[test]
fn a_mount_takes_ids_of_its_own() {
    let bundle = Bundle::new("idmap-own", &["/bin/true"]);
    let own = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1000}]);
    let more = json!({"uidMappings": own(5000), "gidMappings": own(7000)});
    // Root is not one of them.
    bundle.configure(|config| config["process"]["user"] = json!({"uid": 5010, "gid": 7010}));
    assert_eq!(owner_in_container(&bundle, more, json!(["rbind", "ridmap"])), "5003:7004\n");
    let new = fs::metadata(bundle.directory.path().join("volume/new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (10, 10));
}

#[test]
fn a_mount_in_a_user_namespace_takes_ids_of_its_own() {
    let bundle = users("idmap-other");
    let own = json!([{"containerID": 0, "hostID": BASE + 7, "size": 1000}]);
    let more = json!({"uidMappings": own, "gidMappings": own});
    bundle.configure(|config| config["process"]["user"] = json!({"uid": 8, "gid": 8}));
    assert_eq!(owner_in_container(&bundle, more, json!(["bind"])), "10:11\n");
}

#[test]
fn a_mount_takes_the_ids_of_a_user_namespace_that_is_joined() {
    let first = users("idmap-first");
    first.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    let pid = first.start();
    let second = users("idmap-second");
    second.configure(|config| {
        let user = namespaces(config).iter_mut().find(|item| item["type"] == "user").unwrap();
        user["path"] = format!("/proc/{pid}/ns/user").into();
    });
    assert_eq!(owner_in_container(&second, json!({}), json!(["bind", "idmap"])), "3:4\n");
}

#[test]
fn ids_that_cannot_be_mapped_are_told() {
    let own = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    let mapped = |kind: &str, options: Value, maps: bool| {
        let bundle = Bundle::new("idmap-bad", &["/bin/true"]);
        bundle.configure(|config| {
            let mut mount = json!({"destination": "/data", "type": kind, "source": "/proc", "options": options});
            if maps {
                mount["uidMappings"] = own.clone();
                mount["gidMappings"] = own.clone();
            }
            mounts(config).push(mount);
        });
        bundle.refused()
    };
    let error = mapped("bind", json!(["bind", "idmap"]), false);
    assert!(error.contains("mounts[6].uidMappings: required"), "{error}");
    let error = mapped("tmpfs", json!(["idmap"]), true);
    assert!(error.contains("mounts[6].uidMappings: ids are mapped for bind"), "{error}");
    // The kernel maps no ids of procfs.
    let error = mapped("bind", json!(["bind", "idmap"]), true);
    assert!(
        error.contains("mounts[6].uidMappings") && error.contains("this filesystem"),
        "{error}"
    );
}

#[test]
fn the_root_of_a_user_namespace_is_moved_where_it_cannot_be_pivoted() {
    let bundle = users("no-pivot");
    bundle.configure(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", "id -u; ls -d /bin/sh /proc/self"]);
    });
    assert_eq!(bundle.good("run --no-pivot --bundle BUNDLE ID"), "0\n/bin/sh\n/proc/self\n");
}

#[test]
fn a_container_of_a_pod_has_a_user_namespace() {
    let pod = Pod::new();
    let users = |config: &mut Value| {
        namespaces(config).push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = maps(65536);
        config["linux"]["gidMappings"] = maps(65536);
        config["process"]["oomScoreAdj"] = 500.into();
    };
    // The layer is root's on the disk; so is what the container writes.
    let script = "id -u; stat -c %u:%g /bin/busybox /etc; cat /proc/self/uid_map; echo new > /etc/new; \
        touch /tmp/x; hostname; cat /proc/self/oom_score_adj";
    let lines = pod.sh(script, users);
    assert_eq!(lines[..3], ["0", "0:0", "0:0"], "{lines:?}");
    assert!(lines[3].split_whitespace().eq(["0", "100000", "65536"]), "{lines:?}");
    assert_eq!(lines[4..], ["testpod", "500"], "{lines:?}");
    let first = pod.start("app", &["/bin/sleep", "1000"], users);
    assert_ne!(namespace(first, "user"), namespace(pod.supervisor, "user"));
    assert_eq!(fs::metadata(format!("/proc/{first}")).unwrap().uid(), BASE);
    // One more container in the same user namespace, and one more process.
    let second = pod.start("other", &["/bin/sleep", "1000"], |config| {
        namespaces(config).push(json!({"type": "user", "path": format!("/proc/{first}/ns/user")}));
    });
    assert_eq!(namespace(first, "user"), namespace(second, "user"));
    for name in ["app", "other"] {
        let (code, out, error) =
            common::exec(&pod, name, common::process(&["/bin/stat", "-c", "%u", "/bin/busybox"]))
                .unwrap();
        assert_eq!((code, &*out), (0, "0\n"), "{error}");
    }
    pod.end();
}
