//! Which flow the later fragments of a packet belong to: that of the first one, which has the ports.

use crate::flow::table::FlowId;
use crate::key::Direction;
use crate::packet::FragmentId;
use crate::time::Timestamp;
use foldhash::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// The first fragments seen of late.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    flows: HashMap<FragmentId, (FlowId, Direction, Timestamp)>,
    ages: VecDeque<(Timestamp, FragmentId)>,
}

impl Fragments {
    /// Notes the flow of a first fragment.
    pub(super) fn note(&mut self, id: FragmentId, flow: FlowId, direction: Direction, now: Timestamp) {
        self.forget_old(now);
        self.flows.insert(id, (flow, direction, now));
        self.ages.push_back((now, id));
    }

    /// The flow of a later fragment.
    pub(super) fn find(&mut self, id: &FragmentId, now: Timestamp) -> Option<(FlowId, Direction)> {
        self.forget_old(now);
        self.flows.get(id).map(|&(flow, direction, _)| (flow, direction))
    }

    fn forget_old(&mut self, now: Timestamp) {
        while let Some(&(at, id)) = self.ages.front() {
            if now.since(at) < LIFETIME && self.ages.len() <= MAX {
                break;
            }
            self.ages.pop_front();
            if self.flows.get(&id).is_some_and(|f| f.2 == at) {
                self.flows.remove(&id);
            }
        }
    }
}

/// Linux reassembles for 30 s (net.ipv4.ipfrag_time).
const LIFETIME: Duration = Duration::from_secs(30);
/// About 1 MiB: a flood of first fragments pushes out the oldest.
const MAX: usize = 8192;
