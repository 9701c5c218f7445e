//! What can go wrong, said with the verb and the object. Never logs.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// Failure of a network operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{verb} {object:?}: {source}")]
    File { verb: &'static str, object: PathBuf, source: io::Error },
    /// The kernel refused a netlink request.
    #[error("{what}: {source}{}", note(.detail))]
    Netlink { what: String, source: io::Error, detail: Option<String> },
    /// A netlink answer could not be understood.
    #[error("{what}: cannot decode the kernel's answer: {detail}")]
    Decode { what: String, detail: String },
    #[error("find a free address in {range}: all {used} are leased")]
    AddressesExhausted { range: Ipv4Net, used: usize },
    #[error("use node range {range}: needs at least four addresses")]
    RangeTooSmall { range: Ipv4Net },
    #[error("use {what} {value:?}: {problem}")]
    BadName { what: &'static str, value: String, problem: &'static str },
    #[error("use address {address} again for pod {uid:?}: it is leased to {holder:?}")]
    LeaseTaken { address: Ipv4Addr, uid: String, holder: String },
    #[error("enter network namespace {path:?}: {source}")]
    EnterNamespace { path: PathBuf, source: io::Error },
    #[error("start a thread for {what}: {source}")]
    Thread { what: &'static str, source: io::Error },
    /// Teardown goes on after a failure; this is all that failed.
    #[error("{what}: {}", join(.errors))]
    Several { what: String, errors: Vec<Error> },
}

impl Error {
    /// All of `errors` as one, or success if there are none.
    pub(crate) fn collect(what: impl Into<String>, mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Several { what: what.into(), errors }),
        }
    }

    pub(crate) fn file(
        verb: &'static str,
        object: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let object = object.into();
        move |source| Error::File { verb, object, source }
    }

    /// The kernel's errno, if the kernel refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Error::Netlink { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn note(detail: &Option<String>) -> String {
    detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}

fn join(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_errors_are_all_said() {
        let make = || Error::file("remove", "/a/b")(io::Error::from_raw_os_error(libc::EACCES));
        assert!(Error::collect("tear down", vec![]).is_ok());
        let text = Error::collect("tear down", vec![make(), make()]).unwrap_err().to_string();
        assert!(text.starts_with("tear down: remove \"/a/b\": "), "{text}");
        assert_eq!(text.matches("/a/b").count(), 2);
    }
}
