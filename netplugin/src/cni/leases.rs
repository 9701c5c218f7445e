//! Which container has which address of a network, on disk, in the layout of the reference host-local plugin: one
//! file per address, whose lines are container and interface.
//!
//! Every change happens under a lock on the directory, which the kernel drops with its holder. A lease appears
//! complete or not at all.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::config::{Attachment, Range};
use crate::Error;
use crate::leases::{remove_file, write_atomically};

/// Remembers the address given last; the same name as the reference plugin's.
const LAST: &str = "last_reserved_ip.0";

#[derive(Debug)]
pub(crate) struct Leases {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Leases {
    /// Waits until nobody else changes them.
    pub(crate) fn lock(directory: &Path) -> Result<Leases, Error> {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
        let path = directory.join("lock");
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::file("lock", &path)(errno.into()))?;
        Ok(Leases { directory: directory.to_owned(), _lock: lock })
    }

    /// Every address that is taken, and by whom.
    pub(crate) fn all(&self) -> Result<Vec<(Ipv4Addr, Attachment)>, Error> {
        let io = |error| Error::file("read", &self.directory)(error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = self.directory.join(&name);
            let text = fs::read_to_string(&path).map_err(Error::file("read", path))?;
            let mut lines = text.lines().map(|line| line.trim().to_owned());
            let container = lines.next().unwrap_or_default();
            let ifname = lines.next().unwrap_or_default();
            all.push((address, Attachment { container, ifname }));
        }
        Ok(all)
    }

    /// A free address, or the one that is asked for; None if there is none.
    pub(crate) fn take(
        &self,
        range: &Range,
        asked: Option<Ipv4Addr>,
        who: &Attachment,
    ) -> Result<Option<Ipv4Addr>, Error> {
        let taken: Vec<Ipv4Addr> = self.all()?.into_iter().map(|(address, _)| address).collect();
        let free = |address: &Ipv4Addr| *address != range.gateway && !taken.contains(address);
        let found = match asked {
            Some(address) => Some(address).filter(free),
            None => self.candidates(range).find(free),
        };
        if let Some(address) = found {
            let text = format!("{}\r\n{}", who.container, who.ifname);
            write_atomically(&self.directory.join(address.to_string()), &text)?;
            write_atomically(&self.directory.join(LAST), &address.to_string())?;
        }
        Ok(found)
    }

    /// Round-robin: an address that was given back is used again as late as possible.
    fn candidates(&self, range: &Range) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, end) = (u32::from(range.first), u32::from(range.last));
        let last = fs::read_to_string(self.directory.join(LAST)).ok();
        let last = last.and_then(|text| text.trim().parse::<Ipv4Addr>().ok()).map(u32::from);
        let start = last.filter(|last| (first..end).contains(last)).map_or(first, |last| last + 1);
        (start..=end).chain(first..start).map(Ipv4Addr::from)
    }

    pub(crate) fn release(&self, address: Ipv4Addr) -> Result<(), Error> {
        remove_file(&self.directory.join(address.to_string()))
    }
}

/// Whether there are leases at all; does not make the directory.
pub(crate) fn exist(directory: &Path) -> Result<bool, Error> {
    match fs::metadata(directory) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("look at", directory)(error)),
    }
}
