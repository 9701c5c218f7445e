//! One Pod's cable and address. Knows namespaces, links and leases; never containers.
//!
//! The Pod's end of the cable is born in the Pod's namespace under its final name: moving it there
//! afterwards costs twenty times as much as everything else together. The Pod's address stands
//! alone (/32) and everything goes through the gateway. So all traffic between Pods is routed by
//! the host, where connections to a VIP get their addresses changed on the way there and back,
//! without bridge netfilter.
//!
//! Where bridge netfilter is on nevertheless (Docker loads it), the address is changed while the
//! frame is still in the bridge, which then switches it to the backend's port by itself. Hence
//! ports are not isolated from each other, and may send back to where they received from.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::host::tolerate_absence;
use crate::leases::Leases;
use crate::link::{self, Cable, Links};
use crate::{Error, HostConfig, PodNetwork, PodRequest, ipam, netns, sysctl};

/// Name of the interface that Pods see.
const POD_INTERFACE: &str = "eth0";
/// The loopback is the first link of every namespace.
const LOOPBACK: u32 = 1;

/// Connects a Pod: namespace, address, veth pair, routes. Idempotent for the same uid.
///
/// # Errors
/// The first step that failed; what this call made is gone again then.
pub fn setup(config: &HostConfig, request: &PodRequest) -> Result<PodNetwork, Error> {
    let leases = Leases::new(&config.state_dir);
    let (address, fresh_lease) = leases.acquire(config.node_cidr, &request.uid, &request.netns)?;
    let fresh_namespace = !netns::exists(&request.netns);
    let network = describe(config, request, address);
    connect(config, request, &network).inspect_err(|_| {
        // The first error is the one to tell; absent parts are tolerated.
        if fresh_namespace {
            let _ = delete_cable(&network.host_interface);
            let _ = netns::delete(&request.netns);
        }
        if fresh_lease {
            let _ = leases.release(&request.uid);
        }
    })?;
    Ok(network)
}

fn describe(config: &HostConfig, request: &PodRequest, address: Ipv4Addr) -> PodNetwork {
    PodNetwork {
        netns_path: netns::path(&request.netns),
        address,
        gateway: config.gateway(),
        mac: ipam::mac(address),
        host_interface: host_interface(address),
    }
}

/// The host's end, named after the address: unique, short enough, and easy to find for people.
fn host_interface(address: Ipv4Addr) -> String {
    format!("kb{:08x}", u32::from(address))
}

fn connect(config: &HostConfig, request: &PodRequest, network: &PodNetwork) -> Result<(), Error> {
    let mut host = Links::open()?;
    let mut pod = enter(&request.netns)?;
    let index = match pod.find(POD_INTERFACE)? {
        Some(found) if found.mac == network.mac => found.index,
        Some(_) => {
            let problem = "already has an interface eth0 that is not ours";
            let value = request.netns.clone();
            return Err(Error::BadName { what: "network namespace", value, problem });
        }
        None => {
            plug(config, network, &mut host)?;
            pod.find(POD_INTERFACE)?.map(|found| found.index).ok_or_else(|| Error::Decode {
                what: format!("look up link {POD_INTERFACE:?}"),
                detail: "created but not there".into(),
            })?
        }
    };
    pod.apply(vec![
        link::link_up(LOOPBACK),
        link::link_up(index),
        link::add_address(index, network.address, 32),
        link::add_default_route(index, network.gateway),
    ])
    .and_then(|()| await_carrier(&mut host, &network.host_interface))
    // The bridge itself has a carrier only since its first port forwards.
    .and_then(|()| await_carrier(&mut host, &config.bridge))
    .inspect_err(|_| {
        let _ = delete_cable(&network.host_interface);
    })
}

/// Waits until frames pass through a link of the host. The kernel lets a bridge port forward only when a worker
/// of its own has seen the carrier; a packet sent before is lost, and is sent again only after a
/// second. Newer kernels (6.8) do that work when somebody asks for the link, so that the first
/// question suffices; older ones are asked again. A carrier that is late is no error.
pub(crate) fn await_carrier(host: &mut Links, name: &str) -> Result<(), Error> {
    const ATTEMPTS: u32 = 200;
    for _ in 0..ATTEMPTS {
        if host.find(name)?.is_none_or(|link| link.operational) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A socket in the Pod's namespace, which is made if absent.
fn enter(name: &str) -> Result<Links, Error> {
    let prepare = || {
        // The host tells Pods a shorter way to each other, which their isolated ports forbid.
        for scope in ["all", "default"] {
            sysctl::write(&format!("net/ipv4/conf/{scope}/accept_redirects"), "0")?;
        }
        Links::open()
    };
    if netns::exists(name) {
        match netns::inside(&netns::path(name), prepare) {
            // A plain file: somebody died between making it and pinning the namespace on it.
            Err(Error::EnterNamespace { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                netns::delete(name)?;
            }
            other => return other,
        }
    }
    netns::create_with(name, prepare).map(|(_, links)| links)
}

/// Creates the cable from the host's side.
fn plug(config: &HostConfig, network: &PodNetwork, links: &mut Links) -> Result<(), Error> {
    let bridge = links.find(&config.bridge)?.ok_or_else(|| Error::BadName {
        what: "bridge",
        value: config.bridge.clone(),
        problem: "does not exist: the host is not set up",
    })?;
    let namespace = netns::open(&network.netns_path)?;
    let cable = Cable {
        host_name: &network.host_interface,
        bridge_index: bridge.index,
        pod_name: POD_INTERFACE,
        pod_namespace: namespace.as_fd(),
        mac: network.mac,
        mtu: config.mtu,
    };
    let requests = || vec![link::create_cable(&cable), link::hairpin_port(cable.host_name)];
    let result = match links.apply(requests()) {
        // The former owner's namespace is still on its way out, or somebody lives in it.
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            tolerate_absence(links.apply(vec![link::delete_link(cable.host_name)]))?;
            links.apply(requests())
        }
        other => other,
    };
    result.inspect_err(|_| {
        let _ = links.apply(vec![link::delete_link(cable.host_name)]);
    })
}

/// Undoes [`setup`], the namespace's pin included. Tolerates absence of any part.
///
/// # Errors
/// Everything that could not be removed.
pub fn teardown(config: &HostConfig, uid: &str, netns: &str) -> Result<(), Error> {
    let leases = Leases::new(&config.state_dir);
    let mut errors = Vec::new();
    match leases.find(uid) {
        Ok(Some(record)) => errors.extend(unplug(netns, record.address).err()),
        Ok(None) => {}
        Err(error) => errors.push(error),
    }
    errors.extend(netns::delete(netns).err());
    errors.extend(leases.release(uid).err());
    Error::collect(format!("tear down the network of pod {uid:?}"), errors)
}

/// Takes the address away. The cable goes with the namespace, which the kernel does in the
/// background for many at once; should a process still sit in there, it keeps a dead cable.
fn unplug(name: &str, address: Ipv4Addr) -> Result<(), Error> {
    if !netns::exists(name) {
        return delete_cable(&host_interface(address));
    }
    let removed = netns::inside(&netns::path(name), || {
        let mut links = Links::open()?;
        let Some(found) = links.find(POD_INTERFACE)? else { return Ok(()) };
        links.apply(vec![link::delete_address(found.index, address, 32)])
    });
    match removed {
        // Not there: a setup that died half-way.
        Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        // Not a namespace: the pin is a plain file, and with it went the cable.
        Err(Error::EnterNamespace { .. }) => delete_cable(&host_interface(address)),
        other => other,
    }
}

fn delete_cable(host_interface: &str) -> Result<(), Error> {
    tolerate_absence(Links::open()?.apply(vec![link::delete_link(host_interface)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let name = host_interface(Ipv4Addr::new(10, 244, 0, 5));
        assert_eq!(name, "kb0af40005");
        assert!(host_interface(Ipv4Addr::BROADCAST).len() < libc::IFNAMSIZ);
    }
}
