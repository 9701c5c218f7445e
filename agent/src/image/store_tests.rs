//! Imports of archives made by hand, whole and broken.

use std::io::Write as _;

use serde_json::json;

use super::super::unpack::tests::Tar;
use super::*;

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|l| digest::of(l).to_string()).collect();
    json!({
        "architecture": manifest::architecture(), "os": "linux",
        "config": {"Cmd": ["/app"], "Env": null, "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
    .to_string()
    .into_bytes()
}

/// A docker-archive as bytes; `layers` lowest first.
fn docker(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    let list = json!([{"Config": "c.json", "RepoTags": [name], "Layers": names}]).to_string();
    let mut tar = Tar::new().file("c.json", &config(layers));
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    tar.file("manifest.json", list.as_bytes()).done()
}

fn layer(name: &str, text: &str) -> Vec<u8> {
    Tar::new().file(name, text.as_bytes()).done()
}

fn write(dir: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("image.tar");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// An OCI layout directory; the answer is the manifest's digest.
fn oci(dir: &Path, layer: &[u8], diff: &[u8], name: &str) -> Digest {
    let put = |bytes: &[u8]| {
        let id = digest::of(bytes);
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("blobs/sha256").join(id.hex()), bytes).unwrap();
        id
    };
    let manifest = json!({
        "config": {"digest": put(&config(&[diff])).to_string()},
        "layers": [{"digest": put(layer).to_string()}],
    });
    let id = put(manifest.to_string().as_bytes());
    let index = json!({"manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": id.to_string(),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    id
}

#[test]
fn a_docker_archive_is_found_by_every_form_of_its_name() {
    let (dir, store) = store();
    let path = write(&dir, &docker("myapp:1.0", &[&layer("a", "low"), &layer("b", "top")]));
    let image = store.import(&path, None).unwrap().remove(0);
    assert_eq!(image.references, ["docker.io/library/myapp:1.0"]);
    assert_eq!(image.size, 6);
    assert_eq!(std::fs::read(image.layers[0].join("b")).unwrap(), b"top");
    assert_eq!(std::fs::read(image.layers[1].join("a")).unwrap(), b"low");
    assert_eq!(image.config.cmd().as_deref(), Some(&["/app".to_owned()][..]));
    for name in ["myapp:1.0", "docker.io/library/myapp:1.0", &image.id] {
        assert_eq!(store.resolve(name).unwrap().as_ref(), Some(&image), "{name}");
    }
    assert_eq!(store.resolve("myapp:2.0").unwrap(), None);
    assert!(store.resolve("NOT A NAME").is_err());
}

#[test]
fn a_gzipped_archive_with_gzipped_layers_is_the_same_image() {
    let (dir, store) = store();
    let (diff, layout) = (layer("a", "x"), dir.path().join("layout"));
    let manifest = oci(&layout, &gzip(&diff), &diff, "localhost/app:1");
    let one = store.import(&layout, None).unwrap().remove(0);
    let two =
        store.import(&write(&dir, &gzip(&docker("app:2", &[&diff]))), None).unwrap().remove(0);
    assert_eq!(one.id, two.id);
    let by_digest = format!("localhost/app@{manifest}");
    assert_eq!(store.resolve(&by_digest).unwrap().unwrap().id, one.id);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(two.references.len(), 3);
}

#[test]
fn a_tag_replaces_the_name_and_a_nameless_archive_needs_one() {
    let (dir, store) = store();
    let (diff, layout) = (layer("a", "x"), dir.path().join("layout"));
    oci(&layout, &diff, &diff, "1.0");
    assert!(matches!(store.import(&layout, None), Err(Error::NoName)));
    store.import(&layout, Some("mine:1")).unwrap();
    assert!(store.resolve("docker.io/library/mine:1").unwrap().is_some());
}

#[test]
fn wrong_digests_are_refused_and_leave_nothing() {
    let (dir, store) = store();
    let (diff, layout) = (layer("a", "x"), dir.path().join("layout"));
    oci(&layout, &layer("a", "evil"), &diff, "x:1");
    let Err(Error::Digest { .. }) = store.import(&layout, None) else { panic!("was imported") };
    let lying = Tar::new()
        .file("c.json", &config(&[&diff]))
        .file("l", &layer("a", "evil"))
        .file("manifest.json", br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"]}]"#)
        .done();
    let Err(Error::Digest { .. }) = store.import(&write(&dir, &lying), None) else {
        panic!("was imported")
    };
    for name in ["layers", "configs", "tmp"] {
        let left = read_dir(&store.root.join(name)).unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_cannot_be_read_says_so() {
    let (dir, store) = store();
    let error = |bytes: &[u8]| store.import(&write(&dir, bytes), None).unwrap_err().to_string();
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0];
    assert!(error(&docker("a:1", &[&zstd])).contains("read layer"));
    assert!(error(b"not a tar at all").contains("tar"));
    assert!(error(&Tar::new().file("x", b"").done()).contains("neither"));
    assert!(error(&docker("a:1", &[])).contains("layers"));
    let other = br#"{"architecture":"s390x","os":"linux","rootfs":{"diff_ids":["x"]}}"#;
    let list = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"]}]"#;
    let foreign =
        Tar::new().file("c.json", other).file("l", b"").file("manifest.json", list).done();
    assert!(error(&foreign).contains("s390x"));
    let escape = br#"[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]"#;
    assert!(error(&Tar::new().file("manifest.json", escape).done()).contains("no \"../"));
}

#[test]
fn removal_keeps_shared_layers() {
    let (dir, store) = store();
    let (base, one, two) = (layer("a", "base"), layer("b", "1"), layer("b", "2"));
    let first = store.import(&write(&dir, &docker("one:1", &[&base, &one])), None).unwrap();
    let second = store.import(&write(&dir, &docker("two:1", &[&base, &two])), None).unwrap();
    store.remove("one:1").unwrap();
    assert!(!first[0].layers[0].exists());
    assert!(second[0].layers.iter().all(|layer| layer.exists()));
    assert!(matches!(store.remove("one:1"), Err(Error::NotFound(_))));
    store.remove(&second[0].id).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(read_dir(&store.root.join("layers")).unwrap().is_empty());
}

#[test]
fn one_of_two_names_can_go() {
    let (dir, store) = store();
    let path = write(&dir, &docker("one:1", &[&layer("a", "x")]));
    store.import(&path, None).unwrap();
    store.import(&path, Some("two:1")).unwrap();
    store.remove("one:1").unwrap();
    assert_eq!(store.resolve("one:1").unwrap(), None);
    assert!(store.resolve("two:1").unwrap().unwrap().layers[0].join("a").exists());
}

#[test]
fn equal_imports_at_the_same_time_all_succeed() {
    let (dir, store) = store();
    let path = write(&dir, &docker("a:1", &[&layer("a", "x"), &layer("b", "y")]));
    std::thread::scope(|scope| {
        let imports: Vec<_> =
            (0..8).map(|_| scope.spawn(|| store.import(&path, None).unwrap())).collect();
        imports.into_iter().for_each(|import| drop(import.join().unwrap()));
    });
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(read_dir(&store.root.join("tmp")).unwrap().is_empty());
}

#[test]
fn a_start_sweeps_what_a_dead_import_left() {
    let (_dir, store) = store();
    std::fs::create_dir_all(store.root.join("tmp/dead/layer/fs")).unwrap();
    let importing = store.lock("gc.lock", FlockOperation::LockShared).unwrap();
    ImageStore::open(&store.root).unwrap();
    assert!(store.root.join("tmp/dead").exists(), "a living import was swept");
    drop(importing);
    ImageStore::open(&store.root).unwrap();
    assert!(!store.root.join("tmp/dead").exists());
}

#[test]
fn the_program_is_an_image_and_the_same_one_twice() {
    let (dir, store) = store();
    let exe = dir.path().join("exe");
    std::fs::write(&exe, b"\x7fELF").unwrap();
    let import = || store.import_program(&exe, "localhost/kobune-demo:1", Default::default());
    let image = import().unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("kobune")).unwrap(), b"\x7fELF");
    assert_eq!(import().unwrap(), image);
}

#[test]
fn the_same_layer_twice_is_one_lower_directory() {
    let (dir, store) = store();
    let (empty, other) = (layer("a", ""), layer("b", "x"));
    let path = write(&dir, &docker("a:1", &[&empty, &other, &empty]));
    let image = store.import(&path, None).unwrap().remove(0);
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[0].join("a").exists());
}
