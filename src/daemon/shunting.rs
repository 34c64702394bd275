//! One thread's use of the shunt: which flows are in it, and what they carried unseen.

use super::rings::RingSet;
use crate::capture::LinkType;
use crate::capture::live::LiveSource;
use crate::capture::shunt::{Shunt, ShuntKey, Shunted};
use crate::key::Direction;
use crate::spool::Tuple;
use crate::spool::cutoff::{Seen, Target};
use crate::spool::metrics::SpoolMetrics;
use crate::spool::recorder::Recorder;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The shunt of a thread, and the directions of flows that are in it.
#[derive(Debug)]
pub(super) struct Shunting {
    shunt: Shunt,
    metrics: SpoolMetrics,
    /// What is known to have been dropped of each.
    flows: BTreeMap<(Tuple, usize), Shunted>,
    swept: Instant,
    period: Duration,
}

impl Shunting {
    /// Loads the shunt; `None` where it is not possible, which is logged.
    pub(super) fn start(snaplen: u32, idle: Duration, metrics: &SpoolMetrics) -> Option<Self> {
        match Shunt::load(FLOWS, snaplen) {
            Ok(shunt) => {
                // Well before a flow would be taken for idle because the kernel drops its packets.
                let period = (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
                info!("packets behind the cutoff are dropped in the kernel");
                Some(Self { shunt, metrics: metrics.clone(), flows: BTreeMap::new(), swept: Instant::now(), period })
            }
            Err(error) => {
                warn!(%error, "packets behind the cutoff are dropped here and not in the kernel");
                None
            }
        }
    }

    /// Puts the shunt before a ring whose frames it can read.
    pub(super) fn attach(&self, ring: &LiveSource) {
        if ring.link() != LinkType::Ethernet {
            info!(interface = ring.interface(), "no shunt: it reads Ethernet only");
        } else if let Err(error) = self.shunt.attach(ring.as_fd()) {
            warn!(interface = ring.interface(), %error, "no shunt: the kernel does not take it");
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
                self.metrics.shunted_flows.inc();
            }
        }
    }

    /// Lets go of a flow that has ended.
    pub(super) fn ended(&mut self, tuple: &Tuple) {
        for direction in [Direction::LoToHi, Direction::HiToLo] {
            self.release((*tuple, direction.index()), direction);
        }
    }

    /// Lets packets of these flows pass.
    pub(super) fn suspend(&mut self, target: Target) {
        let meant: Vec<_> = self.flows.keys().copied().filter(|(tuple, _)| target.means(tuple)).collect();
        for (tuple, _) in meant {
            self.ended(&tuple);
        }
    }

    /// Tells the recorder what passed unseen, now and then.
    pub(super) fn sweep(&mut self, recorder: &mut Recorder, rings: &RingSet) {
        if self.swept.elapsed() < self.period {
            return;
        }
        self.swept = Instant::now();
        for ((tuple, way), known) in &mut self.flows {
            let direction = if *way == 0 { Direction::LoToHi } else { Direction::HiToLo };
            let Some(key) = key(tuple, direction) else { continue };
            match self.shunt.dropped(&key) {
                Some(now) if now != *known => {
                    let (packets, bytes) = (now.packets - known.packets, now.bytes - known.bytes);
                    self.metrics.shunted_packets.inc_by(packets);
                    self.metrics.shunted_bytes.inc_by(bytes);
                    let payload = bytes.saturating_sub(packets * HEADERS);
                    recorder.cutoff_mut().note_unseen(tuple, direction, Seen { packets, bytes: payload }, rings.now());
                    *known = now;
                }
                Some(_) => {}
                // It made way for others, or a SYN that belongs to the same connection took it out.
                None => {
                    if self.shunt.insert(&key).is_ok() {
                        *known = Shunted::default();
                    }
                }
            }
        }
    }

    fn release(&mut self, flow: (Tuple, usize), direction: Direction) {
        let Some(known) = self.flows.remove(&flow) else { return };
        if let Some(key) = key(&flow.0, direction) {
            let last = self.shunt.dropped(&key).unwrap_or(known);
            self.metrics.shunted_packets.inc_by(last.packets.saturating_sub(known.packets));
            self.metrics.shunted_bytes.inc_by(last.bytes.saturating_sub(known.bytes));
            self.shunt.remove(&key);
        }
        self.metrics.shunted_flows.dec();
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

/// Directions of flows in one map, of 40 + 16 bytes and the kernel's own: some 8 MiB.
const FLOWS: u32 = 65_536;
/// What is not payload of a frame whose headers nobody reads: Ethernet, IPv4, TCP with timestamps.
const HEADERS: u64 = 66;
