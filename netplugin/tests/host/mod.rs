//! A machine of one's own: network and mount namespaces with an empty /run, gone with its thread.
//! Pods are played by sockets opened in their namespaces. The oracles are Debian's `ip` and `nft`.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kobune_netplugin::nft::services::{
    Backend, Door, Group, Place, Protocol, Service, Services, VipPort,
};
use kobune_netplugin::{HostConfig, PodNetwork, PodRequest, host, pod};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

pub const STATE: &str = "/run/kobune/net";
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `test` on a fresh machine.
pub fn machine(test: impl FnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces: run them as root");
    for oracle in [["ip", "-V"], ["nft", "-v"]] {
        let found = Command::new(oracle[0]).arg(oracle[1]).output().is_ok();
        assert!(found, "`{}` is missing: install iproute2 and nftables", oracle[0]);
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private /");
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn config() -> HostConfig {
    HostConfig {
        bridge: "kobune0".into(),
        node_cidr: "10.244.0.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        mtu: None,
        state_dir: PathBuf::from(STATE),
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    out.into_owned()
}

/// Everything that a teardown must put back, as text.
pub fn state_of_the_machine() -> String {
    let mut all = String::new();
    for arguments in [
        &["-o", "link"][..],
        // IPv6 addresses come and go with links, and change by themselves for a while.
        &["-4", "-o", "addr"],
        &["-4", "route", "show", "table", "all"],
        &["rule"],
        &["netns"],
    ] {
        all += &run("ip", arguments);
    }
    all += &run("nft", &["list", "ruleset"]);
    let all_of_conf = run("sh", &["-c", "cd /proc/sys/net/ipv4/conf && grep -r . all default"]);
    // Nobody promises the order of files.
    let mut lines: Vec<_> = all_of_conf.lines().collect();
    lines.sort_unstable();
    all += &lines.join("\n");
    for name in ["ip_forward", "icmp_ratelimit"] {
        all += &std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
    }
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    all += &mounts.lines().filter(|line| line.contains(" /run")).collect::<Vec<_>>().join("\n");
    for entry in walk("/run") {
        all += &format!("\n{entry}");
    }
    all
}

fn walk(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path().to_str().unwrap().to_owned();
        if PathBuf::from(&path).is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// Waits until the machine is as it was; says what is not.
pub fn eventually_as(before: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = state_of_the_machine();
        if now == before {
            return;
        }
        let lost: Vec<_> = before.lines().filter(|line| !now.contains(line)).collect();
        let left: Vec<_> = now.lines().filter(|line| !before.contains(line)).collect();
        assert!(Instant::now() < deadline, "lost: {lost:#?}\nleft: {left:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Repeats `check` until it holds; namespaces die in the background.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A Pod called `name`, connected.
pub fn connect(name: &str) -> TestPod {
    let request = PodRequest { uid: format!("uid-of-{name}"), netns: name.into() };
    let network = pod::setup(&config(), &request).expect("pod setup");
    TestPod { name: name.into(), network }
}

pub struct TestPod {
    pub name: String,
    pub network: PodNetwork,
}

impl TestPod {
    pub fn address(&self) -> Ipv4Addr {
        self.network.address
    }

    /// Runs `work` in the Pod's network namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(&self.network.netns_path).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Answers TCP connections and UDP packets on `port` with the Pod's name and the address of
    /// who asked.
    pub fn serve(&self, port: u16) {
        let (tcp, udp) = self.inside(|| {
            let any = (Ipv4Addr::UNSPECIFIED, port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        let name = self.name.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {peer}");
            }
        });
        let name = self.name.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    pub fn backend(&self, port: u16) -> Backend {
        Backend { address: self.address(), port }
    }

    pub fn teardown(&self) {
        pod::teardown(&config(), &format!("uid-of-{}", self.name), &self.name).unwrap();
    }
}

/// Whether nothing at all comes back from an address for a while.
pub fn silent(address: Ipv4Addr, port: u16) -> bool {
    let target = SocketAddr::V4(SocketAddrV4::new(address, port));
    let result = TcpStream::connect_timeout(&target, Duration::from_millis(300));
    result.is_err_and(|error| error.kind() != io::ErrorKind::ConnectionRefused)
}

/// One question over TCP from the calling thread's namespace: "<pod> <client address>".
pub fn ask(address: Ipv4Addr, port: u16) -> io::Result<String> {
    let target = SocketAddr::V4(SocketAddrV4::new(address, port));
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub fn ask_udp(address: Ipv4Addr, port: u16) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((address, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(b"?")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Asks `times` times and counts who answered.
pub fn spread(times: usize, ask: impl Fn() -> io::Result<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let answer = ask().expect("an answer");
        let who = answer.split(' ').next().unwrap().to_owned();
        *counts.entry(who).or_default() += 1;
    }
    counts
}

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

pub fn vip(protocol: Protocol, port: u16) -> VipPort {
    VipPort { address: VIP, protocol, port }
}

/// TCP and UDP port 80 of [`VIP`], answered by `pods` on port 8080.
pub fn table(pods: &[&TestPod]) -> Services {
    let mut all = Services::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        add(&mut all, vip(protocol, 80), pods.iter().map(|pod| pod.backend(8080)).collect());
    }
    let service = all.entry("web".into()).or_default();
    service.local_pods = pods.iter().map(|pod| pod.address()).collect();
    all
}

/// One more port of the Service `web`.
pub fn add(all: &mut Services, vip: VipPort, backends: Vec<Backend>) {
    let service: &mut Service = all.entry("web".into()).or_default();
    service.cluster_ips.insert(vip.address);
    let doors = [Door::for_all(Place::Address(vip))].into();
    service.groups.insert(vip.to_string(), Group { doors, backends, ..Group::default() });
}

/// Three Pods that serve port 8080, on a host that is set up.
pub fn three_pods() -> [TestPod; 3] {
    host::setup(&config()).expect("host setup");
    ["one", "two", "three"].map(|name| {
        let pod = connect(name);
        pod.serve(8080);
        pod
    })
}
