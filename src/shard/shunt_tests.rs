//! What a shard asks of the shunt, and what it makes of packets that it did not see.

use super::sim::*;
use super::*;
use crate::metrics::PredecessorMetrics;
use prometheus::Registry;

#[test]
fn a_connection_behind_its_capture_duration_is_dropped_until_it_is_forgotten() {
    let mut sim = sim();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(10), 100);
    assert_eq!(ops(&mut sim), [], "packets are kept");
    sim.pass(at(30_100));
    assert_eq!(sim.files().len(), 1);
    assert_eq!(ops(&mut sim), [], "it may be silent from now on");
    go_on(&mut sim, 63);
    assert_eq!(ops(&mut sim), []);
    go_on(&mut sim, 2);
    assert_eq!(ops(&mut sim), [ShuntOp::Drop(key())]);
    // What has passed unseen keeps the record.
    for secs in [50, 70, 90] {
        sim.pass(at(secs * 1000));
        sim.shard.handle_unseen(&key(), 1000, at(secs * 1000));
    }
    assert_eq!((ops(&mut sim), sim.shard.flows()), (vec![], 1));
    sim.pass(at(120_001));
    assert_eq!((ops(&mut sim), sim.shard.flows()), (vec![ShuntOp::Pass(key())], 0));
    sim.shard.handle_unseen(&key(), 1, at(120_002));
    assert_eq!(sim.shard.stats().shunted, 3001, "counted, though the record is gone");
    sim.check_conservation();
}

#[test]
fn the_next_connection_between_the_same_ends_passes() {
    let mut sim = sim();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(10), 100);
    sim.pass(at(30_100));
    go_on(&mut sim, 64);
    assert_eq!(ops(&mut sim), [ShuntOp::Drop(key())]);
    sim.send(at(31_000), CLIENT, SERVER, FIN | ACK, 101, 501, 0);
    sim.announce(at(31_500), "b", CLIENT, SERVER);
    sim.handshake(at(32_000), 70_000);
    assert_eq!(ops(&mut sim), [ShuntOp::Pass(key())]);
    sim.end();
    assert_eq!(sim.files().iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 3), ("b", 3)]);
    sim.check_conservation();
}

#[test]
fn a_connection_that_ends_by_itself_is_none_of_the_shunts_business() {
    let mut sim = sim();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.connection(at(10), 100);
    sim.pass(at(120_000));
    sim.end();
    assert_eq!(ops(&mut sim), []);
}

#[test]
fn packets_dropped_unseen_count_as_discarded() {
    let registry = Registry::new();
    let predecessor = PredecessorMetrics::register(&registry);
    let metrics = ShardMetrics::register(&registry, &predecessor, false);
    let mut sim = sim();
    sim.shard.handle_unseen(&key(), 7, at(0));
    metrics.publish(&ShardStats::default(), sim.shard.stats());
    assert_eq!(predecessor.missed_packets.with_label_values(&["discardingpackets"]).get(), 7);
}

fn sim() -> Sim {
    Sim::with(|config| config.shunt = true)
}

/// Packets behind the capture duration.
fn go_on(sim: &mut Sim, packets: u32) {
    (0..packets).for_each(|_| sim.send(at(30_200), CLIENT, SERVER, ACK, 101, 501, 0));
}

fn key() -> FlowKey {
    FlowKey::new(CLIENT, SERVER).0
}

fn ops(sim: &mut Sim) -> Vec<ShuntOp> {
    std::iter::from_fn(|| sim.shard.poll_shunt()).collect()
}
