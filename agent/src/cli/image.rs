//! `kobune image`: import, list, remove. Works on the store directly; a running node sees the change at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Failure;
use crate::config::Settings;
use crate::image::{Image, ImageStore};

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
}

#[derive(Debug, Subcommand)]
enum Verb {
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
        let flags = Settings { data_dir: self.data_dir, ..Settings::default() };
        let settings = flags.or(super::read_file(self.config.as_deref())?);
        let data_dir = settings.check(&super::facts()?)?.data_dir;
        let store = ImageStore::open(&data_dir.join("images"))?;
        match self.verb {
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

fn list(images: &[Image]) {
    let mut rows = vec![["NAME", "ID", "LAYERS", "SIZE"].map(str::to_owned)];
    for image in images {
        for name in tags(image) {
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
