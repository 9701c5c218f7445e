//! Whose a namespace is, and what the drawing says of it.

use kobune_netplugin::nft::Way;
use kobune_runtime::wire::ContainerPhase;

use super::{Cgroup, Container, Namespaces, Network, Owner, Picture, Process};

fn namespaces(pairs: &[(&str, u64)]) -> Namespaces {
    pairs.iter().map(|(kind, inode)| ((*kind).to_owned(), *inode)).collect()
}

fn process(pid: i32, pairs: &[(&str, u64)]) -> Process {
    Process { pid, command: format!("/bin/p{pid} -x"), namespaces: namespaces(pairs) }
}

fn container(name: &str, processes: Vec<Process>) -> Container {
    let phase = if processes.is_empty() { ContainerPhase::Exited } else { ContainerPhase::Running };
    Container {
        name: name.into(),
        id: String::new(),
        restarts: 2,
        phase,
        exit_code: processes.is_empty().then_some(3),
        processes,
        cgroup: Cgroup::default(),
        mounts: Vec::new(),
    }
}

fn picture() -> Picture {
    Picture {
        namespace: "ns".into(),
        name: "web".into(),
        uid: "u".into(),
        hostname: "web".into(),
        host: namespaces(&[("ipc", 1), ("mnt", 2), ("net", 3), ("pid", 4), ("user", 5)]),
        supervisor: Some(process(10, &[("ipc", 11), ("mnt", 2), ("net", 3), ("user", 5)])),
        cgroup: Cgroup::default(),
        containers: vec![
            container(
                "app",
                vec![
                    process(20, &[("ipc", 11), ("mnt", 22), ("net", 13), ("pid", 24), ("user", 5)]),
                    process(21, &[("ipc", 11), ("mnt", 22), ("net", 13), ("pid", 24), ("user", 5)]),
                ],
            ),
            container(
                "side",
                vec![process(
                    30,
                    &[("ipc", 11), ("mnt", 32), ("net", 13), ("pid", 24), ("user", 5)],
                )],
            ),
            container("init", Vec::new()),
        ],
        network: Some(Network {
            name: "web".into(),
            inode: 13,
            interfaces: Vec::new(),
            routes: Vec::new(),
            host_interfaces: Vec::new(),
            ways: vec![Way {
                door: "10.96.0.7:80/tcp".into(),
                set: "service-ips",
                mark: 0x1020,
                port: 8080,
                backends: 3,
            }],
        }),
    }
}

#[test]
fn a_namespace_is_the_hosts_the_pods_or_the_containers() {
    let mut picture = picture();
    assert_eq!(picture.owner("user", 5), Owner::Host);
    assert_eq!(picture.owner("ipc", 11), Owner::Pod);
    assert_eq!(picture.owner("net", 13), Owner::Pod);
    assert_eq!(picture.owner("pid", 24), Owner::Pod, "two containers have it");
    assert_eq!(picture.owner("mnt", 22), Owner::Container);
    // Numbers are of one kind only.
    assert_eq!(picture.owner("mnt", 13), Owner::Container);
    // The only container of a Pod has its network for itself, but it is the Pod's.
    picture.containers.truncate(1);
    picture.supervisor = None;
    assert_eq!(picture.owner("net", 13), Owner::Pod);
    assert_eq!(picture.owner("pid", 24), Owner::Container);
}

#[test]
fn the_drawing_has_a_branch_for_each_part() {
    let text = super::draw::draw(&picture());
    let expected = "\
Pod ns/web   uid u
│
├─ shared by all containers
│  ipc         11
│  net         13   ip netns exec web …
│  pid         24
│  held by     pid 10   /bin/p10 -x
│  cgroup
│
├─ container app   running   restarts 2
│  process     pid 20   /bin/p20 -x
│              pid 21   /bin/p21 -x
│  its own     mnt 22
│  the Pod's   ipc   net   pid
│  the host's  user
│  cgroup
│
├─ container side   running   restarts 2
│  process     pid 30   /bin/p30 -x
│  its own     mnt 32
│  the Pod's   ipc   net   pid
│  the host's  user
│  cgroup
│
├─ container init   exited with 3   restarts 2
│  cgroup
│
└─ network     web
   ways in     10.96.0.7:80/tcp   → port 8080   1 of 3 backends   element of service-ips, mark 0x1020
";
    assert_eq!(text, expected);
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let mut picture = picture();
    picture.containers[0].processes[0].command = format!("evil\x1b[2J{}", "x".repeat(100));
    let text = super::draw::draw(&picture);
    assert!(!text.contains('\x1b') && text.contains("evil·[2Jx") && text.contains("x…\n"));
}
