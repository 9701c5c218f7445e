//! Cgroups that systemd makes: a transient unit (a scope) for each container, delegated to us. systemd is told the limits, so
//! that it keeps them; we write them as well, as without it.
//!
//! ```text
//!  create                                      systemd
//!    where is your tree?                  ->
//!    a process that only waits (below)
//!    StartTransientUnit(scope, its pid)   ->   makes the cgroup, moves it there
//!                                         <-   JobRemoved "done"
//!    limits; the first process is born into the cgroup
//!    the waiting one ends
//!  delete
//!    kills what is in the cgroup
//!    StopUnit, ResetFailedUnit            ->   forgets the unit, removes the cgroup
//! ```
//!
//! A scope begins with a process in it. The container's first one cannot be that: its cgroup namespace begins where
//! it is born. If we die before it is born, so does the waiting one, and the scope ends of itself.

mod bus;
mod message;
mod name;
mod properties;

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use bus::{Bus, MANAGER};
use message::{Body, Property, Value};
pub(crate) use name::Name;

use crate::cgroup::Setting;
use crate::sys::{clone, process as sys};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error("cgroup manager systemd: systemd does not run here, use cgroupfs")]
    Absent,
    #[error("cgroup manager systemd: only root can use it, use cgroupfs")]
    NotRoot,
    #[error("linux.cgroupsPath: {wanted:?} {why}")]
    Name { wanted: String, why: String },
    #[error("reach systemd at {path:?}: {error}")]
    Connect { path: String, error: io::Error },
    #[error("talk to systemd: {0}")]
    Talk(io::Error),
    #[error("wait for {to} of systemd: nothing within 30 seconds")]
    Late { to: &'static str },
    #[error("systemd refuses {method}: {why} ({name})")]
    Refused { method: &'static str, name: String, why: String },
    #[error("start unit {unit:?}: systemd says {result:?}")]
    Job { unit: String, result: String },
    #[error("make a process for unit {unit:?}: {error}")]
    Occupant { unit: String, error: io::Error },
}

impl SystemdError {
    fn is(&self, wanted: &str) -> bool {
        matches!(self, SystemdError::Refused { name, .. } if name == wanted)
    }
}

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const UNKNOWN: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Where systemd says that it runs.
const RUNNING: &str = "/run/systemd/system";

/// A unit that is not there yet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: Name,
    /// From the tree's top.
    pub(crate) cgroup: PathBuf,
    bus: Bus,
}

/// Asks where the unit of a container will be. `wanted` is `linux.cgroupsPath`.
pub(crate) fn plan(wanted: &str, prefix: &str, id: &str) -> Result<Plan, SystemdError> {
    let name = Name::parse(wanted, prefix, id)
        .map_err(|why| SystemdError::Name { wanted: wanted.to_owned(), why })?;
    let mut bus = connect()?;
    // Mostly the top; in a container that has a systemd it is below.
    let top = bus.property("ControlGroup")?;
    let cgroup = Path::new("/").join(top.trim_start_matches('/')).join(name.path());
    Ok(Plan { name, cgroup, bus })
}

fn connect() -> Result<Bus, SystemdError> {
    if !Path::new(RUNNING).exists() && std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none() {
        return Err(SystemdError::Absent);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(SystemdError::NotRoot);
    }
    Bus::connect()
}

/// A unit with nothing in it but a process that waits for the end of this value.
#[derive(Debug)]
pub(crate) struct Scope {
    unit: String,
    bus: Bus,
    occupant: Option<Occupant>,
}

impl Plan {
    pub(crate) fn start(self, id: &str, limits: &[Setting]) -> Result<Scope, SystemdError> {
        let Plan { name: Name { slice, unit }, mut bus, .. } = self;
        let occupant = Occupant::new()
            .map_err(|error| SystemdError::Occupant { unit: unit.clone(), error })?;
        let mut properties = vec![
            ("Description", Value::Text(format!("container {id}"))),
            ("Slice", Value::Text(slice)),
            ("Delegate", Value::Flag(true)),
            ("DefaultDependencies", Value::Flag(false)),
            ("PIDs", Value::Numbers(vec![occupant.pid as u32])),
        ];
        for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting"] {
            properties.push((name, Value::Flag(true)));
        }
        properties.extend(properties::of_settings(limits));
        let job = match start(&mut bus, &unit, &properties) {
            // One that failed is kept until somebody has looked at it.
            Err(error) if error.is(EXISTS) => {
                forget(&mut bus, &unit);
                start(&mut bus, &unit, &properties)?
            }
            other => other?,
        };
        let result = bus.wait_for(&job)?;
        if result != "done" {
            forget(&mut bus, &unit);
            return Err(SystemdError::Job { unit, result });
        }
        Ok(Scope { unit, bus, occupant: Some(occupant) })
    }
}

impl Scope {
    /// The container's first process is there: the waiting one goes.
    pub(crate) fn leave(&mut self) {
        self.occupant = None;
    }

    pub(crate) fn update(&mut self, limits: &[Setting]) -> Result<(), SystemdError> {
        set(&mut self.bus, &self.unit, limits)
    }
}

fn start(bus: &mut Bus, unit: &str, properties: &[Property]) -> Result<String, SystemdError> {
    let body = Body::default().text(unit).text("fail").properties(properties).no_units();
    let texts = bus.call(MANAGER, "StartTransientUnit", &body)?;
    Ok(texts.into_iter().next().unwrap_or_default())
}

fn set(bus: &mut Bus, unit: &str, limits: &[Setting]) -> Result<(), SystemdError> {
    let properties = properties::of_settings(limits);
    if properties.is_empty() {
        return Ok(());
    }
    // Until the next boot, as the unit itself.
    let body = Body::default().text(unit).flag(true).properties(&properties);
    bus.call(MANAGER, "SetUnitProperties", &body).map(drop)
}

fn forget(bus: &mut Bus, unit: &str) {
    // Mostly there is nothing to forget.
    let _ = bus.call(MANAGER, "ResetFailedUnit", &Body::default().text(unit));
}

/// Tells systemd of changed limits.
pub(crate) fn update(unit: &str, limits: &[Setting]) -> Result<(), SystemdError> {
    set(&mut connect()?, unit, limits)
}

/// Ends a unit whose processes have been killed. An absent one is no error.
pub(crate) fn stop(unit: &str) -> Result<(), SystemdError> {
    let mut bus = connect()?;
    match bus.call(MANAGER, "StopUnit", &Body::default().text(unit).text("replace")) {
        Ok(job) => drop(bus.wait_for(job.first().map_or("", String::as_str))?),
        Err(error) if error.is(UNKNOWN) => {}
        Err(error) => return Err(error),
    }
    forget(&mut bus, unit);
    Ok(())
}

/// A process that waits until this value, or we, are gone.
#[derive(Debug)]
struct Occupant {
    pid: i32,
    /// Its end of file is the end.
    hold: Option<io::PipeWriter>,
}

impl Occupant {
    fn new() -> io::Result<Occupant> {
        let (end, hold) = io::pipe()?;
        let child = clone::spawn(0, None, || {
            // Neither our locks nor our starter's pipes are for it.
            let alone = sys::duplicate_to(end.as_raw_fd(), 0).and_then(|()| sys::close_from(1));
            let waited = alone.and_then(|()| Ok(nix::unistd::read(sys::borrow(0), &mut [0])?));
            i32::from(waited.is_err())
        })?;
        Ok(Occupant { pid: child.pid, hold: Some(hold) })
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        self.hold = None;
        let _ = waitpid(Pid::from_raw(self.pid), None);
    }
}
