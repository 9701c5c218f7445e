//! `kobune inspect`: what a Pod of this node is made of, read from the kernel. Needs root, asks no API.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, facts, read_file, say, show};
use crate::app::lock;
use crate::config::{DEFAULT_DATA_DIR, Settings};
use crate::inspect::{draw, observe};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Draw a Pod of this node: processes, namespaces, cgroups, mounts, the cable to the host
    Pod(Pod),
}

#[derive(Debug, Args)]
struct Pod {
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// The node's data directory [default: the configuration file's, or /var/lib/kobune]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The node's run directory [default: the one that the node was started with]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The node's configuration file [default: /etc/kobune/config.yaml, if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let What::Pod(pod) = self.what;
        let given =
            Settings { data_dir: pod.data_dir, run_dir: pod.run_dir, ..Settings::default() };
        let given = given.or(read_file(pod.config.as_deref())?);
        let data_dir = given.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        let holder = lock::holder(&data_dir);
        let node = holder.as_ref().map(|holder| holder.pid);
        let settings = given.or(holder.map(|holder| holder.settings).unwrap_or_default());
        let config = settings.check(&facts()?)?;
        let name = pod.name.strip_prefix("pod/").unwrap_or(&pod.name);
        let picture = observe::pod(&config.run_dir, node, &pod.namespace, name)?;
        match pod.output {
            Format::Text => show(&draw::draw(&picture)),
            Format::Json => say(serde_json::to_string_pretty(&picture)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}
