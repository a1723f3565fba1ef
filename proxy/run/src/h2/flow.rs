//! Windows (RFC 9113 §5.2): how much may be sent until the receiver says that there is room again.

use super::frame::MAX_WINDOW;

/// What may be sent still. A change of settings can make it negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(i64);

impl Window {
    /// Of so many bytes.
    #[must_use]
    pub fn new(bytes: i64) -> Self {
        Self(bytes)
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Uses so much of it. Not when there is less.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> bool {
        let Ok(bytes) = i64::try_from(bytes) else {
            return false;
        };
        let enough = bytes <= self.0 || bytes == 0;
        if enough {
            self.0 -= bytes;
        }
        enough
    }

    /// Gives room back that was taken.
    pub fn widen(&mut self, bytes: u32) {
        self.0 += i64::from(bytes);
    }

    /// Changes it as the peer says. Not beyond the largest.
    #[must_use]
    pub fn change(&mut self, by: i64) -> bool {
        let changed = self.0 + by;
        if changed > MAX_WINDOW {
            return false;
        }
        self.0 = changed;
        true
    }
}

/// Adds bytes that were read to those not reported yet. Says what is to be reported when it is half of the window:
/// seldom enough to cost little, often enough that the sender does not wait.
pub fn report(unreported: &mut u32, bytes: usize, window: u32) -> Option<u32> {
    *unreported = unreported.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    if *unreported == 0 || *unreported < window / 2 {
        return None;
    }
    Some(std::mem::take(unreported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_never_overdrawn_nor_too_large() {
        let mut window = Window::new(10);
        assert!(window.take(10) && !window.take(1) && window.take(0));
        assert!(window.change(-5));
        assert_eq!(window.available(), 0);
        assert!(window.take(0), "an empty frame needs no room");
        assert!(window.change(MAX_WINDOW + 5) && !window.change(1));
        assert_eq!(i64::try_from(window.available()), Ok(MAX_WINDOW));
    }

    #[test]
    fn half_a_window_is_reported() {
        let mut unreported = 0;
        assert_eq!(report(&mut unreported, 49, 100), None);
        assert_eq!(report(&mut unreported, 1, 100), Some(50));
        assert_eq!(report(&mut unreported, 0, 0), None);
    }
}
