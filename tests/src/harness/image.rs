//! Test images without a registry: docker-archive tars made of one program and a few empty directories.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::paths;

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

/// The archives that every node of a test gets: myapp:1.0, myapp:1.1 (the test program) and busybox:1.35.
/// Made once per build of the test program, or found in `$KOBUNE_TEST_IMAGES`.
pub fn standard() -> io::Result<Vec<PathBuf>> {
    let names = ["myapp-1.0.tar", "myapp-1.1.tar", "busybox.tar"];
    let all_in = |dir: &Path| names.iter().map(|name| dir.join(name)).collect();
    if let Some(dir) = std::env::var_os("KOBUNE_TEST_IMAGES") {
        return Ok(all_in(Path::new(&dir)));
    }
    let app = paths::testapp();
    let built = fs::metadata(&app)?;
    let parent = paths::target().join("test-images");
    let dir = parent.join(format!("{}-{}", built.ino(), built.mtime_nsec()));
    if !dir.exists() {
        // Several tests may do this at once: each makes its own, the first to finish wins.
        let own = parent.join(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
        fs::create_dir_all(&own)?;
        write_standard(&app, &own)?;
        if fs::rename(&own, &dir).is_err() {
            fs::remove_dir_all(&own)?;
        }
    }
    Ok(all_in(&dir))
}

fn write_standard(app: &Path, dir: &Path) -> io::Result<()> {
    for version in ["1.0", "1.1"] {
        let image = Image {
            reference: &format!("myapp:{version}"),
            entrypoint: &["/bin/testapp"],
            cmd: &["serve", "--version", version],
            env: &["FLAVOUR=plain"],
            files: &[(app, "/bin/testapp")],
            links: &[],
        };
        write(&image, &dir.join(format!("myapp-{version}.tar")))?;
    }
    let busybox = paths::on_path("busybox").ok_or(io::ErrorKind::NotFound)?;
    let applets = ["sh", "sleep", "cat", "ls", "echo", "wget", "id", "hostname", "env", "ps"];
    let links: Vec<String> = applets.iter().map(|name| format!("/bin/{name}")).collect();
    let links: Vec<_> = links.iter().map(|link| (link.as_str(), "busybox")).collect();
    let image = Image {
        reference: "busybox:1.35",
        entrypoint: &[],
        cmd: &["sh"],
        env: &["PATH=/bin"],
        files: &[(&busybox, "/bin/busybox"), (app, "/bin/testapp")],
        links: &links,
    };
    write(&image, &dir.join("busybox.tar"))
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
