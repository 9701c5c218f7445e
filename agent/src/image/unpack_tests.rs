//! Layers made by hand, the hostile ones too.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::{Builder, Header};

use super::*;

/// A tar under construction; names are written raw, so that bad ones can be.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, "", 0o644, data)
    }

    fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", 0o750, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Link, name, target, 0o644, b"")
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn unpack(self, limits: Limits) -> (tempfile::TempDir, Result<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("fs");
        std::fs::create_dir(&target).unwrap();
        let result = layer(&self.done()[..], &target, limits);
        (dir, result)
    }

    fn good(self) -> (tempfile::TempDir, PathBuf) {
        let (dir, result) = self.unpack(Limits::default());
        result.unwrap();
        let root = dir.path().join("fs");
        (dir, root)
    }

    fn bad(self) -> (tempfile::TempDir, String) {
        let (dir, result) = self.unpack(Limits { bytes: 100, entries: 5 });
        let message = result.unwrap_err().to_string();
        (dir, message)
    }
}

/// Whiteouts of directories need a privileged attribute; unprivileged runs cannot have it.
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn files_directories_and_links_keep_what_they_were() {
    let (_dir, root) = Tar::new()
        .dir("./etc/")
        .file("./etc/hosts", b"127.0.0.1")
        .add(EntryType::Regular, "bin/su", "", 0o4755, b"x")
        .symlink("bin/sh", "/bin/su")
        .link("bin/sudo", "bin/su")
        .good();
    assert_eq!(std::fs::read(root.join("etc/hosts")).unwrap(), b"127.0.0.1");
    let etc = root.join("etc").metadata().unwrap();
    assert_eq!((etc.mode() & 0o7777, etc.mtime()), (0o750, 1_000_000_000));
    let su = root.join("bin/su").metadata().unwrap();
    assert_eq!((su.mode() & 0o7777, su.nlink()), (0o4755, 2));
    assert_eq!(std::fs::read_link(root.join("bin/sh")).unwrap(), Path::new("/bin/su"));
    assert_eq!(root.join("bin").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_link_to_a_directory_leads_within_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let inside = format!("{}/x", target.trim_start_matches('/'));
    let (_dir, root) = Tar::new().dir(target).symlink("out", target).file("out/x", b"1").good();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read(root.join(inside)).unwrap(), b"1");
}

#[test]
fn names_that_leave_are_refused() {
    for name in ["../evil", "a/../../evil", "a/.."] {
        let (dir, message) = Tar::new().file(name, b"").bad();
        assert!(message.contains("leaves its layer"), "{message}");
        assert!(!dir.path().join("evil").exists());
    }
    let (_dir, root) = Tar::new().file("/absolute", b"1").good();
    assert!(root.join("absolute").exists());
}

#[test]
fn links_that_leave_are_refused_or_stay_inside() {
    let (dir, _) = Tar::new().symlink("up", "../..").file("up/evil", b"").unpack(Limits::default());
    assert!(!dir.path().join("evil").exists());
    let (_dir, message) = Tar::new().link("a", "../secret").bad();
    assert!(message.contains("leaves"), "{message}");
    let (_dir, message) = Tar::new().link("passwd", "/etc/passwd").bad();
    assert!(message.contains("not in its layer"), "{message}");
    let (_dir, message) = Tar::new().symlink("e", "/etc").link("x", "e/passwd").bad();
    assert!(message.contains("not in its layer"), "{message}");
}

#[test]
fn a_file_does_not_become_a_directory() {
    let (_dir, message) = Tar::new().file("a", b"").file("a/b", b"").bad();
    assert!(message.contains("not a directory"), "{message}");
}

#[test]
fn later_entries_win() {
    let (_dir, root) = Tar::new()
        .file("a", b"old")
        .file("a", b"new")
        .file("d/x", b"")
        .file("d", b"file now")
        .symlink("s", "a")
        .file("s", b"not through the link")
        .good();
    assert_eq!(std::fs::read(root.join("a")).unwrap(), b"new");
    assert_eq!(std::fs::read(root.join("d")).unwrap(), b"file now");
    assert!(root.join("s").symlink_metadata().unwrap().is_file());
}

#[test]
fn devices_are_refused_outside_of_dev() {
    let (_dir, message) = Tar::new().add(EntryType::Block, "sda", "", 0o600, b"").bad();
    assert!(message.contains("device node"), "{message}");
    let (_dir, root) = Tar::new().add(EntryType::Char, "dev/null", "", 0o666, b"").good();
    assert!(!root.join("dev/null").exists());
}

#[test]
fn bounds_hold() {
    let (_dir, message) = Tar::new().file("a", &[0; 60]).file("b", &[0; 41]).bad();
    assert!(message.contains("more than 100 bytes"), "{message}");
    let mut tar = Tar::new();
    for i in 0..6 {
        tar = tar.dir(&format!("d{i}"));
    }
    let (_dir, message) = tar.bad();
    assert!(message.contains("more than 5 entries"), "{message}");
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    if !root() {
        return;
    }
    let (_dir, root) = Tar::new()
        .file("etc/.wh.gone", b"")
        .file("var/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"")
        .file(".wh.again", b"")
        .dir("again")
        .good();
    let gone = root.join("etc/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    let opaque = |name: &str| {
        let mut value = [0; 1];
        rustix::fs::lgetxattr(root.join(name), "trusted.overlay.opaque", &mut value[..]).is_ok()
    };
    assert!(opaque("var") && opaque("again") && !opaque("etc"));
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 3);
    let (_dir, message) = Tar::new().file(".wh...", b"").bad();
    assert!(message.contains("not a whiteout"), "{message}");
}

#[test]
fn dangerous_attributes_are_left_out() {
    let mut tar = Tar::new();
    tar.0
        .append_pax_extensions([
            ("SCHILY.xattr.user.good", &b"1"[..]),
            ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..]),
        ])
        .unwrap();
    let (_dir, root) = tar.dir("d").good();
    let names = |path: &Path| {
        let mut buf = vec![0; 4096];
        let n = rustix::fs::llistxattr(path, &mut buf[..]).unwrap();
        String::from_utf8_lossy(&buf[..n]).into_owned()
    };
    let names = names(&root.join("d"));
    assert!(names.contains("user.good") && !names.contains("redirect"), "{names}");
}

#[test]
fn a_truncated_layer_is_an_error() {
    let tar = Tar::new().file("a", &[7; 5000]).done();
    let dir = tempfile::tempdir().unwrap();
    assert!(layer(&tar[..2000], dir.path(), Limits::default()).is_err());
}
