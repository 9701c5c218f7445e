//! `kobune backup` and `kobune restore`: the cluster's objects, through the running server, and its keys, from the data
//! directory, in one file.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use futures::AsyncBufReadExt;
use http::Method;
use kobune_controlplane::store::backup::{Check, Part, file_line, restore};

use super::Failure;
use super::client::{Access, explain, request};
use crate::app::lock_data;
use crate::config::Settings;

const PATH: &str = "/kobune/backup";

#[derive(Debug, Args)]
pub(super) struct Backup {
    #[command(flatten)]
    access: Access,
    /// The server's data directory, for the cluster's keys [default: /var/lib/kobune]
    #[arg(long, value_name = "DIR", conflicts_with = "without_keys")]
    data_dir: Option<PathBuf>,
    /// YAML file with settings [default: /etc/kobune/config.yaml, if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Only objects: a cluster restored from it has new certificates, and knows none of the old tokens
    #[arg(long)]
    without_keys: bool,
    /// Where it is written; all Secrets and keys are in it
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The data directory to make [default: /var/lib/kobune]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// YAML file with settings [default: /etc/kobune/config.yaml, if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// What `kobune backup` wrote
    file: PathBuf,
}

impl Backup {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let keys = match self.without_keys {
            true => Vec::new(),
            false => keys(&data_dir(self.data_dir.clone(), self.config.as_deref())?)?,
        };
        let (client, _) = self.access.open().await?;
        let wanted = request(Method::GET, PATH, None, "*/*")?;
        let answer = client.request_stream(wanted).await.map_err(explain)?;
        let mut lines = Box::pin(answer).lines();
        let dir =
            self.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |e: std::io::Error| format!("write {:?}: {e}", self.file);
        // Readable by its owner only, and nothing under that name before it is whole.
        let mut out = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        let (mut check, mut at, mut objects) = (Check::default(), 0, 0);
        while let Some(line) = futures::StreamExt::next(&mut lines).await {
            let line = line.map_err(|e| format!("read the backup: {e}"))?;
            let part = check.line(&line)?;
            writeln!(out, "{line}").map_err(failed)?;
            match part {
                Part::Head(revision) => {
                    at = revision;
                    for (name, text) in &keys {
                        out.write_all(&file_line(name, text)).map_err(failed)?;
                    }
                }
                Part::End(count) => objects = count,
                Part::File { .. } | Part::Object(_) => {}
            }
        }
        check.finish()?;
        out.as_file().sync_all().map_err(failed)?;
        out.persist(&self.file).map_err(|e| failed(e.error))?;
        let keys = if keys.is_empty() { ", without keys" } else { "" };
        super::say(format_args!("{objects} objects at resourceVersion {at}{keys}"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let dir = data_dir(self.data_dir, self.config.as_deref())?;
        let open = File::open(&self.file).map_err(|e| format!("open {:?}: {e}", self.file))?;
        let _lock = lock_data(&dir)?;
        let restored = restore(BufReader::new(open), &dir)?;
        let keys = if restored.keys { "" } else { "; the keys will be new ones" };
        let (objects, revision) = (restored.objects, restored.revision);
        super::say(format_args!(
            "{objects} objects of resourceVersion {revision} are in {}{keys}",
            dir.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

fn data_dir(flag: Option<PathBuf>, config: Option<&Path>) -> Result<PathBuf, Failure> {
    let flags = Settings { data_dir: flag, ..Settings::default() };
    Ok(flags.or(super::read_file(config)?).check(&super::facts()?)?.data_dir)
}

/// Name and text of each.
fn keys(data_dir: &Path) -> Result<Vec<(String, String)>, Failure> {
    let pki = data_dir.join("pki");
    let failed = |path: &Path, e: std::io::Error| {
        format!(
            "read the cluster's keys {path:?}: {e} (on another machine than the server's: --without-keys)"
        )
    };
    let mut names = vec!["token".to_owned()];
    for entry in std::fs::read_dir(&pki).map_err(|e| failed(&pki, e))? {
        let entry = entry.map_err(|e| failed(&pki, e))?;
        if entry.file_type().is_ok_and(|t| t.is_file()) {
            names.push(format!("pki/{}", entry.file_name().to_string_lossy()));
        }
    }
    names.sort();
    let read = |name: String| {
        let path = data_dir.join(&name);
        let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
        Ok((name, text))
    };
    names.into_iter().map(read).collect()
}
