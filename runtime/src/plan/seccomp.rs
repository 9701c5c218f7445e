//! `linux.seccomp` as one BPF program. Pure.
//!
//! What a profile means is what libseccomp and runc make of it:
//! * a rule whose action is the default one says nothing;
//! * for one call, the first rule without conditions decides, wherever it stands; without such a rule the first
//!   whose conditions all hold does;
//! * a rule with several conditions on one argument is one rule per condition (any of them may hold);
//! * names that an architecture does not have are passed over;
//! * calls of an architecture that is not listed kill the thread, the machine's own is always listed;
//! * where the default refuses, calls newer than every one that the profile names do not exist (ENOSYS), so that
//!   programs fall back to older ones; only in architectures that are listed by name.
//!
//! The program looks at the architecture, searches the number in a balanced tree of ranges with the same outcome,
//! and compares arguments only for calls that have conditions. The kernel evaluates it once for each number and
//! remembers which ones are allowed whatever their arguments are.

mod abi;
mod bpf;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Act, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::oci::ConfigError;
use crate::sys::seccomp::{self as kernel, Instruction};
use abi::Abi;
use bpf::{Label, Program, Test};

/// Ready to be loaded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seccomp {
    pub(crate) program: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_*
    pub(crate) flags: u32,
    /// Who decides about calls with SCMP_ACT_NOTIFY.
    pub(crate) listener: Option<Listener>,
    /// Loaded while the container is created: who listens is told of one that is "creating"
    /// (config-linux.md#containerprocessstate). Without a listener it comes as late as it can.
    pub(crate) before_start: bool,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Listener {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Option<String>,
}

const KILL_THREAD: u32 = 0;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const NO_SUCH_CALL: u32 = ERRNO | libc::ENOSYS as u32;

/// The calls of a process that waits for its start. A filter that refuses one of them cannot be loaded before.
const WAITING: [&str; 3] = ["accept4", "read", "close"];

/// Where `struct seccomp_data` has the number, the architecture and the arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Everything that a profile may ask for, and which flags this kernel takes, as `features` reports it.
pub(crate) fn features() -> serde_json::Value {
    let actions = [
        Act::ScmpActAllow,
        Act::ScmpActErrno,
        Act::ScmpActKill,
        Act::ScmpActKillProcess,
        Act::ScmpActKillThread,
        Act::ScmpActLog,
        Act::ScmpActNotify,
        Act::ScmpActTrace,
        Act::ScmpActTrap,
    ];
    let operators = [
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpMaskedEq,
        Operator::ScmpCmpNe,
    ];
    let flags = [
        (Flag::SeccompFilterFlagLog, kernel::FLAG_LOG),
        (Flag::SeccompFilterFlagSpecAllow, kernel::FLAG_SPEC_ALLOW),
        (Flag::SeccompFilterFlagTsync, kernel::FLAG_TSYNC),
        (
            Flag::SeccompFilterFlagWaitKillableRecv,
            kernel::FLAG_WAIT_KILLABLE_RECV | kernel::FLAG_NEW_LISTENER,
        ),
    ];
    let supported = flags.iter().filter(|(_, bits)| kernel::knows_flags(*bits));
    let known = |action: &&Act| kernel::knows_action(action.as_u32(Some(0)));
    serde_json::json!({
        "enabled": true,
        "actions": actions.iter().filter(known).collect::<Vec<_>>(),
        "operators": operators,
        "archs": abi::LISTED,
        "knownFlags": flags.map(|(flag, _)| flag),
        "supportedFlags": supported.map(|(flag, _)| flag).collect::<Vec<_>>(),
    })
}

/// Compiles the filter for this machine.
pub(crate) fn plan(seccomp: &LinuxSeccomp) -> Result<Seccomp, ConfigError> {
    compile(seccomp, Abi::of_machine())
}

fn compile(seccomp: &LinuxSeccomp, machine: &[Abi]) -> Result<Seccomp, ConfigError> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())
        .map_err(|why| ConfigError::field("linux.seccomp.defaultErrnoRet", why))?;
    if default == NOTIFY {
        let why = "SCMP_ACT_NOTIFY cannot be the default: nobody could pass the listener on";
        return Err(ConfigError::field("linux.seccomp.defaultAction", why));
    }
    let rules = Rules::of(seccomp.syscalls().as_deref().unwrap_or_default(), default)?;
    let mut writer = Writer { program: Program::default(), default, rules: &rules };
    let listed = seccomp.architectures().as_deref().unwrap_or_default();
    writer.architectures(machine, listed, refuses(seccomp));
    let program = writer.program.finish();
    if program.len() > bpf::MAX_INSTRUCTIONS {
        let why = format!("needs {} instructions, the kernel takes 4096", program.len());
        return Err(ConfigError::field("linux.seccomp.syscalls", why));
    }
    let notifies = rules.verdicts().any(|verdict| verdict == NOTIFY);
    let listener = listener(seccomp, notifies)?;
    let before_start = listener.is_some() && WAITING.iter().all(|name| rules.pass(name, default));
    Ok(Seccomp { program, flags: flags(seccomp, notifies), listener, before_start })
}

/// Whether calls that the profile does not know of are kept from programs.
fn refuses(seccomp: &LinuxSeccomp) -> bool {
    // Who traces or logs wants to see them.
    !matches!(seccomp.default_action(), Act::ScmpActAllow | Act::ScmpActLog | Act::ScmpActTrace)
}

fn listener(seccomp: &LinuxSeccomp, notifies: bool) -> Result<Option<Listener>, ConfigError> {
    let metadata = seccomp.listener_metadata().clone();
    match seccomp.listener_path().clone().filter(|path| !path.as_os_str().is_empty()) {
        None if metadata.as_ref().is_some_and(|text| !text.is_empty()) => {
            Err(ConfigError::field("linux.seccomp.listenerMetadata", "needs listenerPath"))
        }
        None if notifies => {
            Err(ConfigError::field("linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY needs it"))
        }
        Some(path) if notifies && !path.is_absolute() => {
            Err(ConfigError::field("linux.seccomp.listenerPath", "must be an absolute path"))
        }
        Some(path) if notifies => Ok(Some(Listener { path, metadata })),
        // Nothing is to be decided.
        _ => Ok(None),
    }
}

fn flags(seccomp: &LinuxSeccomp, notifies: bool) -> u32 {
    let Some(list) = seccomp.flags() else {
        // Who says nothing wants no slow-down: as runc.
        return kernel::FLAG_SPEC_ALLOW | if notifies { kernel::FLAG_NEW_LISTENER } else { 0 };
    };
    let mut flags = if notifies { kernel::FLAG_NEW_LISTENER } else { 0 };
    for flag in list {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => kernel::FLAG_LOG,
            // With a listener the kernel wants to be told how to tell a failure.
            Flag::SeccompFilterFlagTsync if notifies => {
                kernel::FLAG_TSYNC | kernel::FLAG_TSYNC_ESRCH
            }
            Flag::SeccompFilterFlagTsync => kernel::FLAG_TSYNC,
            Flag::SeccompFilterFlagSpecAllow => kernel::FLAG_SPEC_ALLOW,
            Flag::SeccompFilterFlagWaitKillableRecv if notifies => kernel::FLAG_WAIT_KILLABLE_RECV,
            // There is nobody to wait for.
            Flag::SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    flags
}

/// SECCOMP_RET_* with its data.
fn action(action: Act, errno: Option<u32>) -> Result<u32, String> {
    let takes_number = matches!(action, Act::ScmpActErrno | Act::ScmpActTrace);
    if errno.is_some() && !takes_number {
        return Err(format!("{action} takes no error number"));
    }
    // The kernel would take a greater one as this.
    const GREATEST: u32 = 4095;
    match errno.unwrap_or(libc::EPERM as u32) {
        number if number > GREATEST => Err(format!("{number} is not an error number")),
        number => Ok(action.as_u32(Some(number))),
    }
}

/// What the profile says about each call.
#[derive(Debug, Default)]
struct Rules<'a> {
    calls: HashMap<&'a str, Rule>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Rule {
    /// Whatever the arguments are.
    always: Option<u32>,
    /// In the profile's order.
    when: Vec<(Vec<Condition>, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Condition {
    argument: u32,
    operator: Operator,
    value: u64,
    second: u64,
}

impl<'a> Rules<'a> {
    fn of(list: &'a [LinuxSyscall], default: u32) -> Result<Rules<'a>, ConfigError> {
        let mut rules = Rules::default();
        for (index, entry) in list.iter().enumerate() {
            let at = |field: &str| format!("linux.seccomp.syscalls[{index}].{field}");
            let verdict = action(entry.action(), entry.errno_ret())
                .map_err(|why| ConfigError::field(at("errnoRet"), why))?;
            let conditions = conditions(entry, at("args"))?;
            if entry.names().is_empty() || entry.names().iter().any(String::is_empty) {
                return Err(ConfigError::field(at("names"), "must be names of system calls"));
            }
            for name in entry.names() {
                if verdict == NOTIFY && name == "write" {
                    let why = "SCMP_ACT_NOTIFY cannot be used for write: nobody could pass the listener on";
                    return Err(ConfigError::field(at("action"), why));
                }
                let rule = rules.calls.entry(name).or_default();
                if verdict != default {
                    rule.add(&conditions, verdict);
                }
            }
        }
        Ok(rules)
    }

    /// Whether a call is made, or somebody may decide that it is.
    fn pass(&self, name: &str, default: u32) -> bool {
        let nothing = Rule::default();
        let rule = self.calls.get(name).unwrap_or(&nothing);
        let verdicts = rule.when.iter().map(|(_, verdict)| *verdict);
        let mut verdicts = verdicts.chain([rule.always.unwrap_or(default)]);
        verdicts.all(|verdict| [ALLOW, LOG, NOTIFY].contains(&verdict))
    }

    fn verdicts(&self) -> impl Iterator<Item = u32> {
        self.calls.values().flat_map(|rule| {
            rule.always.into_iter().chain(rule.when.iter().map(|(_, verdict)| *verdict))
        })
    }
}

impl Rule {
    fn add(&mut self, conditions: &[Condition], verdict: u32) {
        let arguments = |condition: &Condition| 1u32 << condition.argument;
        let different = conditions.iter().map(arguments).fold(0, |a, b| a | b);
        if conditions.is_empty() {
            self.always.get_or_insert(verdict);
        } else if different.count_ones() as usize == conditions.len() {
            self.when.push((conditions.to_vec(), verdict));
        } else {
            self.when.extend(conditions.iter().map(|condition| (vec![*condition], verdict)));
        }
    }
}

fn conditions(entry: &LinuxSyscall, at: String) -> Result<Vec<Condition>, ConfigError> {
    let list = entry.args().as_deref().unwrap_or_default();
    let condition = |(index, arg): (usize, &LinuxSeccompArg)| match arg.index() {
        number @ 0..6 => Ok(Condition {
            argument: number as u32,
            operator: arg.op(),
            value: arg.value(),
            second: arg.value_two().unwrap_or_default(),
        }),
        _ => Err(ConfigError::field(format!("{at}[{index}].index"), "must be 0 to 5")),
    };
    list.iter().enumerate().map(condition).collect()
}

/// What happens to a range of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Verdict(u32),
    Arguments(Label),
}

struct Writer<'a> {
    program: Program,
    default: u32,
    rules: &'a Rules<'a>,
}

impl Writer<'_> {
    fn architectures(&mut self, machine: &[Abi], listed: &[Arch], refuses: bool) {
        let named: Vec<Abi> = listed.iter().filter_map(|arch| Abi::of(*arch, machine)).collect();
        let mut next = self.program.verdict(KILL_THREAD);
        // Written backwards, so the machine's own is asked for first.
        for abi in machine.iter().copied().rev() {
            // x32 is a part of x86_64.
            if abi == Abi::X32 || abi != machine[0] && !named.contains(&abi) {
                continue;
            }
            let mut search = self.numbers(abi, refuses && named.contains(&abi));
            if abi == Abi::X86_64 {
                let x32 = named.contains(&Abi::X32).then_some(refuses);
                search = self.with_x32(search, x32);
            }
            self.program.go(search);
            let section = self.program.load(NUMBER);
            next = self.program.branch(Test::Equal, abi.audit(), section, next);
        }
        self.program.go(next);
        self.program.load(ARCHITECTURE);
    }

    /// Calls of x32 go another way than those of x86_64, if they are listed.
    fn with_x32(&mut self, search: Label, x32: Option<bool>) -> Label {
        let other = match x32 {
            Some(refuses) => self.numbers(Abi::X32, refuses),
            None => self.program.verdict(KILL_THREAD),
        };
        // A tracer skips a call by making its number -1, which is none of x32's.
        let skipped = self.program.verdict(self.default);
        let other = self.program.branch(Test::Equal, u32::MAX, skipped, other);
        self.program.branch(Test::GreaterOrEqual, abi::X32_BIT, other, search)
    }

    /// From the number in the accumulator to the verdict. With `refuses`, what is newer than the profile is no call.
    fn numbers(&mut self, abi: Abi, refuses: bool) -> Label {
        let mut ranges = vec![(0, Outcome::Verdict(self.default))];
        let (mut end, mut newest) = (0, None);
        let multiplexed = self.multiplexed(abi);
        abi.for_each_call(|name, number| {
            let rule = self.rules.calls.get(name);
            newest = rule.map(|_| number).or(newest);
            let outcome = match multiplexed.get(name).or(rule) {
                None => return,
                Some(Rule { always: Some(verdict), .. }) => Outcome::Verdict(*verdict),
                Some(rule) if rule.when.is_empty() => return,
                Some(rule) => Outcome::Arguments(self.arguments(rule, abi)),
            };
            if number > end {
                push(&mut ranges, end, Outcome::Verdict(self.default));
            }
            push(&mut ranges, number, outcome);
            end = number + 1;
        });
        push(&mut ranges, end, Outcome::Verdict(self.default));
        if let Some(newest) = newest.filter(|_| refuses) {
            push(&mut ranges, newest + 1, Outcome::Verdict(NO_SUCH_CALL));
        }
        self.search(&ranges)
    }

    /// Rules of calls that stand for others, with those of the others. Their arguments are in memory, where a filter
    /// does not see them: what has conditions holds without them, as libseccomp has it.
    fn multiplexed(&self, abi: Abi) -> HashMap<&'static str, Rule> {
        let mut all: HashMap<_, Rule> = HashMap::new();
        for (name, through, number) in abi.multiplexed() {
            let Some(rule) = self.rules.calls.get(name) else { continue };
            let first = rule.when.first().map(|(_, verdict)| *verdict);
            let Some(verdict) = rule.always.or(first) else { continue };
            let own = || self.rules.calls.get(through).cloned().unwrap_or_default();
            let which = Condition {
                argument: 0,
                operator: Operator::ScmpCmpEq,
                value: number.into(),
                second: 0,
            };
            all.entry(through).or_insert_with(own).when.push((vec![which], verdict));
        }
        all
    }

    /// A balanced tree over ranges that begin at these numbers.
    fn search(&mut self, ranges: &[(u32, Outcome)]) -> Label {
        match ranges {
            [(_, Outcome::Verdict(verdict))] => self.program.verdict(*verdict),
            [(_, Outcome::Arguments(label))] => *label,
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let (from, high) = (high[0].0, self.search(high));
                let low = self.search(low);
                self.program.branch(Test::GreaterOrEqual, from, high, low)
            }
        }
    }

    fn arguments(&mut self, rule: &Rule, abi: Abi) -> Label {
        let mut next = self.program.verdict(self.default);
        for (conditions, verdict) in rule.when.iter().rev() {
            let mut holds = self.program.verdict(*verdict);
            for condition in conditions.iter().rev() {
                holds = self.condition(condition, abi.is_wide(), holds, next);
            }
            next = holds;
        }
        next
    }

    fn condition(&mut self, condition: &Condition, wide: bool, yes: Label, no: Label) -> Label {
        use Operator as Op;
        let Condition { value, second, .. } = *condition;
        match condition.operator {
            Op::ScmpCmpEq => self.masked(condition, u64::MAX, value, wide, yes, no),
            Op::ScmpCmpNe => self.masked(condition, u64::MAX, value, wide, no, yes),
            Op::ScmpCmpMaskedEq => self.masked(condition, value, second & value, wide, yes, no),
            Op::ScmpCmpGt => self.ordered(condition, Test::Greater, wide, yes, no),
            Op::ScmpCmpLe => self.ordered(condition, Test::Greater, wide, no, yes),
            Op::ScmpCmpGe => self.ordered(condition, Test::GreaterOrEqual, wide, yes, no),
            Op::ScmpCmpLt => self.ordered(condition, Test::GreaterOrEqual, wide, no, yes),
        }
    }

    /// Whether the masked argument is `value`.
    fn masked(
        &mut self,
        condition: &Condition,
        mask: u64,
        value: u64,
        wide: bool,
        yes: Label,
        no: Label,
    ) -> Label {
        let mut half = |of: Half, yes| {
            self.program.branch(Test::Equal, of.of(value), yes, no);
            if of.of(mask) != u32::MAX {
                self.program.and(of.of(mask));
            }
            self.program.load(of.offset(condition.argument))
        };
        let low = half(Half::Low, yes);
        if wide { half(Half::High, low) } else { low }
    }

    /// Whether the argument is above the value.
    fn ordered(
        &mut self,
        condition: &Condition,
        test: Test,
        wide: bool,
        yes: Label,
        no: Label,
    ) -> Label {
        let value = condition.value;
        self.program.branch(test, Half::Low.of(value), yes, no);
        let low = self.program.load(Half::Low.offset(condition.argument));
        if !wide {
            return low;
        }
        let equal = self.program.branch(Test::Equal, Half::High.of(value), low, no);
        self.program.branch(Test::Greater, Half::High.of(value), yes, equal);
        self.program.load(Half::High.offset(condition.argument))
    }
}

/// Begins a range, unless the one before goes on.
fn push(ranges: &mut Vec<(u32, Outcome)>, from: u32, outcome: Outcome) {
    match ranges.last_mut() {
        Some((start, last)) if *start == from => *last = outcome,
        Some((_, last)) if *last == outcome => {}
        _ => ranges.push((from, outcome)),
    }
}

/// BPF compares 32 bits at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Half {
    Low,
    High,
}

impl Half {
    fn of(self, value: u64) -> u32 {
        match self {
            Half::Low => value as u32,
            Half::High => (value >> 32) as u32,
        }
    }

    fn offset(self, argument: u32) -> u32 {
        let second = (self == Half::High) == cfg!(target_endian = "little");
        ARGUMENTS + 8 * argument + if second { 4 } else { 0 }
    }
}
