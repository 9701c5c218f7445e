//! Services as rules: watches Services and EndpointSlices, decides (`plan`), and hands the result
//! to the network plugin, which knows the difference to what the kernel has.
//!
//! One task owns the rules. Whatever arrives while it is busy is taken together in the next round,
//! so bursts cost one transaction; a single event is acted on at once. Nothing is written before
//! both kinds are completely known: the rules of a former process hold until then.

mod mirror;
mod plan;
mod warn;

use std::sync::PoisonError;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kobune_netplugin::HostConfig;
use kobune_netplugin::nft::Rules;
use kobune_netplugin::nft::services::ServiceTable;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use mirror::Mirror;
use warn::Announcer;

use crate::dns::SharedZone;

/// Events that one round takes at most; the rest waits for the next one.
const ROUND: usize = 4096;
/// How long to wait before trying again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy must know of its node.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// The node's network, as it was set up.
    pub host: HostConfig,
    /// Reported as the source of events.
    pub node_name: String,
    /// What DNS knows of the same objects: told of each event, one at a time.
    pub(crate) zone: SharedZone,
}

/// Why the proxy stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the service rules: {0}")]
    Open(#[source] kobune_netplugin::Error),
    #[error("write the service rules: the worker died: {0}")]
    Worker(#[from] tokio::task::JoinError),
    #[error("watch services and endpoint slices: the stream ended")]
    WatchEnded,
}

/// Keeps the rules as the Services say until `shutdown`; leaves them in place then.
///
/// # Errors
/// If the rules cannot be opened. Refusals of the kernel or the API are reported and tried again.
pub async fn run(
    client: Client,
    options: ProxyOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut rules = Rules::open(&options.host).map_err(Error::Open)?;
    let sync = move |table: &ServiceTable| rules.sync(table).map_err(|error| error.to_string());
    drive(client, options, shutdown, sync).await
}

/// Something happened to a Service or to a slice.
enum Change {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
}

async fn drive(
    client: Client,
    options: ProxyOptions,
    shutdown: CancellationToken,
    mut sync: impl FnMut(&ServiceTable) -> Result<usize, String> + Send + 'static,
) -> Result<(), Error> {
    let services = changes(Api::all(client.clone()), Change::Service);
    let slices = changes(Api::all(client.clone()), Change::Slice);
    let rounds = futures::stream::select(services, slices).ready_chunks(ROUND);
    let mut rounds = std::pin::pin!(rounds);
    let mut world = World { zone: options.zone, ..World::default() };
    let mut announcer = Announcer::new(client, options.node_name);
    loop {
        let retry = async {
            match world.stale {
                true => tokio::time::sleep(RETRY).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = retry => {}
            round = rounds.next() => {
                let round = round.ok_or(Error::WatchEnded)?;
                world.stale |= round.into_iter().fold(false, |any, one| world.handle(one) | any);
            }
        }
        if !world.stale {
            continue;
        }
        let Some(planned) = world.plan(&options.host) else { continue };
        announcer.announce(planned.warnings);
        let written;
        (sync, written) = tokio::task::spawn_blocking(move || {
            let written = sync(&planned.table);
            (sync, written)
        })
        .await?;
        world.stale = written.is_err();
        match written {
            Ok(0) => {}
            Ok(elements) => tracing::debug!(elements, "service rules changed"),
            Err(error) => tracing::error!(%error, "service rules not changed, will try again"),
        }
    }
}

/// All that is known, and whether the rules lag behind.
#[derive(Default)]
struct World {
    services: Mirror<Service>,
    slices: Mirror<EndpointSlice>,
    zone: SharedZone,
    stale: bool,
}

impl World {
    fn handle(&mut self, change: Change) -> bool {
        // A zone is whole between any two events, even if somebody panicked over one.
        let mut zone = self.zone.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Service(event) => {
                let whole = matches!(*event, Event::InitDone);
                match &*event {
                    Event::Apply(service) => zone.apply_service(service),
                    Event::Delete(service) => zone.delete_service(service),
                    _ => {}
                }
                let changed = self.services.handle(*event);
                if let Some(all) = self.services.objects().filter(|_| whole) {
                    zone.replace_services(all);
                }
                changed
            }
            Change::Slice(event) => {
                let whole = matches!(*event, Event::InitDone);
                match &*event {
                    Event::Apply(slice) => zone.apply_slice(slice),
                    Event::Delete(slice) => zone.delete_slice(slice),
                    _ => {}
                }
                let changed = self.slices.handle(*event);
                if let Some(all) = self.slices.objects().filter(|_| whole) {
                    zone.replace_slices(all);
                }
                changed
            }
        }
    }

    fn plan(&self, host: &HostConfig) -> Option<plan::Planned> {
        Some(plan::plan(self.services.objects()?, self.slices.objects()?, host))
    }
}

/// All events of one kind, for ever: a broken watch is reported and begun again.
fn changes<K>(api: Api<K>, wrap: fn(Box<Event<K>>) -> Change) -> impl Stream<Item = Change>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone,
    K: std::fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .filter_map(move |event| {
            let change = match event {
                Ok(event) => Some(wrap(Box::new(event))),
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%error, %kind, "watch interrupted, will begin again");
                    None
                }
            };
            std::future::ready(change)
        })
        .boxed()
}

#[cfg(test)]
mod tests;
