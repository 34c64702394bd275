//! One thread's use of the shunt: which flows are in it, and what they carried unseen.

use super::rings::RingSet;
use crate::capture::LinkType;
use crate::capture::filter::RingFilter;
use crate::capture::live::LiveSource;
use crate::capture::shunt::{Shunt, ShuntKey, Shunted};
use crate::key::Direction;
use crate::metrics::{counter, gauge};
use crate::spool::Tuple;
use crate::spool::cutoff::Target;
use prometheus::{IntCounter, IntGauge, Registry};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The shunt of a thread, and the directions of flows that are in it.
#[derive(Debug)]
pub(super) struct Shunting {
    shunt: Shunt,
    metrics: ShuntMetrics,
    /// What is known to have been dropped of each.
    flows: BTreeMap<(Tuple, usize), Shunted>,
    /// Whether rings run the shunt's program: where there is nothing to drop, looking for it costs for nothing.
    attached: bool,
    swept: Instant,
    period: Duration,
}

/// What shunts count, all threads together.
#[derive(Clone, Debug)]
pub(super) struct ShuntMetrics {
    flows: IntGauge,
    packets: IntCounter,
    bytes: IntCounter,
}

impl ShuntMetrics {
    pub(super) fn register(r: &Registry) -> Self {
        Self {
            flows: gauge(r, "flowarc_shunt_flows", "Directions of flows whose packets are dropped in the kernel."),
            packets: counter(
                r,
                "flowarc_shunt_packets_total",
                "Packets that nobody would keep and that were dropped in the kernel; no other frame counter has them.",
            ),
            bytes: counter(r, "flowarc_shunt_bytes_total", "Bytes of the frames that were dropped in the kernel."),
        }
    }
}

impl Shunting {
    /// Loads the shunt, for rings with this filter and so many directions of flows, which are idle after `idle`; `None`
    /// where it is not possible, which is logged. `what` is dropped.
    pub(super) fn start(
        what: &str,
        flows: u32,
        (filter, snaplen): (RingFilter, u32),
        idle: Duration,
        metrics: &ShuntMetrics,
    ) -> Option<Self> {
        match Shunt::load(flows, filter, snaplen) {
            Ok(shunt) => {
                // Well before a flow would be taken for idle because the kernel drops its packets.
                let period = (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
                info!("{what} are dropped in the kernel");
                let (metrics, flows) = (metrics.clone(), BTreeMap::new());
                Some(Self { shunt, metrics, flows, attached: false, swept: Instant::now(), period })
            }
            Err(error) => {
                info!(%error, "{what} are dropped here and not in the kernel");
                None
            }
        }
    }

    /// Takes a ring that has come.
    pub(super) fn meet(&self, ring: &LiveSource) {
        if ring.link() != LinkType::Ethernet {
            info!(interface = ring.interface(), "no shunt: it reads Ethernet only");
        } else if self.attached {
            self.attach(ring);
        }
    }

    /// Drops a flow's packets from now on, both ways or one.
    pub(super) fn cut_off(&mut self, tuple: Tuple, side: Option<Direction>) {
        for direction in [Direction::LoToHi, Direction::HiToLo] {
            if side.is_none_or(|side| side == direction)
                && let Some(key) = key(&tuple, direction)
                && self.shunt.insert(&key).is_ok()
                && self.flows.insert((tuple, direction.index()), Shunted::default()).is_none()
            {
                self.metrics.flows.inc();
            }
        }
    }

    /// Lets go of a flow; gives how many packets of it were dropped that nobody was told of.
    pub(super) fn release(&mut self, tuple: &Tuple) -> u64 {
        let ways = [Direction::LoToHi, Direction::HiToLo];
        ways.map(|direction| self.release_way(tuple, direction)).iter().sum()
    }

    /// Lets packets of these flows pass.
    pub(super) fn suspend(&mut self, target: Target) {
        let meant: Vec<_> = self.flows.keys().copied().filter(|(tuple, _)| target.means(tuple)).collect();
        for (tuple, _) in meant {
            self.release(&tuple);
        }
    }

    /// Tells what passed unseen, now and then, and has the rings run the shunt's program or not, as there are flows in it.
    pub(super) fn turn(&mut self, rings: &RingSet, mut tell: impl FnMut(&Tuple, Direction, Shunted)) {
        if self.swept.elapsed() >= self.period {
            self.swept = Instant::now();
            self.sweep(&mut tell);
        }
        if self.attached == self.flows.is_empty() {
            self.attached = !self.attached;
            for ring in rings.sources().filter(|ring| ring.link() == LinkType::Ethernet) {
                if self.attached {
                    self.attach(ring);
                } else if let Err(error) = ring.attach_filter() {
                    warn!(%error, "the shunt's program stays");
                }
            }
        }
    }

    fn attach(&self, ring: &LiveSource) {
        if let Err(error) = self.shunt.attach(ring.as_fd()) {
            warn!(interface = ring.interface(), %error, "no shunt: the kernel does not take it");
        }
    }

    fn sweep(&mut self, tell: &mut impl FnMut(&Tuple, Direction, Shunted)) {
        for ((tuple, way), known) in &mut self.flows {
            let direction = if *way == 0 { Direction::LoToHi } else { Direction::HiToLo };
            let Some(key) = key(tuple, direction) else { continue };
            let now = self.shunt.dropped(&key);
            if let Some(more) = now.map(|now| now.since(known)).filter(|more| more.packets > 0) {
                self.metrics.count(&more);
                tell(tuple, direction, more);
            }
            match now {
                Some(now) if !now.passing => *known = now,
                // It made way for others, or a SYN that belongs to the same connection lets it pass.
                _ if self.shunt.insert(&key).is_ok() => *known = Shunted::default(),
                _ => {}
            }
        }
    }

    fn release_way(&mut self, tuple: &Tuple, direction: Direction) -> u64 {
        let Some(known) = self.flows.remove(&(*tuple, direction.index())) else { return 0 };
        self.metrics.flows.dec();
        let last = key(tuple, direction).and_then(|key| self.shunt.remove(&key)).unwrap_or(known);
        let more = last.since(&known);
        self.metrics.count(&more);
        more.packets
    }
}

impl ShuntMetrics {
    fn count(&self, more: &Shunted) {
        self.packets.inc_by(more.packets);
        self.bytes.inc_by(more.bytes);
    }
}

/// The key of a direction; none where the program looks up no such protocol.
fn key(tuple: &Tuple, direction: Direction) -> Option<ShuntKey> {
    let protocol = u8::try_from(tuple.protocol).ok().filter(|p| [6, 17].contains(p))?;
    let (src, dst) = match direction {
        Direction::LoToHi => (tuple.ends.lo(), tuple.ends.hi()),
        Direction::HiToLo => (tuple.ends.hi(), tuple.ends.lo()),
    };
    Some(ShuntKey { src, dst, protocol })
}
