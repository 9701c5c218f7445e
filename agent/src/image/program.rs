//! An image made from this very program, so that the demo needs no registry.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{Error, Image, ImageConfig, ImageStore, Result, digest, manifest};

const PASSWD: &str = "root:x:0:0:root:/:/kobune\nnobody:x:65534:65534:nobody:/:/kobune\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

impl ImageStore {
    /// Import an image whose only layer holds the program `exe` as `/kobune`, a minimal `/etc` and `/tmp`.
    pub fn import_program(
        &self,
        exe: &Path,
        reference: &str,
        config: ImageConfig,
    ) -> Result<Image> {
        let _importing = self.importing()?;
        let layout = self.scratch()?;
        let path = layout.path().join("layer.tar");
        write_layer(exe, &path).map_err(Error::io("write", &path))?;
        let layer = File::open(&path).map_err(Error::io("open", &path))?;
        let diff_id =
            digest::HashingReader::new(layer).finish().map_err(Error::io("read", path))?;
        let config = json!({
            "architecture": manifest::architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        });
        let list = json!([{
            "Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"],
        }]);
        for (name, value) in [("config.json", config), ("manifest.json", list)] {
            let path = layout.path().join(name);
            std::fs::write(&path, value.to_string()).map_err(Error::io("write", path))?;
        }
        let mut images = self.import(layout.path(), None)?;
        images.pop().ok_or_else(|| Error::NotFound(reference.to_owned()))
    }
}

fn write_layer(exe: &Path, to: &Path) -> io::Result<()> {
    let mut tar = Builder::new(File::create(to)?);
    for (name, mode) in [("etc/", 0o755), ("tmp/", 0o1777)] {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), name, io::empty())?;
    }
    for (name, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    let program = File::open(exe)?;
    let mut header = header(EntryType::Regular, 0o755, program.metadata()?.len());
    tar.append_data(&mut header, "kobune", program)?;
    tar.into_inner()?.sync_data()
}

/// Times are zero: the same program always makes the same image.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
