//! Which flow the later fragments of a packet belong to: that of the first one, which has the ports.

use crate::packet::FragmentId;
use crate::time::Timestamp;
use foldhash::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// The first fragments seen of late, each with what names its flow.
#[derive(Debug)]
pub struct Fragments<F> {
    flows: HashMap<FragmentId, (F, Timestamp)>,
    ages: VecDeque<(Timestamp, FragmentId)>,
}

impl<F> Default for Fragments<F> {
    fn default() -> Self {
        Self { flows: HashMap::default(), ages: VecDeque::new() }
    }
}

impl<F: Copy> Fragments<F> {
    /// Notes the flow of a first fragment.
    pub fn note(&mut self, id: FragmentId, flow: F, now: Timestamp) {
        self.forget_old(now);
        self.flows.insert(id, (flow, now));
        self.ages.push_back((now, id));
    }

    /// The flow of a later fragment.
    pub fn find(&mut self, id: &FragmentId, now: Timestamp) -> Option<F> {
        self.forget_old(now);
        self.flows.get(id).map(|&(flow, _)| flow)
    }

    fn forget_old(&mut self, now: Timestamp) {
        while let Some(&(at, id)) = self.ages.front() {
            if now.since(at) < LIFETIME && self.ages.len() <= MAX {
                break;
            }
            self.ages.pop_front();
            if self.flows.get(&id).is_some_and(|f| f.1 == at) {
                self.flows.remove(&id);
            }
        }
    }
}

/// Linux reassembles for 30 s (net.ipv4.ipfrag_time).
const LIFETIME: Duration = Duration::from_secs(30);
/// About 1 MiB: a flood of first fragments pushes out the oldest.
const MAX: usize = 8192;
