//! Stores in an etcd of the test's own. It listens on the loopback address of a network namespace without any way out,
//! in which this program runs itself again.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kobune_controlplane::auth::Pki;
use kobune_controlplane::object::Key;
use kobune_controlplane::reader::Reader;
use kobune_controlplane::store::Store;
use kobune_controlplane::store::etcd::{Options, Tls};

use super::bed::Bed;
use super::model::{Intent, Model, RESOURCES, What};
use super::suite;

const INSIDE: &str = "KOBUNE_TEST_INSIDE";
const URL: &str = "http://127.0.0.1:2379";

/// Runs the ignored tests whose names begin with `tests`.
pub(crate) fn in_a_namespace(tests: &str) {
    assert!(root(), "this test needs root (network namespaces)");
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    // The process namespace ends with its first process, and etcd with it.
    let this = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "sh", "-c", script])
        .arg(this)
        .args([tests, "--ignored", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("run unshare (package util-linux) and ip (package iproute2)");
    assert!(status.success(), "{status}");
}

fn root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t")
}

/// etcd, while the program lives.
struct Server {
    directory: tempfile::TempDir,
    child: Child,
}

impl Server {
    fn start(directory: tempfile::TempDir) -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "not in a namespace of its own");
        let child = spawn(directory.path());
        Self { directory, child }
    }
}

fn spawn(directory: &Path) -> Child {
    run(directory, URL, "http://127.0.0.1:2380", &[])
}

fn run(directory: &Path, clients: &str, peers: &str, more: &[&str]) -> Child {
    Command::new("etcd")
        .arg("--data-dir")
        .arg(directory)
        .args(["--listen-client-urls", clients, "--advertise-client-urls", clients])
        .args(["--listen-peer-urls", peers, "--log-level", "error"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run etcd (package etcd-server)")
}

static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
static BEDS: AtomicU32 = AtomicU32::new(0);

fn server() -> MutexGuard<'static, Server> {
    let server = SERVER.get_or_init(|| Mutex::new(Server::start(tempfile::tempdir().unwrap())));
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// `kill -9`, and back.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.directory.path());
    }
}

/// A prefix of its own.
pub(crate) struct InEtcd(Options);

impl Bed for InEtcd {
    fn new() -> Self {
        up();
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let url = format!("etcd://127.0.0.1:2379/t{number}");
        Self(Options::parse(&url, None).unwrap())
    }

    async fn open(&self) -> Store {
        open(&self.0).await
    }
}

/// Starts etcd, if it is not there yet.
pub(crate) fn up() {
    drop(server());
}

pub(crate) async fn open(options: &Options) -> Store {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Store::etcd(options).await {
            Ok(store) => return store,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Writers on two servers, one history.
pub(crate) fn two_servers_are_one_store() {
    suite::block_on(async {
        let bed = InEtcd::new();
        let (one, other) = (Arc::new(bed.open().await), Arc::new(bed.open().await));
        suite::one_history(&[one, other]).await;
    });
}

fn intent(what: What, payload: u64) -> Intent {
    Intent { key: Key::new(RESOURCES[0], "a", "o"), what, payload }
}

/// Writes, again where etcd was not to be had; the new version.
async fn insist(store: &Store, payload: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let key = intent(What::Create, 0).key;
        let what = match store.get(key.resource, &key.namespace, &key.name) {
            None => What::Create,
            Some(object) => What::Update(object.meta.resource_version),
        };
        match store.commit(intent(what, payload).write()).await {
            Ok(object) => return object.meta.resource_version,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Over deaths of etcd every event comes once. Where etcd has forgotten what was missed, watchers are told so.
pub(crate) fn a_watch_is_taken_up_again_or_all_is_read_again() {
    suite::block_on(async {
        let bed = InEtcd::new();
        let store = bed.open().await;
        let (mut model, mut at) = (Model::default(), store.revision());
        let mut watcher = store.watch(RESOURCES[0], at).unwrap();
        for round in 0..3 {
            insist(&store, round * 2).await;
            server().restart();
            let newest = insist(&store, round * 2 + 1).await;
            while at < newest {
                watcher.changed().await;
                for event in watcher.take(10).unwrap().events {
                    assert!(event.revision > at, "an event came twice");
                    at = event.revision;
                    model.see(&event);
                }
            }
            assert_eq!(Model::read(&store), model);
            assert!(store.healthy());
        }
        compacted(&bed, at).await;
        store.close();
    });
}

/// One server is cut off while another one writes and lets etcd forget.
async fn compacted(bed: &InEtcd, mut at: u64) {
    let wire = Wire::lay();
    let url = format!("etcd://127.0.0.1:{}{}", wire.port, bed.0.prefix);
    let cut_off = open(&Options::parse(&url, None).unwrap()).await;
    let hasty = Options { history: Duration::from_millis(100), ..bed.0.clone() };
    let other = open(&hasty).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    for payload in 100.. {
        assert!(Instant::now() < deadline, "etcd has never forgotten anything");
        let mut watcher = cut_off.watch(RESOURCES[0], cut_off.revision()).unwrap();
        wire.cut(true);
        for more in 0..20 {
            at = insist(&other, payload * 100 + more).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wire.cut(false);
        cut_off.reached(at).await;
        assert_eq!(Model::read(&cut_off), Model::read(&other));
        match watcher.take(1000) {
            Err(_) => return,
            Ok(batch) => assert_eq!(batch.events.len(), 20),
        }
    }
}

/// A wire to etcd that can be cut.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn lay() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, ends) =
            (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let wire = Self { port, cut: cut.clone(), ends: ends.clone() };
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut ends = ends.lock().unwrap();
                let Ok(far) = TcpStream::connect("127.0.0.1:2379") else { continue };
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
                ends.extend([near, far]);
            }
        });
        wire
    }

    fn cut(&self, cut: bool) {
        let mut ends = self.ends.lock().unwrap();
        self.cut.store(cut, Ordering::SeqCst);
        for end in ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// Both sides show certificates; who shows none, or trusts somebody else, has no store.
pub(crate) fn tls_on_both_sides() {
    assert!(std::env::var_os(INSIDE).is_some(), "not in a namespace of its own");
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let server = pki.server("etcd", &["127.0.0.1".parse().unwrap()], &[]).unwrap();
    let client = pki.client("kobune", &[]).unwrap();
    let ca = file("ca", pki.ca_pem());
    let (crt, key) = (file("etcd.crt", &server.certificate), file("etcd.key", &server.key));
    let ours = (file("our.crt", &client.certificate), file("our.key", &client.key));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (ca_text, crt, key) = (text(&ca), text(&crt), text(&key));
    let more = ["--cert-file", &crt, "--key-file", &key, "--trusted-ca-file", &ca_text];
    let more = [&more[..], &["--client-cert-auth"]].concat();
    let data = tempfile::tempdir().unwrap();
    let peers = "http://127.0.0.1:2480";
    let mut child = run(data.path(), "https://127.0.0.1:2479", peers, &more);
    let options = |ca: &Path, client| {
        let tls = Tls { ca: ca.into(), client };
        Options::parse("etcd://127.0.0.1:2479", Some(tls)).unwrap()
    };
    suite::block_on(async {
        let store = open(&options(&ca, Some(ours.clone()))).await;
        insist(&store, 1).await;
        store.close();
        assert!(Store::etcd(&options(&ca, None)).await.is_err(), "without a certificate");
        let other = tempfile::tempdir().unwrap();
        let stranger = file("stranger", Pki::open(other.path()).unwrap().ca_pem());
        let refused = Store::etcd(&options(&stranger, Some(ours))).await.err().unwrap();
        assert!(refused.to_string().contains("certificate"), "{refused}");
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
