//! A connection to systemd: over the system's bus, or where there is none over the socket that systemd has for its own tools.
//! Calls, and waits for the ends of jobs. Never waits longer than [`PATIENCE`].

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::SystemdError;
use super::message::{self, Body, Kind, Message, PREFIX, Target};

/// How long systemd may take for one thing, as runc has it.
const PATIENCE: Duration = Duration::from_secs(30);

const BUS: &str = "/run/dbus/system_bus_socket";

/// There without any bus; for root only.
const PRIVATE: &str = "/run/systemd/private";

pub(super) const MANAGER: Target = Target {
    name: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

const PROPERTIES: Target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };

const DAEMON: Target = Target {
    name: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// Without it the bus keeps the ends of jobs to itself.
const JOBS: &str = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    /// At the other end is systemd itself.
    direct: bool,
    serial: u32,
    /// Jobs that have ended, and how: before anybody asked, since that may be before the answer to who began them.
    ended: Vec<(String, String)>,
}

impl Bus {
    pub(super) fn connect() -> Result<Bus, SystemdError> {
        let given = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
        let given = given.split(';').find_map(|one| one.strip_prefix("unix:path="));
        let path = given.and_then(|path| path.split(',').next()).unwrap_or(BUS);
        Bus::at(path, false).or_else(|first| {
            // The first error is the one to tell.
            Bus::at(PRIVATE, true).map_err(|_| first)
        })
    }

    fn at(path: &str, direct: bool) -> Result<Bus, SystemdError> {
        let failed = |error| SystemdError::Connect { path: path.to_owned(), error };
        let stream = UnixStream::connect(path).map_err(failed)?;
        let mut bus = Bus { stream, direct, serial: 0, ended: Vec::new() };
        bus.authenticate().map_err(failed)?;
        if !direct {
            bus.call(DAEMON, "Hello", &Body::default())?;
            bus.call(DAEMON, "AddMatch", &Body::default().text(JOBS))?;
            bus.call(MANAGER, "Subscribe", &Body::default())?;
        }
        Ok(bus)
    }

    /// By our user's number, which the kernel vouches for.
    fn authenticate(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        let user = nix::unistd::geteuid().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        // At once, as systemd's tools do: it forgets to look at a message that comes together with a later BEGIN.
        self.stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let answer = self.line()?;
        match answer.starts_with("OK") {
            true => Ok(()),
            false => Err(io::Error::other(format!("not let in: {answer:?}"))),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// A property of systemd itself.
    pub(super) fn property(&mut self, name: &str) -> Result<String, SystemdError> {
        let body = Body::default().text(MANAGER.interface).text(name);
        let mut texts = self.call(PROPERTIES, "Get", &body)?;
        Ok(texts.pop().unwrap_or_default())
    }

    /// The texts of the answer.
    pub(super) fn call(
        &mut self,
        to: Target,
        method: &'static str,
        body: &Body,
    ) -> Result<Vec<String>, SystemdError> {
        self.serial += 1;
        let bytes = message::call(self.serial, to, self.direct, method, body);
        self.stream.write_all(&bytes).map_err(SystemdError::Talk)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.receive(deadline, method)?;
            if answer.reply_to != self.serial {
                continue;
            }
            if answer.kind == Kind::Reply as u8 {
                return Ok(answer.texts());
            }
            if answer.kind == Kind::Error as u8 {
                let why = answer.texts().into_iter().next().unwrap_or_default();
                return Err(SystemdError::Refused { method, name: answer.error, why });
            }
        }
    }

    /// Waits for the end of a job; its result is `done`, or why not.
    pub(super) fn wait_for(&mut self, job: &str) -> Result<String, SystemdError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.ended.iter().position(|(name, _)| name == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            self.receive(deadline, "the end of its job")?;
        }
    }

    /// The next message. The ends of jobs are noted.
    fn receive(&mut self, deadline: Instant, to: &'static str) -> Result<Message, SystemdError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SystemdError::Late { to });
        }
        let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.read());
        let message = match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(SystemdError::Late { to });
            }
            other => other.map_err(SystemdError::Talk)?,
        };
        if message.kind == Kind::Signal as u8 && message.member == "JobRemoved" {
            // Job, unit, result; before them a number.
            if let [job, _, result] = &message.texts()[..] {
                self.ended.push((job.clone(), result.clone()));
            }
        }
        Ok(message)
    }

    fn read(&mut self) -> io::Result<Message> {
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "not a message of D-Bus");
        let mut prefix = [0; PREFIX];
        self.stream.read_exact(&mut prefix)?;
        let length = message::length(&prefix).ok_or_else(strange)?;
        let mut bytes = prefix.to_vec();
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[PREFIX..])?;
        message::decode(&bytes).ok_or_else(strange)
    }
}
