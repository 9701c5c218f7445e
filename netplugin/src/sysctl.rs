//! Kernel switches of the calling thread's network namespace, and what they were before us.
//! Remembers on disk, so that a teardown by another process restores them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// Switches (under `/proc/sys`) that a host with Pods needs, and how; set in this order, restored
/// in the opposite one.
pub(crate) const HOST: [(&str, &str); 3] = [
    // The kernel changes this one together with the next, in both directions.
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/ip_forward", "1"),
    // Pods reach each other through the interface they came from, on purpose. Telling them of a
    // shorter way is wrong, and uses up the rate limit of the errors that they should hear of.
    // It takes this switch and the interface's own to stop it.
    ("net/ipv4/conf/all/send_redirects", "0"),
];

/// Sets a switch.
pub(crate) fn write(name: &str, value: &str) -> Result<(), Error> {
    let path = path(name);
    fs::write(&path, value).map_err(Error::file("write", path))
}

/// Sets a switch; the first time, the old value goes to a file in `saved`.
pub(crate) fn write_saving(saved: &Path, name: &str, value: &str) -> Result<(), Error> {
    let path = path(name);
    fs::create_dir_all(saved).map_err(Error::file("create", saved))?;
    let file = saved.join(file_name(name));
    if !file.exists() {
        let old = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        crate::leases::write_atomically(&file, old.trim())?;
    }
    fs::write(&path, value).map_err(Error::file("write", path))
}

/// Restores a switch that [`write_saving`] changed; does nothing if it changed nothing.
pub(crate) fn restore(saved: &Path, name: &str) -> Result<(), Error> {
    let file = saved.join(file_name(name));
    let old = match fs::read_to_string(&file) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("read", file)(error)),
    };
    write(name, &old)?;
    fs::remove_file(&file).map_err(Error::file("remove", file))
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn file_name(name: &str) -> String {
    name.replace('/', ".")
}
