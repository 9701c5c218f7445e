//! Sets of completion indexes, as text `0-2,4,6`. Pure.

use std::collections::BTreeSet;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Indexes(BTreeSet<u32>);

impl Indexes {
    /// What nobody can read counts as not completed.
    pub(super) fn parse(text: &str) -> Self {
        let ranges = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        });
        Self(ranges.flatten().collect())
    }

    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = u32>) {
        self.0.extend(more);
    }

    pub(super) fn keep_below(&mut self, limit: u32) {
        self.0.retain(|index| *index < limit);
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        self.0.contains(&index)
    }

    /// None for none.
    pub(super) fn len_i32(&self) -> Option<i32> {
        i32::try_from(self.0.len()).ok().filter(|n| *n > 0)
    }

    /// Three and more in a row are a range; None for none.
    pub(super) fn text(&self) -> Option<String> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for &index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => runs.push((index, index)),
            }
        }
        let text = |(first, last): (u32, u32)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        };
        let parts: Vec<String> = runs.into_iter().map(text).collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::Indexes;

    #[test]
    fn three_in_a_row_are_a_range() {
        for text in ["0", "0,1", "0-2", "0-2,4,5,7", "3,9-12"] {
            assert_eq!(Indexes::parse(text).text().as_deref(), Some(text));
        }
        assert_eq!(Indexes::parse("").text(), None);
        assert_eq!(Indexes::parse("0-2,4").len_i32(), Some(4));
    }
}
