//! Flows by name, for announcements that a connection has closed.

use crate::flow::table::FlowId;
use crate::key::FlowUuid;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// An index of names. A hostile source may give one name to several flows, and a flow has up to two.
#[derive(Debug, Default)]
pub(super) struct Names {
    index: HashTable<Entry>,
    hasher: RandomState,
}

/// The hash stands beside the name so that growing the index reads no name.
#[derive(Debug)]
struct Entry {
    hash: u64,
    name: FlowUuid,
    flow: FlowId,
}

impl Names {
    /// Notes that a flow has a name, which it does not have yet.
    pub(super) fn insert(&mut self, name: FlowUuid, flow: FlowId) {
        let hash = self.hasher.hash_one(&name);
        self.index.insert_unique(hash, Entry { hash, name, flow }, |e| e.hash);
    }

    /// Forgets that a flow has a name.
    pub(super) fn remove(&mut self, name: &FlowUuid, flow: FlowId) {
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(name), |e| e.flow == flow && e.name == *name) {
            entry.remove();
        }
    }

    /// The flows of a name, in an order that means nothing.
    pub(super) fn find<'a>(&'a self, name: &'a FlowUuid) -> impl Iterator<Item = FlowId> + 'a {
        self.index.iter_hash(self.hasher.hash_one(name)).filter(move |e| e.name == *name).map(|e| e.flow)
    }
}
