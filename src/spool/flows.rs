//! The flows of the cutoff, in two orders: open ones and ended ones, each from the longest idle to the last touched.

use super::Tuple;
use crate::time::Timestamp;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// What is known of flows, by key and by age. The key is attacker-chosen, so the hasher is keyed.
#[derive(Debug)]
pub(super) struct Flows<R> {
    index: HashTable<u32>,
    hasher: RandomState,
    slots: Vec<Slot<R>>,
    free: u32,
    orders: [Ends; 2],
}

/// A flow's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At(u32);

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
    pub(super) const FLOW_COST: usize = size_of::<Slot<R>>() + 2 * size_of::<u32>();

    pub(super) fn new() -> Self {
        let orders = [Ends { head: NONE, tail: NONE }; 2];
        Self { index: HashTable::new(), hasher: RandomState::default(), slots: Vec::new(), free: NONE, orders }
    }

    pub(super) fn insert(&mut self, tuple: Tuple, record: R, now: Timestamp) -> At {
        let slot = Slot { tuple, record: Some(record), touched: now, order: Order::Open, prev: NONE, next: NONE };
        let at = if self.free == NONE {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.slots[at as usize].next;
            self.slots[at as usize] = slot;
            at
        };
        let (hasher, slots) = (&self.hasher, &self.slots);
        self.index.insert_unique(hasher.hash_one(tuple), at, |&at| hasher.hash_one(slots[at as usize].tuple));
        self.append(at);
        At(at)
    }

    /// The flow of a key, which becomes the last touched of its order.
    pub(super) fn touch(&mut self, tuple: &Tuple, now: Timestamp) -> Option<At> {
        let at = self.index.find(self.hasher.hash_one(tuple), |&at| self.slots[at as usize].tuple == *tuple).copied()?;
        self.slots[at as usize].touched = now;
        self.detach(at);
        self.append(at);
        Some(At(at))
    }

    /// A flow's record. What [`Flows::touch`] and [`Flows::insert`] gave is good until a flow is removed.
    pub(super) fn at(&mut self, At(at): At) -> &mut R {
        self.slots[at as usize].record.as_mut().expect("no flow was removed since")
    }

    /// Moves a flow to an order, as its last touched.
    pub(super) fn put(&mut self, At(at): At, order: Order) {
        self.detach(at);
        self.slots[at as usize].order = order;
        self.append(at);
    }

    pub(super) fn remove(&mut self, tuple: &Tuple) -> Option<R> {
        let slots = &self.slots;
        let entry = self.index.find_entry(self.hasher.hash_one(tuple), |&at| slots[at as usize].tuple == *tuple).ok()?;
        let (at, _) = entry.remove();
        self.detach(at);
        let slot = &mut self.slots[at as usize];
        slot.next = self.free;
        self.free = at;
        slot.record.take()
    }

    /// The longest idle flow of an order, and since when it is.
    pub(super) fn oldest(&self, order: Order) -> Option<(Tuple, Timestamp)> {
        let slot = self.slots.get(self.orders[order as usize].head as usize)?;
        Some((slot.tuple, slot.touched))
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn detach(&mut self, at: u32) {
        let Slot { prev, next, order, .. } = self.slots[at as usize];
        match prev {
            NONE => self.orders[order as usize].head = next,
            p => self.slots[p as usize].next = next,
        }
        match next {
            NONE => self.orders[order as usize].tail = prev,
            n => self.slots[n as usize].prev = prev,
        }
    }

    fn append(&mut self, at: u32) {
        let order = self.slots[at as usize].order as usize;
        let tail = self.orders[order].tail;
        let slot = &mut self.slots[at as usize];
        (slot.prev, slot.next) = (tail, NONE);
        match tail {
            NONE => self.orders[order].head = at,
            t => self.slots[t as usize].next = at,
        }
        self.orders[order].tail = at;
    }
}

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

    fn tuple(port: u16) -> Tuple {
        let end = |last, port| Endpoint { addr: Address::v4([192, 0, 2, last]), port };
        Tuple { ends: FlowKey::new(end(1, port), end(2, 80)).0, protocol: 6 }
    }
}
