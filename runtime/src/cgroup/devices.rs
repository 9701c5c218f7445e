//! Which devices a cgroup's processes may use: the rules of config.json compiled to a program that the kernel asks.
//!
//! Everything is denied but what a rule allows; the last rule that fits wins. After the rules of config.json
//! come those that every container needs, so that a list that begins with "deny all" leaves a working /dev. Making
//! nodes is always allowed, since it is their use that counts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::ResourceError;
use crate::sys::bpf::{self, Instruction};

const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// One rule; `None` fits everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn fits_everything(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, ALL)
    }
}

const fn usable(major: i32, minor: Option<i32>) -> Rule {
    Rule { allow: true, kind: Some(CHARACTER), major: Some(major), minor, access: ALL }
}

const fn makable(kind: i32) -> Rule {
    Rule { allow: true, kind: Some(kind), major: None, minor: None, access: MKNOD }
}

/// null, zero, full, random, urandom, tty, console, ptmx, ptys; and net/tun, which runc and crun allow always.
const DEFAULTS: [Rule; 12] = [
    makable(CHARACTER),
    makable(BLOCK),
    usable(1, Some(3)),
    usable(1, Some(5)),
    usable(1, Some(7)),
    usable(1, Some(8)),
    usable(1, Some(9)),
    usable(5, Some(0)),
    usable(5, Some(1)),
    usable(5, Some(2)),
    usable(136, None),
    usable(10, Some(200)),
];

/// Restricts the cgroup. Without rules only the defaults may be used. What restricted it before (it may be
/// an `old` one) does so no longer.
pub(super) fn restrict(
    cgroup: &Path,
    rules: Option<&[LinuxDeviceCgroup]>,
    old: bool,
) -> Result<(), super::CgroupError> {
    let rules = parse(rules.unwrap_or_default())?;
    let restricted = File::open(cgroup).and_then(|cgroup| replace(cgroup.as_fd(), &rules, old));
    restricted.map_err(|error| super::CgroupError::Devices { path: cgroup.to_owned(), error })
}

fn replace(cgroup: BorrowedFd<'_>, rules: &[Rule], old: bool) -> io::Result<()> {
    // First: a kernel that has no such programs has none attached.
    let before = if old { bpf::device_programs(cgroup).unwrap_or_default() } else { Vec::new() };
    if !allows_everything(rules) {
        bpf::attach_device_program(cgroup, load(rules)?.as_fd())?;
    }
    // Last: at no time is there no rule.
    before.iter().try_for_each(|program| bpf::detach_device_program(cgroup, program.as_fd()))
}

fn load(rules: &[Rule]) -> io::Result<OwnedFd> {
    bpf::load_device_program(&compile(rules))
}

fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, ResourceError> {
    let own = rules.iter().enumerate().map(|(index, rule)| {
        let invalid = |name: &str, why| ResourceError::new(format!("devices[{index}].{name}"), why);
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
            LinuxDeviceType::P => return Err(invalid("type", "must be a, b or c")),
        };
        let number = |value: Option<i64>, name| match value {
            // -1 stands for all in configs of other tools.
            None | Some(-1) => Ok(None),
            Some(value) => {
                i32::try_from(value).map(Some).map_err(|_| invalid(name, "out of range"))
            }
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(invalid("access", "must be of the letters rwm")),
            };
        }
        let (major, minor) = (number(rule.major(), "major")?, number(rule.minor(), "minor")?);
        Ok(Rule { allow: rule.allow(), kind, major, minor, access })
    });
    own.chain(DEFAULTS.map(Ok)).try_fold(Vec::new(), |mut list, rule| {
        add(&mut list, rule?);
        Ok(list)
    })
}

/// Allowing to read and then to write the same devices is allowing both at once.
fn add(rules: &mut Vec<Rule>, mut rule: Rule) {
    let same = |other: &Rule| {
        (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor)
    };
    let allowed = rules.iter().rev().take_while(|other| rule.allow && other.allow);
    let before = allowed.filter(|other| same(other)).fold(0, |access, other| access | other.access);
    rule.access |= before;
    rules.push(rule);
}

/// No deny after an "allow all": a privileged container needs no program.
fn allows_everything(rules: &[Rule]) -> bool {
    match rules.iter().rposition(|rule| rule.allow && rule.fits_everything()) {
        Some(at) => rules[at..].iter().all(|rule| rule.allow),
        None => false,
    }
}

// Registers: the context on entry, then what is asked for.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;
const RESULT: u8 = 0;

// Operation codes (linux/bpf.h): 32-bit arithmetic, 32-bit comparison, load, exit.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb4;
const UNLESS_EQUAL: u8 = 0x56;
const UNLESS_EQUAL_REGISTER: u8 = 0x5e;
const IF_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// The last rule is asked first.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(rule));
        if rule.fits_everything() {
            // The kernel refuses programs with instructions that cannot be reached.
            return program;
        }
    }
    program.push(instruction(MOVE_VALUE, RESULT, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

fn compile_rule(rule: &Rule) -> Vec<Instruction> {
    let mut block = Vec::new();
    // Offsets of jumps are filled with the distance to the next rule below.
    for (register, wanted) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(value) = wanted {
            block.push(instruction(UNLESS_EQUAL, register, 0, 0, value));
        }
    }
    if rule.access != ALL {
        block.push(instruction(MOVE, SCRATCH, ACCESS, 0, 0));
        block.push(instruction(AND, SCRATCH, 0, 0, rule.access));
        // An allowing rule must cover all that is asked for; a denying one, any part of it.
        block.push(match rule.allow {
            true => instruction(UNLESS_EQUAL_REGISTER, SCRATCH, ACCESS, 0, 0),
            false => instruction(IF_EQUAL, SCRATCH, 0, 0, 0),
        });
    }
    block.push(instruction(MOVE_VALUE, RESULT, 0, 0, rule.allow.into()));
    block.push(instruction(EXIT, 0, 0, 0, 0));
    let length = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if matches!(instruction.code, UNLESS_EQUAL | UNLESS_EQUAL_REGISTER | IF_EQUAL) {
            // A rule has nine instructions at most.
            instruction.offset = (length - at - 1) as i16;
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Runs the program as the kernel would.
    fn ask(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0i32; 11];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    registers[to] = context[i.offset as usize / 4];
                    false
                }
                AND => {
                    registers[to] &= i.immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] = (registers[to] as u32 >> i.immediate) as i32;
                    false
                }
                MOVE => {
                    registers[to] = registers[from];
                    false
                }
                MOVE_VALUE => {
                    registers[to] = i.immediate;
                    false
                }
                UNLESS_EQUAL => registers[to] != i.immediate,
                UNLESS_EQUAL_REGISTER => registers[to] != registers[from],
                IF_EQUAL => registers[to] == i.immediate,
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            };
            if jump {
                at += i.offset as usize;
            }
        }
    }

    fn program(rules: Value) -> Vec<Instruction> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        compile(&parse(&rules).unwrap())
    }

    #[test]
    fn the_defaults_are_usable_and_nothing_else() {
        for rules in [json!([]), json!([{"allow": false, "access": "rwm"}])] {
            let program = program(rules);
            assert!(ask(&program, CHARACTER, READ | WRITE, 1, 3));
            assert!(ask(&program, CHARACTER, READ | WRITE, 136, 17));
            assert!(ask(&program, BLOCK, MKNOD, 8, 0));
            assert!(!ask(&program, BLOCK, READ, 8, 0));
            assert!(!ask(&program, BLOCK, READ | MKNOD, 8, 0));
            assert!(!ask(&program, CHARACTER, READ, 1, 1));
        }
    }

    #[test]
    fn every_instruction_can_be_reached() {
        let rules = json!([
            {"allow": true, "type": "b", "access": "r"}, {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "access": "rw"},
        ]);
        let program = program(rules);
        let exits = program.iter().filter(|i| i.code == EXIT).count();
        // The defaults, the last rule, and the one that ends it.
        assert_eq!(exits, DEFAULTS.len() + 2);
    }

    #[test]
    fn the_last_fitting_rule_wins() {
        let program = program(json!([
            {"allow": true, "type": "b", "major": 8, "access": "rw"},
            {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]));
        assert!(ask(&program, BLOCK, READ | WRITE, 8, 0));
        assert!(ask(&program, BLOCK, READ, 8, 1));
        assert!(!ask(&program, BLOCK, READ | WRITE, 8, 1));
        assert!(ask(&program, CHARACTER, READ, 10, 229));
        assert!(!ask(&program, CHARACTER, READ, 10, 201));
        assert!(!ask(&program, BLOCK, READ, 10, 229));
    }

    #[test]
    fn access_adds_up() {
        let program = program(json!([
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "access": "r"},
            {"allow": false, "type": "b", "major": 8, "access": "r"},
            {"allow": true, "type": "b", "major": 8, "access": "w"},
        ]));
        assert!(ask(&program, CHARACTER, READ | WRITE, 10, 229));
        assert!(!ask(&program, CHARACTER, READ | WRITE | MKNOD, 10, 229));
        assert!(!ask(&program, BLOCK, READ | WRITE, 8, 0));
        assert!(ask(&program, BLOCK, WRITE, 8, 0));
    }

    #[test]
    fn privileged_means_no_program() {
        let rules =
            |value: Value| parse(&serde_json::from_value::<Vec<_>>(value).unwrap()).unwrap();
        assert!(allows_everything(&rules(json!([{"allow": true, "access": "rwm"}]))));
        assert!(!allows_everything(&rules(json!([]))));
        assert!(!allows_everything(&rules(json!([
            {"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"},
        ]))));
    }

    #[test]
    fn a_wrong_rule_is_named() {
        let rules: Vec<LinuxDeviceCgroup> =
            serde_json::from_value(json!([{"allow": true, "access": "rx"}])).unwrap();
        let error = parse(&rules).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.devices[0].access: "), "{error}");
    }
}
