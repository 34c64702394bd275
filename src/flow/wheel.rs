//! A lazy timer wheel on packet time.
//!
//! A flow's deadline moves with almost every packet, so a timer is not moved with it: when its slot comes up, the
//! owner looks at the real deadline and schedules again. Only a deadline that comes *earlier* needs a second entry.

use crate::time::Timestamp;
use std::time::Duration;

/// Timers that name a `T`, in slots of [`Wheel::TICK`].
#[derive(Debug)]
pub struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// The first tick that has not been handed out.
    next: u64,
    len: usize,
}

impl<T> Wheel<T> {
    /// The width of a slot. Deadlines are exact all the same: the owner checks them whenever it touches a flow.
    pub const TICK: Duration = Duration::from_millis(16);
    const TICK_NANOS: u64 = Self::TICK.as_nanos() as u64;
    /// 65 seconds; what is further away is looked at once per turn.
    const SLOTS: u64 = 4096;

    /// An empty wheel.
    pub fn new() -> Self {
        Self { slots: (0..Self::SLOTS).map(|_| Vec::new()).collect(), next: 0, len: 0 }
    }

    /// Puts `timer` where it comes up at or soon after `deadline`, at the latest after one turn of the wheel. Returns the
    /// tick it was put at.
    pub fn schedule(&mut self, deadline: Timestamp, timer: T) -> u64 {
        let wanted = deadline.as_nanos() / Self::TICK_NANOS + 1;
        let tick = wanted.clamp(self.next, self.next + Self::SLOTS - 1);
        self.slots[(tick % Self::SLOTS) as usize].push(timer);
        self.len += 1;
        tick
    }

    /// The tick that a deadline belongs to, for comparing with what [`Wheel::schedule`] returned.
    pub fn tick_of(deadline: Timestamp) -> u64 {
        deadline.as_nanos() / Self::TICK_NANOS + 1
    }

    /// Whether two ticks share a slot. After a jump of time a slot comes up at a later tick than the one it was filled for.
    pub fn same_slot(a: u64, b: u64) -> bool {
        a % Self::SLOTS == b % Self::SLOTS
    }

    /// Whether `now` has reached a slot that was not handed out.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now.as_nanos() / Self::TICK_NANOS >= self.next
    }

    /// Takes the timers of the next slot that `now` has reached, and its tick; `None` when all such slots were taken.
    pub fn poll(&mut self, now: Timestamp) -> Option<(u64, Vec<T>)> {
        let now = now.as_nanos() / Self::TICK_NANOS;
        if self.len == 0 {
            self.next = self.next.max(now + 1);
            return None;
        }
        // After a jump every slot is due exactly once.
        self.next = self.next.max(now.saturating_sub(Self::SLOTS - 1));
        while self.next <= now {
            let slot = &mut self.slots[(self.next % Self::SLOTS) as usize];
            self.next += 1;
            if !slot.is_empty() {
                let timers = std::mem::take(slot);
                self.len -= timers.len();
                return Some((self.next - 1, timers));
            }
        }
        None
    }

    /// Gives an emptied batch back so that its memory is used again.
    pub fn recycle(&mut self, mut timers: Vec<T>) {
        timers.clear();
        let slot = &mut self.slots[((self.next + Self::SLOTS - 1) % Self::SLOTS) as usize];
        if slot.capacity() == 0 {
            *slot = timers;
        }
    }
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Timestamp {
        Timestamp::from_nanos(n * 1_000_000)
    }

    fn due(wheel: &mut Wheel<u64>, now: Timestamp) -> Vec<u64> {
        let mut all: Vec<_> = std::iter::from_fn(|| wheel.poll(now)).flat_map(|(_, timers)| timers).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_timer_comes_up_within_a_tick_of_its_deadline() {
        let mut wheel = Wheel::new();
        assert!(due(&mut wheel, ms(1_000)).is_empty());
        wheel.schedule(ms(1_500), 7);
        assert!(due(&mut wheel, ms(1_499)).is_empty());
        assert_eq!(due(&mut wheel, ms(1_500) + Wheel::<u64>::TICK), [7]);
        assert!(due(&mut wheel, ms(9_000)).is_empty());
    }

    #[test]
    fn a_deadline_beyond_one_turn_comes_up_early_and_once() {
        let mut wheel = Wheel::new();
        due(&mut wheel, ms(0));
        wheel.schedule(ms(3_600_000), 1);
        assert_eq!(due(&mut wheel, ms(66_000)), [1]);
    }

    #[test]
    fn a_jump_of_years_hands_out_every_timer_once() {
        let mut wheel = Wheel::new();
        due(&mut wheel, ms(10));
        for i in 0..100 {
            wheel.schedule(ms(10 + i * 500), i);
        }
        assert_eq!(due(&mut wheel, ms(1_700_000_000_000)), (0..100).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn no_timer_is_lost_and_none_is_later_than_its_tick(steps in proptest::collection::vec((0..200_000u64, 0..100_000u64), 1..80)) {
            let mut wheel = Wheel::new();
            let (mut now, mut open) = (ms(1_000_000), Vec::new());
            due(&mut wheel, now);
            for (i, (delay, pass)) in steps.into_iter().enumerate() {
                let deadline = now + Duration::from_millis(delay);
                wheel.schedule(deadline, i as u64);
                open.push((i as u64, deadline));
                now = now + Duration::from_millis(pass);
                for timer in due(&mut wheel, now) {
                    let at = open.iter().position(|(i, _)| *i == timer).expect("a timer comes up once");
                    open.remove(at);
                }
                prop_assert!(open.iter().all(|(_, deadline)| now < *deadline + Wheel::<u64>::TICK + Wheel::<u64>::TICK));
            }
        }
    }
}
