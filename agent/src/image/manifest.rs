//! What images are made of: manifests and indexes of OCI and of Docker, as archives and registries have them. Pure.
//!
//! An archive has a `manifest.json` (docker-archive) or an `index.json` (OCI layout); its blobs are asked for through a
//! function, so that this module reads nothing itself.

use serde::Deserialize;

use super::digest::{self, Digest};
use super::registry::platform::Machine;
use super::{Error, ImageConfig, Result};

/// Media types that we know.
pub(super) mod media {
    pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(crate) const DOCKER_INDEX: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
    pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// What a registry may answer with when it is asked for a manifest.
    pub(crate) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.docker.distribution.manifest.v2+json";
}

/// What a registry gives for a name.
#[derive(Debug)]
pub(super) enum Document {
    /// One image for several platforms.
    Index(Vec<Descriptor>),
    Image(Manifest),
}

/// One image to import.
#[derive(Debug, PartialEq)]
pub(super) struct Planned {
    pub(super) config: Blob,
    /// Lowest first, as in the manifest.
    pub(super) layers: Vec<Blob>,
    /// As written in the archive.
    pub(super) names: Vec<String>,
    /// Of the OCI manifest, if it came from one.
    pub(super) digest: Option<Digest>,
}

/// A blob's name in the archive, and the digest that it must have where that is known.
#[derive(Debug, PartialEq)]
pub(super) struct Blob {
    pub(super) name: String,
    pub(super) digest: Option<Digest>,
}

/// What the store needs of an image's configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    pub(super) rootfs: RootFs,
    #[serde(default)]
    pub(super) config: Option<ImageConfig>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// How one thing names another.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

/// An index that names an index that names … stops here.
pub(super) const MAX_DEPTH: usize = 4;

/// This machine's architecture as images name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The images of a docker-archive's `manifest.json`.
pub(super) fn docker(manifest: &[u8]) -> Result<Vec<Planned>> {
    let images: Vec<DockerImage> = json("manifest.json", manifest)?;
    let blob = |name: String| {
        // New archives are OCI layouts too: their blobs are named by their digest.
        let digest = name.strip_prefix("blobs/sha256/").and_then(digest::from_hex);
        Blob { name, digest }
    };
    Ok(images
        .into_iter()
        .map(|image| Planned {
            config: blob(image.config),
            layers: image.layers.into_iter().map(blob).collect(),
            names: image.repo_tags.unwrap_or_default(),
            digest: None,
        })
        .collect())
}

/// The images of an OCI layout's `index.json`, those for this machine only.
pub(super) fn oci(index: &[u8], read: &dyn Fn(&Blob) -> Result<Vec<u8>>) -> Result<Vec<Planned>> {
    let mut found = Vec::new();
    collect(index, "index.json", Vec::new(), read, MAX_DEPTH, &mut found)?;
    Ok(found)
}

fn collect(
    index: &[u8],
    what: &str,
    names: Vec<String>,
    read: &dyn Fn(&Blob) -> Result<Vec<u8>>,
    depth: usize,
    found: &mut Vec<Planned>,
) -> Result<()> {
    if depth == 0 {
        return Err(Error::Invalid("its indexes are nested too deeply".into()));
    }
    let index: Index = json(what, index)?;
    let here = Machine::here();
    let wanted = match depth {
        // A layout's own list holds different images, one below it holds one image for many machines.
        MAX_DEPTH => index.manifests.into_iter().filter(|one| one.runs_on(&here)).collect(),
        _ => Vec::from_iter(best(index.manifests, &here)),
    };
    for descriptor in wanted {
        let names = descriptor.names().unwrap_or_else(|| names.clone());
        let blob = blob(&descriptor)?;
        let bytes = read(&blob)?;
        match descriptor.media_type.as_str() {
            media::OCI_INDEX | media::DOCKER_INDEX => {
                collect(&bytes, &blob.name, names, read, depth - 1, found)?;
            }
            media::OCI_MANIFEST | media::DOCKER_MANIFEST => {
                found.push(planned(&bytes, blob, names)?);
            }
            other => {
                let name = &blob.name;
                return Err(Error::Invalid(format!("{name:?} has unknown media type {other:?}")));
            }
        }
    }
    Ok(())
}

fn planned(manifest: &[u8], from: Blob, names: Vec<String>) -> Result<Planned> {
    let manifest: Manifest = json(&from.name, manifest)?;
    Ok(Planned {
        config: blob(&manifest.config)?,
        layers: manifest.layers.iter().map(blob).collect::<Result<_>>()?,
        names,
        digest: from.digest,
    })
}

fn blob(descriptor: &Descriptor) -> Result<Blob> {
    let digest = digest::parse(&descriptor.digest).ok_or_else(|| {
        Error::Invalid(format!("digest {:?} is not sha256:<64 hex digits>", descriptor.digest))
    })?;
    Ok(Blob { name: format!("blobs/sha256/{}", digest.hex()), digest: Some(digest) })
}

/// Read what a registry gave; `media_type` is its own or the answer's.
pub(super) fn document(what: &str, media_type: &str, bytes: &[u8]) -> Result<Document> {
    match media_type {
        media::OCI_INDEX | media::DOCKER_INDEX => {
            json::<Index>(what, bytes).map(|index| Document::Index(index.manifests))
        }
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => json(what, bytes).map(Document::Image),
        other if other.starts_with("application/vnd.docker.distribution.manifest.v1") => Err(
            Error::Invalid(format!("{what:?} has Docker's first manifest format, long out of use")),
        ),
        other => Err(Error::Invalid(format!("{what:?} has unknown media type {other:?}"))),
    }
}

/// The media type that a manifest gives itself.
pub(super) fn media_type(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    serde_json::from_slice::<Typed>(bytes).ok().map(|typed| typed.media_type)
}

/// The one of an index's images that suits this machine best; of equals the first.
pub(super) fn best(manifests: Vec<Descriptor>, machine: &Machine) -> Option<Descriptor> {
    let ranked = manifests.into_iter().filter_map(|one| {
        let rank = match &one.platform {
            Some(platform) => machine.rank(platform)?,
            // Meant for everybody, and for those first whom nothing else suits.
            None => usize::MAX,
        };
        Some((rank, one))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, one)| one)
}

impl Descriptor {
    /// Without a platform it is meant for everybody; attestations say `unknown/unknown`.
    fn runs_on(&self, machine: &Machine) -> bool {
        self.platform.as_ref().is_none_or(|platform| machine.rank(platform).is_some())
    }

    /// The full name that containerd and docker write, or the layout's own if it is more than a bare tag.
    fn names(&self) -> Option<Vec<String>> {
        let annotations = self.annotations.as_ref()?;
        let full = annotations.get("io.containerd.image.name");
        let short = annotations
            .get("org.opencontainers.image.ref.name")
            .filter(|name| name.contains(['/', ':']));
        full.or(short).map(|name| vec![name.clone()])
    }
}

/// Read JSON of an archive.
pub(super) fn json<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("read {what:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_archives_old_and_new() {
        let hex = "b".repeat(64);
        let text = format!(
            r#"[{{"Config":"abc.json","RepoTags":["a:1"],"Layers":["x/layer.tar"]}},
                {{"Config":"blobs/sha256/{hex}","RepoTags":null,"Layers":[]}}]"#
        );
        let images = docker(text.as_bytes()).unwrap();
        assert_eq!(images[0].names, ["a:1"]);
        assert_eq!(images[0].layers[0], Blob { name: "x/layer.tar".into(), digest: None });
        assert_eq!(images[1].config.digest, digest::from_hex(&hex));
        assert!(docker(b"{}").is_err());
    }

    #[test]
    fn oci_index_picks_this_platform_and_carries_names_down() {
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let arch = architecture();
        let top = format!(
            r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json",
            "digest":"sha256:{a}","annotations":{{"io.containerd.image.name":"docker.io/x/y:1"}}}}]}}"#
        );
        let nested = format!(
            r#"{{"manifests":[
            {{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{b}",
              "platform":{{"os":"linux","architecture":"{arch}"}}}},
            {{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{c}",
              "platform":{{"os":"unknown","architecture":"unknown"}}}}]}}"#
        );
        let manifest = format!(r#"{{"config":{{"digest":"sha256:{c}"}},"layers":[]}}"#);
        let read = |blob: &Blob| -> Result<Vec<u8>> {
            Ok(if blob.name.ends_with(&a) { nested.clone() } else { manifest.clone() }.into())
        };
        let found = oci(top.as_bytes(), &read).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].names, ["docker.io/x/y:1"]);
        assert_eq!(found[0].digest, digest::from_hex(&b));
    }

    #[test]
    fn of_two_variants_one_is_taken() {
        let one = |digest: &str, platform: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{digest}","size":1{platform}}}"#,
                media::OCI_MANIFEST
            )
        };
        let arch = architecture();
        let platform =
            |arch: &str| format!(r#","platform":{{"os":"linux","architecture":"{arch}"}}"#);
        let text = format!(
            r#"{{"manifests":[{},{},{},{}]}}"#,
            one("none", ""),
            one("other", &platform("pdp11")),
            one("first", &platform(arch)),
            one("second", &platform(arch))
        );
        let Document::Index(all) = document("x", media::OCI_INDEX, text.as_bytes()).unwrap() else {
            panic!("not an index")
        };
        assert_eq!(best(all, &Machine::here()).unwrap().digest, "first");
    }

    #[test]
    fn old_and_strange_manifests_are_refused_by_name() {
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(
            document("x", old, b"{}").unwrap_err().to_string().contains("first manifest format")
        );
        assert!(document("x", "text/html", b"<p>").unwrap_err().to_string().contains("text/html"));
        let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{}"}}"#, media::OCI_MANIFEST);
        assert_eq!(media_type(typed.as_bytes()).as_deref(), Some(media::OCI_MANIFEST));
        assert_eq!(media_type(b"{}"), None);
    }

    #[test]
    fn an_index_that_names_itself_ends() {
        let text = format!(
            r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:{}"}}]}}"#,
            "a".repeat(64)
        );
        let read = |_: &Blob| -> Result<Vec<u8>> { Ok(text.clone().into()) };
        assert!(oci(text.as_bytes(), &read).is_err());
    }

    #[test]
    fn a_bare_tag_is_not_a_name() {
        let text = format!(
            r#"{{"mediaType":"x","digest":"sha256:{}",
                "annotations":{{"org.opencontainers.image.ref.name":"1.0"}}}}"#,
            "a".repeat(64)
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(descriptor.names(), None);
    }
}
