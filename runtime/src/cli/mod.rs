//! The OCI command line: one container per state directory, no process that stays. Parses, dispatches, and maps
//! errors to exit codes; each command is in its file.
//!
//! `create` leaves a first process that waits on the start socket in the container's state directory; `start`
//! connects to it, and hears over the same connection why a program cannot be executed.

mod cgroups;
mod create;
mod exec;
mod info;
mod manage;
mod state;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The cgroup above those of containers whose config.json names none.
const OWN_PARENT: &str = "kobune-runtime";

/// Runs containers from OCI bundles.
#[derive(Debug, Parser)]
#[command(name = "kobune-runtime", version, about)]
struct Cli {
    /// Directory for the state of containers
    #[arg(long, global = true, default_value = "/run/kobune-runtime")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container whose program waits for `start`
    Create(CreateArgs),
    /// Execute the program of a created container
    Start { id: String },
    /// Make a container, run it to its end, and remove it
    Run {
        #[command(flatten)]
        create: CreateArgs,
        /// Leave the container running
        #[arg(short, long)]
        detach: bool,
    },
    /// Print the state of a container as JSON
    State { id: String },
    /// Send a signal to a container's first process
    Kill {
        id: String,
        /// Name or number
        #[arg(default_value = "TERM")]
        signal: String,
        /// Send it to every process of the container
        #[arg(short, long)]
        all: bool,
    },
    /// Remove a stopped container
    Delete {
        id: String,
        /// Kill it first; no error when it does not exist
        #[arg(short, long)]
        force: bool,
    },
    /// Run one more process in a running container
    Exec(ExecArgs),
    /// Write an example config.json
    Spec {
        /// Directory to write it to
        #[arg(short, long, default_value = ".")]
        bundle: PathBuf,
    },
    /// Print what this runtime can do as JSON
    Features,
}

#[derive(Debug, Args)]
struct CreateArgs {
    id: String,
    /// Directory that holds config.json
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Write the first process' pid to this file
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Socket that receives the master of the container's terminal
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// How many descriptors, from number 3 on, the program gets besides the standard streams
    #[arg(long, default_value_t = 0)]
    preserve_fds: u16,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// File with the process as JSON; instead of a command
    #[arg(short, long)]
    process: Option<PathBuf>,
    /// Working directory
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// NAME=value, added to the container's environment
    #[arg(short, long)]
    env: Vec<String>,
    /// uid or uid:gid
    #[arg(short, long)]
    user: Option<String>,
    /// Do not wait for the process
    #[arg(short, long)]
    detach: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Write the process' pid to this file
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Socket that receives the master of the terminal
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// How many descriptors, from number 3 on, the program gets besides the standard streams
    #[arg(long, default_value_t = 0)]
    preserve_fds: u16,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What a command failed with.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Message(String),
    #[error("{verb}: {}", crate::sys::process::reason(error))]
    Io { verb: String, error: std::io::Error },
    #[error(transparent)]
    Config(#[from] crate::oci::ConfigError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error(transparent)]
    Launch(#[from] crate::create::LaunchError),
    /// The program cannot be executed, or something before it failed.
    #[error("{}", .0.message)]
    Failure(crate::create::Failure),
}

impl CliError {
    fn io(verb: impl Into<String>) -> impl FnOnce(std::io::Error) -> CliError {
        let verb = verb.into();
        move |error| CliError::Io { verb, error }
    }

    fn exit_code(&self) -> u8 {
        match self {
            CliError::Failure(failure) if failure.is_program() => failure.exit_code,
            _ => 1,
        }
    }
}

fn message<T>(text: impl Into<String>) -> Result<T, CliError> {
    Err(CliError::Message(text.into()))
}

/// The command line without the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(std::iter::once("kobune-runtime".into()).chain(args));
    let store = state::Store::new(cli.root);
    let done = match cli.command {
        Command::Create(args) => create::create(&store, &args).map(|_| 0),
        Command::Start { id } => create::start(&store, &id).map(|()| 0),
        Command::Run { create: args, detach } => create::run(&store, &args, detach),
        Command::State { id } => manage::state(&store, &id).map(|()| 0),
        Command::Kill { id, signal, all } => manage::kill(&store, &id, &signal, all).map(|()| 0),
        Command::Delete { id, force } => manage::delete(&store, &id, force).map(|()| 0),
        Command::Exec(args) => exec::exec(&store, &args),
        Command::Spec { bundle } => info::spec(&bundle).map(|()| 0),
        Command::Features => info::features().map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("kobune-runtime: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
