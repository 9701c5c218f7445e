//! Which images go when the disk gets full. Pure.
//!
//! From the high threshold on, images that nobody uses are removed, the longest unused first, until the low one would
//! be reached. Only what a registry can give again is removed: an image that somebody imported stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Image;

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub total: u64,
    pub available: u64,
}

/// When to begin and where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Percent of the disk in use.
    pub high: u8,
    pub low: u8,
    pub minimum_age: Duration,
}

/// How many bytes are to be freed; zero below the high threshold.
pub fn excess(disk: Disk, thresholds: Thresholds) -> u64 {
    let (total, available) = (u128::from(disk.total), u128::from(disk.available));
    if total == 0 || 100 - available * 100 / total < u128::from(thresholds.high) {
        return 0;
    }
    let wanted = total * (100 - u128::from(thresholds.low)) / 100;
    u64::try_from(wanted.saturating_sub(available)).unwrap_or(u64::MAX)
}

/// When images were seen and used, on a monotonic clock.
#[derive(Debug, Default)]
pub struct Memory {
    images: BTreeMap<String, Record>,
    begun: bool,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    /// Zero for what was here before the node was.
    first_seen: Duration,
    last_used: Duration,
}

impl Memory {
    /// Takes note of what is here and what is used now (image ids).
    pub fn observe(&mut self, images: &[Image], used: &BTreeSet<String>, now: Duration) {
        self.images.retain(|id, _| images.iter().any(|image| image.id == *id));
        let first_seen = if self.begun { now } else { Duration::ZERO };
        self.begun = true;
        for image in images {
            let fresh = Record { first_seen, last_used: Duration::ZERO };
            let record = self.images.entry(image.id.clone()).or_insert(fresh);
            if used.contains(&image.id) {
                record.last_used = now;
            }
        }
    }

    /// What to remove to free so many bytes, in this order. Layers that images share free less than they count.
    pub fn choose(
        &self,
        images: &[Image],
        used: &BTreeSet<String>,
        bytes: u64,
        minimum_age: Duration,
        now: Duration,
    ) -> Vec<String> {
        let mut candidates: Vec<(Record, &Image)> = images
            .iter()
            .filter(|image| image.pulled && !used.contains(&image.id))
            .filter_map(|image| Some((*self.images.get(&image.id)?, image)))
            .filter(|(record, _)| now.saturating_sub(record.first_seen) >= minimum_age)
            .collect();
        candidates
            .sort_by_key(|(record, image)| (record.last_used, record.first_seen, image.id.clone()));
        let mut freed = 0;
        let enough = |freed: &mut u64, size: u64| {
            let go_on = *freed < bytes;
            *freed += size;
            go_on
        };
        candidates
            .into_iter()
            .take_while(|(_, image)| enough(&mut freed, image.size))
            .map(|(_, image)| image.id.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Thresholds =
        Thresholds { high: 85, low: 80, minimum_age: Duration::from_secs(120) };

    fn image(id: &str, size: u64) -> Image {
        Image {
            id: id.into(),
            references: Vec::new(),
            size,
            layers: Vec::new(),
            config: Default::default(),
            pulled: true,
        }
    }

    fn used(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_disk_decides_how_much() {
        let disk = |available| Disk { total: 1000, available };
        assert_eq!(excess(disk(200), RULES), 0);
        assert_eq!(excess(disk(160), RULES), 0);
        // As upstream, whose percent are whole numbers.
        assert_eq!(excess(disk(159), RULES), 41);
        assert_eq!(excess(disk(150), RULES), 50);
        assert_eq!(excess(disk(0), RULES), 200);
        assert_eq!(excess(Disk { total: 0, available: 0 }, RULES), 0);
        let never = Thresholds { high: 100, low: 100, ..RULES };
        assert_eq!(excess(disk(0), never), 0);
    }

    #[test]
    fn the_longest_unused_goes_first_and_no_more_than_needed() {
        let images = [image("a", 10), image("b", 10), image("c", 10)];
        let mut memory = Memory::default();
        memory.observe(&images, &used(&["a"]), at(10));
        memory.observe(&images, &used(&["c"]), at(20));
        let choose = |bytes, now| memory.choose(&images, &used(&[]), bytes, at(120), at(now));
        assert_eq!(choose(1, 1000), ["b"]);
        assert_eq!(choose(10, 1000), ["b"]);
        assert_eq!(choose(11, 1000), ["b", "a"]);
        assert_eq!(choose(1000, 1000), ["b", "a", "c"]);
        assert!(choose(0, 1000).is_empty());
    }

    #[test]
    fn used_young_and_imported_images_stay() {
        let mut images = vec![image("old", 10), image("used", 10), image("imported", 10)];
        images[2].pulled = false;
        let mut memory = Memory::default();
        memory.observe(&images, &used(&[]), at(10));
        images.push(image("young", 10));
        memory.observe(&images, &used(&[]), at(1000));
        let choose = |now| memory.choose(&images, &used(&["used"]), 1000, at(120), at(now));
        assert_eq!(choose(1119), ["old"]);
        assert_eq!(choose(1120), ["old", "young"]);
        // One that came unseen is not known yet.
        images.push(image("unseen", 10));
        assert_eq!(memory.choose(&images, &used(&["used"]), 1000, at(0), at(2000)).len(), 2);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut memory = Memory::default();
        memory.observe(&[image("a", 1)], &used(&[]), at(1));
        memory.observe(&[], &used(&[]), at(2));
        assert!(memory.images.is_empty());
    }
}
