//! Where flows live: their records, the index by key, and the order in which they go when room is short.

use crate::flow::state::Flow;
use crate::key::FlowKey;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::hint::black_box;

/// A place in the table and which of its tenants is meant: an id of a flow that is gone finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId {
    slot: u32,
    generation: u32,
}

/// A key's hash in one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(u32);

impl KeyHash {
    /// The hash, of which each bit is as good as any other.
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// An order of flows, oldest first. A flow stands in one of them at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// Half-open flows: the first to go.
    HalfOpen,
    /// Flows that ended, kept to absorb late packets.
    Ended,
    /// Established flows that nobody has named.
    Unnamed,
}

/// Flow records in pages that never move, the index by key, and the queues.
#[derive(Debug)]
pub struct FlowTable {
    pages: Vec<Box<[Slot]>>,
    free: u32,
    /// Flows by key, in parts that grow one by one: growing is a stall, of tens of milliseconds if it were one table of
    /// millions.
    index: [HashTable<Entry>; PARTS],
    hasher: RandomState,
    queues: [Ends; 3],
    len: usize,
}

#[derive(Debug)]
struct Slot {
    flow: Option<Flow>,
    generation: u32,
    queue: Option<Queue>,
    prev: u32,
    next: u32,
    /// The wheel tick of the flow's earliest timer.
    tick: u64,
}

/// The hash stands beside the slot so that growing the index does not touch the records.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
    len: usize,
}

impl FlowTable {
    /// Bytes that a flow costs beside its chunks: its record, its place in the index and in the timer wheel.
    pub const FLOW_COST: usize = size_of::<Slot>() + 2 * size_of::<Entry>() + size_of::<FlowId>();

    /// An empty table, keyed so that nobody outside can choose colliding keys.
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: NONE,
            index: [const { HashTable::new() }; PARTS],
            hasher: RandomState::default(),
            queues: [Ends { head: NONE, tail: NONE, len: 0 }; 3],
            len: 0,
        }
    }

    /// The flow that packets of this key belong to.
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        self.find_hashed(key, self.hash(key))
    }

    /// As [`FlowTable::find`], for a key whose hash is known.
    pub fn find_hashed(&self, key: &FlowKey, KeyHash(hash): KeyHash) -> Option<FlowId> {
        let entry = self.index[part(hash)]
            .find(spread(hash), |e| e.hash == hash && self.record(e.slot).is_some_and(|f| f.key == *key))?;
        Some(FlowId { slot: entry.slot, generation: self.slot(entry.slot).generation })
    }

    /// What [`FlowTable::find_hashed`] will look a key up by.
    pub fn hash(&self, key: &FlowKey) -> KeyHash {
        KeyHash((self.hasher.hash_one(key) >> 32) as u32)
    }

    /// The flow of a key with this hash, most likely: reads the index and no record.
    pub fn guess(&self, KeyHash(hash): KeyHash) -> Option<u32> {
        self.index[part(hash)].find(spread(hash), |e| e.hash == hash).map(|e| e.slot)
    }

    /// Reads something of each cache line of a guessed record, so that all are at hand soon.
    pub fn fetch(&self, guess: u32) -> Option<&Flow> {
        let slot = self.slot(guess);
        let flow = slot.flow.as_ref()?;
        black_box((slot.tick, flow.key.lo().port, flow.first, flow.last_seen, flow.tcp.handshake(), flow.records.len()));
        Some(flow)
    }

    /// Adds a flow; packets of its key are now its own.
    pub fn insert(&mut self, flow: Flow) -> FlowId {
        if self.free == NONE {
            self.add_page();
        }
        let (key, slot) = (flow.key, self.free);
        let s = self.slot_mut(slot);
        let generation = s.generation;
        let next = s.next;
        *s = Slot { flow: Some(flow), generation, queue: None, prev: NONE, next: NONE, tick: u64::MAX };
        self.free = next;
        self.len += 1;
        let id = FlowId { slot, generation };
        self.point(&key, Some(id));
        id
    }

    /// Makes packets of this key belong to `id`, or to nobody.
    pub fn point(&mut self, key: &FlowKey, id: Option<FlowId>) {
        let KeyHash(hash) = self.hash(key);
        let pages = &self.pages;
        let index = &mut self.index[part(hash)];
        let found = index.find_entry(spread(hash), |e| {
            e.hash == hash && page_slot(pages, e.slot).flow.as_ref().is_some_and(|f| f.key == *key)
        });
        match (found, id) {
            (Ok(mut entry), Some(id)) => entry.get_mut().slot = id.slot,
            (Ok(entry), None) => drop(entry.remove()),
            (Err(_), Some(id)) => {
                index.insert_unique(spread(hash), Entry { hash, slot: id.slot }, |e| spread(e.hash));
            }
            (Err(_), None) => {}
        }
    }

    /// Removes a flow. The caller has taken its records and pointed its key elsewhere.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.get(id)?;
        self.enqueue(id, None);
        let free = self.free;
        let slot = self.slot_mut(id.slot);
        let flow = slot.flow.take();
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = free;
        self.free = id.slot;
        self.len -= 1;
        flow
    }

    /// Puts a flow at the young end of a queue, or in none. A flow that is in that queue already keeps its place.
    pub fn enqueue(&mut self, id: FlowId, queue: Option<Queue>) {
        let slot = self.slot(id.slot);
        if slot.generation != id.generation || slot.queue == queue {
            return;
        }
        let (prev, next) = (slot.prev, slot.next);
        if let Some(old) = slot.queue {
            match prev {
                NONE => self.queues[old as usize].head = next,
                p => self.slot_mut(p).next = next,
            }
            match next {
                NONE => self.queues[old as usize].tail = prev,
                n => self.slot_mut(n).prev = prev,
            }
            self.queues[old as usize].len -= 1;
        }
        let tail = queue.map_or(NONE, |q| self.queues[q as usize].tail);
        let slot = self.slot_mut(id.slot);
        (slot.queue, slot.prev, slot.next) = (queue, tail, NONE);
        if let Some(q) = queue {
            match tail {
                NONE => self.queues[q as usize].head = id.slot,
                t => self.slot_mut(t).next = id.slot,
            }
            self.queues[q as usize].tail = id.slot;
            self.queues[q as usize].len += 1;
        }
    }

    /// Notes the wheel tick of a flow's earliest timer.
    pub fn set_tick(&mut self, id: FlowId, tick: u64) {
        if self.get(id).is_some() {
            self.slot_mut(id.slot).tick = tick;
        }
    }

    /// The flow's record.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slot_mut(id.slot);
        if slot.generation == id.generation { slot.flow.as_mut() } else { None }
    }

    /// The flow's record.
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slot(id.slot);
        if slot.generation == id.generation { slot.flow.as_ref() } else { None }
    }

    /// The wheel tick of a flow's earliest timer; `u64::MAX` if it has none.
    pub fn tick(&self, id: FlowId) -> u64 {
        self.slot(id.slot).tick
    }

    /// The flow that has been in a queue for the longest time.
    pub fn oldest(&self, queue: Queue) -> Option<FlowId> {
        match self.queues[queue as usize].head {
            NONE => None,
            slot => Some(FlowId { slot, generation: self.slot(slot).generation }),
        }
    }

    /// The flow other than `spare` that has been in a queue for the longest time.
    pub fn oldest_but(&self, queue: Queue, spare: Option<FlowId>) -> Option<FlowId> {
        let oldest = self.oldest(queue)?;
        if Some(oldest) != spare {
            return Some(oldest);
        }
        match self.slot(oldest.slot).next {
            NONE => None,
            slot => Some(FlowId { slot, generation: self.slot(slot).generation }),
        }
    }

    /// The flows of a queue, oldest first.
    pub fn iter(&self, queue: Queue) -> impl Iterator<Item = &Flow> {
        let slot = |slot: u32| (slot != NONE).then(|| self.slot(slot));
        std::iter::successors(slot(self.queues[queue as usize].head), move |s| slot(s.next)).filter_map(|s| s.flow.as_ref())
    }

    /// How many flows are in a queue.
    pub fn queued(&self, queue: Queue) -> usize {
        self.queues[queue as usize].len
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All flows in the order of their places, which does not depend on the hasher.
    pub fn ids(&self) -> Vec<FlowId> {
        (0u32..)
            .zip(self.pages.iter().flatten())
            .filter(|(_, s)| s.flow.is_some())
            .map(|(slot, s)| FlowId { slot, generation: s.generation })
            .collect()
    }

    fn add_page(&mut self) {
        let base = (self.pages.len() * PAGE) as u32;
        let page = (0..PAGE as u32).map(|i| Slot {
            flow: None,
            generation: 0,
            queue: None,
            prev: NONE,
            next: if i + 1 == PAGE as u32 { NONE } else { base + i + 1 },
            tick: u64::MAX,
        });
        self.pages.push(page.collect());
        self.free = base;
    }

    fn record(&self, slot: u32) -> Option<&Flow> {
        self.slot(slot).flow.as_ref()
    }

    fn slot(&self, slot: u32) -> &Slot {
        page_slot(&self.pages, slot)
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.pages[slot as usize / PAGE][slot as usize % PAGE]
    }
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new()
    }
}

fn page_slot(pages: &[Box<[Slot]>], slot: u32) -> &Slot {
    &pages[slot as usize / PAGE][slot as usize % PAGE]
}

/// The part of the index that a hash belongs to, by its highest bits: the lowest choose the place within.
fn part(hash: u32) -> usize {
    (hash >> (u32::BITS - PARTS.ilog2())) as usize
}

/// The index takes bucket and tag from both ends of 64 bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

const NONE: u32 = u32::MAX;
/// Of five million flows a part has 80,000, which takes a millisecond to grow.
const PARTS: usize = 64;
/// Records per page: a quarter of a megabyte, so that a table of few flows is small.
const PAGE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::state::testing::flow;
    use proptest::prelude::*;
    use std::collections::{HashMap, VecDeque};

    proptest! {
        #[test]
        fn the_table_and_its_queues_agree_with_a_model(steps in proptest::collection::vec((0..4u8, 0..20u16), 1..300)) {
            let mut table = FlowTable::new();
            let mut ids = HashMap::new();
            let mut order: [VecDeque<FlowId>; 3] = Default::default();
            let mut gone = Vec::new();
            for (action, port) in steps {
                let known = ids.get(&port).copied();
                let queue = [Queue::HalfOpen, Queue::Ended, Queue::Unnamed][port as usize % 3];
                match (action, known) {
                    (0 | 1, None) => {
                        ids.insert(port, table.insert(flow(port)));
                    }
                    (2, Some(id)) => {
                        table.enqueue(id, Some(queue));
                        if !order[queue as usize].contains(&id) {
                            order[queue as usize].push_back(id);
                        }
                    }
                    (3, Some(id)) => {
                        table.point(&flow(port).key, None);
                        prop_assert!(table.remove(id).is_some());
                        order.iter_mut().for_each(|q| q.retain(|q| *q != id));
                        ids.remove(&port);
                        gone.push(id);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), ids.len());
                for port in 0..20 {
                    prop_assert_eq!(table.find(&flow(port).key), ids.get(&port).copied());
                }
                for queue in [Queue::HalfOpen, Queue::Ended, Queue::Unnamed] {
                    prop_assert_eq!(table.oldest(queue), order[queue as usize].front().copied());
                    prop_assert_eq!(table.queued(queue), order[queue as usize].len());
                }
                prop_assert!(gone.iter().all(|id| table.get(*id).is_none()));
            }
        }
    }
}
