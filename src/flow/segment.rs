//! Runs of a flow's scrubbed packets, as pcap records, in chunks of an arena.
//!
//! Most flows are a handful of packets, some are millions: a chain of small chunks costs a two-packet flow one chunk
//! and a long one 2 % in links, and never moves a byte when it grows. The arena charges the ledger chunk by chunk and
//! gives whole slabs back to the system.

use crate::flow::ledger::{Charge, Ledger};
use crate::scrub::Scrubbed;
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whole pcap records with nanosecond timestamps, little-endian, one after the other: 16 bytes (seconds, nanoseconds,
/// captured length, wire length; all u32) and the captured bytes. What a pcap file holds after its file header.
#[derive(Debug)]
pub struct Records {
    /// The records.
    pub bytes: Vec<u8>,
    /// Their place on the ledger.
    pub charge: Charge,
}

/// A flow's packets since its last full segment.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    head: u32,
    tail: u32,
    len: u32,
}

impl Chain {
    /// A chain that holds nothing.
    pub const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    /// Bytes of records.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn tail_used(&self) -> usize {
        match self.len as usize % CHUNK_DATA {
            0 if self.len > 0 => CHUNK_DATA,
            used => used,
        }
    }
}

/// The chunks of all chains of a shard.
#[derive(Debug)]
pub struct Arena {
    ledger: Arc<Ledger>,
    slabs: Vec<Slab>,
    /// Slabs with a free chunk, lowest first, so that high slabs run empty and can be given back.
    open: BTreeSet<u32>,
    in_use: usize,
    allocated: usize,
}

#[derive(Debug)]
struct Slab {
    /// Never grows; empty when the slab was given back.
    bytes: Vec<u8>,
    free_head: u32,
    free: u32,
    /// Chunks from here on were never used: a fresh slab costs no page faults until it is.
    untouched: u32,
}

impl Slab {
    const GIVEN_BACK: Self = Self { bytes: Vec::new(), free_head: NONE, free: 0, untouched: 0 };

    fn is_free(&self) -> bool {
        self.free as usize == CHUNKS_PER_SLAB
    }
}

impl Arena {
    /// An arena that charges `ledger`.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, slabs: Vec::new(), open: BTreeSet::new(), in_use: 0, allocated: 0 }
    }

    /// How many bytes more the arena would charge to append a record of `captured` bytes to `chain`.
    pub fn cost(chain: &Chain, captured: usize) -> usize {
        let room = if chain.is_empty() { 0 } else { CHUNK_DATA - chain.tail_used() };
        (RECORD_HEADER_LEN + captured).saturating_sub(room).div_ceil(CHUNK_DATA) * CHUNK
    }

    /// Appends a packet as a pcap record.
    pub fn append(&mut self, chain: &mut Chain, ts: Timestamp, packet: &Scrubbed<'_>) {
        let captured = packet.bytes();
        let len = RECORD_HEADER_LEN + captured.len();
        let mut header = [0; RECORD_HEADER_LEN];
        // A pcap record's seconds end in 2106; later capture times saturate there.
        header[0..4].copy_from_slice(&u32::try_from(ts.secs()).unwrap_or(u32::MAX).to_le_bytes());
        header[4..8].copy_from_slice(&ts.subsec_nanos().to_le_bytes());
        header[8..12].copy_from_slice(&(captured.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&packet.wire_len().to_le_bytes());
        let used = chain.tail_used();
        if chain.is_empty() || len > CHUNK_DATA - used {
            self.extend(chain, &header);
            self.extend(chain, captured);
            return;
        }
        // Most records are whole in one chunk.
        let room = &mut self.chunk_mut(chain.tail)[LINK + used..][..len];
        room[..RECORD_HEADER_LEN].copy_from_slice(&header);
        room[RECORD_HEADER_LEN..].copy_from_slice(captured);
        chain.len += len as u32;
    }

    /// Reads where the next record of a chain goes, so that it is at hand soon.
    pub fn fetch(&self, chain: &Chain) -> u8 {
        if chain.is_empty() { 0 } else { self.chunk(chain.tail)[(LINK + chain.tail_used()).min(CHUNK - 1)] }
    }

    /// Takes all records out of a chain, which is then empty.
    pub fn take(&mut self, chain: &mut Chain) -> Records {
        let charge = self.ledger.charge(chain.len() + QUEUED_COST);
        let mut bytes = Vec::with_capacity(chain.len());
        let mut at = chain.head;
        while bytes.len() < chain.len() {
            let chunk = self.chunk(at);
            let n = (chain.len() - bytes.len()).min(CHUNK_DATA);
            bytes.extend_from_slice(&chunk[LINK..LINK + n]);
            let next = link(chunk);
            self.release(at);
            at = next;
        }
        *chain = Chain::EMPTY;
        Records { bytes, charge }
    }

    /// Drops all records of a chain, which is then empty.
    pub fn clear(&mut self, chain: &mut Chain) {
        let mut at = chain.head;
        for _ in 0..chain.len().div_ceil(CHUNK_DATA) {
            let next = link(self.chunk(at));
            self.release(at);
            at = next;
        }
        *chain = Chain::EMPTY;
    }

    /// Gives empty slabs back to the system until at most `keep` bytes are idle; returns the bytes given back.
    pub fn give_back(&mut self, keep: usize) -> usize {
        let mut given = 0;
        for (i, slab) in self.slabs.iter_mut().enumerate().rev() {
            if self.allocated - self.in_use <= keep {
                break;
            }
            if slab.is_free() {
                *slab = Slab::GIVEN_BACK;
                self.open.remove(&(i as u32));
                self.allocated -= SLAB;
                self.ledger.sub_idle(SLAB);
                given += SLAB;
            }
        }
        given
    }

    /// Bytes allocated and not in use by a chain.
    pub fn idle_bytes(&self) -> usize {
        self.allocated - self.in_use
    }

    fn extend(&mut self, chain: &mut Chain, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = chain.tail_used();
            if chain.is_empty() || used == CHUNK_DATA {
                let fresh = self.allocate();
                if chain.is_empty() {
                    chain.head = fresh;
                } else {
                    self.chunk_mut(chain.tail)[..LINK].copy_from_slice(&fresh.to_le_bytes());
                }
                chain.tail = fresh;
            }
            let used = if used == CHUNK_DATA { 0 } else { used };
            let n = bytes.len().min(CHUNK_DATA - used);
            self.chunk_mut(chain.tail)[LINK + used..LINK + used + n].copy_from_slice(&bytes[..n]);
            chain.len += n as u32;
            bytes = &bytes[n..];
        }
    }

    fn allocate(&mut self) -> u32 {
        let index = match self.open.first() {
            Some(&i) => i as usize,
            None => self.add_slab(),
        };
        let slab = &mut self.slabs[index];
        let chunk = if slab.free_head != NONE {
            let chunk = slab.free_head;
            let at = chunk as usize * CHUNK;
            slab.free_head = link(&slab.bytes[at..]);
            chunk
        } else {
            slab.untouched += 1;
            slab.untouched - 1
        };
        slab.free -= 1;
        if slab.free == 0 {
            self.open.remove(&(index as u32));
        }
        self.in_use += CHUNK;
        self.ledger.sub_idle(CHUNK);
        self.ledger.add(CHUNK);
        (index * CHUNKS_PER_SLAB) as u32 + chunk
    }

    fn release(&mut self, id: u32) {
        let (index, chunk) = (id as usize / CHUNKS_PER_SLAB, id as usize % CHUNKS_PER_SLAB);
        let slab = &mut self.slabs[index];
        slab.bytes[chunk * CHUNK..chunk * CHUNK + LINK].copy_from_slice(&slab.free_head.to_le_bytes());
        slab.free_head = chunk as u32;
        slab.free += 1;
        if slab.free == 1 {
            self.open.insert(index as u32);
        }
        let is_free = slab.is_free();
        self.in_use -= CHUNK;
        self.ledger.sub(CHUNK);
        self.ledger.add_idle(CHUNK);
        if is_free && self.ledger.is_crowded() {
            self.slabs[index] = Slab::GIVEN_BACK;
            self.open.remove(&(index as u32));
            self.allocated -= SLAB;
            self.ledger.sub_idle(SLAB);
        }
    }

    fn add_slab(&mut self) -> usize {
        let slab = Slab { bytes: vec![0; SLAB], free_head: NONE, free: CHUNKS_PER_SLAB as u32, untouched: 0 };
        let index = self.slabs.iter().position(|s| s.bytes.is_empty()).unwrap_or(self.slabs.len());
        if index == self.slabs.len() {
            self.slabs.push(slab);
        } else {
            self.slabs[index] = slab;
        }
        self.allocated += SLAB;
        self.ledger.add_idle(SLAB);
        self.open.insert(index as u32);
        index
    }

    fn chunk(&self, id: u32) -> &[u8] {
        let at = id as usize % CHUNKS_PER_SLAB * CHUNK;
        &self.slabs[id as usize / CHUNKS_PER_SLAB].bytes[at..at + CHUNK]
    }

    fn chunk_mut(&mut self, id: u32) -> &mut [u8] {
        let at = id as usize % CHUNKS_PER_SLAB * CHUNK;
        &mut self.slabs[id as usize / CHUNKS_PER_SLAB].bytes[at..at + CHUNK]
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.ledger.sub_idle(self.allocated - self.in_use);
    }
}

fn link(chunk: &[u8]) -> u32 {
    u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])
}

/// Raw bytes at which a segment is full and leaves for a writer.
pub const SEGMENT_LEN: usize = 64 * 1024;

/// Bytes charged for records beside themselves: their place in a writer's queue, with what is said of their flow.
const QUEUED_COST: usize = 320;

/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = 16;

/// Bytes of a chunk with its link: two or three packets' headers, the whole of a half-open flow.
pub const CHUNK: usize = 256;

const LINK: usize = 4;
const CHUNK_DATA: usize = CHUNK - LINK;
/// One mebibyte: large enough for the allocator to map it by itself, so that giving it back is real.
const SLAB: usize = 1 << 20;
const CHUNKS_PER_SLAB: usize = SLAB / CHUNK;
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arena() -> (Arena, Arc<Ledger>) {
        let ledger = Ledger::new(u64::MAX);
        (Arena::new(Arc::clone(&ledger)), ledger)
    }

    proptest! {
        #[test]
        fn what_goes_into_a_chain_comes_out(runs in proptest::collection::vec((0..3usize, proptest::collection::vec(any::<u8>(), 1..700)), 0..60)) {
            let (mut arena, ledger) = arena();
            let mut chains = [Chain::EMPTY; 3];
            let mut model = [const { Vec::new() }; 3];
            for (i, bytes) in &runs {
                arena.extend(&mut chains[*i], bytes);
                model[*i].extend_from_slice(bytes);
            }
            for (chain, model) in chains.iter_mut().zip(&model) {
                let records = arena.take(chain);
                prop_assert_eq!(&records.bytes, model);
            }
            prop_assert_eq!(ledger.held(), 0);
            prop_assert_eq!(arena.in_use, 0);
        }

        #[test]
        fn the_announced_cost_is_what_is_charged(lens in proptest::collection::vec(1..400usize, 1..40)) {
            let (mut arena, ledger) = arena();
            let mut chain = Chain::EMPTY;
            for len in lens {
                let cost = Arena::cost(&chain, len);
                let before = ledger.held();
                arena.extend(&mut chain, &vec![0; RECORD_HEADER_LEN + len]);
                prop_assert_eq!(ledger.held() - before, cost as u64);
            }
        }
    }

    #[test]
    fn idle_slabs_are_given_back_down_to_what_may_stay() {
        let (mut arena, ledger) = arena();
        let mut chains = vec![Chain::EMPTY; 3 * CHUNKS_PER_SLAB];
        for chain in &mut chains {
            arena.extend(chain, &[1; 100]);
        }
        assert_eq!(ledger.held(), 3 * SLAB as u64);
        for chain in &mut chains {
            arena.clear(chain);
        }
        assert_eq!(arena.give_back(SLAB), 2 * SLAB);
        assert_eq!(arena.idle_bytes(), SLAB);
        arena.extend(&mut chains[0], &[1; 100]);
        assert_eq!(arena.take(&mut chains[0]).bytes, [1; 100]);
    }
}
