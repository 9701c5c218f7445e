//! `/containerLogs/…`: which file, and when following it ends.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kobune_runtime::wire::{self, ContainerPhase, Event, Request, Response as Told};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::route::Place;
use super::server::{Answer, Body, denied, text};
use super::{Containers, Target};
use crate::logs::{Job, LogOptions};

/// Chunks on their way to a slow reader.
const QUEUE: usize = 4;

pub(super) async fn answer<C: Containers>(
    containers: &C,
    place: &Place,
    previous: bool,
    mut options: LogOptions,
    shutdown: CancellationToken,
) -> Result<Answer, Answer> {
    let found = containers.container(&place.namespace, &place.pod, Some(&place.container)).await;
    let target = found.map_err(|denial| denied(&denial))?;
    let attempt = attempt(&target, place, previous)?;
    // A run that is over writes no more.
    options.follow &= !previous && target.running;
    let path = target.log_dir.join(format!("{attempt}.log"));
    if !options.follow && !path.exists() {
        let message = format!("the log of container {:?} is gone", place.container);
        return Err(text(StatusCode::NOT_FOUND, &message));
    }
    let (to, from) = mpsc::channel(QUEUE);
    let ended = CancellationToken::new();
    let job = Job { path, options: options.clone(), to, ended: ended.clone() };
    tokio::spawn(async move {
        let watching = async {
            match options.follow {
                true => until_ended(&target.supervisor, &target.container, attempt).await,
                false => std::future::pending().await,
            }
            ended.cancel();
            std::future::pending::<()>().await
        };
        tokio::select! {
            result = crate::logs::stream(job) => if let Err(e) = result {
                tracing::warn!("{e}");
            },
            () = watching => {}
            () = shutdown.cancelled() => {}
        }
    });
    Ok(Response::new(body(from)))
}

/// Which run is meant.
#[allow(clippy::result_large_err, reason = "the error is the answer")]
fn attempt(target: &Target, place: &Place, previous: bool) -> Result<u32, Answer> {
    let Place { pod, container, .. } = place;
    let bad = |message: String| text(StatusCode::BAD_REQUEST, &message);
    match (target.attempt, previous) {
        (Some(attempt), false) => Ok(attempt),
        (Some(attempt), true) if attempt > 0 => Ok(attempt - 1),
        (_, true) => Err(bad(format!(
            "previous terminated container {container:?} in pod {pod:?} not found"
        ))),
        (None, false) => {
            Err(bad(format!("container {container:?} in pod {pod:?} is waiting to start")))
        }
    }
}

fn body(from: mpsc::Receiver<Bytes>) -> Body {
    let frames = futures::stream::unfold(from, |mut from| async move {
        let chunk = from.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), from))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Until the supervisor says that this run is over, or is gone itself.
pub(super) async fn until_ended(supervisor: &Path, container: &str, attempt: u32) {
    if let Err(e) = watch(supervisor, container, attempt).await {
        tracing::debug!("watch the end of container {container:?}: {e}");
    }
}

async fn watch(supervisor: &Path, container: &str, attempt: u32) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(supervisor).await?;
    stream.write_all(&wire::encode(&Request::Subscribe)).await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        if wire::decode::<Event>(line.as_bytes()).is_ok_and(|e| is_end(&e, container, attempt)) {
            return Ok(());
        }
        if let Ok(Told::Error { message, .. }) = wire::decode(line.as_bytes()) {
            return Err(std::io::Error::other(message));
        }
    }
    Ok(())
}

fn is_end(event: &Event, container: &str, attempt: u32) -> bool {
    match event {
        Event::Container(record) if record.container == container => {
            record.attempt > attempt
                || (record.attempt == attempt && record.phase == ContainerPhase::Exited)
        }
        Event::Removed { container: removed } => removed == container,
        Event::Container(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use kobune_runtime::wire::ContainerRecord;

    use super::*;

    #[test]
    fn a_run_ends_by_exit_by_its_successor_or_by_removal() {
        let event = |attempt, phase| {
            Event::Container(ContainerRecord {
                container: "c".into(),
                id: String::new(),
                attempt,
                phase,
                pid: 1,
                created_at: 0,
                started_at: None,
                finished_at: None,
                exit_code: None,
                signal: None,
                oom_killed: false,
                message: None,
            })
        };
        let ends = |event: &Event| is_end(event, "c", 1);
        assert!(!ends(&event(1, ContainerPhase::Running)));
        assert!(!ends(&event(0, ContainerPhase::Exited)));
        assert!(ends(&event(1, ContainerPhase::Exited)));
        assert!(ends(&event(2, ContainerPhase::Running)));
        assert!(ends(&Event::Removed { container: "c".into() }));
        assert!(!is_end(&event(1, ContainerPhase::Exited), "other", 1));
    }
}
