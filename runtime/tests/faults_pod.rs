//! A supervisor interrupted at every step of its own life and of its containers'. Needs root, busybox-static and a debug
//! build.
//!
//! As in `faults.rs` nothing here lists the steps: a life in trace mode prints them into the supervisor's log. The words
//! go into the file `fault` of the Pod's directory, which a supervisor of a debug build reads at each point.
//!
//! - An error anywhere is told, and the Pod goes on: the same container can be made again.
//! - A container's half-born process that is killed is an error of that request alone.
//! - A supervisor that is killed takes its containers with it; what is left the removal of the Pod's cgroup ends.
//!
//! Seen failing: with children that do not die with their supervisor; and, until it was mended, with a container that
//! could not be told to go on: whoever had asked to start it waited for ever.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::Pod;
use common::fault::{Victim, is_stopped, kill, points, until};
use kobune_runtime::cgroup;
use kobune_runtime::supervisor::spawn;
use kobune_runtime::wire::{ClientError, Request, Response};

/// From which request on the Pod has its fault: a child of an exec passes much that a container's passes, too.
#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Create,
    Exec,
}

/// Everything that can happen to one container, and what the exec said.
fn life(pod: &Pod, words: &str, from: From) -> Result<String, ClientError> {
    let mut client = pod.client();
    let container = || "app".to_owned();
    set_fault(pod, if from == From::Create { words } else { "" });
    client.call(&pod.request("app", &["/bin/sleep", "1000"], |_| {}))?;
    client.call(&Request::Start { container: container() })?;
    set_fault(pod, words);
    let (_, _, said) = common::exec(pod, "app", common::process(&["/bin/true"]))?;
    client.call(&Request::Kill { container: container(), signal: libc::SIGKILL })?;
    pod.wait("app");
    client.call(&Request::Remove { container: container() })?;
    Ok(said)
}

/// What the Pod reads at its next fault point.
fn set_fault(pod: &Pod, words: &str) {
    let path = pod.pod_dir().join("fault");
    // Whole or not at all.
    fs::write(path.with_extension("new"), words).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

fn log(pod: &Pod) -> String {
    fs::read_to_string(pod.pod_dir().join("supervisor.log")).unwrap()
}

fn clear_log(pod: &Pod) {
    fs::write(pod.pod_dir().join("supervisor.log"), "").unwrap();
}

/// A whole life works, whatever has happened before.
fn assert_usable(pod: &Pod, when: &str) {
    set_fault(pod, "");
    let mut client = pod.client();
    let container = || "app".to_owned();
    // Whatever is there of it.
    if client.call(&Request::Kill { container: container(), signal: libc::SIGKILL }).is_ok() {
        pod.wait("app");
    }
    let _ = client.call(&Request::Remove { container: container() });
    let again = life(pod, "", From::Create);
    again.unwrap_or_else(|error| panic!("{when}: afterwards: {error}"));
}

fn descriptors(pod: &Pod) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pod.supervisor)).unwrap().count()
}

/// The points of a container's life, and those of one more process in it.
fn points_of_a_life() -> Vec<(From, String)> {
    let pod = Pod::new();
    let mut found = Vec::new();
    for from in [From::Create, From::Exec] {
        clear_log(&pod);
        let said = life(&pod, "trace", from).unwrap();
        // A child writes to its own stderr.
        let own = if from == From::Create { pod.log("app").join("\n") } else { said };
        let names = points(&format!("{}{own}", log(&pod)));
        let known = |name: &String| found.contains(&(From::Create, name.clone()));
        let names: Vec<_> =
            names.into_iter().filter(|name| name.starts_with("child") || !known(name)).collect();
        found.extend(names.into_iter().map(|name| (from, name)));
    }
    pod.end();
    for from in [From::Create, From::Exec] {
        let count = found.iter().filter(|(of, _)| *of == from).count();
        assert!(count > 5, "a release build? {found:?}");
    }
    found
}

#[test]
fn an_error_at_every_step() {
    let points = points_of_a_life();
    let pod = Pod::new();
    life(&pod, "", From::Create).unwrap();
    let before = descriptors(&pod);
    for (from, point) in &points {
        clear_log(&pod);
        let lived = life(&pod, &format!("error:{point}"), *from);
        let error = lived.err().map_or_else(String::new, |error| error.to_string());
        let told = error + &log(&pod);
        assert!(told.contains("fault at"), "{point}: {told}");
        assert_usable(&pod, point);
    }
    common::wait_until("descriptors are closed", || descriptors(&pod) <= before);
    pod.end();
}

/// Who stops at the point, while `life` is on its way; and every process of the Pod seen until then.
fn stopped(pod: &Pod, over: impl Fn() -> bool) -> (i32, BTreeSet<i32>) {
    let found = until("the fault point", || {
        let mut all: BTreeSet<i32> =
            cgroup::all_processes(&pod.cgroup).unwrap_or_default().into_iter().collect();
        all.insert(pod.supervisor);
        let stopped = all.iter().copied().find(|pid| is_stopped(*pid));
        match stopped {
            Some(pid) => Some(Some((pid, all))),
            None => over().then_some(None),
        }
    });
    found.expect("the point is passed")
}

#[test]
fn a_child_killed_at_every_step() {
    let mut points = points_of_a_life();
    points.retain(|(_, point)| point.starts_with("child: "));
    let pod = Pod::new();
    for (from, point) in &points {
        std::thread::scope(|scope| {
            let life = scope.spawn(|| drop(life(&pod, &format!("stop:{point}"), *from)));
            let (pid, _) = stopped(&pod, || life.is_finished());
            assert_ne!(pid, pod.supervisor, "{point}");
            kill(pid);
            until(&format!("{point}: an answer"), || life.is_finished().then_some(()));
        });
        assert_usable(&pod, point);
    }
    pod.end();
}

#[test]
fn a_supervisor_killed_at_every_step() {
    for (from, point) in &points_of_a_life() {
        for victim in [Victim::Runtime, Victim::Both] {
            let pod = Pod::new();
            let pids = std::thread::scope(|scope| {
                let life = scope.spawn(|| drop(life(&pod, &format!("stop:{point}"), *from)));
                let (stopped, pids) = stopped(&pod, || life.is_finished());
                kill(pod.supervisor);
                if victim == Victim::Both {
                    pids.iter().for_each(|pid| kill(*pid));
                }
                if stopped == pod.supervisor {
                    // All others die with it. One that stands still may not have said yet that it wants to.
                    until(&format!("{point}: the end of all"), || {
                        cgroup::all_processes(&pod.cgroup).unwrap().is_empty().then_some(())
                    });
                }
                cgroup::kill_pod(&pod.cgroup).unwrap();
                pids
            });
            pod.assert_nothing_left();
            for pid in pids {
                let gone = || (!common::is_alive(pid)).then_some(());
                until(&format!("{victim:?} killed at {point}: the end of {pid}"), gone);
            }
        }
    }
}

/// A supervisor that does not come to be.
#[test]
fn a_start_that_fails_at_every_step() {
    let begin = |words: &str| {
        let (directory, options) = Pod::prepare(&[], None);
        fs::write(options.pod_dir.join("fault"), words).unwrap();
        (directory, options)
    };
    let (directory, options) = begin("trace");
    let pod = Pod { supervisor: spawn(&options).unwrap().pid, directory, cgroup: options.cgroup };
    let points = points(&log(&pod));
    pod.end();
    assert!(points.len() > 3, "{points:?}");
    for point in &points {
        let (directory, options) = begin(&format!("error:{point}"));
        let error = spawn(&options).unwrap_err().to_string();
        assert!(error.contains("fault at"), "{point}: {error}");
        cgroup::kill_pod(&options.cgroup).unwrap();
        Pod { supervisor: 0, directory, cgroup: options.cgroup }.assert_nothing_left();

        let (directory, options) = begin(&format!("stop:{point}"));
        std::thread::scope(|scope| {
            let spawned = scope.spawn(|| spawn(&options).map(drop));
            let place = options.pod_dir.to_str().unwrap();
            kill(until("the fault point", || stopped_at(place)));
            assert!(spawned.join().unwrap().is_err(), "{point}");
        });
        cgroup::kill_pod(&options.cgroup).unwrap();
        Pod { supervisor: 0, directory, cgroup: options.cgroup }.assert_nothing_left();
    }
}

/// The supervisor of this Pod's directory, if it has stopped: it may not be in the Pod's cgroup yet.
fn stopped_at(pod_dir: &str) -> Option<i32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_stopped(*pid) && String::from_utf8_lossy(&line).contains(pod_dir)
    })
}

/// The end of a Pod, asked for and interrupted.
#[test]
fn the_end_killed_at_its_step() {
    let pod = Pod::new();
    life(&pod, "", From::Create).unwrap();
    pod.start("app", &["/bin/sleep", "1000"], |_| {});
    set_fault(&pod, "stop:runtime: remove the pod's cgroup");
    std::thread::scope(|scope| {
        let end = scope.spawn(|| pod.client().call(&Request::Shutdown));
        let (pid, _) = stopped(&pod, || end.is_finished());
        assert_eq!(pid, pod.supervisor);
        kill(pid);
        let answer = end.join().unwrap();
        assert!(!matches!(answer, Ok(Response::Ok)), "{answer:?}");
    });
    cgroup::kill_pod(&pod.cgroup).unwrap();
    pod.assert_nothing_left();
}
