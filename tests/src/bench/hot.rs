//! The functions that a container's start meets, for the linker to put beside each other (`.cargo/rustc-static` says why).
//! They are found by executing the release program step by step (`tests/bench/steps.c`), and looking the instructions
//! up in the map that its linker wrote.

use std::collections::BTreeSet;
use std::fs;

use super::bundle::{Bundle, Kind};
use super::place::Place;
use super::programs::{Programs, compile};
use super::{Who, output};
use crate::paths;

/// Writes `.cargo/hot-functions`.
///
/// # Panics
/// If something is missing, or the runtime fails.
pub fn write() {
    let program = paths::target().join("release/kobune-runtime");
    let programs = Programs { ours: program, ..Programs::find() };
    let steps = compile("steps").unwrap_or_else(|error| panic!("{error}"));
    let kind = Kind { new_network: true, restrict_devices: true };
    let mut trace = String::new();
    Place::new().run(|| {
        let mut follow = |line: Vec<String>| {
            trace += &output(&[vec![steps.display().to_string()], line].concat());
        };
        follow(Bundle::make(&programs, kind, &["/bin/true"]).run(Who::Ours, "steps"));
        let running = Bundle::make(&programs, kind, &["/bin/sleep", "100000"]).start(Who::Ours);
        follow(running.exec(Who::Ours));
        running.stop();
    });
    let map = paths::target().join("release/deps/kobune-runtime.map");
    let map = fs::read_to_string(map).expect("read the map of an lld that linked the program");
    let names = names(&functions(&map), &trace);
    assert!(names.len() > 300, "the map is not that of the program: {names:?}");
    let list = paths::root().join(".cargo/hot-functions");
    fs::write(&list, names.join("\n") + "\n").expect("write the list");
    println!("{}: {} functions; now build again", list.display(), names.len());
}

/// Its first address, the one after its last, its mangled name.
type Function<'a> = (u64, u64, &'a str);

/// What a map of lld says, by address.
fn functions(map: &str) -> Vec<Function<'_>> {
    let mut functions = Vec::new();
    let mut mixed = false;
    for line in map.lines() {
        let Some((start, size, rest)) = fields(line) else { continue };
        let name = rest.trim_start();
        match rest.len() - name.len() {
            // A section: what Rust compiles has one for each function.
            8 => {
                let section = name.rsplit_once(":(.text").map(|(_, section)| section);
                let own = section.and_then(|section| section.strip_suffix(')'));
                let own = own.map(|own| own.strip_prefix(".unlikely").unwrap_or(own));
                let own = own.and_then(|own| own.strip_prefix('.'));
                let own = own.filter(|own| own.starts_with("_R") || own.starts_with("_ZN"));
                mixed = section.is_some() && own.is_none();
                functions.extend(own.map(|own| (start, start + size, own)));
            }
            16 if mixed && size > 0 => functions.push((start, start + size, name)),
            _ => {}
        }
    }
    functions.sort_unstable();
    functions
}

/// `VMA LMA Size Align rest`, the first three in hexadecimal; of `rest` the indentation counts.
fn fields(line: &str) -> Option<(u64, u64, &str)> {
    let mut numbers = line.split_whitespace();
    let hex = |word: Option<&str>| u64::from_str_radix(word?, 16).ok();
    let start = hex(numbers.next())?;
    let size = (hex(numbers.next()), hex(numbers.next())).1?;
    // Widths: 16, 16, 8, 5, and a blank after each.
    Some((start, size, line.get(49..)?))
}

/// The functions that the addresses are in, in the order of the first of each.
fn names<'a>(functions: &[Function<'a>], trace: &str) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let addresses = trace.lines().filter_map(|line| u64::from_str_radix(line, 16).ok());
    addresses
        .filter_map(|address| {
            let at = functions.partition_point(|function| function.0 <= address);
            let (_, end, name) = *functions.get(at.checked_sub(1)?)?;
            (address < end && seen.insert(name)).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
             VMA              LMA     Size Align Out     In      Symbol
          33da00           33da00   44890b    16 .text
          33da00           33da00       20    16         /a.o:(.text._RNv3abc)
          33da00           33da00       20     1                 abc
          33da20           33da20       10    16         /a.o:(.text.unlikely._ZN1dE)
          33da40           33da40       40    16         /libc.a(malloc.o):(.text)
          33da40           33da40       30     1                 malloc
          33da70           33da70        0     1                 .hidden
          33da80           33da80       20    16         /libc.a(s.o):(.text.evex)
          33da80           33da80       20     1                 memcpy
          33daa0           33daa0       20     8         /a.o:(.rodata.x)
          33daa0           33daa0       20     1                 data
";

    #[test]
    fn addresses_become_names() {
        let functions = functions(MAP);
        let text = "33da85\n33da00\n33da01\n33da75\n33da2f\n33da30\n33da41\n33daa1\nff";
        assert_eq!(names(&functions, text), ["memcpy", "_RNv3abc", "_ZN1dE", "malloc"]);
    }
}
