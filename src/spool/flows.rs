//! The flows of the cutoff, in two orders: open ones and ended ones, each from the longest idle to the last touched.

use super::Tuple;
use crate::time::Timestamp;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// What is known of flows, by key and by age. The key is attacker-chosen, so the hasher is keyed.
#[derive(Debug)]
pub(super) struct Flows<R> {
    index: HashTable<Entry>,
    hasher: RandomState,
    /// Pages never move, so that a table that grows in a flood does not stop to copy.
    pages: Vec<Vec<Slot<R>>>,
    free: u32,
    orders: [Ends; 2],
}

/// A flow's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At(u32);

/// The hash stands beside the place so that growing the index does not touch the records.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    at: u32,
}

/// Which order a flow stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Open,
    Ended,
}

#[derive(Debug)]
struct Slot<R> {
    tuple: Tuple,
    record: Option<R>,
    touched: Timestamp,
    order: Order,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
}

impl<R> Flows<R> {
    /// Bytes that a flow costs.
    #[cfg(test)]
    pub(super) const FLOW_COST: usize = size_of::<Slot<R>>() + 2 * size_of::<Entry>();

    pub(super) fn new() -> Self {
        let orders = [Ends { head: NONE, tail: NONE }; 2];
        Self { index: HashTable::new(), hasher: RandomState::default(), pages: Vec::new(), free: NONE, orders }
    }

    pub(super) fn insert(&mut self, tuple: Tuple, record: R, now: Timestamp) -> At {
        let slot = Slot { tuple, record: Some(record), touched: now, order: Order::Open, prev: NONE, next: NONE };
        let at = if self.free == NONE {
            if self.pages.last().is_none_or(|page| page.len() == PAGE) {
                self.pages.push(Vec::with_capacity(PAGE));
            }
            let before = (self.pages.len() - 1) * PAGE;
            let page = self.pages.last_mut().expect("it was added above");
            page.push(slot);
            (before + page.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.slot(at).next;
            *self.slot_mut(at) = slot;
            at
        };
        let hash = self.hasher.hash_one(tuple);
        self.index.insert_unique(hash, Entry { hash, at }, |e| e.hash);
        self.append(at);
        At(at)
    }

    /// The flow of a key, which becomes the last touched of its order.
    pub(super) fn touch(&mut self, tuple: &Tuple, now: Timestamp) -> Option<At> {
        let hash = self.hasher.hash_one(tuple);
        let at = self.index.find(hash, |e| e.hash == hash && self.slot(e.at).tuple == *tuple)?.at;
        self.slot_mut(at).touched = now;
        self.detach(at);
        self.append(at);
        Some(At(at))
    }

    /// A flow's record. What [`Flows::touch`] and [`Flows::insert`] gave is good until a flow is removed.
    pub(super) fn at(&mut self, At(at): At) -> &mut R {
        self.slot_mut(at).record.as_mut().expect("no flow was removed since")
    }

    /// Moves a flow to an order, as its last touched.
    pub(super) fn put(&mut self, At(at): At, order: Order) {
        self.detach(at);
        self.slot_mut(at).order = order;
        self.append(at);
    }

    pub(super) fn remove(&mut self, tuple: &Tuple) -> Option<R> {
        let (hash, pages) = (self.hasher.hash_one(tuple), &self.pages);
        let is_it = |e: &Entry| e.hash == hash && pages[e.at as usize / PAGE][e.at as usize % PAGE].tuple == *tuple;
        let (Entry { at, .. }, _) = self.index.find_entry(hash, is_it).ok()?.remove();
        self.detach(at);
        let free = std::mem::replace(&mut self.free, at);
        let slot = self.slot_mut(at);
        slot.next = free;
        slot.record.take()
    }

    /// The longest idle flow of an order, and since when it is.
    pub(super) fn oldest(&self, order: Order) -> Option<(Tuple, Timestamp)> {
        match self.orders[order as usize].head {
            NONE => None,
            at => Some((self.slot(at).tuple, self.slot(at).touched)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn detach(&mut self, at: u32) {
        let &Slot { prev, next, order, .. } = self.slot(at);
        match prev {
            NONE => self.orders[order as usize].head = next,
            p => self.slot_mut(p).next = next,
        }
        match next {
            NONE => self.orders[order as usize].tail = prev,
            n => self.slot_mut(n).prev = prev,
        }
    }

    fn append(&mut self, at: u32) {
        let order = self.slot(at).order as usize;
        let tail = self.orders[order].tail;
        let slot = self.slot_mut(at);
        (slot.prev, slot.next) = (tail, NONE);
        match tail {
            NONE => self.orders[order].head = at,
            t => self.slot_mut(t).next = at,
        }
        self.orders[order].tail = at;
    }

    fn slot(&self, at: u32) -> &Slot<R> {
        &self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot<R> {
        &mut self.pages[at as usize / PAGE][at as usize % PAGE]
    }
}

/// Flows per page: a megabyte at most.
const PAGE: usize = 4096;
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Address, Endpoint, FlowKey};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_orders_agree_with_a_model(steps in proptest::collection::vec((0..4u8, 0..12u16), 1..200)) {
            let mut flows = Flows::new();
            let mut model: [Vec<u16>; 2] = Default::default();
            for (step, (action, port)) in steps.into_iter().enumerate() {
                let now = Timestamp::from_nanos(step as u64);
                let known = model.iter().position(|order| order.contains(&port));
                let t = tuple(port);
                match (action, known) {
                    (0, None) => {
                        flows.insert(t, port, now);
                        model[0].push(port);
                    }
                    (1, Some(order)) => {
                        let at = flows.touch(&t, now).unwrap();
                        prop_assert_eq!(*flows.at(at), port);
                        model[order].retain(|p| *p != port);
                        model[order].push(port);
                    }
                    (2, Some(order)) => {
                        let at = flows.touch(&t, now).unwrap();
                        flows.put(at, Order::Ended);
                        model[order].retain(|p| *p != port);
                        model[1].push(port);
                    }
                    (3, _) => {
                        prop_assert_eq!(flows.remove(&t), known.map(|_| port));
                        model.iter_mut().for_each(|order| order.retain(|p| *p != port));
                    }
                    _ => {}
                }
                prop_assert_eq!(flows.len(), model[0].len() + model[1].len());
                for (order, expected) in [Order::Open, Order::Ended].into_iter().zip(&model) {
                    prop_assert_eq!(flows.oldest(order).map(|(t, _)| t), expected.first().map(|p| tuple(*p)));
                }
            }
        }
    }

    #[test]
    fn more_flows_than_a_page_are_found_and_leave_in_the_order_of_their_last_touch() {
        let mut flows = Flows::new();
        let count = 2 * PAGE as u16 + 1;
        for port in 0..count {
            flows.insert(tuple(port), port, Timestamp::from_nanos(port.into()));
        }
        flows.touch(&tuple(0), Timestamp::MAX);
        for port in (1..count).chain([0]) {
            let (oldest, _) = flows.oldest(Order::Open).unwrap();
            assert_eq!(flows.remove(&oldest), Some(port));
        }
        assert_eq!((flows.len(), flows.oldest(Order::Open)), (0, None));
        flows.insert(tuple(9), 9, Timestamp::ZERO);
        assert_eq!(flows.pages.len(), 3, "places are used again");
    }

    fn tuple(port: u16) -> Tuple {
        let end = |last, port| Endpoint { addr: Address::v4([192, 0, 2, last]), port };
        Tuple { ends: FlowKey::new(end(1, port), end(2, 80)).0, protocol: 6 }
    }
}
