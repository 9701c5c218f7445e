//! Taking turns, and what comes of it. A start's cost comes from `clock`; the figures of many are order statistics, since
//! a busy machine makes some of them arbitrarily slow.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Who, output, verdicts};

/// Rounds at the beginning that do not count: caches fill, directories are made.
const WARM_UP: usize = 2;

/// A B C A B C …
pub(super) fn interleave(
    who: &[Who],
    rounds: usize,
    mut one: impl FnMut(Who, usize) -> Cost,
) -> Table {
    let mut table = Table::default();
    for round in 0..rounds + WARM_UP {
        for who in who {
            let cost = one(*who, round);
            if round >= WARM_UP {
                table.costs.entry(*who).or_default().push(cost);
            }
        }
    }
    table
}

/// What one start took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    nanoseconds: u64,
    /// KiB
    memory: u64,
    switches: u64,
    faults: u64,
}

impl Cost {
    /// Runs a command that must succeed, under the clock.
    pub(super) fn of(clock: &Path, line: &[String]) -> Cost {
        let mut whole = vec![clock.display().to_string()];
        whole.extend_from_slice(line);
        let text = output(&whole);
        let numbers: Vec<u64> =
            text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let [nanoseconds, memory, voluntary, involuntary, faults, status] = numbers[..] else {
            panic!("the clock says {text:?}")
        };
        assert_eq!(status, 0, "{line:?} failed");
        Cost { nanoseconds, memory, switches: voluntary + involuntary, faults }
    }
}

/// The costs of everybody.
#[derive(Debug, Default)]
pub(super) struct Table {
    costs: BTreeMap<Who, Vec<Cost>>,
}

/// Of one runtime: nanoseconds, KiB, counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    least: u64,
    pub(super) quartile: u64,
    pub(super) median: u64,
    /// The most of all.
    pub(super) memory: u64,
    switches: u64,
    faults: u64,
}

impl Figures {
    fn of(costs: &[Cost]) -> Figures {
        let sorted = |value: fn(&Cost) -> u64| {
            let mut values: Vec<u64> = costs.iter().map(value).collect();
            values.sort_unstable();
            values
        };
        let time = sorted(|cost| cost.nanoseconds);
        let middle = costs.len() / 2;
        Figures {
            least: time[0],
            quartile: time[costs.len() / 4],
            median: time[middle],
            memory: *sorted(|cost| cost.memory).last().unwrap_or(&0),
            switches: sorted(|cost| cost.switches)[middle],
            faults: sorted(|cost| cost.faults)[middle],
        }
    }
}

impl Table {
    fn figures(&self, who: Who) -> Option<Figures> {
        self.costs.get(&who).map(|costs| Figures::of(costs))
    }

    /// As Markdown.
    pub(super) fn print(&self, title: &str) {
        println!("\n{title}\n");
        println!("| | median | quartile | least | peak memory | switches | page faults |");
        println!("|---|---|---|---|---|---|---|");
        for who in self.costs.keys() {
            let Some(f) = self.figures(*who) else { continue };
            let Figures { memory, switches, faults, .. } = f;
            let [median, quartile, least] = [f.median, f.quartile, f.least].map(milliseconds);
            let name = who.name();
            println!(
                "| {name} | {median} | {quartile} | {least} | {memory} KiB | {switches} | {faults} |"
            );
        }
        println!();
        for verdict in verdicts(title, &|who| self.figures(who)) {
            println!("- {verdict}");
        }
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    let hundredths = (nanoseconds + 5_000) / 10_000;
    format!("{}.{:02} ms", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_order_statistics() {
        let cost = |nanoseconds| Cost { nanoseconds, memory: 7, switches: 1, faults: 2 };
        let figures = Figures::of(&[9, 1, 5, 100, 3].map(cost));
        assert_eq!((figures.least, figures.quartile, figures.median), (1, 3, 5));
        assert_eq!(milliseconds(2_345_678), "2.35 ms");
    }

    #[test]
    fn turns_are_taken_and_the_first_do_not_count() {
        let mut seen = Vec::new();
        let table = interleave(&Who::ALL, 2, |who, round| {
            seen.push(who);
            Cost { nanoseconds: round as u64, memory: 0, switches: 0, faults: 0 }
        });
        assert_eq!(seen.len(), Who::ALL.len() * (WARM_UP + 2));
        assert_eq!(seen[..Who::ALL.len()], Who::ALL);
        let least = table.figures(Who::Ours).map(|figures| figures.least);
        assert_eq!(least, Some(WARM_UP as u64));
    }
}
