//! Room on the disk: looks at it, and removes the images that [`collect`] names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::facts;
use super::report::about_node;
use crate::events::Note;
use crate::image::collect::{self, Disk, Memory, Thresholds};
use crate::image::{Image, ImageStore};

/// How often the disk is looked at, at least.
const LOOK: Duration = Duration::from_secs(60);

/// Keeps images from filling the disk, until the node shuts down.
pub(super) async fn keep_room(context: Arc<Context>, shutdown: CancellationToken) {
    let settings = &context.options.images;
    let thresholds = Thresholds {
        high: settings.gc_high,
        low: settings.gc_low,
        minimum_age: settings.gc_minimum_age,
    };
    // An age that is shorter than a look would mean nothing.
    let period = thresholds.minimum_age.clamp(Duration::from_secs(1), LOOK);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (copy, now) = (Arc::clone(&context), context.clock.now().mono);
        let work = move || {
            let missing = look(&copy, &mut memory, thresholds, now);
            (memory, missing)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((same, missing)) => {
                memory = same;
                if let Some(message) = missing {
                    tell(&context, message);
                }
            }
            Err(error) => {
                tracing::error!(%error, "collect images");
                memory = Memory::default();
            }
        }
    }
}

/// One look; the answer is what to tell when not enough could be freed.
fn look(
    context: &Context,
    memory: &mut Memory,
    thresholds: Thresholds,
    now: Duration,
) -> Option<String> {
    let images = context.images.list().unwrap_or_default();
    let used = used(context, &context.images);
    memory.observe(&images, &used, now);
    let (total, available) = facts::disk(&context.options.data_dir);
    let bytes = collect::excess(Disk { total, available }, thresholds);
    if bytes == 0 {
        return None;
    }
    let chosen = memory.choose(&images, &used, bytes, thresholds.minimum_age, now);
    let freed = remove(&context.images, &images, &chosen);
    let message = || {
        format!(
            "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
        )
    };
    (freed < bytes).then(message)
}

fn remove(store: &ImageStore, images: &[Image], chosen: &[String]) -> u64 {
    let mut freed = 0;
    for id in chosen {
        match store.remove(id) {
            Ok(()) => {
                let image = images.iter().find(|image| image.id == *id);
                freed += image.map_or(0, |image| image.size);
                tracing::info!(id, names = ?image.map(|image| &image.references), "removed an unused image");
            }
            // A container of an earlier node, or one that is just starting.
            Err(error) => tracing::debug!(%error, id, "remove an unused image"),
        }
    }
    freed
}

/// The ids of the images that the Pods of this node run from, or will.
fn used(context: &Context, store: &ImageStore) -> BTreeSet<String> {
    let views = context.pods.list();
    let names: BTreeSet<String> = views.into_iter().flat_map(|(_, _, view)| view.images).collect();
    names
        .iter()
        .filter_map(|name| store.resolve(name).ok().flatten())
        .map(|image| image.id)
        .collect()
}

fn tell(context: &Context, message: String) {
    context.recorder.record(Note {
        about: about_node(&context.options.node_name),
        warning: true,
        reason: "FreeDiskSpaceFailed".into(),
        message,
    });
}
