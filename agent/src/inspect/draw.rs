//! The picture of a Pod as text for a terminal (pure): one tree, from what all containers share to what each has alone,
//! then the cable from the Pod to the host.

use std::fmt::Write as _;

use kobune_netplugin::inspect::{Interface, Route};
use kobune_netplugin::nft::Way;
use kobune_runtime::wire::ContainerPhase;

use super::{Cgroup, Container, Mount, Network, Owner, Picture};

/// Kernel file systems that every container has: named together, in one line.
const USUAL: [&str; 7] = ["proc", "sysfs", "devpts", "mqueue", "cgroup2", "cgroup", "devtmpfs"];

/// All of it.
pub fn draw(picture: &Picture) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Pod {}/{}   uid {}", picture.namespace, picture.name, picture.uid);
    let mut branches = vec![shared(picture)];
    branches.extend(picture.containers.iter().map(|container| part(picture, container)));
    branches.extend(picture.network.as_ref().map(network));
    let last = branches.len() - 1;
    for (index, branch) in branches.iter().enumerate() {
        text.push_str("│\n");
        let (first, rest) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        for (row, line) in branch.iter().enumerate() {
            let line = format!("{}{line}", if row == 0 { first } else { rest });
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// What is the Pod's: namespaces, the process that holds them, the cgroup of all.
fn shared(picture: &Picture) -> Vec<String> {
    let mut lines = vec!["shared by all containers".to_owned()];
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    let firsts = picture.containers.iter().filter_map(|container| container.processes.first());
    for process in picture.supervisor.iter().chain(firsts) {
        for (kind, inode) in &process.namespaces {
            let of_pod = picture.owner(kind, *inode) == Owner::Pod;
            // What only the supervisor has (its own mounts) nobody shares with it.
            let used = picture.containers.is_empty() || has(picture, kind, *inode);
            if of_pod && used && !kinds.contains(&(kind.as_str(), *inode)) {
                kinds.push((kind, *inode));
            }
        }
    }
    if let Some(network) = &picture.network
        && !kinds.iter().any(|(kind, _)| *kind == "net")
    {
        kinds.push(("net", network.inode));
    }
    kinds.sort_unstable();
    for (kind, inode) in kinds {
        let note = match (kind, &picture.network) {
            ("net", Some(network)) => format!("   ip netns exec {} …", network.name),
            ("uts", _) => format!("   hostname {}", picture.hostname),
            _ => String::new(),
        };
        lines.push(format!("{kind:<12}{inode}{note}"));
    }
    if picture.network.is_none() {
        lines.push("net         the host's".to_owned());
    }
    match &picture.supervisor {
        Some(process) => {
            lines.push(format!("held by     pid {}   {}", process.pid, shortened(&process.command)))
        }
        None => lines.push("held by     nobody: the supervisor is gone".to_owned()),
    }
    lines.extend(cgroup(&picture.cgroup));
    lines
}

fn has(picture: &Picture, kind: &str, inode: u64) -> bool {
    let firsts = picture.containers.iter().filter_map(|container| container.processes.first());
    firsts.into_iter().any(|process| process.namespaces.get(kind) == Some(&inode))
}

fn part(picture: &Picture, container: &Container) -> Vec<String> {
    let state = match (container.phase, container.exit_code) {
        (ContainerPhase::Created, _) => "created".to_owned(),
        (ContainerPhase::Running, _) => "running".to_owned(),
        (ContainerPhase::Exited, Some(code)) => format!("exited with {code}"),
        (ContainerPhase::Exited, None) => "exited".to_owned(),
    };
    let mut lines =
        vec![format!("container {}   {state}   restarts {}", container.name, container.restarts)];
    for (index, process) in container.processes.iter().enumerate() {
        let label = if index == 0 { "process" } else { "" };
        lines.push(format!("{label:<12}pid {}   {}", process.pid, shortened(&process.command)));
    }
    if let Some(first) = container.processes.first() {
        for (owner, label) in
            [(Owner::Container, "its own"), (Owner::Pod, "the Pod's"), (Owner::Host, "the host's")]
        {
            let kinds = first.namespaces.iter();
            let kinds = kinds.filter(|(kind, inode)| picture.owner(kind, **inode) == owner);
            let shown: Vec<String> = match owner {
                Owner::Container => kinds.map(|(kind, inode)| format!("{kind} {inode}")).collect(),
                Owner::Pod | Owner::Host => kinds.map(|(kind, _)| kind.clone()).collect(),
            };
            if !shown.is_empty() {
                lines.push(format!("{label:<12}{}", shown.join("   ")));
            }
        }
    }
    lines.extend(cgroup(&container.cgroup));
    lines.extend(mounts(&container.mounts));
    lines
}

fn cgroup(cgroup: &Cgroup) -> Vec<String> {
    let mut lines = vec![format!("cgroup      {}", cgroup.path.display())];
    let settings: Vec<String> =
        cgroup.settings.iter().map(|(file, value)| format!("{file} {value}")).collect();
    lines.extend(settings.chunks(3).map(|chunk| format!("            {}", chunk.join("   "))));
    lines
}

fn mounts(mounts: &[Mount]) -> Vec<String> {
    let usual = |mount: &&Mount| {
        USUAL.contains(&mount.kind.as_str())
            || below(mount, "/proc")
            || below(mount, "/sys")
            || below(mount, "/dev")
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for mount in mounts.iter().filter(|mount| !usual(mount)) {
        let how = if mount.read_only { "ro" } else { "rw" };
        let of = if mount.root == "/" { String::new() } else { format!("of {}", mount.root) };
        rows.push(vec![mount.target.display().to_string(), mount.kind.clone(), how.to_owned(), of]);
    }
    let table = crate::table::render(&rows);
    let mut lines: Vec<String> = table.lines().map(|line| format!("            {line}")).collect();
    let others = mounts.iter().filter(usual).count();
    if others > 0 {
        lines.push(format!("            and {others} of the kernel's on /proc, /sys and /dev"));
    }
    if let Some(first) = lines.first_mut() {
        first.replace_range(..12, "mounts      ");
    }
    lines
}

fn below(mount: &Mount, top: &str) -> bool {
    mount.target.starts_with(top)
}

fn network(network: &Network) -> Vec<String> {
    let mut lines = vec![format!("network     {}", network.name)];
    for inside in network.interfaces.iter().filter(|interface| interface.name != "lo") {
        lines.push(interface(inside));
        for route in routes(network, inside) {
            lines.push(format!("   {route}"));
        }
        let end = network.host_interfaces.iter().find(|end| Some(end.index) == inside.peer);
        let Some(end) = end else { continue };
        lines.push("   ║ a cable: a veth pair".to_owned());
        lines.push(interface(end) + "   on the host");
        let bridge = network.host_interfaces.iter().find(|at| Some(at.index) == end.controller);
        if let Some(bridge) = bridge {
            lines.push("   ║ a port of".to_owned());
            lines.push(interface(bridge) + "   on the host");
        }
    }
    lines.extend(ways(&network.ways));
    lines
}

/// The Services' doors, as elements of the host's table `kobune`.
fn ways(ways: &[Way]) -> Vec<String> {
    let row = |(index, way): (usize, &Way)| {
        vec![
            format!("{:<12}{}", if index == 0 { "ways in" } else { "" }, way.door),
            format!("→ port {}", way.port),
            format!("1 of {} backends", way.backends),
            format!("element of {}, mark {:#x}", way.set, way.mark),
        ]
    };
    let rows: Vec<Vec<String>> = ways.iter().enumerate().map(row).collect();
    crate::table::render(&rows).lines().map(str::to_owned).collect()
}

fn interface(interface: &Interface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
    let state = if interface.up { "" } else { "   down" };
    let addresses =
        if addresses.is_empty() { String::new() } else { format!("   {}", addresses.join(" ")) };
    format!("{}{addresses}   mac {}   mtu {}{state}", interface.name, interface.mac, interface.mtu)
}

fn routes<'a>(network: &'a Network, inside: &'a Interface) -> impl Iterator<Item = String> + 'a {
    let of_this = move |route: &&Route| route.interface == Some(inside.index);
    network.routes.iter().filter(of_this).map(|route| {
        let to = match route.destination.prefix_len() {
            0 => "default".to_owned(),
            _ => route.destination.to_string(),
        };
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("route {to}{via}{}", if route.onlink { " onlink" } else { "" })
    })
}

/// A command line that still fits beside a pid.
fn shortened(command: &str) -> String {
    const MOST: usize = 60;
    let plain: String =
        command.chars().map(|c| if c.is_control() { '·' } else { c }).take(MOST + 1).collect();
    match plain.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &plain[..at]),
        None => plain,
    }
}
