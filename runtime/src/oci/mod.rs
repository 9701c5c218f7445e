//! config.json as data: read, and checked for what this runtime does not do yet. Never touches the system.
//!
//! A field that asks for something we cannot give is an error that names it by its JSON path; a field that the
//! specification does not know is ignored, as it demands.

mod check;
#[cfg(test)]
mod fields_tests;
mod lenient;
mod sysctl;

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

pub(crate) use check::check_supervised;
pub use check::{check, check_process};
pub(crate) use lenient::{drop_unknown_capabilities, parse_leniently};
pub(crate) use sysctl::sysctl_path;

/// The newest version of the specification that we know.
pub const SPEC_VERSION: &str = "1.3.0";

/// Why a config.json cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {path:?}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("parse {path:?}: {field}: {error}")]
    Parse { path: PathBuf, field: String, error: serde_json::Error },
    #[error("{field}: {why}")]
    Field { field: String, why: String },
}

impl ConfigError {
    pub(crate) fn field(field: impl Into<String>, why: impl Into<String>) -> ConfigError {
        ConfigError::Field { field: field.into(), why: why.into() }
    }

    /// The field asks for something that this runtime does not do.
    pub(crate) fn unsupported(field: impl Into<String>) -> ConfigError {
        ConfigError::field(field, "not supported by this runtime yet")
    }
}

/// The largest config.json in bytes. Arguments and environment, the long parts of long ones, end at 2 MiB in the kernel;
/// parsed, a byte may cost some ten.
const MAX_CONFIG: u64 = 8 << 20;

/// Reads and checks `<bundle>/config.json`.
pub fn load(bundle: &Path) -> Result<Spec, ConfigError> {
    let path = bundle.join("config.json");
    parse(&read(&path)?, path)
}

/// Reads a config.json.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    match crate::bounded::read(path, MAX_CONFIG) {
        Ok(text) => Ok(text),
        Err(error) => Err(ConfigError::Read { path: path.to_owned(), error }),
    }
}

/// What is read from `path`, as a specification that this runtime obeys in full.
pub(crate) fn parse(text: &[u8], path: PathBuf) -> Result<Spec, ConfigError> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let spec: Result<Spec, _> = serde_path_to_error::deserialize(&mut reader);
    let spec = match spec {
        Ok(spec) => spec,
        Err(error) => {
            let field = error.path().to_string();
            return Err(ConfigError::Parse { path, field, error: error.into_inner() });
        }
    };
    // Two documents in one file: nobody knows which was meant.
    if let Err(error) = reader.end() {
        return Err(ConfigError::Parse { path, field: ".".into(), error });
    }
    check(&spec)?;
    Ok(spec)
}
