//! Container runtimes beside each other and beside the floor: what `run` and `exec` take of time and memory.
//!
//! The same container for everybody ([`bundle`]), in a mount namespace where cgroup version 2 is all there is and a
//! network namespace without routes ([`place`]); A B C A B C … in one run, so that what else the machine does
//! meets all of them ([`rounds`]). The floor is a C program that makes the same container with nothing but the system
//! calls it takes (`tests/bench/floor.c`); each start is measured from outside by another
//! (`tests/bench/clock.c`).

mod bundle;
pub mod hot;
mod place;
pub(crate) mod programs;
mod rounds;

use std::path::Path;
use std::process::{Command, Stdio};

use bundle::{Bundle, Kind};
use place::Place;
use programs::Programs;
use rounds::{Cost, Figures, Table};

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Of each runtime, for each table.
    pub runs: usize,
    pub execs: usize,
    /// Not only the floor, ours and crun.
    pub everybody: bool,
}

/// Who is measured; the order of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Floor,
    Ours,
    Crun,
    /// With `--cgroup-manager=disabled`: does less than asked for, which makes it the best that crun can do.
    CrunWithoutCgroups,
    Runc,
}

impl Who {
    const ALL: [Who; 5] = [Who::Floor, Who::Ours, Who::Crun, Who::CrunWithoutCgroups, Who::Runc];

    fn some(everybody: bool) -> &'static [Who] {
        if everybody { &Who::ALL } else { &Who::ALL[..3] }
    }

    fn name(self) -> &'static str {
        match self {
            Who::Floor => "floor",
            Who::Ours => "kobune-runtime",
            Who::Crun => "crun",
            Who::CrunWithoutCgroups => "crun, no cgroups",
            Who::Runc => "runc",
        }
    }

    /// The program and its global options.
    fn program(self, programs: &Programs) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        match self {
            Who::Floor => vec![text(&programs.floor)],
            Who::Ours => vec![text(&programs.ours)],
            Who::Crun => vec![text(&programs.crun)],
            Who::CrunWithoutCgroups => {
                vec![text(&programs.crun), "--cgroup-manager=disabled".to_owned()]
            }
            Who::Runc => vec![text(&programs.runc)],
        }
    }
}

/// Measures and prints the tables.
///
/// # Panics
/// If something is missing, or a runtime fails.
pub fn run(effort: Effort) {
    let programs = Programs::find();
    let who = Who::some(effort.everybody);
    Place::new().run(|| {
        let restrict_devices = place::can_restrict_devices(&programs);
        let word = if restrict_devices { "yes" } else { "no, since crun cannot do it here" };
        println!(
            "\n{} runs, {} execs of each; devices restricted: {word}",
            effort.runs, effort.execs
        );
        for new_network in [true, false] {
            let kind = Kind { new_network, restrict_devices };
            same_container(&programs, kind);
            let bundle = Bundle::make(&programs, kind, &["/bin/true"]);
            let with = if new_network { "with" } else { "without" };
            rounds::interleave(who, effort.runs, |who, round| {
                Cost::of(&programs.clock, &bundle.run(who, &format!("run-{round}")))
            })
            .print(&format!("`run` of /bin/true, {with} a new network namespace"));
        }
        let kind = Kind { new_network: true, restrict_devices };
        measure_execs(&programs, kind, who, effort.execs)
            .print("`exec` of /bin/true into a running container");
    });
}

/// The floor must make the container that we make, or it is no floor.
fn same_container(programs: &Programs, kind: Kind) {
    let script = "while read -r _ _ _ _ at options _; do \
                  echo \"$at ${options%%,*} $(stat -f -c %T \"$at\") $(stat -c %F \"$at\")\"; \
                  done < /proc/self/mountinfo; stat -c '%n %F %t %T' /dev/*; \
                  grep -e Cap -e NoNewPrivs -e Seccomp: /proc/self/status; ulimit -n; hostname; \
                  cat /sys/class/net/lo/flags";
    let bundle = Bundle::make(programs, kind, &["/bin/sh", "-c", script]);
    let look = |who: Who| {
        let text = output(&bundle.run(who, "same"));
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(look(Who::Floor), look(Who::Ours), "the floor (left) makes another container");
}

fn measure_execs(programs: &Programs, kind: Kind, who: &[Who], rounds: usize) -> Table {
    let bundle = Bundle::make(programs, kind, &["/bin/sleep", "100000"]);
    let containers = who.iter().filter(|who| **who != Who::Floor);
    let running: Vec<_> = containers.map(|who| bundle.start(*who)).collect();
    let table = rounds::interleave(who, rounds, |who, _| {
        let own = running.iter().find(|container| container.who == who);
        Cost::of(&programs.clock, &own.unwrap_or(&running[0]).exec(who))
    });
    running.into_iter().for_each(bundle::Running::stop);
    table
}

/// Runs a command that must succeed; what it says.
fn output(line: &[String]) -> String {
    let mut command = Command::new(&line[0]);
    let output = command.args(&line[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("run {line:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line:?}: {}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that leaves a process behind, which must not hold a pipe of ours.
fn spawn(line: &[String]) {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().unwrap_or_else(|error| panic!("run {line:?}: {error}"));
    assert!(status.success(), "{line:?}: {status}");
}

#[expect(clippy::cast_precision_loss, reason = "times and sizes are far below 2^52")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// What the targets say (R1, R2, R3), from the figures.
fn verdicts(title: &str, figures: &dyn Fn(Who) -> Option<Figures>) -> Vec<String> {
    let (Some(floor), Some(ours), Some(crun)) =
        (figures(Who::Floor), figures(Who::Ours), figures(Who::Crun))
    else {
        return Vec::new();
    };
    let ratios =
        |other: Figures| (ratio(ours.median, other.median), ratio(ours.quartile, other.quartile));
    let line = |name: &str, (ratio, quartile): (f64, f64), most: f64| {
        let word = if ratio <= most { "reached" } else { "MISSED" };
        format!("{name}: {ratio:.2} (quartiles: {quartile:.2}), target {most:.1}: {word}")
    };
    let mut lines = vec![line("time / crun", ratios(crun), 0.6)];
    if title.starts_with("`run`") {
        lines.push(line("time / floor", ratios(floor), 2.0));
    }
    let memory = ratio(ours.memory, crun.memory);
    lines.push(line("memory / crun", (memory, memory), 1.0));
    if let Some(best) = figures(Who::CrunWithoutCgroups) {
        lines.push(format!("time / crun, no cgroups: {:.2}", ratios(best).0));
    }
    lines
}
