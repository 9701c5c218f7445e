//! SIGINT and SIGTERM: the first asks, the second forces.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Failure;

/// The exit code of a program that was forced: 128 + SIGINT.
const FORCED: i32 = 130;

/// A token that the first signal cancels. The second ends the program at once.
pub(super) fn signals() -> Result<CancellationToken, Failure> {
    let listen = |kind| signal(kind).map_err(|e| format!("listen for signals: {e}"));
    let (mut int, mut term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        either(&mut int, &mut term).await;
        tracing::info!("told to stop");
        first.cancel();
        either(&mut int, &mut term).await;
        eprintln!("kobune: told to stop twice, leaving things as they are");
        std::process::exit(FORCED);
    });
    Ok(stop)
}

async fn either(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
