//! Who holds which address, on disk. Safe under concurrent processes and death at any point.
//! Decides nothing: `ipam` says which address to try.
//!
//! ```text
//! <state>/leases/<address>   the owner's uid; appears complete or not at all, never overwritten
//! <state>/pods/<uid>         {"address", "netns"}: what to look at when the uid comes again
//! <state>/last               the address given last
//! ```
//! The Pod's record is written before its lease. Death between the two leaves a record that points
//! to an address which is free or somebody else's; the lease's content tells, so nothing leaks and
//! nothing is given twice.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{Error, ipam};

/// What is remembered of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) address: Ipv4Addr,
    pub(crate) netns: String,
}

#[derive(Debug)]
pub(crate) struct Leases {
    state: PathBuf,
}

impl Leases {
    pub(crate) fn new(state_dir: &Path) -> Leases {
        Leases { state: state_dir.to_owned() }
    }

    /// The address of Pod `uid`: the one it has, or else a new one (then the flag is true).
    pub(crate) fn acquire(
        &self,
        range: Ipv4Net,
        uid: &str,
        netns: &str,
    ) -> Result<(Ipv4Addr, bool), Error> {
        check_uid(uid)?;
        if ipam::usable(range).is_none() {
            return Err(Error::RangeTooSmall { range });
        }
        for directory in [self.leases(), self.pods()] {
            fs::create_dir_all(&directory).map_err(Error::file("create", directory))?;
        }
        if let Some(record) = self.find(uid)?
            && range.contains(&record.address)
            && self.holder(record.address)?.as_deref() == Some(uid)
        {
            return Ok((record.address, false));
        }
        loop {
            let taken = self.taken()?;
            let next = ipam::next(range, self.last(), |address| taken.contains(&address));
            let address = next.ok_or(Error::AddressesExhausted { range, used: taken.len() })?;
            let record = Record { address, netns: netns.to_owned() };
            let text = serde_json::to_string(&record).map_err(io::Error::from);
            let file = self.pods().join(uid);
            write_atomically(&file, &text.map_err(Error::file("encode", &file))?)?;
            if self.claim(address, uid)? {
                // A hint only: losing it costs nothing but early reuse.
                write_atomically(&self.state.join("last"), &address.to_string())?;
                return Ok((address, true));
            }
        }
    }

    /// Gives back what `uid` holds. Tolerates absence.
    pub(crate) fn release(&self, uid: &str) -> Result<(), Error> {
        check_uid(uid)?;
        if let Some(record) = self.find(uid)?
            && self.holder(record.address)?.as_deref() == Some(uid)
        {
            remove_file(&self.leases().join(record.address.to_string()))?;
        }
        remove_file(&self.pods().join(uid))
    }

    pub(crate) fn find(&self, uid: &str) -> Result<Option<Record>, Error> {
        let file = self.pods().join(uid);
        match fs::read_to_string(&file) {
            // A record that cannot be read is as good as none: the lease is what counts.
            Ok(text) => Ok(serde_json::from_str(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", file)(error)),
        }
    }

    /// All Pods that have a record: uid and record.
    pub(crate) fn all(&self) -> Result<Vec<(String, Record)>, Error> {
        let mut all = Vec::new();
        for uid in names(&self.pods())? {
            if let Some(record) = self.find(&uid)? {
                all.push((uid, record));
            }
        }
        Ok(all)
    }

    fn taken(&self) -> Result<std::collections::BTreeSet<Ipv4Addr>, Error> {
        Ok(names(&self.leases())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn last(&self) -> Option<Ipv4Addr> {
        fs::read_to_string(self.state.join("last")).ok()?.trim().parse().ok()
    }

    fn holder(&self, address: Ipv4Addr) -> Result<Option<String>, Error> {
        let file = self.leases().join(address.to_string());
        match fs::read_to_string(&file) {
            Ok(uid) => Ok(Some(uid)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", file)(error)),
        }
    }

    /// Takes `address` for `uid` unless somebody has it: a link to a complete file either appears
    /// or fails, which plain exclusive creation followed by a write does not give.
    fn claim(&self, address: Ipv4Addr, uid: &str) -> Result<bool, Error> {
        let file = self.leases().join(address.to_string());
        let temporary = temporary_name(&file);
        fs::write(&temporary, uid).map_err(Error::file("write", &temporary))?;
        let linked = fs::hard_link(&temporary, &file);
        remove_file(&temporary)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::file("create", file)(error)),
        }
    }

    fn leases(&self) -> PathBuf {
        self.state.join("leases")
    }

    fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }
}

/// Writes a file so that readers see all of it or none.
pub(crate) fn write_atomically(file: &Path, text: &str) -> Result<(), Error> {
    let temporary = temporary_name(file);
    fs::write(&temporary, text).map_err(Error::file("write", &temporary))?;
    fs::rename(&temporary, file).map_err(Error::file("replace", file))
}

/// Removes a file. Tolerates absence.
pub(crate) fn remove_file(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", file)(error))
        }
        _ => Ok(()),
    }
}

/// A name beside `file` that no other thread or process uses. Neither an address nor a uid starts
/// with a dot.
fn temporary_name(file: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    file.with_file_name(format!(".{}-{unique}", std::process::id()))
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("read", directory))?;
        names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
    }
    Ok(names)
}

fn check_uid(uid: &str) -> Result<(), Error> {
    let problem = if uid.is_empty() || uid.starts_with('.') {
        "is not a file name"
    } else if uid.contains(['/', '\0']) {
        "must not contain a slash"
    } else if uid.len() > 255 {
        "is longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(Error::BadName { what: "pod uid", value: uid.into(), problem })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn range() -> Ipv4Net {
        "10.9.8.0/24".parse().unwrap()
    }

    #[test]
    fn an_address_is_kept_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path());
        let (first, fresh) = leases.acquire(range(), "uid-1", "web").unwrap();
        assert!(fresh);
        assert_eq!(leases.acquire(range(), "uid-1", "web").unwrap(), (first, false));
        let (second, _) = leases.acquire(range(), "uid-2", "db").unwrap();
        assert_ne!(first, second);
        leases.release("uid-1").unwrap();
        leases.release("uid-1").unwrap();
        assert_eq!(leases.all().unwrap().len(), 1);
        let (third, _) = leases.acquire(range(), "uid-3", "x").unwrap();
        assert!(third != first && third != second, "a released address is not used at once");
    }

    #[test]
    fn a_record_without_its_lease_neither_leaks_nor_steals() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path());
        let (address, _) = leases.acquire(range(), "uid-1", "web").unwrap();
        // As if uid-2 had died between record and lease, with the same candidate.
        let record = serde_json::to_string(&Record { address, netns: "db".into() }).unwrap();
        fs::write(dir.path().join("pods/uid-2"), record).unwrap();
        let (other, fresh) = leases.acquire(range(), "uid-2", "db").unwrap();
        assert!(fresh && other != address);
        fs::write(dir.path().join("pods/uid-3"), "{").unwrap();
        leases.release("uid-3").unwrap();
        assert_eq!(leases.holder(address).unwrap().as_deref(), Some("uid-1"));
    }

    #[test]
    fn threads_never_share_an_address_and_a_full_range_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let range: Ipv4Net = "10.9.8.0/26".parse().unwrap();
        let (first, end) = ipam::usable(range).unwrap();
        let room = (end - first + 1) as usize;
        let given: Vec<Ipv4Addr> = std::thread::scope(|scope| {
            let worker = |n: usize| {
                let leases = Leases::new(dir.path());
                move || {
                    (n..room)
                        .step_by(8)
                        .map(|i| leases.acquire(range, &format!("uid-{i}"), "x").unwrap().0)
                        .collect::<Vec<_>>()
                }
            };
            let handles: Vec<_> = (0..8).map(|n| scope.spawn(worker(n))).collect();
            handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
        });
        assert_eq!(given.len(), room);
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), room);
        let error = Leases::new(dir.path()).acquire(range, "one-more", "x").unwrap_err();
        assert!(matches!(error, Error::AddressesExhausted { used, .. } if used == room));
    }

    #[test]
    fn uids_cannot_leave_the_directory() {
        let leases = Leases::new(Path::new("/nowhere"));
        for bad in ["", "..", "../x", "a/b", ".hidden"] {
            assert!(matches!(leases.acquire(range(), bad, "x"), Err(Error::BadName { .. })));
            assert!(matches!(leases.release(bad), Err(Error::BadName { .. })));
        }
    }
}
