//! A registry for one test: Debian's `docker-registry` on the loopback interface of a [`Host`], filled by `skopeo`; and a
//! [`Wire`] before it that cuts or spoils what flows.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{Host, eventually, http};
use crate::paths;

/// Who may use a private registry: `boatman`, whose password is `secret` (bcrypt, at its lowest cost).
pub const USER: &str = "boatman";
pub const PASSWORD: &str = "secret";
const HTPASSWD: &str = "boatman:$2b$04$bLIicde/zAVn58uSlxmFOeYwldOioBbe.8/wXZWx7CPhUF4EMOl/e\n";

const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Registry<'a> {
    host: &'a Host,
    pub address: SocketAddr,
    private: bool,
    server: Child,
}

impl<'a> Registry<'a> {
    /// Anybody may push and pull.
    pub fn open(host: &'a Host, port: u16) -> Self {
        Self::start(host, port, false)
    }

    /// Only [`USER`] may.
    pub fn private(host: &'a Host, port: u16) -> Self {
        Self::start(host, port, true)
    }

    fn start(host: &'a Host, port: u16, private: bool) -> Self {
        let dir = host.dir.join(format!("registry-{port}"));
        fs::create_dir_all(&dir).expect("make the registry's directory");
        let users = dir.join("htpasswd");
        fs::write(&users, HTPASSWD).expect("write htpasswd");
        let (root, users) = (dir.join("data").display().to_string(), users.display().to_string());
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n"
        );
        if private {
            config += &format!("auth: {{htpasswd: {{realm: boats, path: {users}}}}}\n");
        }
        let path = dir.join("config.yml");
        fs::write(&path, config).expect("write the registry's configuration");
        let program = paths::on_path("docker-registry");
        let mut command = Command::new(program.expect("docker-registry is installed"));
        let log = fs::File::create(dir.join("log")).expect("create the registry's log");
        command.arg("serve").arg(&path).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        let server = host.run(|| command.spawn()).expect("start docker-registry");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the registry answers", Duration::from_secs(30), || {
            host.run(|| http::get(address, "/", TIMEOUT)).map(drop)
        });
        Self { host, address, private, server }
    }

    /// Pushes a docker-archive as `repository:tag`, with further words for `skopeo copy`.
    pub fn push(&self, archive: &Path, name: &str, more: &[&str]) {
        let program = paths::on_path("skopeo").expect("skopeo is installed");
        let mut command = Command::new(program);
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        command.args(["--tmpdir", "/tmp"]).env("HOME", &self.host.dir);
        if self.private {
            command.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        command.args(more);
        command.arg(format!("docker-archive:{}", archive.display()));
        command.arg(format!("docker://{}/{name}", self.address));
        self.host.command(command, "").ok();
    }

    /// A manifest as it is stored.
    pub fn manifest(&self, repository: &str, tag: &str, kind: &str) -> serde_json::Value {
        let words = [
            format!("GET /v2/{repository}/manifests/{tag} HTTP/1.1"),
            format!("Host: {}", self.address),
            format!("Accept: {kind}"),
            "Connection: close\r\n\r\n".into(),
        ];
        let answer = self.host.run(|| {
            let mut stream = TcpStream::connect(self.address).expect("connect");
            stream.set_read_timeout(Some(TIMEOUT)).expect("set a timeout");
            stream.write_all(words.join("\r\n").as_bytes()).expect("ask");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("read the answer");
            answer
        });
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.contains(" 200 "), "{answer}");
        let mut manifest: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let digest = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("docker-content-digest").then(|| value.trim().to_owned())
        });
        // For descriptors: what names this manifest.
        manifest["_digest"] = digest.expect("a digest").into();
        manifest["_size"] = body.len().into();
        manifest
    }

    /// Stores a manifest (or an index).
    pub fn put(&self, repository: &str, tag: &str, kind: &str, manifest: &serde_json::Value) {
        let (path, body) = (format!("/v2/{repository}/manifests/{tag}"), manifest.to_string());
        let answer = self
            .host
            .run(|| http::request(self.address, "PUT", &path, Some((kind, &body)), TIMEOUT))
            .expect("the registry answers");
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    /// As if the network were gone.
    pub fn stop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a [`Wire`] does to an answer.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The first so many connections end after so many bytes.
    Cut { connections: usize, after: usize },
    /// The byte at this place of every connection's answers is wrong.
    Spoil { at: usize },
    /// Nothing comes after so many bytes, and the connection stays.
    Stall { after: usize },
}

/// A piece of wire between a client and a registry. It is there until the test's process ends.
pub struct Wire {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Wire {
    pub fn new(host: &Host, to: SocketAddr, port: u16, fault: Fault) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = host.run(|| TcpListener::bind(address)).expect("listen");
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, entry) = (Arc::clone(&connections), host.entry());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                // The namespace is the thread's that connects, not the socket's that reads.
                let Ok(server) = entry.run(|| TcpStream::connect(to)) else { continue };
                join(client, server, number, fault);
            }
        });
        Self { address, connections }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn join(client: TcpStream, server: TcpStream, number: usize, fault: Fault) {
    let (mut from, mut to) = (client.try_clone().expect("dup"), server.try_clone().expect("dup"));
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = answers(server, &client, number, fault);
        if !matches!(fault, Fault::Stall { .. }) {
            let _ = client.shutdown(Shutdown::Both);
        }
        // A stalled connection stays as long as its client wants it.
        let _ = (&client).read(&mut [0; 1]);
    });
}

fn answers(
    mut from: TcpStream,
    mut to: &TcpStream,
    number: usize,
    fault: Fault,
) -> std::io::Result<()> {
    let (mut buffer, mut before) = (vec![0; 16 << 10], 0);
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut bytes = &mut buffer[..count];
        let after = before + count;
        let end = match fault {
            Fault::Cut { connections, after } if number < connections => after,
            Fault::Stall { after } => after,
            _ => usize::MAX,
        };
        if let Fault::Spoil { at } = fault
            && (before..after).contains(&at)
        {
            bytes[at - before] ^= 0xff;
        }
        if after > end {
            bytes = &mut bytes[..end - before];
        }
        to.write_all(bytes)?;
        if after > end {
            return Ok(());
        }
        before = after;
    }
}
