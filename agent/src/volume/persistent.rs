//! Directories behind claims: made or looked for, and lent to a Pod by a link in its run directory. The end of a Pod
//! removes the link only, and nothing here removes what is behind it.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::claim::Backing;
use super::{VolumeError, host, io as failed, owner};

/// How the Pod's group comes to own a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub id: u32,
    /// fsGroupChangePolicy OnRootMismatch.
    pub unless_root_fits: bool,
}

/// Makes what is to be made and lends it to the Pod as `link`. `group` is None also where nothing may be written.
pub fn lend(
    volume: &str,
    backing: &Backing,
    group: Option<Group>,
    link: &Path,
) -> Result<(), VolumeError> {
    let path = match backing {
        // Shared with the host: its owners are not for a Pod to change.
        Backing::HostPath { path, kind } => {
            host::prepare(volume, path, kind)?;
            path
        }
        Backing::Local { path } => {
            host::prepare(volume, path, "Directory")?;
            own(path, group)?;
            path
        }
        Backing::Provisioned { path } => {
            make(path)?;
            own(path, group)?;
            path
        }
    };
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent).map_err(failed("make directory", parent))?;
    }
    match symlink(path, link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make link", link)(error))
        }
        _ => Ok(()),
    }
}

fn own(path: &Path, group: Option<Group>) -> Result<(), VolumeError> {
    group.map_or(Ok(()), |group| owner::give(path, group.id, group.unless_root_fits))
}

/// A new directory is for every user, as those of an emptyDir; one that is there stays as its Pods have made it.
fn make(path: &Path) -> Result<(), VolumeError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("make directory", parent))?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o777))
            .map_err(failed("change the mode of", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => only_directory(path),
        Err(error) => Err(failed("make directory", path)(error)),
    }
}

/// Not a link that leads elsewhere.
fn only_directory(path: &Path) -> Result<(), VolumeError> {
    let meta = path.symlink_metadata().map_err(failed("look at", path))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(failed("use", path)(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")))
}

#[cfg(test)]
mod tests {
    use super::super::mount;
    use super::*;

    #[test]
    fn a_directory_is_made_and_outlives_its_pod() {
        let root = tempfile::tempdir().unwrap();
        let (path, link) = (root.path().join("root/pvc-1_ns_c"), root.path().join("run/claims/v"));
        let backing = Backing::Provisioned { path: path.clone() };
        lend("v", &backing, None, &link).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::write(link.join("file"), "kept").unwrap();
        lend("v", &backing, None, &link).unwrap();
        // The end of the Pod.
        assert!(mount::remove_tree(&root.path().join("run")).is_empty());
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (path, other) = (root.path().join("pvc-1_ns_c"), root.path().join("other"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "").unwrap();
        symlink(&other, &path).unwrap();
        let backing = Backing::Provisioned { path: path.clone() };
        let refused = lend("v", &backing, None, &root.path().join("link")).unwrap_err();
        assert!(refused.to_string().contains("not a directory"), "{refused}");
        assert!(!root.path().join("link").exists());
        assert!(other.join("file").exists());
    }

    #[test]
    fn a_local_volume_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        let (path, link) = (root.path().join("disk"), root.path().join("link"));
        let backing = Backing::Local { path: path.clone() };
        let refused = lend("v", &backing, None, &link).unwrap_err();
        assert!(refused.to_string().contains("is not a directory"), "{refused}");
        assert!(!link.exists());
        fs::create_dir(&path).unwrap();
        lend("v", &backing, None, &link).unwrap();
        assert!(link.exists());
    }
}
