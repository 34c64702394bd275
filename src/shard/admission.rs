//! Which new flows are begun while the kernel drops frames.
//!
//! What a core cannot take is dropped from all flows alike: at 5 % two flows of twenty packets in three have a hole. To
//! begin fewer flows costs those and keeps the others whole. Which they are is chosen by a hash, so that a flow's later packets
//! meet the same answer.

use crate::flow::table::KeyHash;

/// The share of new flows that are begun.
#[derive(Debug)]
pub(super) struct Admission {
    /// Of the hashes' range; all of it: every flow.
    below: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Self { below: ALL }
    }
}

impl Admission {
    /// Takes note whether frames were dropped in the last tenth of a second: as in TCP's
    /// congestion control the share falls by a factor and grows by steps (D. Chiu and R. Jain, 1989).
    pub(super) fn handle_drops(&mut self, dropped: bool) {
        self.below = if dropped { (self.below / 4 * 3).max(LEAST) } else { (self.below + STEP).min(ALL) };
    }

    /// Whether a flow of this key may begin, `with_syn` of its client or in its middle. While some flows are refused none begins in its
    /// middle: it would most likely be one of those that were refused before the share grew.
    pub(super) fn admits(&self, hash: KeyHash, with_syn: bool) -> bool {
        self.admits_all() || (with_syn && u64::from(hash.bits()) < self.below)
    }

    /// Whether every flow may begin.
    pub(super) fn admits_all(&self) -> bool {
        self.below == ALL
    }
}

const ALL: u64 = 1 << 32;
/// A fiftieth for each tenth of a second: from next to none to all in five seconds.
const STEP: u64 = ALL / 50;
/// Some flows are begun under any load, so that the archive shows what it was.
const LEAST: u64 = ALL / 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::state::testing::flow;
    use crate::flow::table::FlowTable;

    fn admitted(admission: &Admission) -> usize {
        let table = FlowTable::new();
        (0..1000).filter(|port| admission.admits(table.hash(&flow(*port).key), true)).count()
    }

    #[test]
    fn the_share_falls_while_frames_are_dropped_and_comes_back() {
        let mut admission = Admission::default();
        assert_eq!(admitted(&admission), 1000);
        admission.handle_drops(true);
        assert!((700..800).contains(&admitted(&admission)), "{}", admitted(&admission));
        (0..100).for_each(|_| admission.handle_drops(true));
        assert!((1..30).contains(&admitted(&admission)), "{}", admitted(&admission));
        (0..50).for_each(|_| admission.handle_drops(false));
        assert_eq!(admitted(&admission), 1000);
    }

    #[test]
    fn no_flow_begins_in_its_middle_while_some_are_refused() {
        let (mut admission, table) = (Admission::default(), FlowTable::new());
        let hash = table.hash(&flow(1).key);
        assert!(admission.admits(hash, false));
        admission.handle_drops(true);
        assert!(!admission.admits(hash, false));
    }
}
