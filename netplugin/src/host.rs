//! The node's side: bridge, gateway address, route to the Services, forwarding, rules. Never
//! touches what it did not make, save for a few sysctls, whose old values it restores.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use netlink_packet_route::link::InfoKind;

use crate::leases::{self, Leases};
use crate::link::{self, Links};
use crate::{Error, HostConfig, announce, ipam, netns, nft, pod, sysctl};

/// Makes the host ready for Pods. Idempotent. Rules of a running node stay as they are.
///
/// # Errors
/// The first thing that could not be made.
pub fn setup(config: &HostConfig) -> Result<(), Error> {
    if ipam::usable(config.node_cidr).is_none() {
        return Err(Error::RangeTooSmall { range: config.node_cidr });
    }
    let state = &config.state_dir;
    fs::create_dir_all(state).map_err(Error::file("create", state))?;
    for (name, value) in sysctl::HOST {
        sysctl::write_saving(&saved_sysctls(state), name, value)?;
    }
    let mut links = Links::open()?;
    let index = bridge(config, &mut links)?;
    sysctl::write(&format!("net/ipv4/conf/{}/send_redirects", config.bridge), "0")?;
    let (gateway, prefix) = (config.gateway(), config.node_cidr.prefix_len());
    let mut requests = vec![link::link_up(index)];
    for (address, length) in links.addresses(index)? {
        if (address, length) != (gateway, prefix) {
            requests.push(link::delete_address(index, address, length));
        }
    }
    requests.push(link::add_address(index, gateway, prefix));
    // Only a route makes a host process try to reach a VIP at all; the rules do the rest.
    requests.push(link::add_link_route(index, config.service_cidr, gateway));
    links.apply(requests)?;
    nft::setup(config)
}

/// Index of the bridge, made if absent.
fn bridge(config: &HostConfig, links: &mut Links) -> Result<u32, Error> {
    let name = &config.bridge;
    if let Some(found) = links.find(name)? {
        return usable_bridge(name, found);
    }
    let request = link::create_bridge(name, ipam::mac(config.gateway()), config.mtu);
    match links.apply(vec![request]) {
        // Somebody was faster; look again.
        Err(error) if error.errno() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let found = links.find(name)?.ok_or_else(|| Error::Netlink {
        what: format!("look up bridge {name:?}"),
        source: io::Error::from_raw_os_error(libc::ENODEV),
        detail: None,
    })?;
    usable_bridge(name, found)
}

fn usable_bridge(name: &str, found: link::Link) -> Result<u32, Error> {
    if found.kind != Some(InfoKind::Bridge) {
        let problem = "is the name of a link that is no bridge";
        return Err(Error::BadName { what: "bridge", value: name.into(), problem });
    }
    Ok(found.index)
}

/// Undoes [`setup`] and whatever Pods are left. Tolerates absence.
///
/// # Errors
/// Everything that could not be removed.
pub fn teardown(config: &HostConfig) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut attempt = |result: Result<(), Error>| errors.extend(result.err());
    let state = &config.state_dir;
    match Leases::new(state).all() {
        Ok(pods) => {
            for (uid, record) in pods {
                attempt(pod::teardown(config, &uid, &record.netns));
            }
        }
        Err(error) => attempt(Err(error)),
    }
    attempt(announce::teardown(config));
    attempt(delete_links(config));
    attempt(nft::teardown());
    for (name, _) in sysctl::HOST.into_iter().rev() {
        attempt(sysctl::restore(&saved_sysctls(state), name));
    }
    attempt(clear_state(state));
    attempt(netns::undo_directory());
    Error::collect("tear down the host's network", errors)
}

fn delete_links(config: &HostConfig) -> Result<(), Error> {
    let mut links = Links::open()?;
    tolerate_absence(links.apply(vec![link::delete_cables()]))?;
    tolerate_absence(links.apply(vec![link::delete_link(&config.bridge)]))
}

pub(crate) fn tolerate_absence(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Removes our files, and the directories as far as nobody else put something there.
fn clear_state(state: &Path) -> Result<(), Error> {
    leases::remove_file(&state.join("last"))?;
    for directory in [state.join("leases"), state.join("pods"), saved_sysctls(state), state.into()]
    {
        match fs::remove_dir(&directory) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Err(Error::file("remove", directory)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn saved_sysctls(state: &Path) -> PathBuf {
    state.join("sysctl")
}
