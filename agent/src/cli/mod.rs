//! The command line: what there is to say, and who does it. One entry per command; exit codes are made here.

mod apply;
mod backup;
mod client;
mod exec;
mod get;
mod image;
mod inspect;
mod logs;
mod resources;
mod token;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::config::{self, Config, ConfigError, Facts, Settings};

/// Any error, for a person to read.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs Kubernetes Pods on a bare Linux host.
#[derive(Debug, Parser)]
#[command(name = "kobune", version, propagate_version = true, subcommand_required = true)]
#[command(after_help = "Not listed: `supervisor` and `demo-server`, which kobune starts itself.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node and its control plane, in the foreground
    Up(Up),
    /// Run a control plane only
    Server(Settled),
    /// Run a node only, as part of the cluster of a server
    Agent(Agent),
    /// Stop `kobune up` and remove everything that it made, but for the data directory
    Down(Settled),
    /// Write everything that the cluster knows into a file, while it goes on
    Backup(backup::Backup),
    /// Make a data directory out of such a file, for a server that does not run yet (etcd has tools of its own)
    Restore(backup::Restore),
    /// Images in the node's store
    Image(image::Command),
    /// Create or change the objects of a manifest
    Apply(apply::Apply),
    /// Show objects
    Get(get::Get),
    /// Show what a container wrote
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Delete objects
    Delete(apply::Delete),
    /// Tokens that nodes join with
    Token(token::Command),
    /// Show what is behind an object on this node
    Inspect(inspect::Inspect),
    /// Show the version
    Version,
}

#[derive(Debug, Args)]
struct Settled {
    /// YAML file with the names of these flags as keys [default: /etc/kobune/config.yaml, if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    settled: Settled,
    /// Show what Kobune does: three Pods behind a Service. Takes everything down at the end
    #[arg(long)]
    demo: bool,
    /// With --demo: leave when it is over, with status 0 if all went well
    #[arg(long, requires = "demo")]
    exit: bool,
}

#[derive(Debug, Args)]
struct Agent {
    #[command(flatten)]
    settled: Settled,
    /// The server's address: https://HOST:PORT
    #[arg(long, value_name = "URL")]
    server: String,
    /// The token that `kobune token create` prints. A node that has joined before needs none: it keeps
    /// its certificate in <data-dir>/pki and renews it itself
    #[arg(long, value_name = "TOKEN", env = "KOBUNE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// SHA-256 of the cluster's CA certificate, for tokens that do not begin with it
    #[arg(long, value_name = "HEX", requires = "token")]
    ca_hash: Option<String>,
}

/// Run the command line; never returns an error, it shows it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kobune: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(up) => {
            let config = up.settled.check()?;
            let mode = match (up.demo, up.exit) {
                (false, _) => app::Mode::Node,
                (true, exit) => app::Mode::Demo { exit },
            };
            app::up(config, mode)
        }
        Command::Server(settled) => app::server(settled.check()?),
        Command::Agent(agent) => {
            let token = agent.token.as_deref().filter(|token| !token.trim().is_empty());
            let token = token.map(|token| app::Token::parse(token, agent.ca_hash.as_deref()));
            app::agent(agent.settled.check()?, &agent.server, token.transpose()?.as_ref())
        }
        Command::Down(settled) => app::down::run(settled.given()?),
        Command::Backup(backup) => client::block_on(backup.run()),
        Command::Restore(restore) => restore.run(),
        Command::Image(command) => command.run(),
        Command::Apply(apply) => client::block_on(apply.run()),
        Command::Get(get) => client::block_on(get.run()),
        Command::Logs(logs) => client::block_on(logs.run()),
        Command::Exec(exec) => client::block_on(exec.run()),
        Command::Delete(delete) => client::block_on(delete.run()),
        Command::Token(token) => client::block_on(token.run()),
        Command::Inspect(inspect) => inspect.run(),
        Command::Version => {
            say(format_args!("kobune {}", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Settled {
    /// Flags and file together.
    fn given(self) -> Result<Settings, Failure> {
        Ok(self.settings.or(read_file(self.config.as_deref())?))
    }

    fn check(self) -> Result<Config, Failure> {
        Ok(self.given()?.check(&facts()?)?)
    }
}

/// The settings of the configuration file. The default one need not exist.
fn read_file(named: Option<&Path>) -> Result<Settings, ConfigError> {
    let path = named.unwrap_or(Path::new(config::DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => config::parse_file(path, &text),
        Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
            Ok(Settings::default())
        }
        Err(e) => Err(ConfigError::File { path: path.to_owned(), message: e.to_string() }),
    }
}

/// Ask the machine what the defaults depend on.
pub(crate) fn facts() -> Result<Facts, Failure> {
    let hostname = nix::unistd::gethostname().unwrap_or_else(|_| OsString::from("localhost"));
    Ok(Facts {
        hostname: hostname.to_string_lossy().into_owned(),
        current_dir: std::env::current_dir().map_err(|e| format!("find current directory: {e}"))?,
    })
}

/// A line of output.
fn say(line: impl std::fmt::Display) {
    show(&format!("{line}\n"));
}

/// Output. Whoever reads us may have read enough: then there is nothing left to do.
fn show(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// An error and what caused it, in one line; causes that are already part of the message are left out.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn exit_belongs_to_the_demo() {
        assert!(Cli::try_parse_from(["kobune", "up", "--exit"]).is_err());
        assert!(Cli::try_parse_from(["kobune", "up", "--demo", "--exit"]).is_ok());
        assert!(Cli::try_parse_from(["kobune"]).is_err());
    }

    #[test]
    fn exec_takes_everything_after_the_dashes() {
        let cli = Cli::try_parse_from(["kobune", "exec", "-it", "pod", "--", "sh", "-c", "ls"]);
        let Command::Exec(exec) = cli.unwrap().command else { panic!("not exec") };
        assert_eq!(exec.command, ["sh", "-c", "ls"]);
    }
}
