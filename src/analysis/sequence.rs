//! One direction's sequence space without its wrap: what of it was seen, what was acknowledged, what never came.

/// A position in a direction's sequence space: its low 32 bits are the sequence number, and it does not wrap.
pub type Position = u64;

/// The sequence space of one direction.
#[derive(Clone, Default, Debug)]
pub(super) struct Sequence {
    /// The highest position seen or acknowledged, once there is one.
    top: Option<Position>,
    /// Where what is known begins, and when it did.
    origin: Option<(Position, u64)>,
    /// The last number that was nowhere near `top`, if the last one was such.
    astray: Option<u32>,
    /// The highest acknowledgement.
    pub(super) acked: Option<Position>,
    /// What lies below `top` and was not seen, in order, apart from each other.
    holes: Vec<Hole>,
    /// Bytes of holes that were let go of at the limit.
    forgotten: u64,
}

/// A run of positions that were jumped over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hole {
    start: Position,
    end: Position,
    since: u64,
}

/// How a segment's bytes lie to those seen before.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Coverage {
    /// Bytes beyond all before.
    pub(super) new: u64,
    /// Bytes that fill a hole, and when the oldest such hole was made.
    pub(super) filled: u64,
    pub(super) hole_since: Option<u64>,
    /// Bytes that had been seen.
    pub(super) repeated: u64,
}

impl Sequence {
    /// The position of a sequence number, and `None` if it is more than 1 GiB, the largest window, from all before: then
    /// it is of a broken or a forged packet. Two such in a row that agree show that the capture has a gap.
    pub(super) fn place(&mut self, number: u32) -> Option<Position> {
        let Some(top) = self.top else {
            let first = ORIGIN | Position::from(number);
            self.top = Some(first);
            return Some(first);
        };
        let ahead = number.wrapping_sub(top as u32);
        if (ahead as i32).unsigned_abs() <= FARTHEST {
            self.astray = None;
            return Some(top.saturating_add_signed((ahead as i32).into()));
        }
        let agreed =
            self.astray.replace(number).is_some_and(|last| (number.wrapping_sub(last) as i32).unsigned_abs() <= FARTHEST);
        agreed.then(|| {
            self.astray = None;
            top + Position::from(ahead)
        })
    }

    /// The highest position seen or acknowledged.
    pub(super) fn top(&self) -> Option<Position> {
        self.top
    }

    /// Bytes sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.top.unwrap_or_default().saturating_sub(self.acked.or(self.top).unwrap_or_default())
    }

    /// Takes the positions from `start` to `end` as seen.
    pub(super) fn see(&mut self, start: Position, end: Position, now: u64) -> Coverage {
        let top = *self.top.get_or_insert(start);
        let (origin, began) = *self.origin.get_or_insert((top, now));
        let mut coverage = Coverage { new: end.saturating_sub(top.max(start)), ..Coverage::default() };
        if start > top {
            self.add_hole(Hole { start: top, end: start, since: now });
        }
        if end > top {
            self.top = Some(end);
        }
        if start < top {
            let end = end.min(top);
            (coverage.filled, coverage.hole_since) = self.fill(start, end);
            if start < origin {
                // Before the first number that was seen: what came late, as a SYN behind its answer.
                coverage.filled += end.min(origin) - start;
                coverage.hole_since = Some(coverage.hole_since.map_or(began, |since| since.min(began)));
                self.origin = Some((start, began));
            }
            coverage.repeated = end - start - coverage.filled;
        }
        coverage
    }

    /// Takes an acknowledgement of everything below `position`. Returns whether it is the first or higher than all before.
    pub(super) fn acknowledge(&mut self, position: Position, now: u64) -> bool {
        let top = *self.top.get_or_insert(position);
        self.origin.get_or_insert((top, now));
        if position > top {
            // Acknowledged before it was seen, if it ever is.
            self.add_hole(Hole { start: top, end: position, since: now });
            self.top = Some(position);
        }
        let higher = self.acked.is_none_or(|acked| position > acked);
        if higher {
            self.acked = Some(position);
        }
        higher
    }

    /// Bytes that were acknowledged and never seen; more than [`MAX_HOLES`] holes all count as acknowledged.
    pub(super) fn unseen(&self) -> u64 {
        let acked = self.acked.unwrap_or_default();
        let open = self.holes.iter().map(|hole| hole.end.min(acked).saturating_sub(hole.start)).sum::<u64>();
        self.forgotten + open
    }

    fn add_hole(&mut self, hole: Hole) {
        if self.holes.len() >= MAX_HOLES {
            let oldest = self.holes.remove(0);
            self.forgotten += oldest.end - oldest.start;
        }
        self.holes.push(hole);
    }

    /// Takes the positions out of the holes: how many were in one, and since when.
    fn fill(&mut self, start: Position, end: Position) -> (u64, Option<u64>) {
        let (mut filled, mut since) = (0, None::<u64>);
        let mut at = self.holes.partition_point(|hole| hole.end <= start);
        while let Some(&hole) = self.holes.get(at).filter(|hole| hole.start < end) {
            filled += hole.end.min(end) - hole.start.max(start);
            since = Some(since.map_or(hole.since, |since| since.min(hole.since)));
            let left = (hole.start < start).then_some(Hole { end: start, ..hole });
            let right = (hole.end > end).then_some(Hole { start: end, ..hole });
            let kept = [left, right].into_iter().flatten();
            self.holes.splice(at..=at, kept);
            at += usize::from(left.is_some()) + usize::from(right.is_some());
        }
        (filled, since)
    }
}

/// Far from zero, so that what was sent before the capture began has a position too.
const ORIGIN: Position = 1 << 32;

/// The largest window that TCP can have, in bytes (RFC 7323 section 2.3).
const FARTHEST: u32 = 1 << 30;

/// Holes that are open at once; a flow that has more loses the oldest from sight, at 24 bytes each.
const MAX_HOLES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coverage(new: u64, filled: u64, hole_since: Option<u64>, repeated: u64) -> Coverage {
        Coverage { new, filled, hole_since, repeated }
    }

    #[test]
    fn positions_go_on_past_the_wrap() {
        let mut sequence = Sequence::default();
        let mut number = 0xffff_0000u32;
        let first = sequence.place(number).unwrap();
        for step in 1..=100_000u64 {
            number = number.wrapping_add(1 << 20);
            let at = sequence.place(number).unwrap();
            assert_eq!(at - first, step << 20);
            sequence.see(at, at + 1, 0);
        }
        assert_eq!(sequence.place(number.wrapping_sub(10)), Some(first + (100_000u64 << 20) - 10));
    }

    #[test]
    fn a_number_from_nowhere_is_astray_and_two_that_agree_are_a_gap() {
        let mut sequence = Sequence::default();
        let first = sequence.place(1).unwrap();
        assert_eq!(sequence.place(0x6000_0000), None);
        assert_eq!(sequence.place(1), Some(first));
        assert_eq!(sequence.place(0x6000_0000), None);
        assert_eq!(sequence.place(0x6000_0009), Some(first + 0x6000_0008));
    }

    #[test]
    fn holes_are_filled_from_both_sides_and_the_middle() {
        let mut sequence = Sequence::default();
        let at = sequence.place(1000).unwrap();
        assert_eq!(sequence.see(at, at + 100, 1), coverage(100, 0, None, 0));
        assert_eq!(sequence.see(at + 1000, at + 1100, 2), coverage(100, 0, None, 0));
        assert_eq!(sequence.see(at + 50, at + 150, 3), coverage(0, 50, Some(2), 50));
        assert_eq!(sequence.see(at + 400, at + 500, 4), coverage(0, 100, Some(2), 0));
        assert_eq!(sequence.see(at + 900, at + 1200, 5), coverage(100, 100, Some(2), 100));
        assert_eq!(sequence.unseen(), 0);
        sequence.acknowledge(at + 450, 6);
        assert_eq!(sequence.unseen(), 250);
        sequence.acknowledge(at + 1300, 7);
        assert_eq!(sequence.unseen(), 250 + 400 + 100);
        assert_eq!(sequence.see(at, at + 1300, 8), coverage(0, 750, Some(2), 550));
        assert_eq!(sequence.unseen(), 0);
    }

    #[test]
    fn what_lies_before_the_first_number_came_late_and_is_no_repetition() {
        let mut sequence = Sequence::default();
        let at = sequence.place(1000).unwrap();
        sequence.acknowledge(at, 5);
        assert_eq!(sequence.see(at - 1, at, 6), coverage(0, 1, Some(5), 0));
        assert_eq!(sequence.see(at - 1, at, 7), coverage(0, 0, None, 1));
        assert_eq!(sequence.unseen(), 0);
    }

    #[test]
    fn a_direction_that_was_never_captured_was_unseen_as_far_as_it_was_acknowledged() {
        let mut sequence = Sequence::default();
        let at = sequence.place(77).unwrap();
        sequence.acknowledge(at, 0);
        sequence.acknowledge(at + 5_000_000_000, 0);
        assert_eq!(sequence.unseen(), 5_000_000_000);
    }

    #[test]
    fn holes_past_the_limit_count_as_unseen() {
        let mut sequence = Sequence::default();
        let at = sequence.place(0).unwrap();
        for i in 0..2 * MAX_HOLES as u64 {
            sequence.see(at + 2 * i + 1, at + 2 * i + 2, i);
        }
        assert_eq!(sequence.holes.len(), MAX_HOLES);
        sequence.acknowledge(at + 4 * MAX_HOLES as u64, 0);
        assert_eq!(sequence.unseen(), 2 * MAX_HOLES as u64);
    }

    proptest! {
        #[test]
        fn coverage_agrees_with_counting_each_byte(segments in proptest::collection::vec((0u64..200, 0u64..40), 1..80)) {
            let mut sequence = Sequence::default();
            let origin = sequence.place(5).unwrap() + 1000;
            sequence.see(origin - 1000, origin, 0);
            let mut seen = [false; 256];
            let mut top = 0;
            for (start, len) in segments {
                let end = start + len;
                let below: Vec<bool> = (start..end.min(top).max(start)).map(|i| seen[i as usize]).collect();
                let got = sequence.see(origin + start, origin + end, 0);
                prop_assert_eq!(got.repeated, below.iter().filter(|s| **s).count() as u64);
                prop_assert_eq!(got.filled, below.iter().filter(|s| !**s).count() as u64);
                prop_assert_eq!(got.new, end.saturating_sub(top.max(start)));
                (start..end).for_each(|i| seen[i as usize] = true);
                top = top.max(end).max(start);
            }
            sequence.acknowledge(origin + 256, 0);
            prop_assert_eq!(sequence.unseen(), seen.iter().filter(|s| !**s).count() as u64);
        }
    }
}
