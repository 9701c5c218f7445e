//! `kobune demo-server`: a small HTTP server that says who it is.
//!
//! Threads and std only: it runs as process 1 of a container that holds nothing but this program.
//!
//! ```text
//! GET  /                        who answers: Pod name, address, version
//! GET  /healthz, /readyz        200 "ok", or 500 "failing" after a switch
//! POST /fail/{healthz,readyz}   make it fail; POST /ok/… makes it well again
//! ```
//!
//! SIGTERM: no new connections, requests under way are answered, then exit code 0.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

const MAX_LINE: u64 = 8 << 10;
const MAX_HEADERS: usize = 100;
const MAX_BODY: u64 = 64 << 10;
const IDLE: Duration = Duration::from_secs(30);

/// The program's `main`; `args` are those after the word `demo-server`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match port(args, std::env::var("PORT").ok())
        .and_then(|port| serve(port).map_err(|e| format!("serve on port {port}: {e}")))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("demo-server: {message}");
            ExitCode::FAILURE
        }
    }
}

fn port(mut args: impl Iterator<Item = OsString>, env: Option<String>) -> Result<u16, String> {
    let text = match args.next() {
        None => env.unwrap_or_else(|| "8080".into()),
        Some(flag) if flag == "--port" => {
            let value = args.next().ok_or("--port needs a number")?;
            value.to_string_lossy().into_owned()
        }
        Some(flag) => return Err(format!("unknown argument {flag:?}")),
    };
    text.parse().map_err(|_| format!("{text:?} is not a port"))
}

/// What the switches set.
#[derive(Default)]
struct Switches {
    health_fails: AtomicBool,
    ready_fails: AtomicBool,
}

/// Requests under way; the end waits until there are none.
#[derive(Default)]
struct Busy {
    count: Mutex<usize>,
    changed: Condvar,
}

fn serve(port: u16) -> io::Result<()> {
    // Blocked here, before any thread exists, so that it arrives on the descriptor and nowhere else.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let signal = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("{} listens on port {port}", who());
    let (switches, busy) = (Arc::new(Switches::default()), Arc::new(Busy::default()));
    loop {
        let mut fds = [
            PollFd::new(signal.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::NONE)?;
        if fds[0].any() == Some(true) {
            break;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let (switches, busy) = (switches.clone(), busy.clone());
        std::thread::spawn(move || {
            // A client that breaks off is its own business.
            let _ = converse(&stream, &switches, &busy);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
    println!("{} was told to stop", who());
    drop(listener);
    busy.wait_until_idle();
    Ok(())
}

impl Busy {
    fn enter(&self) {
        *lock(&self.count) += 1;
    }

    fn leave(&self) {
        *lock(&self.count) -= 1;
        self.changed.notify_all();
    }

    fn wait_until_idle(&self) {
        let mut count = lock(&self.count);
        while *count > 0 {
            count = self.changed.wait(count).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Request {
    method: String,
    path: String,
    keep_alive: bool,
    body: u64,
}

fn converse(stream: &TcpStream, switches: &Switches, busy: &Busy) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let Some(first) = line(&mut reader)? else { return Ok(()) };
        busy.enter();
        let result = respond(&first, &mut reader, stream, switches);
        busy.leave();
        if !result? {
            return Ok(());
        }
    }
}

/// Answer one request; says whether the connection goes on.
fn respond(
    first: &str,
    reader: &mut BufReader<&TcpStream>,
    mut stream: &TcpStream,
    switches: &Switches,
) -> io::Result<bool> {
    let Some(request) = parse(first, &headers(reader)?) else {
        write_answer(&mut stream, 400, "bad request\n", false, false)?;
        return Ok(false);
    };
    io::copy(&mut reader.take(request.body.min(MAX_BODY)), &mut io::sink())?;
    let (status, text) = answer(&request.method, &request.path, switches);
    let keep_alive = request.keep_alive && request.body <= MAX_BODY;
    write_answer(&mut stream, status, &text, keep_alive, request.method == "HEAD")?;
    Ok(keep_alive)
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

fn headers(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut headers = Vec::new();
    loop {
        match line(reader)? {
            Some(text) if text.is_empty() => return Ok(headers),
            Some(text) if headers.len() < MAX_HEADERS => headers.push(text),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn parse(first: &str, headers: &[String]) -> Option<Request> {
    let mut words = first.split_ascii_whitespace();
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with("HTTP/1.") {
        return None;
    }
    let header = |name: &str| {
        headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    if header("transfer-encoding").is_some() {
        return None;
    }
    let keep_alive = match header("connection").as_deref() {
        Some("close") => false,
        Some("keep-alive") => true,
        _ => version == "HTTP/1.1",
    };
    let body = header("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let path = target.split('?').next().unwrap_or(target).to_owned();
    Some(Request { method: method.to_owned(), path, keep_alive, body })
}

fn answer(method: &str, path: &str, switches: &Switches) -> (u16, String) {
    let check = |fails: &AtomicBool| match fails.load(Ordering::Relaxed) {
        true => (500, "failing\n".to_owned()),
        false => (200, "ok\n".to_owned()),
    };
    let set = |fails: &AtomicBool, to: bool| {
        fails.store(to, Ordering::Relaxed);
        (200, "ok\n".to_owned())
    };
    match (method, path) {
        ("GET" | "HEAD", "/") => (200, who() + "\n"),
        ("GET" | "HEAD", "/healthz") => check(&switches.health_fails),
        ("GET" | "HEAD", "/readyz") => check(&switches.ready_fails),
        ("POST", "/fail/healthz") => set(&switches.health_fails, true),
        ("POST", "/fail/readyz") => set(&switches.ready_fails, true),
        ("POST", "/ok/healthz") => set(&switches.health_fails, false),
        ("POST", "/ok/readyz") => set(&switches.ready_fails, false),
        (_, "/" | "/healthz" | "/readyz") => (405, "use GET\n".to_owned()),
        _ => (404, "not found\n".to_owned()),
    }
}

fn write_answer(
    stream: &mut impl Write,
    status: u16,
    text: &str,
    keep_alive: bool,
    head: bool,
) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Internal Server Error",
    };
    let kind = if text.starts_with('{') { "application/json" } else { "text/plain" };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let length = text.len();
    let body = if head { "" } else { text };
    stream.write_all(
        format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
             connection: {connection}\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}

/// One line of JSON: Pod name, address, version.
fn who() -> String {
    let env = |name: &str| std::env::var(name).ok();
    let hostname = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    serde_json::json!({
        "pod": env("HOSTNAME").or_else(|| hostname().ok()),
        "ip": env("POD_IP"),
        "version": env!("CARGO_PKG_VERSION"),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_comes_from_the_flag_then_the_environment() {
        let args = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>().into_iter();
        assert_eq!(port(args(&[]), None), Ok(8080));
        assert_eq!(port(args(&[]), Some("81".into())), Ok(81));
        assert_eq!(port(args(&["--port", "82"]), Some("81".into())), Ok(82));
        assert!(port(args(&["--port"]), None).is_err());
        assert!(port(args(&["-p", "1"]), None).is_err());
    }

    #[test]
    fn switches_make_the_checks_fail_and_well_again() {
        let switches = Switches::default();
        let status = |method, path| answer(method, path, &switches).0;
        assert_eq!(status("GET", "/readyz"), 200);
        assert_eq!(status("POST", "/fail/readyz"), 200);
        assert_eq!((status("GET", "/readyz"), status("GET", "/healthz")), (500, 200));
        assert_eq!(status("POST", "/ok/readyz"), 200);
        assert_eq!((status("GET", "/readyz"), status("GET", "/x")), (200, 404));
        assert_eq!(status("POST", "/healthz"), 405);
    }

    #[test]
    fn requests_are_read_as_http_says() {
        let headers = ["Connection: close".to_owned(), "content-length: 3".to_owned()];
        let request = parse("POST /fail/readyz?x=1 HTTP/1.1", &headers).unwrap();
        assert_eq!(
            (request.path.as_str(), request.keep_alive, request.body),
            ("/fail/readyz", false, 3)
        );
        assert!(parse("GET / HTTP/1.1", &[]).unwrap().keep_alive);
        assert!(!parse("GET / HTTP/1.0", &[]).unwrap().keep_alive);
        assert!(parse("GET /", &[]).is_none());
        assert!(parse("GET / HTTP/1.1", &["Transfer-Encoding: chunked".to_owned()]).is_none());
    }

    #[test]
    fn a_connection_serves_many_requests() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let thread = std::thread::spawn(move || {
            converse(&server, &Switches::default(), &Busy::default()).unwrap();
        });
        client
            .write_all(b"GET /healthz HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        thread.join().unwrap();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
        assert!(text.contains("\"version\""));
    }
}
