//! Cluster DNS of this node: the Kubernetes DNS specification 1.1, and the host's resolvers for the rest.
//!
//! ```text
//! Pod → VIP:53 (kube-system/kube-dns) → rules → gateway of the Pod bridge:10053 → zone, or the host's resolvers
//! ```
//! Every node answers its own Pods. The proxy, which watches Services and slices anyway, keeps the zone.
//! The socket is on the gateway's address alone: nothing outside of this node reaches it by another.

mod forward;
mod lookup;
pub mod resolv;
mod server;
mod wire;
mod zone;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipnet::Ipv4Net;
use kobune_netplugin::HostConfig;
use tokio_util::sync::CancellationToken;

use forward::Forwarder;
use lookup::Ranges;
use server::Sockets;
use wire::{Request, Step, Transport};
pub(crate) use zone::Zone;

/// Where the node's DNS listens, on the gateway's address. Not 53: the host may have a resolver of
/// its own there; and the rules change the port as easily as the address.
pub(crate) const PORT: u16 = 10053;
/// The host's resolvers.
pub(crate) const HOST_FILE: &str = "/etc/resolv.conf";
/// Between an end that was not asked for and the next beginning.
const AGAIN: Duration = Duration::from_secs(1);

/// The zone, as the proxy keeps it and DNS reads it.
pub(crate) type SharedZone = Arc<RwLock<Zone>>;

/// The address of kube-system/kube-dns: the tenth of the Services' range.
pub fn cluster_address(services: &Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(services.network()).wrapping_add(10))
}

/// Answers until `shutdown`.
pub(crate) async fn run(host: HostConfig, zone: SharedZone, shutdown: CancellationToken) {
    let dns = Arc::new(Dns::new(&host, zone));
    let address = SocketAddr::new(host.gateway().into(), PORT);
    while !shutdown.is_cancelled() {
        let served = async {
            let error = match Sockets::bind(address).await {
                Ok(sockets) => sockets.serve(Arc::clone(&dns)).await,
                Err(error) => error,
            };
            tracing::error!("serve cluster DNS at {address}: {error}");
            tokio::time::sleep(AGAIN).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = served => {}
        }
    }
}

/// What an answer is made from.
struct Dns {
    zone: SharedZone,
    ranges: Ranges,
    forwarder: Forwarder,
}

impl Dns {
    fn new(host: &HostConfig, zone: SharedZone) -> Dns {
        let dns = cluster_address(&host.service_cidr);
        let own = [IpAddr::from(dns), IpAddr::from(host.gateway())];
        let ranges = Ranges { services: host.service_cidr, pods: host.cluster_cidr, dns };
        let forwarder = Forwarder::new(move || upstreams(Path::new(HOST_FILE), &own));
        Dns { zone, ranges, forwarder }
    }

    fn step(&self, packet: &[u8], transport: Transport) -> Step {
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        wire::step(packet, transport, |name, kind| lookup::lookup(&zone, &self.ranges, name, kind))
    }

    async fn forward(&self, request: &Request) -> Vec<u8> {
        let reply = self.forwarder.resolve(&request.ask).await;
        request.encode(reply, false)
    }
}

/// The host's resolvers, without ourselves.
fn upstreams(file: &Path, own: &[IpAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers = resolv::parse(&text).servers.into_iter();
    let addresses = servers.filter_map(|one| one.parse::<IpAddr>().ok());
    addresses.filter(|one| !own.contains(one)).take(3).map(|one| (one, 53).into()).collect()
}

#[cfg(test)]
mod tests;
