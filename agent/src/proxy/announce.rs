//! Holds the LoadBalancer addresses that are elected to this node: on the wire, and told to everybody there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use kobune_netplugin::{HostConfig, announce};
use tokio::sync::watch;

/// How long to wait before trying again what failed.
const RETRY: Duration = Duration::from_secs(1);
/// A frame may be lost, and some switches are slow: said again after so long each time.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Follows `elected` until its sender is gone; what is held then stays.
pub(super) async fn run(
    host: HostConfig,
    uplink: Ipv4Addr,
    mut elected: watch::Receiver<Option<BTreeSet<Ipv4Addr>>>,
) {
    loop {
        // None: not known yet, which is no reason to give anything up.
        let wanted = elected.borrow_and_update().clone();
        let mut failed = false;
        if let Some(wanted) = wanted {
            let copy = host.clone();
            let work = move || announce::hold(&copy, uplink, &wanted).map_err(|e| e.to_string());
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(fresh)) => repeat(host.clone(), fresh, elected.clone()),
                Ok(Err(error)) => {
                    failed = true;
                    tracing::error!("{error}");
                }
                Err(error) => tracing::error!(%error, "hold the addresses of services"),
            }
        }
        tokio::select! {
            changed = elected.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Tells of `fresh` addresses again, unless others are elected meanwhile.
fn repeat(
    host: HostConfig,
    fresh: BTreeSet<Ipv4Addr>,
    mut elected: watch::Receiver<Option<BTreeSet<Ipv4Addr>>>,
) {
    if fresh.is_empty() {
        return;
    }
    tracing::info!(?fresh, "this node answers for addresses of services");
    tokio::spawn(async move {
        for wait in AGAIN {
            tokio::select! {
                _ = elected.changed() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let (host, fresh) = (host.clone(), fresh.clone());
            let told = move || announce::announce(&host, &fresh).map_err(|e| e.to_string());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(told).await {
                tracing::warn!("{error}");
            }
        }
    });
}
