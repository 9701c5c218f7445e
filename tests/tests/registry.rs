//! Images from a registry: Debian's own, on the loopback interface of a private host, filled by `skopeo`. Whole, cut,
//! spoiled; open, private, behind a mirror; every kind of manifest and layer that people have.
//!
//! Needs root, kubectl, docker-registry, skopeo and the release build: `cargo xtask test`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kobune_tests::harness::registry::{Fault, PASSWORD, Registry, USER, Wire};
use kobune_tests::harness::{Host, eventually, image, process};
use kobune_tests::paths;
use serde_json::{Value, json};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const MINUTE: Duration = Duration::from_secs(60);

/// myapp:1.0.
fn archive() -> PathBuf {
    image::standard().expect("make the test images").remove(0)
}

/// `kobune image …` on the host, with its store and its settings.
fn images(host: &Host, words: &[&str]) -> process::Outcome {
    let mut command = std::process::Command::new(paths::kobune());
    command.arg("image").args(words).arg("--config").arg(host.dir.join("config.yaml"));
    command.arg("--data-dir").arg(host.dir.join("data")).env("PATH", "/nonexistent");
    host.command(command, "")
}

/// Registries of this host are configured below its own directory.
fn configure(host: &Host) {
    let (hosts, auth) = (host.dir.join("certs.d"), host.dir.join("auth.json"));
    let text =
        format!("image-hosts-dir: {}\nimage-auth-file: {}\n", hosts.display(), auth.display());
    fs::write(host.dir.join("config.yaml"), text).expect("write the configuration");
}

fn login(registry: &Registry<'_>, password: &str) -> Value {
    json!({ "auths": { registry.address.to_string(): { "username": USER, "password": password } } })
}

/// Nothing of a pull is left.
#[track_caller]
fn assert_nothing_stays(host: &Host) {
    for name in ["tmp", "layers", "configs"] {
        let dir = host.dir.join("data/images").join(name);
        let left: Vec<_> = fs::read_dir(&dir).expect("list").flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The program of the image as it was unpacked.
fn unpacked_program(host: &Host) -> Vec<u8> {
    let layers = fs::read_dir(host.dir.join("data/images/layers")).expect("list layers").flatten();
    let program =
        layers.map(|layer| layer.path().join("fs/bin/testapp")).find(|path| path.exists());
    fs::read(program.expect("a layer with the program")).expect("read the program")
}

#[test]
fn every_kind_of_manifest_and_layer() {
    let host = Host::new("kinds");
    configure(&host);
    let registry = Registry::open(&host, 5000);
    let program = fs::read(paths::testapp()).expect("read the test program");
    let kinds: [(&str, &[&str], &str, &str); 3] = [
        ("docker", &["--format=v2s2"], DOCKER_MANIFEST, "gzip"),
        ("oci", &["--format=oci"], OCI_MANIFEST, "gzip"),
        ("zstd", &["--format=oci", "--dest-compress-format=zstd"], OCI_MANIFEST, "zstd"),
    ];
    for (kind, words, manifest, compression) in kinds {
        let name = format!("team/{kind}:1");
        // A layer of its own: skopeo does not push again what is there in another form.
        let archive = host.dir.join(format!("{kind}.tar"));
        let (app, link) = (paths::testapp(), format!("/bin/{kind}"));
        let image = image::Image {
            reference: "myapp:1.0",
            entrypoint: &["/bin/testapp"],
            cmd: &[],
            env: &[],
            files: &[(&app, "/bin/testapp")],
            links: &[(&link, "testapp")],
        };
        image::write(&image, &archive).expect("write an image");
        registry.push(&archive, &name, words);
        let stored = registry.manifest(&format!("team/{kind}"), "1", manifest);
        let layer = stored["layers"][0]["mediaType"].as_str().unwrap_or_default();
        assert!(layer.contains(compression), "{kind} is stored as {layer}");
        let full = format!("{}/{name}", registry.address);
        let said = images(&host, &["pull", &full]).ok();
        let digest = stored["_digest"].as_str().expect("a digest");
        assert!(said.contains(digest), "{said}");
        assert!(unpacked_program(&host) == program, "{kind}: the program is not what was pushed");
        // By digest it is the same image.
        images(&host, &["pull", &format!("{}/team/{kind}@{digest}", registry.address)]).ok();
        assert!(images(&host, &["ls"]).ok().contains(&full));
        images(&host, &["rm", &full]).ok();
        assert_nothing_stays(&host);
    }
}

#[test]
fn of_an_index_the_image_for_this_machine() {
    let host = Host::new("index");
    configure(&host);
    let registry = Registry::open(&host, 5000);
    registry.push(&archive(), "team/app:amd64", &["--format=oci"]);
    let program = paths::testapp();
    let other = image::Image {
        reference: "other:1",
        entrypoint: &["/bin/other"],
        cmd: &[],
        env: &[],
        files: &[(&program, "/bin/other")],
        links: &[],
    };
    let path = host.dir.join("other.tar");
    image::write(&other, &path).expect("write another image");
    registry.push(&path, "team/app:other", &["--format=oci"]);
    let describe = |tag: &str, architecture: &str| {
        let manifest = registry.manifest("team/app", tag, OCI_MANIFEST);
        json!({
            "mediaType": OCI_MANIFEST, "digest": manifest["_digest"], "size": manifest["_size"],
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let index =
        |list: &[Value]| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list });
    let both = [describe("other", "s390x"), describe("amd64", "amd64")];
    registry.put("team/app", "multi", OCI_INDEX, &index(&both));
    registry.put("team/app", "foreign", OCI_INDEX, &index(&both[..1]));
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.address);
    let error = images(&host, &["pull", &name("foreign")]).err();
    assert!(error.contains("has no image for linux/amd64"), "{error}");
    assert_nothing_stays(&host);
    images(&host, &["pull", &name("multi")]).ok();
    assert!(unpacked_program(&host) == fs::read(&program).expect("read the test program"));
}

#[test]
fn a_mirror_serves_for_a_registry_that_is_not_there() {
    let host = Host::new("mirror");
    configure(&host);
    let mut registry = Registry::open(&host, 5000);
    registry.push(&archive(), "team/app:1", &[]);
    let dir = host.dir.join("certs.d/registry.test");
    fs::create_dir_all(&dir).expect("make the directory");
    let mirrors = format!(
        "server = \"https://127.0.0.1:9\"\n[host.\"http://127.0.0.1:5999\"]\n[host.\"http://{}\"]\n",
        registry.address
    );
    fs::write(dir.join("hosts.toml"), &mirrors).expect("write hosts.toml");
    // One mirror is dead, the next one has it; the registry itself is never asked.
    images(&host, &["pull", "registry.test/team/app:1"]).ok();
    assert!(images(&host, &["ls"]).ok().contains("registry.test/team/app:1"));
    images(&host, &["rm", "registry.test/team/app:1"]).ok();
    registry.stop();
    let error = images(&host, &["pull", "registry.test/team/app:1"]).err();
    for server in ["127.0.0.1:9", "127.0.0.1:5999", "127.0.0.1:5000"] {
        assert!(error.contains(server), "{server} is not told of: {error}");
    }
    fs::write(dir.join("hosts.toml"), mirrors + "skip_verfy = true\n").expect("write hosts.toml");
    let error = images(&host, &["pull", "registry.test/team/app:1"]).err();
    assert!(error.contains("hosts.toml") && error.contains("skip_verfy"), "{error}");
}

#[test]
fn a_private_registry_wants_a_password() {
    let host = Host::new("private");
    configure(&host);
    let registry = Registry::private(&host, 5000);
    registry.push(&archive(), "team/app:1", &[]);
    let (name, auth) = (format!("{}/team/app:1", registry.address), host.dir.join("auth.json"));
    let error = images(&host, &["pull", &name]).err();
    assert!(error.contains("denied") && error.contains("credentials"), "{error}");
    fs::write(&auth, login(&registry, "wrong").to_string()).expect("write auth.json");
    let error = images(&host, &["pull", &name]).err();
    assert!(error.contains("not accepted") && !error.contains("wrong"), "{error}");
    assert_nothing_stays(&host);
    fs::write(&auth, login(&registry, PASSWORD).to_string()).expect("write auth.json");
    images(&host, &["pull", &name]).ok();
}

#[test]
fn a_download_that_is_cut_goes_on() {
    let host = Host::new("cut");
    configure(&host);
    let registry = Registry::open(&host, 5000);
    registry.push(&archive(), "team/app:1", &[]);
    let wire =
        Wire::new(&host, registry.address, 5001, Fault::Cut { connections: 3, after: 100_000 });
    images(&host, &["pull", &format!("{}/team/app:1", wire.address)]).ok();
    assert!(wire.connections() > 3, "only {} connections", wire.connections());
    let program = fs::read(paths::testapp()).expect("read the test program");
    assert!(unpacked_program(&host) == program, "the pieces do not fit");
}

#[test]
fn a_download_that_is_cut_for_ever_or_spoiled_is_refused_and_leaves_nothing() {
    let host = Host::new("spoiled");
    configure(&host);
    let registry = Registry::open(&host, 5000);
    registry.push(&archive(), "team/app:1", &[]);
    let spoil = Wire::new(&host, registry.address, 5001, Fault::Spoil { at: 100_000 });
    let error = images(&host, &["pull", &format!("{}/team/app:1", spoil.address)]).err();
    assert!(error.contains("blob sha256:") && error.contains("is corrupt"), "{error}");
    assert_nothing_stays(&host);
    // So short that not even the manifest comes through.
    let cut = Fault::Cut { connections: usize::MAX, after: 100 };
    let cut = Wire::new(&host, registry.address, 5002, cut);
    images(&host, &["pull", &format!("{}/team/app:1", cut.address)]).err();
    assert_nothing_stays(&host);
}

/// A node whose registries are its own.
fn node(purpose: &str) -> Host {
    let mut host = Host::new(purpose);
    configure(&host);
    host.up();
    host
}

fn pod(name: &str, image: &str, more: Value) -> String {
    let mut spec = json!({ "containers": [{ "name": "app", "image": image }] });
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        spec[key] = value;
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

#[test]
fn a_pod_pulls_its_image_with_its_secret() {
    let host = node("pods");
    let registry = Registry::private(&host, 5000);
    registry.push(&archive(), "team/app:1", &[]);
    let name = format!("{}/team/app:1", registry.address);

    host.apply(&pod("stranger", &name, json!({}))).ok();
    let waiting = ".status.containerStatuses[0].state.waiting";
    host.until_field("pod/stranger", &format!("{waiting}.reason"), "ImagePullBackOff");
    let message = host.field("pod/stranger", &format!("{waiting}.message"));
    assert!(
        message.starts_with("Back-off pulling image") && message.contains("denied"),
        "{message}"
    );

    let secret = login(&registry, PASSWORD).to_string();
    let path = host.dir.join("secret.json");
    fs::write(&path, secret).expect("write the secret");
    let from = format!("--from-file=.dockerconfigjson={}", path.display());
    let kind = "--type=kubernetes.io/dockerconfigjson";
    host.kubectl_ok(&["create", "secret", "generic", "harbour", kind, &from]);
    host.apply(&pod("friend", &name, json!({ "imagePullSecrets": [{ "name": "harbour" }] }))).ok();
    host.wait_for("pod/friend", "condition=Ready");

    let digest = registry_digest(&host, "friend");
    assert!(digest.starts_with(&format!("{}/team/app@sha256:", registry.address)), "{digest}");
    assert_eq!(host.field("pod/friend", ".status.containerStatuses[0].image"), name);
    eventually("the node tells of the image", MINUTE, || {
        let images = host.field(&format!("node/{}", host.name), ".status.images[*].names[*]");
        if images.contains(&name) && images.contains(&digest) { Ok(()) } else { Err(images) }
    });
    let events = host.kubectl_ok(&["events", "--for", "pod/friend"]);
    for text in [
        format!("Pulling image \"{name}\""),
        format!("Successfully pulled image \"{name}\" in "),
        "including waiting). Image size: ".into(),
    ] {
        assert!(events.contains(&text), "no {text:?} in {events}");
    }
    // It is here now: the stranger, whose policy is IfNotPresent, gets it at its next try. `Always` still asks.
    host.wait_for("pod/stranger", "condition=Ready");
    let always = json!([{ "name": "app", "image": name, "imagePullPolicy": "Always" }]);
    host.apply(&pod("always", &name, json!({ "containers": always }))).ok();
    host.until_field("pod/always", &format!("{waiting}.reason"), "ImagePullBackOff");
}

fn registry_digest(host: &Host, pod: &str) -> String {
    host.field(&format!("pod/{pod}"), ".status.containerStatuses[0].imageID")
}

#[test]
fn a_pod_that_is_deleted_while_it_pulls_goes_at_once() {
    let host = node("stalled");
    let registry = Registry::open(&host, 5000);
    registry.push(&archive(), "team/app:1", &[]);
    let wire = Wire::new(&host, registry.address, 5001, Fault::Stall { after: 100_000 });
    host.apply(&pod("waits", &format!("{}/team/app:1", wire.address), json!({}))).ok();
    let tmp = host.dir.join("data/images/tmp");
    let pulls = |dir: &Path| fs::read_dir(dir).expect("list").count();
    eventually("the pull is under way", MINUTE, || match pulls(&tmp) {
        0 => Err("no pull"),
        _ => Ok(()),
    });
    let begin = Instant::now();
    host.kubectl_ok(&["delete", "pod", "waits"]);
    assert!(begin.elapsed() < Duration::from_secs(15), "it took {:?}", begin.elapsed());
    assert_eq!(pulls(&tmp), 0, "the pull goes on for nobody");
}

#[test]
fn names_that_are_none_and_images_that_must_not_be_pulled() {
    let host = node("names");
    let reason = ".status.containerStatuses[0].state.waiting.reason";
    host.apply(&pod("bad", "UPPER:1", json!({}))).ok();
    host.until_field("pod/bad", reason, "InvalidImageName");
    let never = json!([{ "name": "app", "image": "absent:1", "imagePullPolicy": "Never" }]);
    host.apply(&pod("never", "absent:1", json!({ "containers": never }))).ok();
    host.until_field("pod/never", reason, "ErrImageNeverPull");
    let events = host.kubectl_ok(&["events", "--for", "pod/bad"]);
    assert!(events.contains("InspectFailed") && events.contains("UPPER:1"), "{events}");
}

#[test]
fn a_full_disk_costs_unused_images_that_were_pulled() {
    let mut host = Host::new("room");
    configure(&host);
    // Every disk is as full as that, so every unused image goes.
    let config = host.dir.join("config.yaml");
    let text = fs::read_to_string(&config).expect("read the configuration");
    let more = "image-gc-high-threshold: 1\nimage-gc-low-threshold: 0\nimage-minimum-gc-age: 1\n";
    fs::write(&config, text + more).expect("write the configuration");
    let archives = image::standard().expect("make the test images");
    host.import(&archives[1], None).ok();
    host.up();
    let registry = Registry::open(&host, 5000);
    registry.push(&archives[0], "team/app:1", &[]);
    let name = format!("{}/team/app:1", registry.address);
    let spec = json!({ "terminationGracePeriodSeconds": 1 });
    host.apply(&pod("user", &name, spec)).ok();
    host.wait_for("pod/user", "condition=Ready");
    // Collections go by once a second: while the Pod runs they must not take its image.
    let look = || images(&host, &["ls"]).ok();
    eventually("a collection has gone by", MINUTE, || {
        let events = host.kubectl(&["get", "events", "-A"]).result()?;
        if events.contains("FreeDiskSpaceFailed") { Ok(()) } else { Err(events) }
    });
    assert!(look().contains(&name));
    host.kubectl_ok(&["delete", "pod", "user"]);
    eventually("the image is removed", MINUTE, || {
        let list = look();
        if list.contains(&name) { Err(list) } else { Ok(()) }
    });
    assert!(look().contains("myapp:1.1"), "an imported image was removed");
}
