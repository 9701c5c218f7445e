//! A Pod's resolv.conf (pure), as its `dnsPolicy` and `dnsConfig` say; the limits are upstream's.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

const DOMAIN: &str = "cluster.local";
/// More is not read by C libraries.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_BYTES: usize = 2048;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Reads a resolv.conf; of several lines `search` or `options` the last one counts.
pub fn parse(text: &str) -> Resolv {
    let mut found = Resolv::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        let rest = words.map(str::to_owned);
        match first {
            "nameserver" => found.servers.extend(rest.take(1)),
            "search" => found.searches = rest.map(without_dot).collect(),
            "options" => found.options = rest.collect(),
            _ => {}
        }
    }
    found
}

fn without_dot(name: String) -> String {
    match name.strip_suffix('.') {
        Some(short) if !short.is_empty() => short.to_owned(),
        _ => name,
    }
}

/// What `pod` gets on a host with the file `host`, where cluster DNS is at `dns`; and what of it had
/// to be left out.
pub fn of_pod(pod: &Pod, host: &str, dns: Ipv4Addr) -> (Resolv, Vec<String>) {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let host = parse(host);
    let mut resolv = match policy {
        "None" => Resolv::default(),
        // On the host's network only who asks for cluster DNS by the longer name gets it.
        "Default" => host,
        "ClusterFirst" if host_network => host,
        _ => cluster_first(pod, host, dns),
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        add(&mut resolv, config);
    }
    let dropped = fit(&mut resolv);
    (resolv, dropped)
}

fn cluster_first(pod: &Pod, host: Resolv, dns: Ipv4Addr) -> Resolv {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let own = [format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.into()];
    Resolv {
        servers: vec![dns.to_string()],
        searches: unique(own.into_iter().chain(host.searches)),
        options: vec!["ndots:5".into()],
    }
}

fn add(resolv: &mut Resolv, config: &PodDNSConfig) {
    let take = |old: &mut Vec<String>, new: &Option<Vec<String>>| {
        let all = std::mem::take(old).into_iter().chain(new.iter().flatten().cloned());
        *old = unique(all);
    };
    take(&mut resolv.servers, &config.nameservers);
    take(&mut resolv.searches, &config.searches);
    for option in config.options.iter().flatten() {
        let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        // The Pod's word replaces ours.
        resolv.options.retain(|old| old.split(':').next() != Some(name));
        resolv.options.push(match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.to_owned(),
        });
    }
}

fn unique(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for one in all {
        if !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

/// Cuts to the limits; says what was cut.
fn fit(resolv: &mut Resolv) -> Vec<String> {
    let mut dropped = resolv.servers.split_off(resolv.servers.len().min(MOST_SERVERS));
    let mut bytes = 0;
    let fitting = resolv.searches.iter().take(MOST_SEARCHES).take_while(|one| {
        bytes += one.len() + usize::from(bytes > 0);
        bytes <= MOST_SEARCH_BYTES
    });
    let count = fitting.count();
    dropped.extend(resolv.searches.split_off(count));
    dropped
}

impl std::fmt::Display for Resolv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "resolv_tests.rs"]
mod tests;
