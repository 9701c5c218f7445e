//! Controllers: each a pure decision over one view of the world, all run by one [`runner`].
//!
//! A controller says which resources concern it, which keys an event concerns, and what it wants for one
//! key. It holds no copy of the world, performs no write, and looks at no clock.

pub mod accounts;
pub mod aggregation;
pub mod balancer;
pub mod certificates;
pub mod collector;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod events;
pub mod eventttl;
mod history;
pub mod job;
pub mod look;
pub mod namespace;
pub mod nodeipam;
pub mod nodes;
pub mod outcome;
pub mod queue;
pub mod quota;
pub mod replicaset;
pub mod runner;
pub mod statefulset;
pub mod tokencleaner;
pub(crate) mod volumes;
mod workload;

#[cfg(test)]
mod integration;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod world;

use std::sync::Arc;

use crate::context::Ctx;
use runner::{Clock, Controller, Tools};

/// Runs all controllers until `ctx.shutdown`; returns when the writes in flight are done.
pub fn run(ctx: Ctx) -> impl Future<Output = ()> + Send {
    // Subscribed before the first poll: whatever is written from now on is seen.
    let subscription = ctx.subscribe();
    async move {
        let tools = tools(&ctx);
        runner::run(all(&ctx), tools, subscription, ctx.shutdown.clone()).await;
    }
}

/// What deciders work with, on the real store and clock.
pub(crate) fn tools(ctx: &Ctx) -> Tools {
    let clock = Clock::system();
    let recorder =
        events::spawn(ctx.store.clone(), ctx.writer.clone(), clock.clone(), ctx.shutdown.clone());
    Tools { reader: ctx.store.clone(), writer: ctx.writer.clone(), recorder, clock }
}

fn all(ctx: &Ctx) -> Vec<Arc<dyn Controller>> {
    let mut all: Vec<Arc<dyn Controller>> = vec![
        Arc::new(deployment::Deployments),
        Arc::new(replicaset::SETS),
        Arc::new(replicaset::CONTROLLERS),
        Arc::new(daemonset::DaemonSets),
        Arc::new(statefulset::StatefulSets),
        Arc::new(job::Jobs),
        Arc::new(cronjob::CronJobs),
        Arc::new(volumes::Binder),
        Arc::new(endpoints::Slices),
        Arc::new(endpoints::Legacy),
        Arc::new(nodeipam::NodeIpam::new(ctx.config.cluster_cidr, ctx.config.node_cidr_mask)),
        Arc::new(balancer::Balancer::new(ctx.config.load_balancer_pool.clone())),
        Arc::new(nodes::Lifecycle::default()),
        Arc::new(nodes::Eviction),
        Arc::new(nodes::Orphans::default()),
        Arc::new(namespace::Namespaces),
        Arc::new(collector::Collector::default()),
        Arc::new(accounts::Furnishing::new(Some(ctx.config.ca_pem.clone()))),
        Arc::new(eventttl::EventTtl),
        Arc::new(aggregation::Aggregation),
        Arc::new(disruption::Disruption),
        Arc::new(quota::Quotas),
        Arc::new(tokencleaner::TokenCleaner),
        Arc::new(certificates::Approving),
        Arc::new(certificates::Cleaning),
    ];
    if let Some(signer) = &ctx.config.signer {
        all.push(Arc::new(certificates::Signing::new(signer.clone())));
    }
    all
}
