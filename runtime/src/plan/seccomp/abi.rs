//! The system call interfaces that a machine may offer, and their numbers. Pure.

use oci_spec::runtime::Arch;

/// One way to call the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
    /// That of a machine with no other.
    Native,
}

/// The architectures that a profile may list; those of other machines mean nothing on this one.
pub(super) const LISTED: [Arch; 5] = [
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchX32,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
];

/// Set in the number of every call of x32, which has the audit number of x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// x32's own numbers where its structures differ from x86_64's (arch/x86/entry/syscalls/syscall_64.tbl), from 512 on.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// Numbers of x86_64 that are not x32's: gone there, or replaced by [`X32_OWN`].
const NOT_X32: [u16; 47] = [
    13, 15, 16, 19, 20, 45, 46, 47, 54, 55, 59, 101, 127, 128, 129, 131, 134, 156, 174, 177, 178,
    180, 205, 206, 209, 211, 214, 215, 222, 236, 244, 246, 247, 273, 274, 278, 279, 295, 296, 297,
    299, 307, 310, 311, 322, 327, 328,
];

/// Calls that only 32-bit ARM has (arch/arm/include/uapi/asm/unistd.h).
const ARM_OWN: [(&str, u32); 5] = [
    ("breakpoint", 0xf0001),
    ("cacheflush", 0xf0002),
    ("usr26", 0xf0003),
    ("usr32", 0xf0004),
    ("set_tls", 0xf0005),
];

/// i386 has these behind socketcall(2), too: in the order of their numbers, from 1 on.
const SOCKETCALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// The same for ipc(2).
const IPC_CALLS: [(&str, u32); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

impl Abi {
    /// All that programs on this machine can use; its own comes first.
    pub(super) fn of_machine() -> &'static [Abi] {
        if cfg!(target_arch = "x86_64") {
            &[Abi::X86_64, Abi::X32, Abi::X86]
        } else if cfg!(target_arch = "aarch64") {
            &[Abi::Aarch64, Abi::Arm]
        } else {
            &[Abi::Native]
        }
    }

    /// `None` for one that no program on this machine can use: a filter has nothing to say about it.
    pub(super) fn of(arch: Arch, machine: &[Abi]) -> Option<Abi> {
        let abi = match arch {
            Arch::ScmpArchNative => machine[0],
            Arch::ScmpArchX86_64 => Abi::X86_64,
            Arch::ScmpArchX32 => Abi::X32,
            Arch::ScmpArchX86 => Abi::X86,
            Arch::ScmpArchAarch64 => Abi::Aarch64,
            Arch::ScmpArchArm => Abi::Arm,
            Arch::ScmpArchRiscv64 if cfg!(target_arch = "riscv64") => Abi::Native,
            Arch::ScmpArchPpc64le if cfg!(target_arch = "powerpc64") => Abi::Native,
            Arch::ScmpArchS390x if cfg!(target_arch = "s390x") => Abi::Native,
            Arch::ScmpArchLoongarch64 if cfg!(target_arch = "loongarch64") => Abi::Native,
            _ => return None,
        };
        machine.contains(&abi).then_some(abi)
    }

    /// AUDIT_ARCH_* (linux/audit.h): the machine's number in ELF, 64 bits, little endian.
    pub(super) fn audit(self) -> u32 {
        const BITS_64: u32 = 0x8000_0000;
        const LITTLE: u32 = 0x4000_0000;
        match self {
            Abi::X86_64 | Abi::X32 => 62 | BITS_64 | LITTLE,
            Abi::X86 => 3 | LITTLE,
            Abi::Aarch64 => 183 | BITS_64 | LITTLE,
            Abi::Arm => 40 | LITTLE,
            Abi::Native if cfg!(target_arch = "riscv64") => 243 | BITS_64 | LITTLE,
            Abi::Native if cfg!(target_arch = "powerpc64") => 21 | BITS_64 | LITTLE,
            Abi::Native if cfg!(target_arch = "loongarch64") => 258 | BITS_64 | LITTLE,
            Abi::Native if cfg!(target_arch = "s390x") => 22 | BITS_64,
            Abi::Native => 0,
        }
    }

    /// Whether arguments have 64 bits.
    pub(super) fn is_wide(self) -> bool {
        !matches!(self, Abi::X32 | Abi::X86 | Abi::Arm)
    }

    /// Every call, by number upwards.
    pub(super) fn for_each_call(self, mut see: impl FnMut(&'static str, u32)) {
        match self {
            Abi::X86_64 => {
                syscalls::x86_64::Sysno::iter().for_each(|c| see(c.name(), c.id() as u32))
            }
            Abi::X86 => syscalls::x86::Sysno::iter().for_each(|c| see(c.name(), c.id() as u32)),
            Abi::Aarch64 => {
                syscalls::aarch64::Sysno::iter().for_each(|c| see(c.name(), c.id() as u32));
            }
            Abi::Arm => {
                syscalls::arm::Sysno::iter().for_each(|c| see(c.name(), c.id() as u32));
                ARM_OWN.iter().for_each(|(name, number)| see(name, *number));
            }
            Abi::X32 => {
                let calls = syscalls::x86_64::Sysno::iter();
                let shared = calls.filter(|call| !NOT_X32.contains(&(call.id() as u16)));
                shared.for_each(|call| see(call.name(), call.id() as u32 | X32_BIT));
                (X32_BIT | 512..).zip(X32_OWN).for_each(|(number, name)| see(name, number));
            }
            Abi::Native => syscalls::Sysno::iter().for_each(|c| see(c.name(), c.id() as u32)),
        }
    }

    /// Calls that can be made in another way, too: by one that stands for many, with this first argument.
    pub(super) fn multiplexed(self) -> impl Iterator<Item = (&'static str, &'static str, u32)> {
        let sockets = (1..).zip(SOCKETCALLS).map(|(number, name)| (name, "socketcall", number));
        let ipc = IPC_CALLS.into_iter().map(|(name, number)| (name, "ipc", number));
        sockets.chain(ipc).filter(move |_| self == Abi::X86)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_x32_replaces_is_not_listed_twice() {
        let mut names = std::collections::HashSet::new();
        Abi::X32.for_each_call(|name, number| {
            assert!(names.insert(name), "{name}");
            assert!(number & X32_BIT != 0);
        });
        assert!(X32_OWN.iter().all(|name| names.contains(name)));
    }

    #[test]
    fn calls_come_by_number() {
        for abi in [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm, Abi::Native] {
            let mut numbers = Vec::new();
            abi.for_each_call(|_, number| numbers.push(number));
            assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.len() > 300, "{abi:?}");
        }
    }
}
