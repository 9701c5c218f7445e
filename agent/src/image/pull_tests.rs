//! Pulls from scripted registries, whole, cut and wrong.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use serde_json::json;

use super::super::registry::scripted::{Scripted, Seen, answer};
use super::super::unpack::tests::Tar;
use super::*;

/// What a registry holds: path below the repository → media type and bytes.
#[derive(Clone, Default)]
struct Content(BTreeMap<String, (String, Vec<u8>)>);

impl Content {
    fn blob(&mut self, bytes: &[u8]) -> serde_json::Value {
        let digest = digest::of(bytes).to_string();
        self.0.insert(format!("blobs/{digest}"), ("application/octet-stream".into(), bytes.into()));
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": bytes.len() })
    }

    fn manifest(&mut self, tag: &str, kind: &str, value: &serde_json::Value) -> serde_json::Value {
        let bytes = value.to_string().into_bytes();
        let digest = digest::of(&bytes).to_string();
        let size = bytes.len();
        for name in [digest.as_str(), tag] {
            self.0.insert(format!("manifests/{name}"), (kind.into(), bytes.clone()));
        }
        json!({ "mediaType": kind, "digest": digest, "size": size })
    }

    /// An image of plain layers; the answer describes its manifest.
    fn image(&mut self, tag: &str, architecture: &str, layers: &[Vec<u8>]) -> serde_json::Value {
        self.stored(tag, architecture, layers, layers)
    }

    /// An image whose layers are stored in another form.
    fn stored(
        &mut self,
        tag: &str,
        architecture: &str,
        plain: &[Vec<u8>],
        stored: &[Vec<u8>],
    ) -> serde_json::Value {
        let ids: Vec<String> = plain.iter().map(|layer| digest::of(layer).to_string()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/app"] },
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let mut config = self.blob(config.to_string().as_bytes());
        config["mediaType"] = media::OCI_CONFIG.into();
        let layers: Vec<_> = stored.iter().map(|layer| self.blob(layer)).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.manifest(tag, media::OCI_MANIFEST, &manifest)
    }

    fn answer(&self, seen: &Seen) -> Vec<u8> {
        let path = seen.line.split_once("/team/app/").map_or("", |(_, path)| path);
        // A mirror is told for whom it is asked.
        let path = path.split('?').next().unwrap_or_default();
        let Some((kind, bytes)) = self.0.get(path) else {
            return answer("404 Not Found", &[], b"");
        };
        let digest = digest::of(bytes).to_string();
        let length = bytes.len().to_string();
        let from = seen.header("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let headers = [("Content-Type", kind.as_str()), ("Docker-Content-Digest", &digest)];
        match from {
            _ if seen.line.starts_with("HEAD") => {
                answer("200 OK", &[headers[0], headers[1], ("Content-Length", &length)], b"")
            }
            Some(from) => {
                let range = format!("bytes {from}-{}/{length}", bytes.len() - 1);
                let headers = [("Content-Range", range.as_str())];
                answer("206 Partial Content", &headers, &bytes[from..])
            }
            None => answer("200 OK", &headers, bytes),
        }
    }

    fn serve(self) -> Scripted {
        Scripted::new(move |seen| self.answer(seen))
    }
}

struct Node {
    dir: tempfile::TempDir,
    store: ImageStore,
    registry: Registry,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("images")).unwrap();
        let registry = Registry::new(&dir.path().join("certs.d"), &dir.path().join("config.json"));
        Self { dir, store, registry }
    }

    async fn pull(&self, name: &str) -> Result<Image, PullError> {
        let (image, progress) = (Reference::parse(name).unwrap(), Progress::default());
        let pulled = self.store.pull(&self.registry, &image, &Keyring::default(), &progress).await;
        let (got, total) = progress.bytes();
        assert!(pulled.is_err() || got == total, "{got} of {total}");
        pulled
    }

    /// Nothing of a pull is left.
    fn assert_empty(&self) {
        for dir in ["tmp", "layers", "configs"] {
            let path = self.dir.path().join("images").join(dir);
            let left: Vec<_> = std::fs::read_dir(path).unwrap().flatten().collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
        assert!(self.store.list().unwrap().is_empty());
    }
}

fn layer(name: &str, text: &str) -> Vec<u8> {
    Tar::new().file(name, text.as_bytes()).done()
}

fn arch() -> &'static str {
    manifest::architecture()
}

fn text(image: &Image, layer: usize, name: &str) -> String {
    std::fs::read_to_string(image.layers[layer].join(name)).unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_once() {
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", "low"), layer("b", "top"), layer("a", "low")]);
    let server = content.serve();
    let (node, name) = (Node::new(), format!("{}/team/app:1", server.host()));
    let image = node.pull(&name).await.unwrap();
    assert!(image.pulled);
    assert_eq!(text(&image, 0, "a"), "low");
    assert_eq!(text(&image, 1, "b"), "top");
    let asked = server.lines().len();
    assert_eq!(asked, 1 + 1 + 2, "manifest, configuration, two different layers");
    let reference = Reference::parse(&name).unwrap();
    assert!(
        image.status_id(&reference).starts_with(&format!("{}/team/app@sha256:", server.host()))
    );
    // The second time the registry is asked what the name means, and that is all.
    assert_eq!(node.pull(&name).await.unwrap(), image);
    assert_eq!(server.lines()[asked..], ["HEAD /v2/team/app/manifests/1"]);
    // By digest there is nothing to ask.
    let by_digest = image.status_id(&reference).to_owned();
    assert_eq!(node.pull(&by_digest).await.unwrap().id, image.id);
    assert_eq!(server.lines().len(), asked + 1);
}

#[tokio::test]
async fn gzip_and_zstd_layers() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd =
        |bytes: &[u8]| bytes.chunks(200).flat_map(super::super::zstd::tests::frame).collect();
    let plain = [layer("a", "gzip"), layer("b", "zstd")];
    let mut content = Content::default();
    content.stored("1", arch(), &plain, &[gzip(&plain[0]), zstd(&plain[1])]);
    let (node, server) = (Node::new(), content.serve());
    let image = node.pull(&format!("{}/team/app:1", server.host())).await.unwrap();
    assert_eq!((text(&image, 1, "a"), text(&image, 0, "b")), ("gzip".into(), "zstd".into()));
}

#[tokio::test]
async fn of_an_index_this_machines_image_is_taken() {
    let mut content = Content::default();
    let mut list = Vec::new();
    for architecture in ["pdp11", arch()] {
        let mut one = content.image(architecture, architecture, &[layer("who", architecture)]);
        one["platform"] = json!({ "os": "linux", "architecture": architecture });
        list.push(one);
    }
    let only = json!({ "manifests": [list[0]] });
    let top = content.manifest("1", media::OCI_INDEX, &json!({ "manifests": list }));
    content.manifest("2", media::DOCKER_INDEX, &only);
    let (node, server) = (Node::new(), content.serve());
    let name = format!("{}/team/app:1", server.host());
    let image = node.pull(&name).await.unwrap();
    assert_eq!(text(&image, 0, "who"), arch());
    let reference = Reference::parse(&name).unwrap();
    // The name stands for the whole index, and so does the id that people see.
    assert!(image.status_id(&reference).ends_with(top["digest"].as_str().unwrap()));
    let error = node.pull(&format!("{}/team/app:2", server.host())).await.unwrap_err().to_string();
    assert!(error.contains("has no image for linux/"), "{error}");
    let error = node.pull(&format!("{}/team/app:pdp11", server.host())).await.unwrap_err();
    assert!(error.to_string().contains("pdp11"), "{error}");
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_where_it_was() {
    let big = "x".repeat(300_000);
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", &big)]);
    let cuts = AtomicUsize::new(0);
    let server = Scripted::new(move |seen| {
        let mut bytes = content.answer(seen);
        // Seven cuts are more than the patience for a server that brings nothing.
        if bytes.len() > 40_000 && cuts.fetch_add(1, Ordering::SeqCst) < 7 {
            bytes.truncate(40_000);
        }
        bytes
    });
    let node = Node::new();
    let image = node.pull(&format!("{}/team/app:1", server.host())).await.unwrap();
    assert_eq!(text(&image, 0, "a"), big);
    let ranges: Vec<_> =
        server.seen().iter().filter_map(|s| s.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 7, "{ranges:?}");
    assert!(ranges.is_sorted_by_key(|range| range.len()), "{ranges:?}");
}

#[tokio::test]
async fn a_server_without_ranges_begins_anew() {
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", &"y".repeat(200_000))]);
    let cut = AtomicUsize::new(0);
    let server = Scripted::new(move |seen| {
        let mut plain = seen.clone();
        plain.forget("range");
        let mut bytes = content.answer(&plain);
        if bytes.len() > 40_000 && cut.fetch_add(1, Ordering::SeqCst) == 0 {
            bytes.truncate(40_000);
        }
        bytes
    });
    let node = Node::new();
    node.pull(&format!("{}/team/app:1", server.host())).await.unwrap();
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_stays() {
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", "right"), layer("b", "right too")]);
    let whole = content.clone();
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&str, Spoil); 3] = [
        ("its digest is", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("to send", |bytes| bytes.extend([0; 10])),
        ("to send", |bytes| bytes.truncate(bytes.len() - 10)),
    ];
    for (message, spoil) in cases {
        let mut bad = whole.clone();
        let blobs = bad.0.iter_mut().filter(|(path, _)| path.starts_with("blobs/"));
        blobs.for_each(|(_, (_, bytes))| spoil(bytes));
        let server = bad.serve();
        let node = Node::new();
        let error = node.pull(&format!("{}/team/app:1", server.host())).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        node.assert_empty();
    }
    // Bytes that are what the manifest says, but not the layer that the configuration says.
    let mut lying = Content::default();
    let (said, sent) = (layer("a", "said"), layer("a", "sent"));
    lying.stored("1", arch(), &[said], &[sent]);
    let (node, server) = (Node::new(), lying.serve());
    let error = node.pull(&format!("{}/team/app:1", server.host())).await.unwrap_err().to_string();
    assert!(error.starts_with("layer sha256:") && error.contains("expected"), "{error}");
    node.assert_empty();
}

#[tokio::test]
async fn a_corrupt_mirror_is_passed_over() {
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", "right")]);
    let server = content.clone().serve();
    for (path, (_, bytes)) in &mut content.0 {
        if path.starts_with("blobs/") {
            *bytes.last_mut().unwrap() ^= 1;
        }
    }
    let mirror = content.serve();
    let node = Node::new();
    let dir = node.dir.path().join("certs.d").join(server.host());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), format!("[host.\"http://{}\"]\n", mirror.host()))
        .unwrap();
    let image = node.pull(&format!("{}/team/app:1", server.host())).await.unwrap();
    assert_eq!(text(&image, 0, "a"), "right");
    let blobs = |server: &Scripted| server.lines().iter().filter(|l| l.contains("/blobs/")).count();
    assert_eq!((blobs(&mirror), blobs(&server)), (2, 2), "both are corrupt at the mirror");
    assert!(!server.lines().iter().any(|line| line.contains("/manifests/")));
}

#[tokio::test]
async fn what_is_no_image_is_refused_by_kind() {
    let mut content = Content::default();
    let mut config = content.blob(b"{}");
    config["mediaType"] = "application/vnd.test.chart+json".into();
    let chart = json!({ "config": config, "layers": [] });
    content.manifest("chart", media::OCI_MANIFEST, &chart);
    content.manifest("old", "application/vnd.docker.distribution.manifest.v1+json", &json!({}));
    let (node, server) = (Node::new(), content.serve());
    for (tag, message) in
        [("chart", "vnd.test.chart"), ("old", "first manifest format"), ("none", "not found")]
    {
        let error = node.pull(&format!("{}/team/app:{tag}", server.host())).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    node.assert_empty();
}

#[tokio::test]
async fn a_pull_that_is_dropped_leaves_nothing() {
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", "never")]);
    let (reached, waits) = tokio::sync::oneshot::channel();
    let reached = Mutex::new(Some(reached));
    let config_first = AtomicUsize::new(0);
    let server = Scripted::new(move |seen| {
        let is_layer =
            seen.line.contains("/blobs/") && config_first.fetch_add(1, Ordering::SeqCst) > 0;
        if is_layer {
            let _ = reached.lock().unwrap().take().map(|reached| reached.send(()));
            // Half an answer, and then nothing for as long as the test lives.
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        content.answer(seen)
    });
    let node = Node::new();
    let name = format!("{}/team/app:1", server.host());
    tokio::select! {
        done = node.pull(&name) => panic!("ended: {done:?}"),
        reached = waits => reached.unwrap(),
    }
    node.assert_empty();
}

#[tokio::test]
async fn a_tag_that_moves_takes_its_name_along() {
    let mut content = Content::default();
    content.image("1", arch(), &[layer("a", "old")]);
    let content = Arc::new(Mutex::new(content));
    let served = Arc::clone(&content);
    let server = Scripted::new(move |seen| served.lock().unwrap().answer(seen));
    let (node, name) = (Node::new(), format!("{}/team/app:1", server.host()));
    let old = node.pull(&name).await.unwrap();
    content.lock().unwrap().image("1", arch(), &[layer("a", "new")]);
    let new = node.pull(&name).await.unwrap();
    assert_eq!(text(&new, 0, "a"), "new");
    assert_eq!(node.store.resolve(&name).unwrap().unwrap().id, new.id);
    // The old one is still there, under its digest, until somebody removes it.
    let left = node.store.resolve(&old.id).unwrap().unwrap();
    assert!(left.references.iter().all(|name| name.contains('@')) && left.references.len() == 1);
    node.store.remove(&old.id).unwrap();
    assert_eq!(node.store.list().unwrap().len(), 1);
}
