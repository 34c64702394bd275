//! The life of flows, driven by hand: written packets, written time, no threads.

use super::sim::*;
use super::*;
use crate::flow::segment::CHUNK;
use crate::flow::table::FlowTable;
use crate::identity::EventOutcome;
use crate::key::Endpoint;
use crate::metrics::PredecessorMetrics;
use crate::packet::Skip;
use proptest::prelude::*;

#[test]
fn a_named_connection_is_archived_a_second_after_it_closed() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.connection(at(10), 100);
    sim.pass(at(10 + 500));
    assert!(sim.files().is_empty());
    sim.pass(at(10 + 1_100));
    let files = sim.files();
    assert_eq!(files.len(), 1);
    assert_eq!((files[0].name.as_str(), files[0].packets, files[0].summary.end), ("a", 7, EndReason::Fin));
    assert!(files[0].summary.flags.has(FlowFlags::HANDSHAKE));
    sim.check_conservation();
}

#[test]
fn a_uuid_that_arrives_after_the_packets_names_them_all() {
    let mut sim = Sim::new();
    sim.connection(at(0), 100);
    sim.announce(at(900), "a", CLIENT, SERVER);
    sim.pass(at(7_000));
    assert_eq!(sim.files()[0].packets, 7);
    assert_eq!(sim.events(EventOutcome::Claimed), 1);
}

#[test]
fn a_closed_connection_waits_for_its_uuid_as_long_as_any_other() {
    let mut sim = Sim::new();
    sim.connection(at(0), 100);
    sim.announce(at(4_900), "a", CLIENT, SERVER);
    sim.pass(at(7_000));
    assert_eq!(sim.files().len(), 1);
}

#[test]
fn a_connection_that_nobody_names_is_dropped_and_counted() {
    let mut sim = Sim::new();
    sim.connection(at(0), 100);
    sim.pass(at(6_000));
    assert!(sim.files().is_empty());
    assert_eq!(sim.shard.stats().flows_with(FlowOutcome::NoUuid), 1);
    sim.announce(at(6_001), "a", CLIENT, SERVER);
    assert_eq!(sim.events(EventOutcome::TooLate), 1);
    sim.check_conservation();
}

#[test]
fn a_name_after_the_wait_still_saves_the_beginning() {
    let mut sim = Sim::new();
    sim.handshake(at(0), 100);
    sim.pass(at(5_100));
    sim.announce(at(6_000), "a", CLIENT, SERVER);
    sim.send(at(6_100), CLIENT, SERVER, ACK, 101, 501, 10);
    sim.end();
    let files = sim.files();
    assert_eq!(files[0].packets, 4);
    assert!(files[0].summary.flags.has(FlowFlags::LATE_UUID));
    assert_eq!(sim.events(EventOutcome::ClaimedLate), 1);
}

#[test]
fn a_uuid_may_be_told_twice() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.announce(at(1), "a", CLIENT, SERVER);
    sim.connection(at(10), 100);
    sim.announce(at(20), "a", CLIENT, SERVER);
    sim.pass(at(3_000));
    sim.announce(at(3_001), "a", CLIENT, SERVER);
    assert_eq!(sim.files().len(), 1);
    assert_eq!(sim.events(EventOutcome::Duplicate), 3);
    assert_eq!(sim.events(EventOutcome::Claimed), 1);
}

#[test]
fn an_announcement_without_packets_expires() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.send(at(40_000), OTHER, SERVER, SYN, 1, 0, 0);
    sim.send(at(41_000), OTHER, SERVER, SYN, 1, 0, 0);
    sim.pass(at(42_000));
    assert_eq!(sim.events(EventOutcome::Expired), 1);
    assert_eq!(sim.ledger.held(), (FlowTable::FLOW_COST + CHUNK) as u64);
}

#[test]
fn three_connections_on_one_four_tuple_give_three_files() {
    let mut sim = Sim::new();
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        let start = i as u64 * 200;
        sim.connection(at(start), 1_000 * (i as u32 + 1));
        sim.announce_at(at(start + 60), at(start + 15), name, CLIENT, SERVER);
    }
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 7), ("b", 7), ("c", 7)]);
    sim.check_conservation();
}

#[test]
fn names_that_come_after_the_next_connection_began_find_their_own() {
    let mut sim = Sim::new();
    sim.connection(at(0), 1_000);
    sim.connection(at(200), 2_000);
    sim.announce_at(at(300), at(10), "a", CLIENT, SERVER);
    sim.announce_at(at(300), at(210), "b", CLIENT, SERVER);
    sim.end();
    let files = sim.files();
    let isn = |f: &File| u32::from_be_bytes(f.records[16 + 38..16 + 42].try_into().unwrap());
    let mut found: Vec<_> = files.iter().map(|f| (f.name.clone(), isn(f), f.packets)).collect();
    found.sort();
    assert_eq!(found, [("a".into(), 1_000, 7), ("b".into(), 2_000, 7)]);
}

#[test]
fn a_connection_outlives_the_records_of_those_before_it() {
    let mut sim = Sim::new();
    sim.connection(at(0), 1_000);
    sim.connection(at(200), 2_000);
    sim.announce_at(at(300), at(210), "b", CLIENT, SERVER);
    sim.handshake(at(400), 3_000);
    sim.announce_at(at(420), at(410), "c", CLIENT, SERVER);
    sim.pass(at(15_000));
    sim.send(at(16_000), CLIENT, SERVER, ACK, 3_001, 501, 10);
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("b", 7), ("c", 4)]);
    sim.check_conservation();
}

#[test]
fn a_connection_outlives_any_number_of_nameless_ones_before_it() {
    let mut sim = Sim::new();
    for i in 0..12 {
        sim.connection(at(u64::from(i) * 100), 1_000 * (i + 1));
    }
    sim.handshake(at(1_200), 50_000);
    sim.announce_at(at(1_220), at(1_210), "a", CLIENT, SERVER);
    sim.pass(at(20_000));
    sim.send(at(21_000), CLIENT, SERVER, ACK, 50_001, 501, 10);
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 4)]);
    sim.check_conservation();
}

#[test]
fn while_the_kernel_drops_frames_fewer_flows_are_begun_and_those_are_whole() {
    let mut sim = Sim::with(|c| c.naming = Naming::Generated { keep_half_open: false });
    let client = |port| Endpoint { port, ..CLIENT };
    sim.handshake_of(at(0), client(999), SERVER, 1);
    (1..=40).for_each(|drops| sim.shard.set_kernel_drops(drops));
    assert!(sim.shard.is_shedding());
    for port in 1_000..2_000 {
        sim.handshake_of(at(100), client(port), SERVER, 1);
    }
    sim.send(at(200), client(999), SERVER, ACK, 2, 1, 10);
    (0..60).for_each(|_| sim.shard.set_kernel_drops(40));
    assert!(!sim.shard.is_shedding());
    sim.handshake_of(at(300), client(2_000), SERVER, 1);
    sim.end();
    let mut packets: Vec<_> = sim.files().iter().map(|f| f.packets).collect();
    packets.sort_unstable();
    let (begun, whole) = (packets.len() - 2, packets.iter().filter(|n| **n == 3).count());
    assert!((1..60).contains(&begun), "{begun}");
    assert_eq!((whole, packets.last()), (begun + 1, Some(&4)), "{packets:?}");
    assert_eq!(sim.shard.stats().frames_with(FrameOutcome::Shed), 3 * (1_000 - begun as u64));
    sim.check_conservation();
}

#[test]
fn names_that_come_before_any_packet_find_their_own() {
    let mut sim = Sim::new();
    sim.announce_at(at(0), at(10), "a", CLIENT, SERVER);
    sim.announce_at(at(0), at(210), "b", CLIENT, SERVER);
    sim.connection(at(0), 1_000);
    sim.connection(at(200), 2_000);
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 7), ("b", 7)]);
    assert_eq!(sim.shard.stats().frames_with(FrameOutcome::NoRoomForFlow), 0);
    sim.check_conservation();
}

#[test]
fn the_name_of_a_connection_that_was_not_seen_is_not_given_to_the_next() {
    let mut sim = Sim::new();
    sim.announce_at(at(0), at(0), "unseen", CLIENT, SERVER);
    sim.announce_at(at(1_010), at(1_005), "a", CLIENT, SERVER);
    sim.connection(at(1_000), 1_000);
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 7)]);
    assert_eq!(sim.events(EventOutcome::Expired), 1);
}

#[test]
fn a_name_that_is_told_at_the_end_of_a_socket_is_that_of_the_oldest_connection() {
    let mut sim = Sim::new();
    sim.connection(at(0), 1_000);
    sim.connection(at(200), 2_000);
    sim.gone = true;
    sim.announce_at(at(300), at(300), "a", CLIENT, SERVER);
    sim.announce_at(at(310), at(310), "b", CLIENT, SERVER);
    sim.end();
    let mut found: Vec<_> = sim.files().iter().map(|f| (f.name.clone(), f.summary.first)).collect();
    found.sort();
    assert_eq!(found, [("a".into(), at(0)), ("b".into(), at(200))]);
}

#[test]
fn another_uuid_for_the_four_tuple_begins_another_flow() {
    let mut sim = Sim::new();
    sim.handshake(at(0), 100);
    sim.announce(at(5), "a", CLIENT, SERVER);
    sim.announce(at(500), "b", CLIENT, SERVER);
    sim.send(at(600), CLIENT, SERVER, ACK, 9_000, 1, 5);
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 3), ("b", 1)]);
    assert_eq!(files[0].summary.end, EndReason::Reused);
}

#[test]
fn both_ends_local_give_one_file_two_names() {
    let mut sim = Sim::new();
    sim.handshake(at(0), 100);
    sim.announce(at(5), "a", CLIENT, SERVER);
    sim.announce(at(6), "b", SERVER, CLIENT);
    sim.end();
    let files = sim.files();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].summary.names.iter().map(|n| n.uuid.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(files[0].summary.flags.has(FlowFlags::BOTH_LOCAL));
}

#[test]
fn a_forged_syn_does_not_take_a_living_connection_away() {
    let mut sim = Sim::new();
    sim.handshake(at(0), 100);
    sim.announce(at(5), "a", CLIENT, SERVER);
    sim.send(at(100), CLIENT, SERVER, SYN, 77_777, 0, 0);
    sim.send(at(101), SERVER, CLIENT, ACK, 501, 101, 0);
    for i in 0..10 {
        sim.send(at(110 + i), CLIENT, SERVER, ACK, 101, 501, 100);
    }
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 14)]);
    sim.check_conservation();
}

#[test]
fn a_connection_reborn_without_a_farewell_begins_when_the_other_end_agrees() {
    let mut sim = Sim::new();
    sim.handshake(at(0), 100);
    sim.announce(at(5), "a", CLIENT, SERVER);
    sim.handshake(at(1_000), 77_000);
    sim.announce_at(at(1_010), at(1_009), "b", CLIENT, SERVER);
    sim.end();
    let files = sim.files();
    assert_eq!(files.iter().map(|f| (f.name.as_str(), f.packets)).collect::<Vec<_>>(), [("a", 3), ("b", 3)]);
    assert_eq!(files[0].summary.end, EndReason::Reused);
}

#[test]
fn a_reset_ends_a_flow_unless_its_sender_goes_on() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    sim.send(at(100), SERVER, CLIENT, RST, 501, 0, 0);
    sim.send(at(300), SERVER, CLIENT, ACK, 501, 101, 40);
    sim.pass(at(2_000));
    assert!(sim.files().is_empty());
    sim.send(at(2_100), SERVER, CLIENT, RST, 541, 0, 0);
    sim.pass(at(3_200));
    let files = sim.files();
    assert_eq!((files[0].packets, files[0].summary.end), (6, EndReason::Reset));
}

#[test]
fn a_close_event_ends_a_flow_after_the_linger() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    sim.close(at(500), "a");
    sim.send(at(900), CLIENT, SERVER, ACK, 101, 501, 1);
    sim.pass(at(1_600));
    let files = sim.files();
    assert_eq!((files[0].packets, files[0].summary.end), (4, EndReason::Closed));
    sim.close(at(1_700), "nobody");
    assert_eq!(sim.events(EventOutcome::CloseUnknown), 1);
}

#[test]
fn the_capture_duration_runs_from_the_announcement_if_that_came_first() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(4_000), 100);
    for i in 0..8 {
        sim.send(at(8_000 + i * 4_000), CLIENT, SERVER, ACK, 101, 501, 10);
    }
    sim.end();
    let files = sim.files();
    assert_eq!((files.len(), files[0].packets, files[0].summary.end), (1, 3 + 6, EndReason::CaptureWindow));
    assert_eq!(sim.shard.stats().frames_with(FrameOutcome::AfterEnd), 2);
}

#[test]
fn a_pause_shorter_than_the_idle_timeout_cuts_nothing() {
    let mut sim = Sim::with(|c| c.timers.unnamed_idle = Duration::from_secs(5));
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    sim.send(at(12_000), CLIENT, SERVER, ACK, 101, 501, 10);
    sim.send(at(24_000), CLIENT, SERVER, ACK, 111, 501, 10);
    sim.end();
    assert_eq!(sim.files()[0].packets, 5);
}

#[test]
fn an_idle_flow_is_archived() {
    let mut sim = Sim::with(|c| c.timers.capture = Duration::from_secs(3_600));
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    sim.pass(at(31_000));
    assert_eq!(sim.files()[0].summary.end, EndReason::Idle);
}

#[test]
fn a_flood_of_syns_pushes_out_its_own_oldest_and_no_connection() {
    let mut sim = Sim::with(|c| c.half_open_max = 100);
    sim.handshake(at(0), 100);
    sim.announce(at(1), "a", CLIENT, SERVER);
    for i in 0..1_000u32 {
        let scan = Endpoint { addr: Address::v4([10, 0, (i >> 8) as u8, i as u8]), port: 9 };
        sim.send(at(10), scan, SERVER, SYN, i, 0, 0);
    }
    assert_eq!(sim.shard.flows(), 101);
    assert_eq!(sim.shard.stats().flows_with(FlowOutcome::EvictedHalfOpen), 900);
    sim.end();
    assert_eq!(sim.files()[0].packets, 3);
    sim.check_conservation();
}

#[test]
fn a_closed_connection_without_a_name_is_not_waited_for() {
    let mut sim = Sim::new();
    assert!(!sim.shard.is_busy());
    sim.handshake(at(0), 100);
    assert!(sim.shard.is_busy());
    sim.connection(at(10), 100);
    assert!(!sim.shard.is_busy(), "a probe of our own port, for example");
    sim.announce(at(100), "a", CLIENT, SERVER);
    assert!(sim.shard.is_busy());
}

#[test]
fn a_flood_of_lone_acks_is_a_flood_of_half_open_flows() {
    let mut sim = Sim::with(|c| c.half_open_max = 10);
    for i in 0..100u8 {
        let scan = Endpoint { addr: Address::v4([10, 0, 0, i]), port: 9 };
        sim.send(at(10), scan, SERVER, ACK, 1, 1, 0);
        sim.send(at(11), scan, SERVER, ACK, 1, 1, 0);
    }
    assert_eq!((sim.shard.flows(), sim.limit.held()), (10, 0));
    sim.end();
    sim.check_conservation();
}

#[test]
fn a_half_open_flow_costs_at_most_512_bytes() {
    let mut sim = Sim::new();
    sim.send(at(0), CLIENT, SERVER, SYN, 1, 0, 0);
    assert!(sim.ledger.held() <= 512, "{}", sim.ledger.held());
}

#[test]
fn memory_runs_out_for_new_flows_before_it_does_for_named_ones() {
    let budget = 64 * (FlowTable::FLOW_COST + CHUNK) as u64;
    let mut sim = Sim::with_budget(budget, |_| {});
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    for i in 0..200u16 {
        let scan = Endpoint { addr: OTHER.addr, port: 1_000 + i };
        sim.send(at(10), scan, SERVER, SYN, 5, 0, 0);
        sim.send(at(10), CLIENT, SERVER, ACK, 101, 501, 10);
        assert!(sim.ledger.held() <= budget, "{} of {budget}", sim.ledger.held());
    }
    sim.end();
    let files = sim.files();
    assert_eq!(files[0].packets, 203, "the named flow is whole");
    assert!(sim.shard.stats().flows_with(FlowOutcome::EvictedHalfOpen) > 100);
    sim.check_conservation();
}

#[test]
fn a_half_open_flow_that_needs_room_takes_it_from_other_half_open_flows() {
    let mut sim = Sim::with_budget(64 * (FlowTable::FLOW_COST + CHUNK) as u64, |_| {});
    sim.handshake_of(at(0), OTHER, SERVER, 100);
    sim.send(at(5), CLIENT, SERVER, SYN, 100, 0, 0);
    for i in 0..40u16 {
        sim.send(at(10), Endpoint { addr: OTHER.addr, port: 1_000 + i }, SERVER, SYN, 5, 0, 0);
    }
    for _ in 0..400 {
        sim.send(at(20), CLIENT, SERVER, SYN, 100, 0, 0);
    }
    assert!(sim.shard.stats().flows_with(FlowOutcome::EvictedHalfOpen) > 0);
    assert_eq!(sim.shard.stats().flows_with(FlowOutcome::EvictedNoUuid), 0);
    sim.check_conservation();
}

#[test]
fn a_flow_over_maxflows_is_refused_and_nameless_ones_make_way() {
    let mut sim = Sim::with_limit(1);
    sim.handshake(at(0), 100);
    sim.handshake_of(at(10), OTHER, SERVER, 100);
    assert_eq!(sim.shard.stats().flows_with(FlowOutcome::EvictedNoUuid), 1);
    sim.announce(at(20), "b", OTHER, SERVER);
    sim.handshake(at(30), 9_000);
    assert_eq!(sim.shard.stats().flows_with(FlowOutcome::OverMaxFlows), 1);
    sim.end();
    assert_eq!(sim.files().iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["b"]);
    sim.check_conservation();
}

#[test]
fn a_flow_over_maxflows_is_refused_once_where_flows_name_themselves() {
    for keep_half_open in [false, true] {
        let mut sim = Sim::build(u64::MAX, 1, |c| c.naming = Naming::Generated { keep_half_open });
        sim.handshake(at(0), 100);
        sim.handshake_of(at(10), OTHER, SERVER, 100);
        sim.end();
        assert_eq!(sim.shard.stats().flows_with(FlowOutcome::OverMaxFlows), 1);
        assert_eq!(sim.files().len(), 1);
        sim.check_conservation();
    }
}

#[test]
fn the_same_packet_on_two_interfaces_is_kept_once_and_a_retransmission_twice() {
    let mut sim = Sim::with(|c| c.deduplicate = true);
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    for (ms, interface) in [(100, 1), (101, 2), (102, 1), (103, 2), (400, 2), (401, 1)] {
        sim.interface = interface;
        sim.send(at(ms), CLIENT, SERVER, ACK, 101, 501, 10);
    }
    sim.end();
    let files = sim.files();
    assert_eq!(files[0].packets, 3 + 3);
    assert!(files[0].summary.flags.has(FlowFlags::DEDUPLICATED));
    sim.check_conservation();
}

#[test]
fn a_packet_repeated_on_one_interface_is_never_a_duplicate() {
    let mut sim = Sim::with(|c| c.deduplicate = true);
    sim.announce(at(0), "a", CLIENT, SERVER);
    for _ in 0..300 {
        sim.send(at(0), CLIENT, SERVER, ACK, 1, 1, 0);
    }
    assert_eq!(sim.shard.stats().frames_with(FrameOutcome::Kept), 300);
}

#[test]
fn a_long_flow_leaves_in_segments_that_together_hold_every_packet() {
    let mut sim = Sim::new();
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    for i in 0..5_000 {
        sim.send(at(1 + i), CLIENT, SERVER, ACK, 101 + i as u32, 501, 1);
    }
    sim.end();
    assert_eq!(sim.segments, 5);
    assert_eq!(sim.files()[0].packets, 5_003);
    assert_eq!(sim.ledger.held(), 0);
}

#[test]
fn stream_mode_seals_what_a_quiet_flow_holds() {
    let mut sim = Sim::with(|c| c.timers.seal = Some(Duration::from_secs(1)));
    sim.announce(at(0), "a", CLIENT, SERVER);
    sim.handshake(at(0), 100);
    sim.pass(at(1_100));
    assert_eq!(sim.segments, 1);
    sim.end();
    assert_eq!(sim.files()[0].packets, 3);
}

#[test]
fn generated_names_need_no_announcement_and_half_open_flows_need_to_be_wanted() {
    for (keep_half_open, files) in [(true, 2), (false, 1)] {
        let mut sim = Sim::with(|c| c.naming = Naming::Generated { keep_half_open });
        sim.connection(at(0), 100);
        sim.send(at(5), OTHER, SERVER, SYN, 1, 0, 0);
        sim.end();
        assert_eq!(sim.files().len(), files);
        sim.check_conservation();
    }
}

#[test]
fn a_source_is_asked_about_a_flow_when_it_is_established_or_met_in_the_middle_and_nameless() {
    let mut sim = Sim::with(|c| c.ask = true);
    sim.source = crate::key::UuidSource::Kernel;
    sim.send(at(0), CLIENT, SERVER, SYN, 100, 0, 0);
    assert_eq!(sim.shard.poll_question(), None);
    sim.handshake(at(1), 100);
    assert_eq!(sim.shard.poll_question(), Some(FlowKey::new(CLIENT, SERVER).0));
    sim.send(at(2), OTHER, SERVER, ACK, 1, 1, 0);
    assert_eq!(sim.shard.poll_question(), Some(FlowKey::new(OTHER, SERVER).0));
    sim.announce(at(3), "a", SERVER, Endpoint { port: 9, ..OTHER });
    sim.handshake_of(at(4), Endpoint { port: 9, ..OTHER }, SERVER, 7);
    assert_eq!(sim.shard.poll_question(), None, "it had a name");
}

#[test]
fn frames_that_are_not_tcp_are_counted_by_reason() {
    let mut sim = Sim::new();
    sim.frame(at(0), &[[2; 12].as_slice(), &[0x88, 0xcc], &[0; 46]].concat());
    assert_eq!(sim.shard.stats().frames_total(), 1);
    assert_eq!(sim.shard.stats().frames_with(FrameOutcome::Skipped(Skip::NotIp)), 1);
}

#[test]
fn the_flows_after_a_clean_up_are_those_of_all_shards() {
    let registry = prometheus::Registry::new();
    let predecessor = PredecessorMetrics::register(&registry);
    let metrics = ShardMetrics::register(&registry, &predecessor, false);
    metrics.clean_up(0, 5, Duration::ZERO);
    metrics.clean_up(0, 2, Duration::ZERO);
    metrics.clean_up(5, 1, Duration::ZERO);
    assert_eq!(predecessor.savers_active.get(), 3);
}

/// One thing that can happen to a shard.
#[derive(Clone, Debug)]
enum Step {
    Packet { connection: usize, reversed: bool, flags: u8, seq: u32, payload: usize },
    Announce { connection: usize, name: usize, swapped: bool },
    Close { name: usize },
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let flags = prop::sample::select(vec![SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST]);
    let step = prop_oneof![
        8 => (0..6usize, any::<bool>(), flags, 0..6u32, 0..50usize).prop_map(|(connection, reversed, flags, seq, payload)| {
            Step::Packet { connection, reversed, flags, seq: seq * 100, payload }
        }),
        2 => (0..6usize, 0..12usize, any::<bool>()).prop_map(|(connection, name, swapped)| Step::Announce { connection, name, swapped }),
        1 => (0..12usize).prop_map(|name| Step::Close { name }),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec((prop::sample::select(vec![0, 1, 5, 300, 1_001, 4_000, 31_000]), step), 1..200)
}

fn run(sim: &mut Sim, steps: &[(u64, Step)], mine: impl Fn(usize) -> bool) {
    let mut ms = 0;
    for (delay, step) in steps {
        ms += delay;
        let end = |c: usize| Endpoint { addr: Address::v4([192, 0, 2, c as u8]), port: 1_000 };
        match *step {
            Step::Packet { connection, reversed, flags, seq, payload } if mine(connection) => {
                let (src, dst) = if reversed { (SERVER, end(connection)) } else { (end(connection), SERVER) };
                sim.send(at(ms), src, dst, flags, seq, seq + 1, payload);
            }
            Step::Announce { connection, name, swapped } => {
                let (local, remote) = if swapped { (end(connection), SERVER) } else { (SERVER, end(connection)) };
                sim.announce(at(ms), &format!("n{name}"), local, remote);
            }
            Step::Close { name } => sim.close(at(ms), &format!("n{name}")),
            _ => {}
        }
    }
    sim.pass(at(ms));
    sim.end();
}

proptest! {
    #[test]
    fn every_frame_and_flow_has_one_outcome_and_the_ledger_returns_to_zero(steps in steps(), dedup in any::<bool>(), named in any::<bool>(), small in any::<bool>()) {
        let budget = if small { 20 * (FlowTable::FLOW_COST + CHUNK) as u64 } else { u64::MAX };
        let mut sim = Sim::build(budget, if small { 2 } else { 0 }, |c| {
            c.deduplicate = dedup;
            c.half_open_max = if small { 3 } else { 1_000 };
            c.naming = if named { Naming::Announced } else { Naming::Generated { keep_half_open: small } };
        });
        run(&mut sim, &steps, |_| true);
        sim.check_conservation();
        prop_assert_eq!(sim.ledger.held(), 0);
        prop_assert_eq!(sim.limit.held(), 0);
    }

    #[test]
    fn how_often_time_is_told_never_changes_what_is_archived(steps in steps(), beat in 1..2_000u64) {
        let facts = |beat| {
            let mut sim = Sim::new();
            sim.beat = beat;
            run(&mut sim, &steps, |_| true);
            let mut facts: Vec<_> = sim.files().iter().map(File::facts).collect();
            facts.sort();
            facts
        };
        prop_assert_eq!(facts(None), facts(Some(Duration::from_millis(beat))));
    }

    #[test]
    fn the_number_of_shards_never_changes_what_is_archived(steps in steps(), shards in 2..4usize) {
        let mut one = Sim::new();
        run(&mut one, &steps, |_| true);
        let mut expected: Vec<_> = one.files().iter().map(File::facts).collect();
        let mut found = Vec::new();
        for shard in 0..shards {
            let mut sim = Sim::new();
            run(&mut sim, &steps, |connection| connection % shards == shard);
            found.extend(sim.files().iter().map(File::facts));
        }
        expected.sort();
        found.sort();
        prop_assert_eq!(expected, found);
    }
}
