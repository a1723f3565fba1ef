//! How many bytes of log there are, and where: entries are counted by openraft, but one may be
//! small or a thousand times as large.

use std::collections::VecDeque;

/// Of the limit that is watched: what is kept is known this exactly.
const MARKS: u64 = 32;

/// The end of a stretch of log.
struct Mark {
    index: u64,
    /// Bytes up to this entry, with it, since the beginning of time.
    through: u64,
}

/// Marks in the log, some of its limit apart.
#[derive(Default)]
pub struct Extent {
    marks: VecDeque<Mark>,
    /// Bytes that have been purged.
    start: u64,
    /// Bytes that have been appended.
    end: u64,
    /// Bytes between marks.
    stride: u64,
}

impl Extent {
    pub fn new(limit: u64) -> Extent {
        Extent {
            stride: (limit / MARKS).max(1),
            ..Extent::default()
        }
    }

    /// True when a mark was passed: time to look at the limit again.
    pub fn append(&mut self, index: u64, bytes: u64) -> bool {
        self.end += bytes;
        let last = self.marks.back().map_or(self.start, |mark| mark.through);
        let passed = self.end - last >= self.stride;
        if passed {
            let through = self.end;
            self.marks.push_back(Mark { index, through });
        }
        passed
    }

    /// Forgets what comes from `index` on, to within a stretch.
    pub fn truncate(&mut self, index: u64) {
        while self.marks.back().is_some_and(|mark| mark.index >= index) {
            self.marks.pop_back();
        }
        self.end = self.marks.back().map_or(self.start, |mark| mark.through);
    }

    /// Forgets what comes up to `index`, with it, to within a stretch.
    pub fn purge(&mut self, index: u64) {
        while let Some(mark) = self.marks.front()
            && mark.index <= index
        {
            self.start = mark.through;
            self.marks.pop_front();
        }
    }

    /// Bytes ever appended.
    pub fn appended(&self) -> u64 {
        self.end
    }

    /// The index up to which to purge so that no more than `limit` bytes are kept, if there are more.
    pub fn excess(&self, limit: u64) -> Option<u64> {
        if self.end - self.start <= limit {
            return None;
        }
        let enough = |mark: &&Mark| self.end - mark.through <= limit;
        self.marks.iter().find(enough).map(|mark| mark.index)
    }
}

#[cfg(test)]
mod tests {
    use super::Extent;

    #[test]
    fn excess_leaves_no_more_than_the_limit() {
        let mut extent = Extent::new(320);
        for index in 1..=100 {
            extent.append(index, 10);
        }
        // 1000 bytes, of which the last 320 begin after entry 68.
        assert_eq!(extent.excess(320), Some(68));
        extent.purge(68);
        assert_eq!(extent.excess(320), None);
        extent.append(101, 10);
        assert_eq!(extent.excess(320), Some(69));
    }

    #[test]
    fn truncation_takes_bytes_away() {
        let mut extent = Extent::new(320);
        for index in 1..=40 {
            extent.append(index, 10);
        }
        assert_eq!(extent.appended(), 400);
        extent.truncate(21);
        assert_eq!(extent.appended(), 200);
        assert_eq!(extent.excess(320), None);
        extent.truncate(1);
        assert_eq!(extent.appended(), 0);
    }

    #[test]
    fn one_large_entry_is_a_stretch() {
        let mut extent = Extent::new(320);
        assert!(extent.append(1, 5000));
        // It is the newest: there is nothing to keep besides it, and it may go once it is in a snapshot.
        assert_eq!(extent.excess(320), Some(1));
    }
}
