//! Services as rules: watches Services and EndpointSlices, decides (`plan`), and hands what has changed
//! to the network plugin, which knows the difference to what the kernel has.
//!
//! One task owns the rules. Whatever arrives while it is busy is taken together in the next round,
//! so bursts cost one transaction; a single event is acted on at once, and costs what its Service costs.
//! Nothing is written before both kinds are completely known: the rules of a former process hold until then.
//! When somebody else touches our table, it is compared with what it should be, and mended.

mod announce;
mod elect;
mod health;
mod mirror;
mod plan;
mod warn;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kobune_netplugin::HostConfig;
use kobune_netplugin::nft::{Rules, Watch};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use health::Checks;
use plan::Here;
use warn::Announcer;
use world::{Change, Work, World};

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
    /// The node's own address: on its wire are addresses of LoadBalancer Services that fit no other.
    pub node_ip: Ipv4Addr,
    /// What DNS knows of the same objects: told of each event, one at a time.
    pub(crate) zone: SharedZone,
}

/// Why the proxy stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the service rules: {0}")]
    Open(#[source] kobune_netplugin::Error),
    #[error("start a thread that watches the service rules: {0}")]
    Watch(#[source] std::io::Error),
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
    let listener = Watch::open(&rules).map_err(Error::Open)?;
    let disturbances = disturbances(listener).map_err(Error::Watch)?.boxed();
    let sync = move |work: Work| {
        let written = match work {
            Work::Replace(all) => rules.sync(all),
            Work::Update(changed) => rules.update(changed),
            Work::Repair => rules.repair(),
        };
        let elements = written.map_err(|error| error.to_string())?;
        Ok(Written { elements, conflicts: rules.conflicts() })
    };
    let (elected, receiver) = watch::channel(None);
    let announcing = announce::run(options.host.clone(), options.node_ip, receiver);
    let driving = drive(client, options, shutdown, elected, disturbances, sync);
    // Announcing ends with the sender, which the other has.
    tokio::join!(driving, announcing).0
}

/// One item each time that somebody else has touched our table. The thread that listens ends soon after the stream.
fn disturbances(mut watch: Watch) -> std::io::Result<impl Stream<Item = ()> + Send> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("rules".into()).spawn(move || {
        while !sender.is_closed() {
            match watch.wait() {
                Ok(false) => {}
                // One that waits to be handled is as good as two.
                Ok(true) => drop(sender.try_send(())),
                Err(error) => {
                    tracing::error!(%error, "listen to changes of the service rules");
                    return;
                }
            }
        }
    })?;
    Ok(futures::stream::unfold(receiver, |mut all| async { Some((all.recv().await?, all)) }))
}

/// What writing the rules has come to.
#[derive(Debug, Default)]
struct Written {
    elements: usize,
    /// Door, Service, owner.
    conflicts: Vec<(String, String, String)>,
}

async fn drive(
    client: Client,
    options: ProxyOptions,
    shutdown: CancellationToken,
    elected: watch::Sender<Option<BTreeSet<Ipv4Addr>>>,
    mut disturbances: impl Stream<Item = ()> + Unpin,
    mut sync: impl FnMut(Work) -> Result<Written, String> + Send + 'static,
) -> Result<(), Error> {
    let services = changes(Api::all(client.clone()), Change::Service);
    let slices = changes(Api::all(client.clone()), Change::Slice);
    let nodes = changes(Api::all(client.clone()), Change::Node);
    let all = futures::stream::select(futures::stream::select(services, slices), nodes);
    let rounds = all.ready_chunks(ROUND);
    let mut rounds = std::pin::pin!(rounds);
    let here = Here { host: options.host, node_name: options.node_name.clone() };
    let mut world = World::new(options.zone);
    let mut announcer = Announcer::new(client, options.node_name);
    let mut checks = Checks::default();
    let mut failed = false;
    loop {
        let retry = async {
            match failed {
                true => tokio::time::sleep(RETRY).await,
                false => std::future::pending().await,
            }
        };
        let mut work = None;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = retry => work = Some(Work::Update(BTreeMap::new())),
            Some(()) = disturbances.next() => {
                tracing::warn!("somebody else changed the service rules; comparing");
                work = Some(Work::Repair);
            }
            round = rounds.next() => {
                round.ok_or(Error::WatchEnded)?.into_iter().for_each(|one| world.handle(one));
            }
        }
        let planned = work.or_else(|| world.plan(&here));
        let mine = world.elected(&here.node_name);
        elected.send_if_modified(|held| {
            let another = mine.is_some() && *held != mine;
            if another {
                *held = mine;
            }
            another
        });
        let Some(work) = planned else { continue };
        let repair = work == Work::Repair;
        let written;
        (sync, written) = tokio::task::spawn_blocking(move || {
            let written = sync(work);
            (sync, written)
        })
        .await?;
        failed = written.is_err();
        match written {
            Ok(Written { elements, conflicts }) => {
                announcer.announce(world.warnings(&conflicts));
                checks.keep(world.health());
                match repair {
                    true => tracing::warn!(elements, "service rules mended"),
                    false => tracing::debug!(elements, "service rules changed"),
                }
            }
            Err(error) => tracing::error!(%error, "service rules not changed, will try again"),
        }
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
