//! The machine's actions, carried out. Each is a task that answers its worker with one event.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::wire::Request;
use kube::api::{Api, DeleteParams, Preconditions};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::plan::find_container;
use super::sources;
use super::start;
use super::state::{Action, Event, StartFailure};
use super::token::Tokens;
use super::worker::{Msg, Worker};
use crate::node::context::Context;
use crate::node::pods::process_template;
use crate::probe::{Outcome, ProbeKind, run};
use crate::sandbox::client::{self, Events};
use crate::sandbox::dirs::PodDirs;
use crate::sandbox::{self, Standing};

/// How long a teardown waits for the API to have heard of what is torn down.
const TELL_FIRST: Duration = Duration::from_secs(5);
const PANICKED: &str = "the task that did it panicked";

pub(super) fn perform(worker: &mut Worker, action: Action) {
    match action {
        Action::SetupSandbox => setup(worker),
        Action::TeardownSandbox => teardown(worker),
        Action::StartContainer { index, attempt } => start_container(worker, index, attempt),
        Action::PreStop { index, attempt, limit } => pre_stop(worker, index, attempt, limit),
        Action::Terminate { index } => signal(worker, index, None),
        Action::Kill { index } => signal(worker, index, Some(Signal::SIGKILL as i32)),
        Action::Probe { index, attempt, kind } => probe(worker, index, attempt, kind),
        Action::Clean => clean(worker),
        Action::DeleteObject => delete_object(worker),
        Action::Report(_) => {}
    }
}

fn setup(worker: &Worker) {
    let (context, pod, dirs) =
        (Arc::clone(&worker.context), Arc::clone(&worker.pod), worker.dirs.clone());
    let (outbox, tokens) = (worker.outbox.clone(), Arc::clone(&worker.tokens));
    let failed = |reason, message: String| Event::SandboxFailed { reason, message };
    tokio::spawn(async move {
        let work = tokio::spawn(async move { try_setup(&context, &pod, &tokens, &dirs).await });
        let message = match work.await {
            Ok(Ok(up)) => Msg::SandboxUp(Box::new(up)),
            Ok(Err((reason, message))) => Msg::Event(failed(reason, message)),
            Err(_panic) => Msg::Event(failed("FailedCreatePodSandBox", PANICKED.into())),
        };
        let _ = outbox.send(message);
    });
}

async fn try_setup(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    tokens: &Tokens,
    dirs: &PodDirs,
) -> Result<(Standing, Events), (&'static str, String)> {
    let sandbox = |error: String| {
        ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"))
    };
    // Volumes first: what they miss is found out before anything is made. The address is not known yet.
    sources::make_volumes(context, pod, tokens, dirs, None)
        .await
        .map_err(|error| ("FailedMount", error))?;
    let (settings, copy) = (context.sandbox.clone(), Arc::clone(pod));
    let made = tokio::task::spawn_blocking(move || sandbox::setup(&settings, &copy)).await;
    let standing = match made {
        Ok(Ok(standing)) => standing,
        Ok(Err(error)) => return Err(sandbox(error.to_string())),
        Err(_panic) => return Err(sandbox(PANICKED.into())),
    };
    match Events::subscribe(&standing.dirs.socket()).await {
        Ok(events) => Ok((standing, events)),
        Err(error) => {
            let (settings, dirs) = (context.sandbox.clone(), standing.dirs);
            let _ = tokio::task::spawn_blocking(move || sandbox::teardown(&settings, &dirs)).await;
            Err(sandbox(error.to_string()))
        }
    }
}

fn teardown(worker: &Worker) {
    let (settings, dirs) = (worker.context.sandbox.clone(), worker.dirs.clone());
    let settled = worker.settled.subscribe();
    let otherwise = Event::TeardownFailed { message: PANICKED.into() };
    worker.spawn(otherwise, async move {
        // The records of what ended go with the sandbox: the API shall know of it first.
        wait(settled).await;
        let done = tokio::task::spawn_blocking(move || sandbox::teardown(&settings, &dirs)).await;
        match done {
            Ok(errors) if errors.is_empty() => Event::TornDown,
            Ok(errors) => Event::TeardownFailed { message: join(&errors) },
            Err(_panic) => Event::TeardownFailed { message: PANICKED.into() },
        }
    });
}

async fn wait(mut settled: watch::Receiver<bool>) {
    let _ = tokio::time::timeout(TELL_FIRST, settled.wait_for(|settled| *settled)).await;
}

fn start_container(worker: &Worker, index: usize, attempt: u32) {
    let not_made = |message: &str| Event::StartFailed {
        index,
        attempt,
        failure: StartFailure::NotMade {
            reason: "CreateContainerError".into(),
            message: message.into(),
        },
    };
    let Some(standing) = worker.standing.clone() else {
        let _ = worker.outbox.send(Msg::Event(not_made("the Pod has no sandbox")));
        return;
    };
    let order = start::Order {
        context: Arc::clone(&worker.context),
        pod: Arc::clone(&worker.pod),
        standing,
        index,
        name: worker.state.plan.containers[index].name.clone(),
        attempt,
        may_pull: worker.state.containers[index].may_pull(worker.context.clock.now()),
        stopped: worker.stopped.clone(),
        outbox: worker.outbox.clone(),
    };
    worker.spawn(not_made(PANICKED), start::start(order));
}

fn target(worker: &Worker, index: usize) -> Option<run::Target> {
    let standing = worker.standing.as_ref()?;
    let attempt = worker.attempt(index)?;
    let container = find_container(&worker.pod, &worker.state.plan.containers[index].name)?.clone();
    let node = || worker.context.options.node_ip.to_string();
    let address = standing.record.address.map(|address| address.to_string());
    Some(run::Target {
        address: if standing.record.netns.is_none() { Some(node()) } else { address },
        socket: standing.dirs.socket(),
        process: process_template(&standing.dirs, &container.name, attempt),
        container,
    })
}

fn probe(worker: &Worker, index: usize, attempt: u32, kind: ProbeKind) {
    let answer = move |outcome| Event::Probed { index, attempt, kind, outcome };
    let otherwise = answer(Outcome::Error(PANICKED.into()));
    let plan = worker.state.plan.containers[index].probe(kind);
    let (Some(target), Some(plan)) = (target(worker, index), plan) else {
        let _ = worker.outbox.send(Msg::Event(otherwise));
        return;
    };
    worker.spawn(otherwise, async move {
        let container = &target.container;
        let probe = match kind {
            ProbeKind::Startup => &container.startup_probe,
            ProbeKind::Readiness => &container.readiness_probe,
            ProbeKind::Liveness => &container.liveness_probe,
        };
        answer(match probe {
            Some(probe) => run::probe(&target, probe, plan.timeout).await,
            None => Outcome::Success,
        })
    });
}

fn pre_stop(worker: &Worker, index: usize, attempt: u32, limit: Duration) {
    let answer = move |error| Event::PreStopDone { index, attempt, error };
    let Some(target) = target(worker, index) else {
        let _ = worker.outbox.send(Msg::Event(answer(None)));
        return;
    };
    worker.spawn(answer(Some(PANICKED.into())), async move {
        let hook =
            target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        answer(match hook {
            Some(hook) => run::hook(&target, hook, limit).await.err(),
            None => None,
        })
    });
}

/// Sends a signal (the container's own stop signal by default). The exit itself is the answer.
fn signal(worker: &Worker, index: usize, signal: Option<i32>) {
    let Some(standing) = worker.standing.clone() else { return };
    let images = Arc::clone(&worker.context.images);
    let plan = &worker.state.plan.containers[index];
    let (container, image) = (plan.name.clone(), plan.image.clone());
    let cgroup = standing.record.cgroup.join(&container);
    tokio::spawn(async move {
        let number = match signal {
            Some(number) => number,
            None => tokio::task::spawn_blocking(move || start::stop_signal(&images, &image))
                .await
                .unwrap_or(Signal::SIGTERM as i32),
        };
        let request = Request::Kill { container: container.clone(), signal: number };
        let sent = client::call(&standing.dirs.socket(), request).await;
        if let Err(error) = &sent {
            tracing::debug!(%error, container, "signal a container");
        }
        if number == Signal::SIGKILL as i32 && sent.is_err() {
            // The kernel does it without the supervisor's help.
            let _ =
                tokio::task::spawn_blocking(move || kobune_runtime::cgroup::kill(&cgroup)).await;
        }
    });
}

fn clean(worker: &Worker) {
    let dirs = worker.dirs.clone();
    worker.spawn(Event::CleanFailed { message: PANICKED.into() }, async move {
        match tokio::task::spawn_blocking(move || sandbox::clean(&dirs)).await {
            Ok(errors) if errors.is_empty() => Event::Cleaned,
            Ok(errors) => Event::CleanFailed { message: join(&errors) },
            Err(_panic) => Event::CleanFailed { message: PANICKED.into() },
        }
    });
}

fn delete_object(worker: &Worker) {
    let client = worker.context.client.clone();
    let plan = &worker.state.plan;
    let (namespace, name, uid) = (plan.namespace.clone(), plan.name.clone(), plan.uid.clone());
    let settled = worker.settled.subscribe();
    let outbox = worker.outbox.clone();
    worker.spawn(Event::DeleteFailed, async move {
        wait(settled).await;
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match Api::<Pod>::namespaced(client, &namespace).delete(&name, &params).await {
            Ok(_) => Event::ObjectDeleted,
            // Somebody was faster, or another Pod has the name: this one is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                let _ = outbox.send(Msg::Gone);
                Event::ObjectDeleted
            }
            Err(error) => {
                tracing::warn!(%error, namespace, name, "delete the object of a pod");
                Event::DeleteFailed
            }
        }
    });
}

fn join<E: std::fmt::Display>(errors: &[E]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
