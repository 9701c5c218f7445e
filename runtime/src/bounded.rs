//! Reading a file that somebody else wrote: only a regular one, and only up to an agreed size. A fifo, a terminal or
//! `/dev/zero` behind the name is an error, neither a wait nor an end of memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Without O_NONBLOCK the open of a fifo waits for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(limit) as usize);
    // It may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a file of /proc or of a cgroup, mostly in one call: such files have no size to ask for.
pub(crate) fn read_virtual(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..])? {
            0 => break,
            more => length += more,
        }
        // A short answer is the whole of it; a full page may have a next one.
        if length < bytes.len() / 2 {
            break;
        }
        bytes.resize(2 * bytes.len(), 0);
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, [b'x'; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap().len(), 100);
        assert_eq!(read(&path, 99).unwrap_err().to_string(), "larger than 99 bytes");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let zero = directory.path().join("zero");
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        for path in [&fifo, &zero] {
            assert_eq!(read(path, 10).unwrap_err().to_string(), "not a regular file", "{path:?}");
        }
        assert!(read(directory.path(), 10).is_err());
    }

    #[test]
    fn virtual_files_are_read_whole() {
        let status = read_virtual(Path::new("/proc/self/status")).unwrap();
        assert!(status.starts_with("Name:") && status.contains("\nSeccomp:"), "{status}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        for length in [0, 1, 2047, 2048, 4096, 4097, 50_000] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            assert_eq!(read_virtual(&path).unwrap().len(), length);
        }
    }
}
