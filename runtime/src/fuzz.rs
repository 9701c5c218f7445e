//! What the fuzz targets in `runtime/fuzz` call: bytes in, an opinion out, nothing done. Exists with the feature
//! `fuzzing` only.

use std::path::Path;

use crate::wire::{self, Request, Rootfs};
use crate::{cli, oci, plan};

/// Loads, checks and plans a config.json; the number of steps.
pub fn config(bytes: &[u8]) -> Result<usize, String> {
    let spec = oci::parse(bytes, "config.json".into()).map_err(|error| error.to_string())?;
    let planned = plan::plan(&spec, &Rootfs::Bundle, Path::new("/bundle"));
    let plan = planned.map_err(|error| error.to_string())?;
    if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        crate::cgroup::settings(resources).map_err(|error| error.to_string())?;
    }
    Ok(plan.steps.iter().map(ToString::to_string).filter(|name| !name.is_empty()).count())
}

/// Reads a state.json.
pub fn state(bytes: &[u8]) -> Result<(), String> {
    cli::fuzz_state(bytes)
}

/// Reads a request to a supervisor, and checks the process that an exec would start.
pub fn request(bytes: &[u8]) -> Result<(), String> {
    match wire::decode(bytes).map_err(|error| error.to_string())? {
        Request::Exec(exec) => oci::check_process(&exec.process, "process")
            .and_then(|()| plan::ProcessPlan::of(&exec.process, "process"))
            .map(drop)
            .map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}
