//! The program inside of test images: says who it is over HTTP, and misbehaves on request. Linked
//! statically, needs no file but itself.
//!
//! `serve [--port N] [--version V]` answers `GET`:
//!
//! | path | answer |
//! |---|---|
//! | `/` | `HOSTNAME VERSION` |
//! | `/healthz`, `/readyz` | 200, or 500 after `/fail/…`; `/pass/…` mends it |
//! | `/peer` | the address that the request came from |
//! | `/fetch/ADDRESS:PORT/PATH` | what a request from here gets |
//! | `/exit/N` | ends the process |
//!
//! The other commands do one thing and end: see [`main`].

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kobune_tests::harness::http;
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", rest @ ..] => {
            serve(option(rest, "--port", "8080"), option(rest, "--version", "?"))
        }
        ["get", address, path] => get(address, path),
        ["bind", port] => bind(port),
        ["burn", mebibytes] => burn(number(mebibytes)),
        ["tasks", most] => tasks(number(most)),
        ["spin", milliseconds] => spin(Duration::from_millis(number(milliseconds))),
        ["lines", count] => (0..number(count)).for_each(|n| println!("line {n}")),
        ["ticks", milliseconds] => ticks(Duration::from_millis(number(milliseconds))),
        ["exit", code] => return ExitCode::from(u8::try_from(number(code)).unwrap_or(255)),
        _ => {
            eprintln!("usage: serve|get|bind|burn|tasks|spin|lines|ticks|exit …");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| fail(&format!("not a number: {word}")))
}

fn option<'a>(words: &[&'a str], name: &str, default: &'a str) -> &'a str {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).unwrap_or(&default)
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}

static HEALTHY: AtomicBool = AtomicBool::new(true);
static READY: AtomicBool = AtomicBool::new(true);

/// Process 1 of a PID namespace gets no signal that it does not ask for: so we ask for SIGTERM, and go.
fn end_at_sigterm() {
    let mask = SigSet::from_iter([Signal::SIGTERM]);
    mask.thread_block().unwrap_or_else(|error| fail(&format!("block SIGTERM: {error}")));
    thread::spawn(move || {
        let _ = mask.wait();
        println!("terminating");
        exit(0);
    });
}

fn serve(port: &str, version: &str) {
    end_at_sigterm();
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))
        .unwrap_or_else(|error| fail(&format!("bind port {port}: {error}")));
    println!("serving version {version} on {port}");
    for stream in listener.incoming().flatten() {
        let version = version.to_owned();
        thread::spawn(move || {
            let _ = answer(&stream, &version);
        });
    }
}

/// Requests of one connection until it is closed.
fn answer(stream: &TcpStream, version: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut close = false;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            close |= header.to_ascii_lowercase().trim() == "connection: close";
        }
        let path = request.split_whitespace().nth(1).unwrap_or("/");
        let (status, body) = match path {
            "/peer" => (200, format!("{}\n", stream.peer_addr()?.ip())),
            path => page(path, version),
        };
        let length = body.len();
        write!(&*stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}")?;
        if close {
            return Ok(());
        }
    }
}

fn page(path: &str, version: &str) -> (u16, String) {
    let switch = |name: &str| if name == "healthz" { &HEALTHY } else { &READY };
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(3, '/').collect();
    match parts.as_slice() {
        [""] => (200, format!("{} {version}\n", hostname())),
        [name @ ("healthz" | "readyz")] => {
            let fine = switch(name).load(Ordering::SeqCst);
            if fine { (200, "ok\n".to_owned()) } else { (500, "told to fail\n".to_owned()) }
        }
        [verb @ ("fail" | "pass"), name] => {
            switch(name).store(*verb == "pass", Ordering::SeqCst);
            (200, "done\n".to_owned())
        }
        ["fetch", address, rest @ ..] => fetch(address, rest.first().unwrap_or(&"")),
        ["exit", code] => exit(code.parse().unwrap_or(1)),
        _ => (404, "no such page\n".to_owned()),
    }
}

fn fetch(address: &str, path: &str) -> (u16, String) {
    let outcome = address.parse::<SocketAddr>().map_err(|error| error.to_string()).and_then(|to| {
        http::get(to, &format!("/{path}"), Duration::from_secs(3)).map_err(|e| e.to_string())
    });
    match outcome {
        Ok(answer) => (answer.status, answer.body),
        Err(error) => (502, format!("{error}\n")),
    }
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn get(address: &str, path: &str) {
    let (status, body) = fetch(address, path.trim_start_matches('/'));
    print!("{body}");
    if status != 200 {
        fail(&format!("status {status}"));
    }
}

/// Takes a port and says whether it could.
fn bind(port: &str) {
    match TcpListener::bind(format!("0.0.0.0:{port}")) {
        Ok(_) => println!("bound {port}"),
        Err(error) => fail(&format!("bind port {port}: {error}")),
    }
}

/// Uses that much memory, every page of it, and keeps it.
fn burn(mebibytes: u64) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for n in 0..mebibytes {
        kept.push(vec![u8::try_from(n % 255).unwrap_or(0) + 1; 1 << 20]);
    }
    println!("burnt {} MiB", kept.len());
    end_at_sigterm();
    thread::park();
}

/// Starts tasks until it may not or `most` are there; says how many. Threads count as processes do for
/// the pids controller, and come a hundred times cheaper under emulation.
fn tasks(most: u64) {
    let mut count = 0;
    let refusal = loop {
        if count >= most {
            break None;
        }
        match thread::Builder::new().stack_size(16 << 10).spawn(thread::park) {
            Ok(_) => count += 1,
            Err(error) => break Some(error),
        }
    };
    match refusal {
        Some(error) => println!("started {count}, then: {error}"),
        None => println!("started {count}, no limit met"),
    }
}

fn spin(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A numbered line at each beat, for ever: shows gaps in logs.
fn ticks(beat: Duration) {
    end_at_sigterm();
    for n in 0_u64.. {
        println!("tick {n}");
        thread::sleep(beat);
    }
}
