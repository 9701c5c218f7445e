//! Test images without a registry: docker-archive tars made of one program and a few empty directories.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One layer, one program.
pub struct Image<'a> {
    /// `myapp:1.0`
    pub reference: &'a str,
    pub entrypoint: &'a [&'a str],
    pub cmd: &'a [&'a str],
    pub env: &'a [&'a str],
    /// Host file → path inside, executable.
    pub files: &'a [(&'a Path, &'a str)],
    /// Link inside → target.
    pub links: &'a [(&'a str, &'a str)],
}

/// Writes the archive as `docker save` would.
pub fn write(image: &Image<'_>, to: &Path) -> io::Result<()> {
    let layer = layer(image)?;
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = config(image, &digest).to_string();
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": [image.reference],
        "Layers": ["layer.tar"],
    }]);
    let mut archive = tar::Builder::new(File::create(to)?);
    append(&mut archive, "config.json", 0o644, config.as_bytes())?;
    append(&mut archive, "layer.tar", 0o644, &layer)?;
    append(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
    archive.into_inner()?.flush()
}

fn layer(image: &Image<'_>) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "var"] {
        let mut header =
            header(tar::EntryType::Directory, if dir == "tmp" { 0o1777 } else { 0o755 });
        layer.append_data(&mut header, format!("{dir}/"), io::empty())?;
    }
    append(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\napp:x:1000:1000::/:\n")?;
    for (from, to) in image.files {
        append(&mut layer, to.trim_start_matches('/'), 0o755, &std::fs::read(from)?)?;
    }
    for (link, target) in image.links {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        layer.append_link(&mut header, link.trim_start_matches('/'), target)?;
    }
    layer.into_inner()
}

fn config(image: &Image<'_>, digest: &str) -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": image.entrypoint, "Cmd": image.cmd, "Env": image.env, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    })
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(
    to: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    to.append_data(&mut header, path, content)
}
