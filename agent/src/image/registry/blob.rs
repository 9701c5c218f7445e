//! One blob into a file: counted and hashed while it flows, taken up where it was cut (`Range`), nothing kept in memory.

use std::path::Path;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};

use super::super::digest::{self, Digest};
use super::super::pull::Progress;
use super::RegistryError;
use super::repository::{Ask, Repository, Site};
use super::transport::innermost;

/// A server that sends nothing for so long is taken for dead.
pub(super) const IDLE: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

/// What is there so far.
struct Part<'a> {
    file: BufWriter<File>,
    hasher: Sha256,
    len: u64,
    progress: &'a Progress,
}

impl Repository<'_> {
    /// Fetches a blob into the new file `to`. When this fails the file is not to be used.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        to: &Path,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let file = File::create_new(to).await.map_err(|error| local("create", to, &error))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        let mut part = Part { file, hasher: Sha256::new(), len: 0, progress };
        let mut tries = self.tries(|site| site.endpoint.pull);
        while let Some(server) = tries.next().await {
            let before = part.len;
            let site = &self.sites[server];
            match self.go_on(site, digest, size, &mut part).await {
                Ok(()) => {
                    let flushed = part.file.flush().await;
                    return flushed.map_err(|error| local("write", to, &error));
                }
                Err(error @ RegistryError::Local(_)) => return Err(error),
                Err(error) => {
                    if matches!(error, RegistryError::Corrupt { .. }) {
                        part.restart().await.map_err(|error| local("write", to, &error))?;
                    } else if part.len > before {
                        tries.progressed();
                    }
                    tracing::debug!(%error, %digest, at = part.len, "fetch a blob");
                    tries.failed(server, error);
                }
            }
        }
        Err(tries.verdict())
    }

    /// Asks one server for what is missing.
    async fn go_on(
        &self,
        site: &Site,
        digest: &Digest,
        size: u64,
        part: &mut Part<'_>,
    ) -> Result<(), RegistryError> {
        let what = format!("blob {digest}");
        if part.len < size || size == 0 {
            let range = (part.len > 0).then(|| format!("bytes={}-", part.len));
            let path = format!("blobs/{digest}");
            let ask = Ask { method: Method::GET, path, accept: None, range, what: &what };
            let answer = self.ask(site, &ask).await?;
            part.place(&answer)
                .await
                .map_err(|message| site.transient(format!("{what}: {message}")))?;
            check_length(site, &what, &answer, size - part.len)?;
            part.take(site, &what, answer, size).await?;
        }
        if part.len != size {
            let message = format!("{what} ended after {} of {size} bytes", part.len);
            return Err(site.transient(message));
        }
        let actual = digest::finish(part.hasher.clone());
        if actual != *digest {
            let message = format!("its digest is {actual}");
            return Err(RegistryError::Corrupt { host: site.host(), what, message });
        }
        Ok(())
    }
}

/// A wrong length is known before anything is fetched.
fn check_length(
    site: &Site,
    what: &str,
    answer: &Response<Incoming>,
    missing: u64,
) -> Result<(), RegistryError> {
    let said = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match said.and_then(|value| value.parse::<u64>().ok()) {
        Some(length) if length != missing => {
            let message = format!("it has {length} bytes to send, {missing} were to come");
            Err(RegistryError::Corrupt { host: site.host(), what: what.to_owned(), message })
        }
        _ => Ok(()),
    }
}

impl Part<'_> {
    /// Makes the file ready for what the answer begins with.
    async fn place(&mut self, answer: &Response<Incoming>) -> Result<(), String> {
        let from = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
                let start = range.and_then(|range| {
                    range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok()
                });
                start.ok_or("a part without Content-Range")?
            }
            StatusCode::OK => 0,
            other => return Err(other.to_string()),
        };
        if from == self.len {
            return Ok(());
        }
        self.restart().await.map_err(|error| error.to_string())?;
        if from == 0 {
            Ok(())
        } else {
            Err(format!("asked for another part, it sends from {from}"))
        }
    }

    async fn restart(&mut self) -> std::io::Result<()> {
        self.progress.took_back(self.len);
        self.hasher = Sha256::new();
        self.len = 0;
        self.file.rewind().await?;
        self.file.get_mut().set_len(0).await
    }

    async fn take(
        &mut self,
        site: &Site,
        what: &str,
        answer: Response<Incoming>,
        size: u64,
    ) -> Result<(), RegistryError> {
        let mut body = answer.into_body();
        loop {
            let frame = match tokio::time::timeout(IDLE, body.frame()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(site.transient(format!("{what}: {}", innermost(&error))));
                }
                Err(_elapsed) => {
                    let seconds = IDLE.as_secs();
                    return Err(site.transient(format!("{what}: nothing came for {seconds} s")));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            if self.len + data.len() as u64 > size {
                let message = format!("it is longer than {size} bytes");
                let (host, what) = (site.host(), what.to_owned());
                return Err(RegistryError::Corrupt { host, what, message });
            }
            self.hasher.update(&data);
            let written = self.file.write_all(&data).await;
            written.map_err(|error| RegistryError::Local(format!("write {what}: {error}")))?;
            self.len += data.len() as u64;
            self.progress.got(data.len() as u64);
        }
    }
}

fn local(verb: &str, path: &Path, error: &std::io::Error) -> RegistryError {
    RegistryError::Local(format!("{verb} {path:?}: {error}"))
}
