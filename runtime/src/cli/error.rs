//! What a command can fail with. Exit codes: the container's own where it ran, otherwise 1 (255 for `exec`, where
//! 1 is likely to be the program's; 3 for a command that does not exist), as scripts know from runc.

/// What a command failed with.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("{0}")]
    Message(String),
    /// The words are those that podman and containerd look for.
    #[error("container does not exist: {0:?}")]
    Absent(String),
    #[error("{verb}: {}", crate::sys::process::reason(error))]
    Io { verb: String, error: std::io::Error },
    #[error(transparent)]
    Config(#[from] crate::oci::ConfigError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error(transparent)]
    Systemd(#[from] crate::systemd::SystemdError),
    #[error(transparent)]
    Launch(#[from] crate::create::LaunchError),
    #[error(transparent)]
    Hook(#[from] crate::hooks::HookError),
    /// The program cannot be executed, or something before it failed.
    #[error("{}", .0.message)]
    Failure(crate::create::Failure),
}

impl CliError {
    pub(super) fn io(verb: impl Into<String>) -> impl FnOnce(std::io::Error) -> CliError {
        let verb = verb.into();
        move |error| CliError::Io { verb, error }
    }

    /// There is no such container.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, CliError::Absent(_))
    }
}

pub(super) fn message<T>(text: impl Into<String>) -> Result<T, CliError> {
    Err(CliError::Message(text.into()))
}
