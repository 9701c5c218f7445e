//! `kobune image`: pull, import, list, remove. Works on the store directly; a running node sees the change at once.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::config::{ImageSettings, Settings};
use crate::image::{Image, ImageStore, Keyring, Progress, Reference, Registry};

#[derive(Debug, Args)]
pub(super) struct Command {
    #[command(subcommand)]
    verb: Verb,
    /// The node's data directory [default: /var/lib/kobune]
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// YAML file with settings [default: /etc/kobune/config.yaml, if it exists]
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
    /// How registries are reached: <DIR>/<registry>/hosts.toml [default: /etc/kobune/certs.d]
    #[arg(long, value_name = "DIR", global = true)]
    image_hosts_dir: Option<PathBuf>,
    /// Credentials of registries: a docker config.json [default: /etc/kobune/registry-auth.json, if it exists]
    #[arg(long, value_name = "PATH", global = true)]
    image_auth_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Pull images from their registries
    Pull {
        /// As in a Pod: app:1.0, registry.example/team/app@sha256:…
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Import a docker-archive or an OCI layout
    Import {
        /// A tar (gzipped or not, - for standard input) or a directory
        path: PathBuf,
        /// The image's name, in place of the one that the archive gives it
        #[arg(long, value_name = "NAME")]
        tag: Option<String>,
    },
    /// List images
    #[command(alias = "list")]
    Ls,
    /// Remove images by name or id
    #[command(alias = "remove")]
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

impl Command {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let flags = Settings {
            data_dir: self.data_dir,
            image_hosts_dir: self.image_hosts_dir,
            image_auth_file: self.image_auth_file,
            ..Settings::default()
        };
        let settings = flags.or(super::read_file(self.config.as_deref())?);
        let config = settings.check(&super::facts()?)?;
        let store = ImageStore::open(&config.data_dir.join("images"))?;
        match self.verb {
            Verb::Pull { images } => {
                super::client::block_on(pull_all(&store, &config.images, &images))?;
            }
            Verb::Import { path, tag } => {
                let imported = store.import(&path, tag.as_deref());
                for image in imported.map_err(|e| format!("{}: {e}", path.display()))? {
                    for name in tags(&image) {
                        super::say(format_args!("imported {name} ({})", short(&image.id)));
                    }
                }
            }
            Verb::Ls => list(&store.list()?),
            Verb::Rm { images } => {
                for image in images {
                    store.remove(&image)?;
                    super::say(format_args!("removed {image}"));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn pull_all(
    store: &ImageStore,
    settings: &ImageSettings,
    images: &[String],
) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&settings.hosts_dir, &settings.auth_file);
    for name in images {
        let image = Reference::parse(name)?;
        let progress = Progress::default();
        let bar = std::io::stderr().is_terminal().then(|| bar(name));
        let keyring = Keyring::default();
        let pull = store.pull(&registry, &image, &keyring, &progress);
        let pulled = match &bar {
            None => pull.await,
            Some(bar) => watch(pull, &progress, bar).await,
        };
        let pulled = pulled.map_err(|error| format!("pull image {name:?}: {error}"))?;
        super::say(format_args!("pulled {} ({})", pulled.status_id(&image), size(pulled.size)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows how far `pull` is until it ends. A signal that ends the program ends the pull; the next one sweeps up.
async fn watch<T>(pull: impl Future<Output = T>, progress: &Progress, bar: &ProgressBar) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut pull = std::pin::pin!(pull);
    loop {
        tokio::select! {
            done = &mut pull => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => {
                let (got, total) = progress.bytes();
                bar.set_length(total);
                bar.set_position(got);
            }
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let style = "{spinner:.cyan} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> ")).with_message(name.to_owned())
}

fn list(images: &[Image]) {
    let mut rows = vec![["NAME", "ID", "LAYERS", "SIZE"].map(str::to_owned)];
    for image in images {
        // One that lost its tag to a newer image is known by its digest.
        let untagged = image.references.iter().find(|name| name.contains('@')).map(String::as_str);
        let untagged = untagged.filter(|_| tags(image).next().is_none());
        for name in tags(image).chain(untagged) {
            let layers = image.layers.len().to_string();
            rows.push([name.to_owned(), short(&image.id).to_owned(), layers, size(image.size)]);
        }
    }
    super::show(&crate::table::render(&rows));
}

/// Names with a tag; those by digest say nothing new.
fn tags(image: &Image) -> impl Iterator<Item = &str> {
    let names = image.references.iter().filter(|name| !name.contains('@'));
    names.map(|name| name.strip_prefix("docker.io/library/").unwrap_or(name))
}

/// As much of an id as people read.
fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(12_345), "12 kB");
        assert_eq!(size(12_345_678), "12.3 MB");
        assert_eq!(size(2_500_000_000), "2.50 GB");
    }
}
