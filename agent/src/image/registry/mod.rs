//! A client of registries (OCI distribution spec v2, and Docker's, which it came from): manifests and blobs, nothing else.
//!
//! Own code, because `oci-client` brings a second HTTP stack (reqwest), reads whole blobs anew after an interruption,
//! and knows neither mirrors nor `hosts.toml`. HTTP, TLS, challenges and TOML are libraries' business.
//!
//! ```text
//! hosts challenge credentials platform   pure: who is asked, how, by what name, for which machine
//! transport                              one request, one answer
//! repository                             a repository at its servers: requests, redirects, the next mirror
//! access                                 who we are to a server: passwords, tokens
//! blob                                   one blob into a file: verified while it flows, taken up where it was cut
//! ```
//! Nothing here knows the image store.

mod access;
mod blob;
mod challenge;
mod credentials;
mod hosts;
pub(super) mod platform;
mod repository;
#[cfg(test)]
pub(super) mod scripted;
mod transport;
mod tries;

use std::path::{Path, PathBuf};

pub use credentials::{Credential, Keyring, KeyringError};
pub(super) use repository::{Fetched, Repository};

use super::Reference;
use hosts::Endpoint;
use transport::Transport;

/// Why a registry did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Nobody there, too busy, cut off: another try may help.
    #[error("{host}: {message}")]
    Transient { host: String, message: String },
    #[error("{host}: {what} not found")]
    NotFound { host: String, what: String },
    #[error("{host}: access to {what} denied: {reason}")]
    Denied { host: String, what: String, reason: String },
    #[error("{host}: {message}")]
    Refused { host: String, message: String },
    /// What came is not what was asked for.
    #[error("{host}: {what} is corrupt: {message}")]
    Corrupt { host: String, what: String, message: String },
    /// Every server failed, each in its own way.
    #[error("{0}")]
    All(String),
    #[error("read {path:?}: {message}")]
    Config { path: PathBuf, message: String },
    #[error("{0}")]
    Local(String),
}

impl RegistryError {
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, RegistryError::Transient { .. })
    }
}

/// Every registry there is, as this node is told to ask them.
#[derive(Debug)]
pub struct Registry {
    transport: Transport,
    hosts_dir: PathBuf,
    auth_file: PathBuf,
}

impl Registry {
    /// `hosts_dir` holds `<registry>/hosts.toml`, `auth_file` is a docker `config.json`; neither has to exist. Both are
    /// read anew for every pull.
    pub fn new(hosts_dir: &Path, auth_file: &Path) -> Self {
        Self {
            transport: Transport::new(),
            hosts_dir: hosts_dir.to_owned(),
            auth_file: auth_file.to_owned(),
        }
    }

    /// The repository of an image. The keyring's credentials come before the node's own.
    pub(super) fn repository(
        &self,
        image: &Reference,
        keyring: &Keyring,
    ) -> Result<Repository<'_>, RegistryError> {
        let endpoints = self.endpoints(&image.domain)?;
        let keyring = keyring.clone().and(&self.own_keyring()?);
        Ok(Repository::new(&self.transport, image, endpoints, &keyring))
    }

    fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
        for dir in hosts::places(&self.hosts_dir, registry) {
            let path = dir.join("hosts.toml");
            if let Some(text) = read(&path)? {
                return hosts::read(registry, &String::from_utf8_lossy(&text), &dir)
                    .map_err(|message| RegistryError::Config { path, message });
            }
        }
        Ok(vec![hosts::default(registry)])
    }

    fn own_keyring(&self) -> Result<Keyring, RegistryError> {
        let Some(text) = read(&self.auth_file)? else { return Ok(Keyring::default()) };
        Keyring::node_file(&text).map_err(|error| RegistryError::Config {
            path: self.auth_file.clone(),
            message: error.to_string(),
        })
    }
}

/// None if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, RegistryError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => {
            Err(RegistryError::Config { path: path.to_owned(), message: error.to_string() })
        }
    }
}
