//! The container's program: found, executed, and, when that fails, an answer to what is wrong with it.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};

use super::message::Failure;
use crate::plan::ProcessPlan;
use crate::sys::process as sys;

/// Searched when the process has no PATH.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes the program; the answer is why not.
pub(super) fn execute(plan: &ProcessPlan, env: &[CString]) -> Failure {
    // A filter may forbid to look; then `find` has looked before it came.
    let look = plan.confinement.seccomp.is_none();
    let attempt = |path: &CStr| {
        if look {
            refuse_ourselves(path)?;
        }
        execve(path, &plan.args, env).map(|never| match never {})
    };
    match search(plan, attempt) {
        Err(failure) => failure,
        // Nothing returns from a success.
        Ok(()) => sys::exit_now(128),
    }
}

/// Why the program could not be executed, as far as that can be told without trying.
pub(super) fn find(plan: &ProcessPlan) -> Result<(), Failure> {
    search(plan, |path| access(path, AccessFlags::X_OK).and_then(|()| refuse_ourselves(path)))
}

/// See `shield`: the same that the kernel says of a program that is being written to.
fn refuse_ourselves(path: &CStr) -> Result<(), Errno> {
    if crate::shield::is_own_program(path) { Err(Errno::ETXTBSY) } else { Ok(()) }
}

/// Tries the program where execvp(3) would: the first that succeeds ends the search.
fn search(
    plan: &ProcessPlan,
    mut attempt: impl FnMut(&CStr) -> Result<(), Errno>,
) -> Result<(), Failure> {
    let name = plan.args[0].as_c_str();
    let shown = name.to_string_lossy();
    if shown.contains('/') {
        return attempt(name).map_err(|errno| failure(name, errno));
    }
    let mut refused = None;
    for directory in plan.search.as_deref().unwrap_or(DEFAULT_PATH).split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let Ok(path) = CString::new(format!("{directory}/{shown}")) else { continue };
        match attempt(&path) {
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT) if !exists(&path) => {}
            Err(Errno::ENOTDIR) => {}
            // As a shell does: a later directory may have one that can be executed.
            Err(Errno::EACCES) => refused = refused.or(Some(path)),
            Err(errno) => return Err(failure(&path, errno)),
        }
    }
    Err(refused.map_or_else(|| not_found(&shown), |path| failure(&path, Errno::EACCES)))
}

fn exists(path: &CStr) -> bool {
    nix::sys::stat::stat(path).is_ok()
}

pub(super) fn not_found(name: &str) -> Failure {
    let message = format!("exec {name:?}: executable file not found in $PATH");
    Failure { exit_code: 127, message }
}

fn failure(path: &CStr, errno: Errno) -> Failure {
    program_failure(&path.to_string_lossy(), errno, diagnose(path, errno))
}

pub(super) fn program_failure(name: &str, errno: Errno, hint: Option<String>) -> Failure {
    let reason = sys::reason(&errno.into());
    let hint = hint.map(|text| format!(" ({text})")).unwrap_or_default();
    let exit_code = if matches!(errno, Errno::ENOENT | Errno::ENOTDIR) { 127 } else { 126 };
    let message = format!("exec {name:?}: {reason}{hint}");
    Failure { exit_code, message }
}

/// What the kernel's error number leaves open.
fn diagnose(path: &CStr, errno: Errno) -> Option<String> {
    let path = OsStr::from_bytes(path.to_bytes());
    let metadata = std::fs::metadata(path).ok()?;
    match errno {
        Errno::EACCES if metadata.is_dir() => Some("it is a directory".into()),
        Errno::EACCES if metadata.permissions().mode() & 0o111 == 0 => {
            Some("it is not executable".into())
        }
        Errno::ENOENT | Errno::ENOEXEC | Errno::ELIBBAD | Errno::EACCES => {
            let mut file = File::open(path).ok().filter(|_| metadata.is_file())?;
            let mut head = Vec::new();
            Read::by_ref(&mut file).take(HEAD).read_to_end(&mut head).ok()?;
            explain(&head, &mut file)
        }
        _ => None,
    }
}

/// As much of a file as the kernel looks at for `#!`, and more than an ELF header.
const HEAD: u64 = 256;

/// What a program needs that is not there.
fn explain(head: &[u8], file: &mut (impl Read + Seek)) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let Some(name) = line.split_ascii_whitespace().next() else {
            return Some("its #! line names no interpreter".into());
        };
        return complaint("interpreter", name, line.ends_with('\r'));
    }
    let Some(elf) = Elf::of(head) else {
        return Some("it is neither an ELF program nor a script with a #! line".into());
    };
    if elf.machine != OWN_MACHINE && elf.is_ours() {
        return Some(format!(
            "it is a program for {}, this machine is {}",
            machine(elf.machine),
            std::env::consts::ARCH
        ));
    }
    complaint("loader", &elf.loader(file)?, false)
}

fn complaint(what: &str, name: &str, carriage_return: bool) -> Option<String> {
    let name =
        if carriage_return && !name.ends_with('\r') { format!("{name}\r") } else { name.into() };
    let hint = if carriage_return { ": the line ends with a carriage return" } else { "" };
    match std::fs::metadata(&name) {
        Err(_) => Some(format!("its {what} {name:?} does not exist{hint}")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            Some(format!("its {what} {name:?} is not executable"))
        }
        Ok(_) => None,
    }
}

/// The parts of an ELF header that matter here, for programs of our byte order.
struct Elf {
    wide: bool,
    little: bool,
    machine: u16,
    /// Where the program headers begin, how long each is, how many.
    table: (u64, u16, u16),
}

/// e_machine of this machine.
const OWN_MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else if cfg!(target_arch = "loongarch64") {
    258
} else {
    0
};

fn machine(number: u16) -> String {
    match number {
        3 => "x86".into(),
        8 => "mips".into(),
        20 => "powerpc".into(),
        21 => "powerpc64".into(),
        22 => "s390x".into(),
        40 => "arm".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        258 => "loongarch64".into(),
        other => format!("machine {other}"),
    }
}

impl Elf {
    fn of(head: &[u8]) -> Option<Elf> {
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let (wide, little) = (*head.get(4)? == 2, *head.get(5)? == 1);
        let short = |at: usize| {
            let bytes = [*head.get(at)?, *head.get(at + 1)?];
            Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
        };
        let table = if wide {
            (u64::from_le_bytes(head.get(32..40)?.try_into().ok()?), short(54)?, short(56)?)
        } else {
            (u32::from_le_bytes(head.get(28..32)?.try_into().ok()?).into(), short(42)?, short(44)?)
        };
        Some(Elf { wide, little, machine: short(18)?, table })
    }

    /// Whether the machine number tells something: 32-bit programs of the family may run.
    fn is_ours(&self) -> bool {
        let sibling = matches!((OWN_MACHINE, self.machine), (62, 3) | (183, 40));
        OWN_MACHINE != 0 && !sibling
    }

    /// PT_INTERP.
    fn loader(&self, file: &mut (impl Read + Seek)) -> Option<String> {
        let (from, length, count) = self.table;
        if !self.little {
            return None;
        }
        for index in 0..u64::from(count) {
            let mut header = [0u8; 56];
            let used = if self.wide { 56 } else { 32 };
            file.seek(SeekFrom::Start(from.checked_add(index * u64::from(length))?)).ok()?;
            file.read_exact(&mut header[..used]).ok()?;
            const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
            if header[..4] != PT_INTERP {
                continue;
            }
            let number = |at: usize, bytes: usize| {
                header[at..at + bytes]
                    .iter()
                    .rev()
                    .fold(0u64, |all, byte| all << 8 | u64::from(*byte))
            };
            let (at, size) = if self.wide {
                (number(8, 8), number(32, 8))
            } else {
                (number(4, 4), number(16, 4))
            };
            let mut name = vec![0; usize::try_from(size.min(4096)).ok()?];
            file.seek(SeekFrom::Start(at)).ok()?;
            file.read_exact(&mut name).ok()?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn told(head: &[u8]) -> Option<String> {
        explain(head, &mut Cursor::new(head.to_vec()))
    }

    #[test]
    fn what_a_script_lacks_is_named() {
        assert_eq!(
            told(b"#! /no/such -x\n"),
            Some("its interpreter \"/no/such\" does not exist".into())
        );
        assert_eq!(told(b"#!\n"), Some("its #! line names no interpreter".into()));
        assert!(told(b"#!/bin/sh\r\n").unwrap().contains("carriage return"));
        assert_eq!(told(b"#!/bin/sh\n"), None);
        assert!(told(b"hello").unwrap().contains("neither"));
        assert!(told(b"").unwrap().contains("neither"));
    }

    #[test]
    fn what_a_program_lacks_is_named() {
        let mut elf = vec![0u8; 200];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = OWN_MACHINE as u8;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 3;
        elf[64 + 8] = 130;
        elf[64 + 32] = 9;
        elf[130..139].copy_from_slice(b"/no/such\0");
        assert_eq!(told(&elf), Some("its loader \"/no/such\" does not exist".into()));
        elf[18] = if OWN_MACHINE == 183 { 62 } else { 183 };
        assert!(told(&elf).unwrap().contains("is a program for"), "{:?}", told(&elf));
        for length in 0..elf.len() {
            // Must not panic.
            let _ = told(&elf[..length]);
        }
    }
}
