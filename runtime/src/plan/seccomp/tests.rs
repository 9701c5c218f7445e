//! The compiled program against what the rules say, evaluated one by one.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const X86: &[Abi] = &[Abi::X86_64, Abi::X32, Abi::X86];
const ARM: &[Abi] = &[Abi::Aarch64, Abi::Arm];

/// What the kernel hands to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            NUMBER => self.number,
            ARCHITECTURE => self.architecture,
            _ => {
                let value = self.arguments[(offset - ARGUMENTS) as usize / 8];
                if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
            }
        }
    }
}

/// What the kernel's interpreter does, for the instructions that are used.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let Instruction { code, yes, no, value } = program[at];
        at += 1;
        let jump = |holds| usize::from(if holds { yes } else { no });
        match code {
            0x20 => accumulator = call.word(value),
            0x54 => accumulator &= value,
            0x05 => at += value as usize,
            0x15 => at += jump(accumulator == value),
            0x25 => at += jump(accumulator > value),
            0x35 => at += jump(accumulator >= value),
            0x06 => return value,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn compiled(value: Value, machine: &[Abi]) -> Vec<Instruction> {
    compile(&profile(value), machine).unwrap().program
}

fn number(abi: Abi, wanted: &str) -> u32 {
    let mut found = None;
    abi.for_each_call(|name, number| found = found.or((name == wanted).then_some(number)));
    found.unwrap_or_else(|| panic!("{abi:?} has no {wanted}"))
}

fn verdict(program: &[Instruction], abi: Abi, name: &str, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let call = Call { architecture: abi.audit(), number: number(abi, name), arguments: all };
    run(program, &call)
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = ERRNO | 1;

#[test]
fn every_action_has_its_verdict() {
    let expected = [
        ("KILL", 0),
        ("KILL_THREAD", 0),
        ("KILL_PROCESS", 0x8000_0000),
        ("TRAP", 0x0003_0000),
        ("ERRNO", EPERM),
        ("TRACE", 0x7ff0_0001),
        ("LOG", 0x7ffc_0000),
        ("NOTIFY", 0x7fc0_0000),
    ];
    let name = |action: &str| format!("SCMP_ACT_{action}");
    let names = ["read", "open", "close", "stat", "fstat", "lstat", "poll", "lseek"];
    let rules = expected
        .iter()
        .zip(names)
        .map(|((action, _), call)| json!({"names": [call], "action": name(action)}));
    let program = compiled(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules.collect::<Vec<_>>(), "listenerPath": "/s"}),
        X86,
    );
    for ((action, expected), call) in expected.into_iter().zip(names) {
        assert_eq!(verdict(&program, Abi::X86_64, call, &[]), expected, "{action}");
    }
    assert_eq!(verdict(&program, Abi::X86_64, "mmap", &[]), ALLOW);
}

#[test]
fn error_numbers_are_the_profiles() {
    let program = compiled(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
            {"names": ["open"], "action": "SCMP_ACT_TRACE", "errnoRet": 9},
        ]}),
        X86,
    );
    assert_eq!(verdict(&program, Abi::X86_64, "read", &[]), ERRNO | 7);
    assert_eq!(verdict(&program, Abi::X86_64, "open", &[]), 0x7ff0_0009);
    assert_eq!(verdict(&program, Abi::X86_64, "close", &[]), ERRNO | 38);
}

#[test]
fn architectures_that_are_not_listed_are_killed() {
    let rules = json!([{"names": ["read", "getpid"], "action": "SCMP_ACT_ALLOW"}]);
    let of = |list: Value| {
        compiled(
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": list, "syscalls": rules}),
            X86,
        )
    };
    let own = of(json!([]));
    assert_eq!(verdict(&own, Abi::X86_64, "read", &[]), ALLOW);
    assert_eq!(verdict(&own, Abi::X86, "read", &[]), KILL_THREAD);
    assert_eq!(verdict(&own, Abi::X32, "getpid", &[]), KILL_THREAD);
    let all = of(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]));
    for abi in X86 {
        assert_eq!(verdict(&all, *abi, "getpid", &[]), ALLOW, "{abi:?}");
        assert_eq!(verdict(&all, *abi, "getppid", &[]), NO_SUCH_CALL);
    }
    let x86 = of(json!(["SCMP_ARCH_X86", "SCMP_ARCH_MIPS"]));
    assert_eq!(verdict(&x86, Abi::X86, "read", &[]), ALLOW);
    assert_eq!(verdict(&x86, Abi::X86_64, "read", &[]), ALLOW);
    assert_eq!(verdict(&x86, Abi::X32, "getpid", &[]), KILL_THREAD);
}

#[test]
fn arm_is_compiled_too() {
    let program = compiled(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"], "syscalls": [
            {"names": ["open", "read", "set_tls"], "action": "SCMP_ACT_ALLOW"},
        ]}),
        ARM,
    );
    assert_eq!(verdict(&program, Abi::Arm, "open", &[]), ALLOW);
    assert_eq!(verdict(&program, Abi::Arm, "set_tls", &[]), ALLOW);
    assert_eq!(verdict(&program, Abi::Aarch64, "read", &[]), ALLOW);
    assert_eq!(verdict(&program, Abi::Aarch64, "openat", &[]), EPERM);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let of = |default: &str, archs: Value| {
        compiled(
            json!({"defaultAction": default, "architectures": archs, "syscalls": [
                {"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"},
            ]}),
            X86,
        )
    };
    let listed = of("SCMP_ACT_ERRNO", json!(["SCMP_ARCH_X86_64"]));
    assert_eq!(verdict(&listed, Abi::X86_64, "mseal", &[]), NO_SUCH_CALL);
    assert_eq!(verdict(&listed, Abi::X86_64, "open", &[]), EPERM);
    assert_eq!(verdict(&of("SCMP_ACT_ERRNO", json!([])), Abi::X86_64, "mseal", &[]), EPERM);
    let logged = of("SCMP_ACT_LOG", json!(["SCMP_ARCH_X86_64"]));
    assert_eq!(verdict(&logged, Abi::X86_64, "mseal", &[]), 0x7ffc_0000);
}

#[test]
fn a_rule_without_conditions_beats_those_with() {
    let args = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
    for order in [[0, 1], [1, 0]] {
        let rules = [
            json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}),
            json!({"names": ["read"], "action": "SCMP_ACT_TRAP"}),
        ];
        let rules = order.map(|index| rules[index].clone());
        let program = compiled(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}), X86);
        assert_eq!(verdict(&program, Abi::X86_64, "read", &[1]), 0x0003_0000);
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let eq =
        |index: usize, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let of = |args: Value| {
        compiled(
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args},
            ]}),
            X86,
        )
    };
    let both = of(json!([eq(0, 1), eq(1, 2)]));
    assert_eq!(verdict(&both, Abi::X86_64, "read", &[1, 2]), ALLOW);
    assert_eq!(verdict(&both, Abi::X86_64, "read", &[1, 3]), EPERM);
    let either = of(json!([eq(0, 1), eq(0, 2), eq(1, 7)]));
    for (arguments, expected) in
        [([1, 0], ALLOW), ([2, 0], ALLOW), ([0, 7], ALLOW), ([0, 0], EPERM)]
    {
        assert_eq!(verdict(&either, Abi::X86_64, "read", &arguments), expected);
    }
}

#[test]
fn socketcall_is_not_a_way_around() {
    let program = compiled(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
            {"names": ["connect", "shmget"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["listen"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]},
        ]}),
        X86,
    );
    assert_eq!(verdict(&program, Abi::X86, "connect", &[]), EPERM);
    assert_eq!(verdict(&program, Abi::X86, "socketcall", &[3]), EPERM);
    assert_eq!(verdict(&program, Abi::X86, "socketcall", &[1]), ALLOW);
    assert_eq!(verdict(&program, Abi::X86, "listen", &[0, 8]), ALLOW);
    // Its second argument cannot be seen here.
    assert_eq!(verdict(&program, Abi::X86, "socketcall", &[4]), EPERM);
    assert_eq!(verdict(&program, Abi::X86, "ipc", &[23]), EPERM);
}

#[test]
fn mistakes_are_named() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, rule]});
    let cases = [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.defaultAction: "),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet: ",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp.listenerMetadata: ",
        ),
        (
            rule(json!({"names": [], "action": "SCMP_ACT_TRAP"})),
            "linux.seccomp.syscalls[1].names: ",
        ),
        (
            rule(json!({"names": [""], "action": "SCMP_ACT_TRAP"})),
            "linux.seccomp.syscalls[1].names: ",
        ),
        (
            rule(json!({"names": ["x"], "action": "SCMP_ACT_TRAP", "errnoRet": 1})),
            "linux.seccomp.syscalls[1].errnoRet: ",
        ),
        (
            rule(json!({"names": ["x"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
            "linux.seccomp.syscalls[1].errnoRet: ",
        ),
        (
            rule(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[1].action: ",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.listenerPath: ",
        ),
        (
            rule(
                json!({"names": ["x"], "action": "SCMP_ACT_TRAP", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}),
            ),
            "linux.seccomp.syscalls[1].args[0].index: ",
        ),
    ];
    for (config, expected) in cases {
        let error = compile(&profile(config), X86).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
    }
}

#[test]
fn a_profile_that_the_kernel_would_not_take_is_refused() {
    let of = |count: u64| {
        let rules: Vec<_> = (0..count)
            .map(|value| {
                let args = json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
                json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args})
            })
            .collect();
        compile(&profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})), X86)
    };
    assert!(of(500).unwrap().program.len() > 2000);
    let error = of(5000).unwrap_err().to_string();
    assert!(error.starts_with("linux.seccomp.syscalls: needs ") && error.ends_with("takes 4096"));
}

#[test]
fn flags_are_the_kernels() {
    let of = |flags: Value, action: &str| {
        let mut value = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s",
            "syscalls": [{"names": ["read"], "action": action}]});
        if !flags.is_null() {
            value["flags"] = flags;
        }
        compile(&profile(value), X86).unwrap().flags
    };
    let all = ["LOG", "TSYNC", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"];
    let all = json!(all.map(|flag| format!("SECCOMP_FILTER_FLAG_{flag}")));
    assert_eq!(of(Value::Null, "SCMP_ACT_TRAP"), kernel::FLAG_SPEC_ALLOW);
    assert_eq!(of(json!([]), "SCMP_ACT_TRAP"), 0);
    assert_eq!(of(all.clone(), "SCMP_ACT_TRAP"), 0b111);
    assert_eq!(of(all, "SCMP_ACT_NOTIFY"), 0b111111);
}

/// What [`Rules`] mean, without any program.
fn reference(
    seccomp: &LinuxSeccomp,
    machine: &[Abi],
    (abi, newest): (Abi, Option<u32>),
    name: &str,
    call: &Call,
) -> u32 {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret()).unwrap();
    let listed = seccomp.architectures().clone().unwrap_or_default();
    let listed = listed.iter().filter_map(|arch| Abi::of(*arch, machine)).collect::<Vec<_>>();
    if abi != machine[0] && !listed.contains(&abi) {
        return KILL_THREAD;
    }
    let rules = seccomp.syscalls().as_deref().unwrap_or_default();
    if listed.contains(&abi)
        && refuses(seccomp)
        && newest.is_some_and(|newest| call.number > newest)
    {
        return NO_SUCH_CALL;
    }
    let mut conditional = None;
    for rule in rules.iter().filter(|rule| rule.names().iter().any(|own| own == name)) {
        let verdict = action(rule.action(), rule.errno_ret()).unwrap();
        let args = rule.args().clone().unwrap_or_default();
        if verdict == default {
            continue;
        }
        if args.is_empty() {
            return verdict;
        }
        let holds = |arg: &LinuxSeccompArg| {
            let cut = |value: u64| if abi.is_wide() { value } else { value & 0xffff_ffff };
            let (is, value) = (cut(call.arguments[arg.index()]), cut(arg.value()));
            match arg.op() {
                Operator::ScmpCmpNe => is != value,
                Operator::ScmpCmpLt => is < value,
                Operator::ScmpCmpLe => is <= value,
                Operator::ScmpCmpEq => is == value,
                Operator::ScmpCmpGe => is >= value,
                Operator::ScmpCmpGt => is > value,
                Operator::ScmpCmpMaskedEq => {
                    is & value == cut(arg.value_two().unwrap_or(0)) & value
                }
            }
        };
        let twice = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
        let matches = if twice { args.iter().any(holds) } else { args.iter().all(holds) };
        if matches {
            conditional = conditional.or(Some(verdict));
        }
    }
    conditional.unwrap_or(default)
}

/// Numbers that are likely to meet.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4u64,
        Just(u64::MAX),
        Just(1 << 32),
        Just((1 << 32) + 1),
        Just(u64::from(u32::MAX)),
        any::<u64>()
    ]
}

fn some_action() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"action": "SCMP_ACT_ALLOW"})),
        Just(json!({"action": "SCMP_ACT_KILL_PROCESS"})),
        Just(json!({"action": "SCMP_ACT_LOG"})),
        Just(json!({"action": "SCMP_ACT_ERRNO"})),
        (1..5u32).prop_map(|errno| json!({"action": "SCMP_ACT_ERRNO", "errnoRet": errno})),
    ]
}

fn some_args() -> impl Strategy<Value = Vec<Value>> {
    let op = prop::sample::select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
    let arg = (0..3usize, value(), value(), op).prop_map(|(index, value, two, op)| {
        json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")})
    });
    prop::collection::vec(arg, 0..4)
}

/// Few enough that rules meet.
fn few_names() -> impl Strategy<Value = Vec<String>> {
    let few =
        ["read", "write", "openat2", "clone", "fchownat", "no_such_call", "mseal", "setxattrat"];
    prop::collection::vec(prop::sample::select(few.map(String::from).to_vec()), 1..3)
}

/// Up to `most`, to make the program long.
fn many_names(most: usize) -> impl Strategy<Value = Vec<String>> {
    let many = (0..400u32).prop_filter_map("a hole", |number| {
        syscalls::x86_64::Sysno::new(number as usize).map(|call| call.name().to_owned())
    });
    // Calls that i386 multiplexes have a test of their own.
    let plain = |name: &String| {
        Abi::X86.multiplexed().all(|(other, through, _)| name != other && name != through)
    };
    prop::collection::vec(many.prop_filter("multiplexed", plain), 1..=most)
}

/// Names and conditions. Eight times three conditions of three names, or eight times 32 names, are less than half of
/// what the kernel takes.
fn some_calls() -> impl Strategy<Value = (Vec<String>, Vec<Value>)> {
    prop_oneof![
        (few_names(), some_args()),
        (many_names(3), some_args()),
        many_names(32).prop_map(|names| (names, Vec::new())),
    ]
}

fn some_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let rule = (some_calls(), some_action()).prop_map(|((names, args), action)| {
        let mut rule = action;
        rule["names"] = json!(names);
        rule["args"] = json!(args);
        rule
    });
    let archs = prop::sample::subsequence(vec!["X86_64", "X86", "X32", "ARM", "AARCH64"], 0..5);
    (some_action(), archs, prop::collection::vec(rule, 0..=8)).prop_map(|(default, archs, rules)| {
        let archs: Vec<_> = archs.iter().map(|arch| format!("SCMP_ARCH_{arch}")).collect();
        let mut value = json!({"defaultAction": default["action"], "architectures": archs, "syscalls": rules});
        if let Some(errno) = default.get("errnoRet") {
            value["defaultErrnoRet"] = errno.clone();
        }
        profile(value)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_program_says_what_the_rules_say(
        seccomp in some_profile(),
        arm in any::<bool>(),
        arguments in prop::collection::vec((value(), value(), value()), 3),
    ) {
        let machine = if arm { ARM } else { X86 };
        let program = compile(&seccomp, machine).unwrap().program;
        let named: std::collections::HashSet<_> =
            seccomp.syscalls().iter().flatten().flat_map(|rule| rule.names()).collect();
        for abi in machine {
            let (mut calls, mut newest) = (Vec::new(), None);
            abi.for_each_call(|name, number| {
                let is_named = named.contains(&name.to_owned());
                newest = if is_named { Some(number) } else { newest };
                if is_named || number.is_multiple_of(16) {
                    calls.push((name, number));
                }
            });
            for ((name, number), (a, b, c)) in calls.iter().flat_map(|call| arguments.iter().map(move |a| (call, a))) {
                let cut = |value: u64| if abi.is_wide() { value } else { value & 0xffff_ffff };
                let arguments = [cut(*a), cut(*b), cut(*c), 0, 0, 0];
                let call = Call { architecture: abi.audit(), number: *number, arguments };
                let expected = reference(&seccomp, machine, (*abi, newest), name, &call);
                prop_assert_eq!(run(&program, &call), expected, "{:?} {} {:?}", abi, name, call);
            }
        }
        let foreign = Call { architecture: 0xc000_0102, number: 0, arguments: [0; 6] };
        prop_assert_eq!(run(&program, &foreign), KILL_THREAD);
    }
}
