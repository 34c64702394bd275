//! The exact count of bytes held for flows, from the first header byte to the file's rename.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes held, against a budget that its users ask before they take more.
#[derive(Debug)]
pub struct Ledger {
    held: AtomicU64,
    idle: AtomicU64,
    aside: AtomicU64,
    memory: u64,
}

impl Ledger {
    /// A ledger for a process that may take so many bytes of memory (`-maxheap`): all of them are the budget, until some
    /// are [set aside](Self::set_aside).
    pub fn new(memory: u64) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), idle: AtomicU64::new(0), aside: AtomicU64::new(0), memory })
    }

    /// Says how many bytes the process takes that are no flow's: its rings, its code. At least half of the memory remains
    /// the flows' budget.
    pub fn set_aside(&self, bytes: u64) {
        self.aside.store(bytes, Ordering::Relaxed);
    }

    /// Whether what is set aside is more than half, so that the process will take more memory than it may.
    pub fn is_cramped(&self) -> bool {
        self.aside() > self.memory / 2
    }

    /// Bytes that the process takes for other things than flows.
    pub fn aside(&self) -> u64 {
        self.aside.load(Ordering::Relaxed)
    }

    /// Charges `bytes`, over the budget or not; the charge is given back when it is dropped.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { ledger: Arc::clone(self), bytes }
    }

    /// Charges `bytes` without a guard: for the arena, which counts its own. Pair with [`Ledger::sub`].
    pub(crate) fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Gives back what [`Ledger::add`] took.
    pub(crate) fn sub(&self, bytes: usize) {
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Notes memory that is allocated and holds nothing: for arenas, which keep some for what comes next.
    pub(crate) fn add_idle(&self, bytes: usize) {
        self.idle.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Takes back what [`Ledger::add_idle`] noted.
    pub(crate) fn sub_idle(&self, bytes: usize) {
        self.idle.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Whether what is held and what is idle are more than the budget together: then idle memory goes back to the system.
    pub(crate) fn is_crowded(&self) -> bool {
        self.held() + self.idle.load(Ordering::Relaxed) > self.budget()
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// How many bytes flows may hold.
    pub fn budget(&self) -> u64 {
        self.memory - self.aside().min(self.memory / 2)
    }

    /// Whether `more` bytes fit for a flow that is already being kept.
    pub fn fits(&self, more: usize) -> bool {
        self.held() + more as u64 <= self.budget()
    }

    /// Whether a new flow may begin: it leaves [`Ledger::RESERVE_SHARE`] of the budget to those already kept, so that
    /// under pressure few flows are refused instead of many being cut.
    pub fn admits_new_flow(&self, bytes: usize) -> bool {
        let budget = self.budget();
        self.held() + bytes as u64 <= budget - budget / Self::RESERVE_SHARE
    }

    /// One part in this many of the budget is kept for flows that already exist.
    pub const RESERVE_SHARE: u64 = 16;
}

/// Bytes on a [`Ledger`]; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<Ledger>,
    bytes: usize,
}

impl Charge {
    /// How many bytes are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes this a charge of `bytes`: after compression, for example.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.ledger.add(bytes - self.bytes);
        } else {
            self.ledger.sub(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_charge_leaves_nothing() {
        let ledger = Ledger::new(100);
        let mut a = ledger.charge(60);
        let b = ledger.charge(50);
        assert_eq!(ledger.held(), 110);
        a.resize(10);
        assert_eq!(ledger.held(), 60);
        drop((a, b));
        assert_eq!(ledger.held(), 0);
    }

    #[test]
    fn what_is_set_aside_leaves_flows_at_least_half() {
        let ledger = Ledger::new(100);
        ledger.set_aside(30);
        assert!(ledger.fits(70) && !ledger.fits(71));
        ledger.set_aside(60);
        assert_eq!(ledger.budget(), 50);
    }

    #[test]
    fn the_last_sixteenth_is_for_flows_that_exist() {
        let ledger = Ledger::new(1600);
        let _held = ledger.charge(1500);
        assert!(ledger.admits_new_flow(0));
        assert!(!ledger.admits_new_flow(1));
        assert!(ledger.fits(100));
        assert!(!ledger.fits(101));
    }
}
