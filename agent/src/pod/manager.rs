//! Which Pods this node has: watches the API, starts a worker for each, and takes down what nobody wants any more.
//!
//! Never looks into a Pod; that is its worker's business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::worker::{Msg, Worker};
use crate::node::context::Context;
use crate::sandbox::dirs::{PodDirs, PodRecord};
use crate::sandbox::{self, Remains};

struct Manager {
    context: Arc<Context>,
    shutdown: CancellationToken,
    workers: BTreeMap<String, mpsc::UnboundedSender<Msg>>,
    tasks: JoinSet<String>,
    /// Found on disk and not claimed by a worker yet.
    remains: BTreeMap<String, Remains>,
    /// Seen since the list began.
    listed: BTreeSet<String>,
}

/// Runs until the node shuts down; workers have ended when it returns.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let settings = context.sandbox.clone();
    let found =
        tokio::task::spawn_blocking(move || sandbox::scan(&settings)).await.unwrap_or_default();
    let remains = found.into_iter().map(|remains| (remains.record.uid.clone(), remains)).collect();
    let mut manager = Manager {
        context,
        shutdown: shutdown.clone(),
        workers: BTreeMap::new(),
        tasks: JoinSet::new(),
        remains,
        listed: BTreeSet::new(),
    };
    let field = format!("spec.nodeName={}", manager.context.options.node_name);
    let api = Api::<Pod>::all(manager.context.client.clone());
    let events = watcher(api, watcher::Config::default().fields(&field)).default_backoff();
    let mut events = std::pin::pin!(events);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            event = events.next() => match event {
                Some(Ok(event)) => manager.handle(event),
                Some(Err(error)) => tracing::warn!(%error, "watch the pods of this node"),
                None => break,
            },
            Some(ended) = manager.tasks.join_next() => manager.ended(ended),
        }
    }
    while let Some(ended) = manager.tasks.join_next().await {
        manager.ended(ended);
    }
}

impl Manager {
    fn handle(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(pod) => {
                self.listed.insert(pod.metadata.uid.clone().unwrap_or_default());
                self.apply(pod);
            }
            watcher::Event::InitDone => self.listed_all(),
            watcher::Event::Apply(pod) => self.apply(pod),
            watcher::Event::Delete(pod) => {
                self.tell(&pod.metadata.uid.unwrap_or_default(), Msg::Gone)
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let pod = Arc::new(pod);
        if self.workers.contains_key(&uid) {
            self.tell(&uid, Msg::Pod(pod));
            return;
        }
        let dirs = match PodDirs::of(&self.context.sandbox.roots, &pod) {
            Ok(dirs) => dirs,
            Err(error) => {
                tracing::error!(%error, "take on a pod");
                return;
            }
        };
        let (outbox, inbox) = mpsc::unbounded_channel();
        let remains = self.remains.remove(&uid);
        let worker = Worker::new(Arc::clone(&self.context), pod, dirs, (outbox.clone(), inbox));
        let shutdown = self.shutdown.clone();
        self.workers.insert(uid.clone(), outbox);
        self.tasks.spawn(async move {
            Box::pin(worker.run(remains, shutdown)).await;
            uid
        });
    }

    /// The list is complete: whoever is not in it is gone, in the API and so here.
    fn listed_all(&mut self) {
        let gone: Vec<String> =
            self.workers.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.tell(&uid, Msg::Gone);
        }
        self.listed.clear();
        for (uid, remains) in std::mem::take(&mut self.remains) {
            self.take_down(uid, remains);
        }
        // Listed before any new worker can make something; workers in their last moments clean up for themselves.
        let settings = self.context.sandbox.clone();
        let unknown = sandbox::unknown(&settings, |uid| self.workers.contains_key(uid));
        if unknown.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            for error in sandbox::sweep(&settings, &unknown) {
                tracing::warn!(%error, "remove what a deleted pod left");
            }
        });
    }

    fn take_down(&mut self, uid: String, remains: Remains) {
        let settings = self.context.sandbox.clone();
        let PodRecord { namespace, name, .. } = &remains.record;
        tracing::info!(namespace, name, "take down a pod that is gone from the API");
        self.tasks.spawn(async move {
            let work = move || {
                for error in sandbox::teardown(&settings, &remains.dirs) {
                    tracing::warn!(%error, "take down a pod that is gone");
                }
                for error in sandbox::clean(&remains.dirs) {
                    tracing::warn!(%error, "clean up after a pod that is gone");
                }
            };
            if let Err(error) = tokio::task::spawn_blocking(work).await {
                tracing::error!(%error, "take down a pod that is gone");
            }
            uid
        });
    }

    fn tell(&mut self, uid: &str, message: Msg) {
        if let Some(worker) = self.workers.get(uid) {
            // A worker that has just ended needs no message.
            let _ = worker.send(message);
        }
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.workers.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "a pod's worker ended unexpectedly"),
        }
    }
}
