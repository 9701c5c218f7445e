//! The Kubernetes API as plain HTTP, through `kubectl proxy` inside of the host: for test code that
//! writes fast or watches closely. TLS and credentials stay kubectl's business.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::http::{self, Response};
use super::recorder::Recorder;
use super::{Host, patience};

/// A running proxy; it ends with this value.
pub struct Api<'a> {
    host: &'a Host,
    proxy: Child,
    pub address: SocketAddr,
}

impl<'a> Api<'a> {
    pub(super) fn start(host: &'a Host) -> Self {
        let mut command = host.kubectl_command(&["proxy", "--port=0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut proxy = host.run(|| command.spawn()).expect("start kubectl proxy");
        let mut line = String::new();
        let stdout = proxy.stdout.as_mut().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("read from kubectl proxy");
        let address = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("kubectl proxy said {line:?}"));
        Self { host, proxy, address }
    }

    /// One request, from inside of the host.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<Response> {
        self.host.run(|| send(self.address, method, path, body))
    }

    /// The object at a path.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.expect("GET", path, None)
    }

    /// Creates an object in the collection at a path; returns it as stored.
    #[track_caller]
    pub fn create(&self, path: &str, object: &Value) -> Value {
        self.expect("POST", path, Some(object))
    }

    #[track_caller]
    fn expect(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.request(method, path, body).expect("talk to the API");
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.body);
        serde_json::from_str(&answer.body).expect("the API answers with JSON")
    }

    /// Records every event of the collection at a path, from its present state on.
    pub fn record(&self, path: &str) -> Recorder {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}watch=1&resourceVersion=0");
        let body = self.host.run(|| {
            http::open(self.address, "GET", &path, None, patience(Duration::from_secs(300)))
        });
        let (status, body) = body.expect("open a watch");
        assert_eq!(status, 200, "watch {path}");
        Recorder::start(body)
    }
}

/// One request from the calling thread's namespaces.
pub fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<Response> {
    let text = body.map(ToString::to_string).unwrap_or_default();
    let content =
        if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = body.map(|_| (content, text.as_str()));
    http::request(to, method, path, body, patience(Duration::from_secs(15)))
}

impl Drop for Api<'_> {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}
