//! What must hold in the source tree: the arrows of the design, licences, the look of files.
//!
//! Pure over what cargo and git print; [`Workspace`] fetches that. Each check returns the list of
//! offences, empty when all is well. They run in `cargo test` and in `cargo xtask lint`.

pub mod layering;
pub mod licences;
pub mod sources;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::paths;

/// What the licence check is about: the programs that we ship are for this target.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// One offence: where, and what rule it breaks.
pub type Offences = Vec<String>;

/// The checkout as cargo sees it.
pub struct Workspace {
    pub root: PathBuf,
    /// `cargo metadata`, resolved.
    pub metadata: Value,
}

impl Workspace {
    pub fn read() -> Result<Self, String> {
        let root = paths::root();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1", "--locked", "--filter-platform", TARGET])
            .current_dir(&root)
            .output()
            .map_err(|error| format!("run cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let metadata = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("read cargo metadata: {error}"))?;
        Ok(Self { root, metadata })
    }

    /// Every check of this module.
    pub fn offences(&self) -> Offences {
        let mut all = layering::arrows(&self.metadata);
        all.extend(layering::top_level(&layering::visible_entries(&self.root)));
        all.extend(layering::unsafe_forbidden(&self.root));
        all.extend(licences::offences(&self.metadata));
        all.extend(sources::offences(&self.root));
        all
    }
}
