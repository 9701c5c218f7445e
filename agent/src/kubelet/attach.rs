//! `/attach/…`: what a container writes from now on, until its run ends, over WebSocket or SPDY.
//!
//! Containers with stdin or a terminal are refused at admission as yet, so output is all there is: it is read where the
//! supervisor writes it, in the log. Bytes that a client sends go nowhere, as with a container without stdin.

use std::io;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{self, STDERR, STDOUT, V4, V5};
use super::client::{self, Sink, Wanted};
use super::route::{ExecOptions, Place};
use super::server::{Answer, denied, text};
use super::upgrade::{self, Agreed, Io};
use super::{Containers, Target, logs};
use crate::logs::{Job, LogOptions, Stream};

/// Chunks on their way to a slow reader.
const QUEUE: usize = 4;

pub(super) async fn answer<C: Containers>(
    containers: &C,
    place: &Place,
    streams: ExecOptions,
    request: Request<Incoming>,
) -> Result<Answer, Answer> {
    let found = containers.container(&place.namespace, &place.pod, Some(&place.container)).await;
    let target = found.map_err(|denial| denied(&denial))?;
    let (true, Some(attempt)) = (target.running, target.attempt) else {
        let message = format!("container {:?} is not running", place.container);
        return Err(text(StatusCode::NOT_FOUND, &message));
    };
    let ExecOptions { stdin, stdout, stderr, tty, .. } = streams;
    let wanted = Wanted { stdin, stdout, stderr, tty };
    let agreed = upgrade::agree(request.headers(), &[V5, V4], &[V4])?;
    let (upgrade, answer) = upgrade::switch(request, &agreed)?;
    tokio::spawn(async move {
        let talked = match upgrade.await {
            Ok(upgraded) => {
                converse(TokioIo::new(upgraded), agreed, &target, attempt, wanted).await
            }
            Err(e) => Err(io::Error::other(e)),
        };
        if let Err(e) = talked {
            tracing::debug!("serve an attach connection: {e}");
        }
    });
    Ok(answer)
}

async fn converse(
    io: Io,
    agreed: Agreed,
    target: &Target,
    attempt: u32,
    wanted: Wanted,
) -> io::Result<()> {
    let (mut source, sink) = client::open(io, agreed, wanted).await?;
    let ended = CancellationToken::new();
    let run = Run { target, attempt, ended: &ended };
    let outputs = async {
        tokio::join!(
            run.follow(wanted.stdout, Stream::Stdout, &sink),
            run.follow(wanted.stderr, Stream::Stderr, &sink)
        )
    };
    let ending = async {
        logs::until_ended(&target.supervisor, &target.container, attempt).await;
        ended.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = outputs => {}
        () = ending => {}
        () = async { while source.next().await.is_some() {} } => return Ok(()),
    }
    // How the run ended is the Pod's status to tell.
    sink.end(source, &channels::exited(0)).await;
    Ok(())
}

/// The run that is attached to.
struct Run<'a> {
    target: &'a Target,
    attempt: u32,
    ended: &'a CancellationToken,
}

impl Run<'_> {
    async fn follow(&self, wanted: bool, only: Stream, sink: &Sink) {
        if !wanted {
            return self.ended.cancelled().await;
        }
        let channel = if only == Stream::Stdout { STDOUT } else { STDERR };
        let path = self.target.log_dir.join(format!("{}.log", self.attempt));
        let options =
            LogOptions { follow: true, tail: Some(0), only: Some(only), ..LogOptions::default() };
        let (to, mut from) = mpsc::channel(QUEUE);
        let job = Job { path, options, to, ended: self.ended.clone() };
        let read = async {
            if let Err(e) = crate::logs::stream(job).await {
                tracing::warn!("{e}");
            }
        };
        let write = async move {
            while let Some(chunk) = from.recv().await {
                if sink.write(channel, &chunk).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(read, write);
    }
}
