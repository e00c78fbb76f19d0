//! Removing images that no container needs, those first that were needed longest ago, when the disk fills up.
//!
//! Images that were brought in by hand are pinned: nobody could fetch them again.
//! Source of numbers: Kubernetes 1.36, `imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`.

use std::{collections::HashMap, path::Path, time::Duration};

use container_runtime::{ImageId, ImageStatus};
use jiff::Timestamp;

use crate::{clock::after, config::Context, machine, pods::Pods};

/// A disk this full, in percent, begins a collection.
pub const HIGH_PERCENT: u64 = 85;
/// A collection goes on down to this.
pub const LOW_PERCENT: u64 = 80;
/// An image this young is kept: it was probably pulled for a container that is about to start.
pub const MINIMUM_AGE: Duration = Duration::from_secs(120);

/// Whether the disk is so full that images should go.
#[must_use]
pub fn fills_up(data_directory: &Path) -> bool {
    machine::file_system(data_directory).is_some_and(|(total, free)| percent_used(total, free) >= HIGH_PERCENT)
}

fn percent_used(total: u64, free: u64) -> u64 {
    total.saturating_sub(free).saturating_mul(100) / total.max(1)
}

/// Remembers when images were last needed.
#[derive(Debug, Default)]
pub struct ImageCollector {
    last_needed: HashMap<ImageId, Timestamp>,
}

impl ImageCollector {
    /// Takes note of the images that containers have now.
    pub fn note_use(&mut self, pods: &Pods, now: Timestamp) {
        for view in pods.views() {
            for container in view.containers.iter() {
                self.last_needed.insert(container.spec.image.clone(), now);
            }
        }
    }

    /// Removes images until the disk is emptier, or there is none to remove.
    pub async fn collect(&mut self, context: &Context) {
        let runtime = &context.config.runtime;
        let (images, containers) = match (runtime.list_images().await, runtime.list_containers(None).await) {
            (Ok(images), Ok(containers)) => (images, containers),
            (Err(problem), _) | (_, Err(problem)) => return tracing::warn!(%problem, "could not look for images to remove"),
        };
        let now = context.config.clock.now();
        for container in &containers {
            self.last_needed.insert(container.spec.image.clone(), now);
        }
        // What is seen for the first time counts as needed now.
        for image in &images {
            self.last_needed.entry(image.id.clone()).or_insert(now);
        }
        self.last_needed.retain(|id, _| images.iter().any(|image| image.id == *id));
        let Some((total, free)) = machine::file_system(&context.config.data_directory) else { return };
        let wanted = (total / 100 * (100 - LOW_PERCENT)).saturating_sub(free);
        for image in to_remove(&images, &self.last_needed, wanted, now) {
            match runtime.remove_image(&image.id.0).await {
                Ok(()) => tracing::info!(image = image.id.0, bytes = image.size_bytes, "removed an image that nobody needs: the disk fills up"),
                Err(problem) => tracing::warn!(image = image.id.0, %problem, "could not remove an image that nobody needs"),
            }
        }
    }
}

/// The images to remove so that these many bytes become free, in order.
fn to_remove<'a>(images: &'a [ImageStatus], last_needed: &HashMap<ImageId, Timestamp>, wanted: u64, now: Timestamp) -> Vec<&'a ImageStatus> {
    let age = |image: &ImageStatus| last_needed.get(&image.id).copied().unwrap_or(now);
    let mut unused: Vec<&ImageStatus> = images.iter().filter(|image| !image.pinned && after(age(image), MINIMUM_AGE) <= now).collect();
    unused.sort_by_key(|image| (age(image), image.id.0.clone()));
    let mut freed = 0;
    unused
        .into_iter()
        .take_while(|image| {
            let goes_on = freed < wanted;
            freed += image.size_bytes;
            goes_on
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn image(id: &str, size_bytes: u64, pinned: bool) -> ImageStatus {
        ImageStatus { id: ImageId(id.to_owned()), tags: Vec::new(), digests: Vec::new(), size_bytes, user: String::new(), pinned }
    }

    #[test]
    fn the_longest_unneeded_go_first_and_no_more_than_is_wanted() {
        let images = [image("new", 10, false), image("old", 10, false), image("older", 10, false), image("kept", 10, true)];
        let needed: HashMap<ImageId, Timestamp> =
            [("new", 900), ("old", 500), ("older", 100), ("kept", 0)].into_iter().map(|(id, second)| (ImageId(id.to_owned()), at(second))).collect();
        let removed = |wanted| to_remove(&images, &needed, wanted, at(1000)).into_iter().map(|image| image.id.0.as_str()).collect::<Vec<_>>();
        assert_eq!(removed(0), Vec::<&str>::new());
        assert_eq!(removed(5), ["older"]);
        assert_eq!(removed(15), ["older", "old"]);
        assert_eq!(removed(1000), ["older", "old"], "one needed lately and one pinned stay");
    }

    #[test]
    fn fullness_is_counted_in_percent() {
        assert_eq!((percent_used(1000, 150), percent_used(1000, 200), percent_used(0, 0)), (85, 80, 0));
    }
}
