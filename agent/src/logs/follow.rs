//! Reads a log to its end and, when asked to follow, on from there until the container has ended.

use std::io;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::file::LogFile;
use super::format::Formatter;
use super::{Job, LogError};

/// Changes in a log's directory.
struct Changes(pipe::Receiver);

/// Read a log as `job` says; returns when all was said, nobody listens any more, or it cannot be read.
pub(crate) async fn stream(job: Job) -> Result<(), LogError> {
    let path = job.path.clone();
    let fail = |verb| {
        let path = path.clone();
        move |source| LogError { verb, path, source }
    };
    // Watching begins before reading does: nothing falls in between.
    let mut changes = match job.options.follow {
        true => Some(Changes::watch(&path).map_err(fail("watch"))?),
        false => None,
    };
    let Some(mut reader) = open(&job, changes.as_mut()).await.map_err(fail("open"))? else {
        return Ok(());
    };
    loop {
        // Asked before reading: what was written before the end is read after it.
        let ended = job.ended.is_cancelled();
        let (back, out) = read(reader).await.map_err(fail("read"))?;
        reader = back;
        if !out.is_empty() {
            if job.to.send(out).await.is_err() {
                return Ok(());
            }
            continue;
        }
        if reader.formatter.is_done() {
            return Ok(());
        }
        match &mut changes {
            Some(changes) if !ended => {
                tokio::select! {
                    result = changes.wait() => result.map_err(fail("watch"))?,
                    () = job.ended.cancelled() => {}
                    () = job.to.closed() => return Ok(()),
                }
            }
            _ => return Ok(()),
        }
    }
}

/// A log and the answer that is made of it.
struct LogReader {
    file: LogFile,
    formatter: Formatter,
}

/// Open the log. A follower waits for one that is not there yet.
async fn open(job: &Job, mut changes: Option<&mut Changes>) -> io::Result<Option<LogReader>> {
    loop {
        let ended = job.ended.is_cancelled();
        let (path, options) = (job.path.clone(), job.options.clone());
        match blocking(move || LogFile::open(&path, &options)).await {
            Ok(file) => {
                let formatter = Formatter::new(job.options.clone());
                return Ok(Some(LogReader { file, formatter }));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => match &mut changes {
                Some(changes) if !ended => tokio::select! {
                    result = changes.wait() => result?,
                    () = job.ended.cancelled() => {}
                    () = job.to.closed() => return Ok(None),
                },
                Some(_) => return Ok(None),
                None => return Err(e),
            },
            Err(e) => return Err(e),
        }
    }
}

/// What is there now; empty when there is nothing more.
async fn read(mut reader: LogReader) -> io::Result<(LogReader, Bytes)> {
    blocking(move || {
        let mut out = Vec::new();
        while out.is_empty() && !reader.formatter.is_done() {
            let formatter = &mut reader.formatter;
            if !reader.file.read(|raw| formatter.push(raw, &mut out))? && !reader.file.reopen()? {
                break;
            }
        }
        Ok((reader, out.into()))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Changes {
    /// Watch the directory: its log is written, renamed away and made anew.
    fn watch(log: &Path) -> io::Result<Self> {
        let directory = log.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        add_watch(&inotify, directory, flags | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR)?;
        // To tokio it is a descriptor with bytes to read, as a pipe is.
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(inotify)?))
    }

    /// Until something has changed since the last call. What it was does not matter.
    async fn wait(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.0.read(&mut events).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::super::LogOptions;
    use super::*;

    struct Following {
        dir: tempfile::TempDir,
        from: mpsc::Receiver<Bytes>,
        ended: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), LogError>>,
    }

    impl Following {
        fn start(follow: bool, text: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let (to, from) = mpsc::channel(4);
            let ended = CancellationToken::new();
            let options = LogOptions { follow, ..LogOptions::default() };
            let task = tokio::spawn(stream(Job { path, options, to, ended: ended.clone() }));
            Self { dir, from, ended, task }
        }

        async fn next(&mut self) -> String {
            String::from_utf8(self.from.recv().await.unwrap().to_vec()).unwrap()
        }
    }

    #[tokio::test]
    async fn reading_ends_at_the_end() {
        let mut log = Following::start(false, Some("t stdout F a\n"));
        assert_eq!(log.next().await, "a\n");
        assert!(log.from.recv().await.is_none());
        let missing = Following::start(false, None);
        assert!(missing.task.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn following_sees_the_file_come_grow_and_rotate_until_the_container_ends() {
        let mut log = Following::start(true, None);
        let path = log.dir.path().join("0.log");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"t stdout F one\n").unwrap();
        assert_eq!(log.next().await, "one\n");
        file.write_all(b"t stdout F two\n").unwrap();
        assert_eq!(log.next().await, "two\n");
        std::fs::rename(&path, log.dir.path().join("0.log.old")).unwrap();
        file = File::create(&path).unwrap();
        file.write_all(b"t stdout F three\n").unwrap();
        assert_eq!(log.next().await, "three\n");
        file.write_all(b"t stdout F last\n").unwrap();
        log.ended.cancel();
        assert_eq!(log.next().await, "last\n");
        assert!(log.from.recv().await.is_none());
        log.task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn following_ends_when_nobody_listens() {
        let mut log = Following::start(true, Some("t stdout F a\n"));
        log.next().await;
        drop(log.from);
        log.task.await.unwrap().unwrap();
    }
}
