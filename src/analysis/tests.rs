//! The analysis on scripted conversations: each figure once by hand.

use super::testing::{ACK, FIN, RST, SYN, Talk, say};
use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

#[test]
fn a_handshake_tells_both_round_trip_times_and_options() {
    let tcp = Talk::shake_hands().end();
    assert_eq!((tcp.server.handshake_rtt_ns, tcp.client.handshake_rtt_ns), (Some(30 * MS), Some(10 * MS)));
    assert_eq!((tcp.handshake, tcp.handshake_rtt_ns, tcp.starts_with_syn), (Handshake::Complete, Some(40 * MS), true));
    let syn = tcp.client.syn.unwrap();
    assert_eq!((syn.mss, syn.window_scale, syn.sack_permitted, syn.timestamps), (Some(1000), Some(2), true, false));
    assert_eq!((tcp.client.window_max_bytes, tcp.close, tcp.closed_by), (4000, Close::Open, None));
}

#[test]
fn a_handshake_with_a_repeated_syn_has_no_round_trip_time() {
    let mut talk = Talk::new();
    talk.client(0, say(999, 0, 0, SYN));
    talk.client(1000, say(999, 0, 0, SYN));
    talk.server(1030, say(8999, 1000, 0, SYN | ACK));
    talk.client(1040, say(1000, 9000, 0, ACK));
    let tcp = talk.end();
    assert_eq!((tcp.handshake, tcp.handshake_rtt_ns, tcp.server.handshake_rtt_ns), (Handshake::Complete, None, None));
    assert_eq!((tcp.client.retransmitted_packets, tcp.client.timeout_retransmits), (1, 1));
}

#[test]
fn a_syn_behind_its_answer_is_out_of_order() {
    let mut talk = Talk::new();
    talk.server(0, say(8999, 1000, 0, SYN | ACK));
    assert_eq!(talk.client(1, say(999, 0, 0, SYN)).unwrap().role, Role::OutOfOrder);
    talk.client(10, say(1000, 9000, 0, ACK));
    let tcp = talk.end();
    assert_eq!((tcp.client.endpoint.port(), tcp.client.retransmitted_packets, tcp.client.out_of_order_packets), (5000, 0, 1));
    assert_eq!((tcp.handshake, tcp.handshake_rtt_ns, tcp.starts_with_syn), (Handshake::Complete, None, false));
}

#[test]
fn data_is_timed_by_the_acknowledgement_of_exactly_its_end() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 500, ACK));
    talk.client(101, say(1500, 9000, 500, ACK));
    let observed = talk.server(130, say(9000, 2000, 0, ACK)).unwrap();
    assert_eq!(observed.rtt_ns, Some(29 * MS));
    talk.client(200, say(2000, 9000, 500, ACK));
    assert_eq!(talk.server(230, say(9000, 2400, 0, ACK)).unwrap().rtt_ns, None);
    let tcp = talk.end();
    assert_eq!((tcp.server.rtt.samples, tcp.server.rtt.min_ns, tcp.client.rtt.samples), (2, Some(29 * MS), 1));
    assert_eq!((tcp.client.unique_bytes, tcp.client.data_packets, tcp.client.in_flight_max_bytes), (1500, 3, 1000));
    assert_eq!(tcp.client.goodput_bits_per_s, Some(1500 * 8 * 1000 / 130));
}

#[test]
fn what_was_sent_twice_times_nothing() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 500, ACK));
    let again = talk.client(400, say(1000, 9000, 500, ACK)).unwrap();
    assert_eq!(again.role, Role::Retransmission(Cause::Timeout));
    assert_eq!(talk.server(430, say(9000, 1500, 0, ACK)).unwrap().rtt_ns, None);
    let tcp = talk.end();
    assert_eq!((tcp.client.retransmitted_packets, tcp.client.retransmitted_bytes, tcp.client.unique_bytes), (1, 500, 500));
}

#[test]
fn timestamps_time_what_sequence_numbers_cannot() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 500, ACK).stamps(10, 1));
    talk.client(400, say(1000, 9000, 500, ACK).stamps(310, 1));
    assert_eq!(talk.server(430, say(9000, 1500, 0, ACK).stamps(7, 310)).unwrap().rtt_timestamps_ns, Some(30 * MS));
    assert_eq!(talk.server(431, say(9000, 1500, 0, ACK).stamps(8, 310)).unwrap().rtt_timestamps_ns, None);
    assert_eq!(talk.end().server.rtt_timestamps.samples, 1);
}

#[test]
fn three_duplicate_acknowledgements_make_a_fast_retransmission() {
    let mut talk = Talk::shake_hands();
    for i in 0..5 {
        talk.client(100 + u64::from(i), say(1000 + 500 * i, 9000, 500, ACK));
    }
    talk.server(130, say(9000, 1500, 0, ACK));
    for i in 0..3 {
        assert!(talk.server(132 + i, say(9000, 1500, 0, ACK)).unwrap().duplicate_ack);
    }
    assert!(!talk.server(136, say(9000, 1500, 0, ACK).window(2000)).unwrap().duplicate_ack, "a window update");
    let again = talk.client(145, say(1500, 9000, 500, ACK)).unwrap();
    assert_eq!(again.role, Role::Retransmission(Cause::Fast));
    talk.server(175, say(9000, 2500, 0, ACK));
    let more = talk.client(176, say(2500, 9000, 500, ACK)).unwrap();
    assert_eq!(more.role, Role::Retransmission(Cause::Fast), "a partial acknowledgement goes on with the recovery");
    let tcp = talk.end();
    assert_eq!((tcp.server.duplicate_acks, tcp.client.fast_retransmits), (3, 2));
}

#[test]
fn sack_is_a_reason_for_a_fast_retransmission_and_a_d_sack_tells_of_a_copy() {
    let mut talk = Talk::shake_hands();
    for i in 0..3 {
        talk.client(100, say(1000 + 500 * i, 9000, 500, ACK));
    }
    let observed = talk.server(130, say(9000, 1000, 0, ACK).sack(&[(1500, 2500)])).unwrap();
    assert_eq!(observed.sack_blocks, 1);
    assert_eq!(talk.client(140, say(1000, 9000, 500, ACK)).unwrap().role, Role::Retransmission(Cause::Fast));
    talk.server(170, say(9000, 2500, 0, ACK));
    assert_eq!(talk.client(171, say(1000, 9000, 500, ACK)).unwrap().role, Role::Retransmission(Cause::Spurious));
    talk.server(201, say(9000, 2500, 0, ACK).sack(&[(1000, 1500)]));
    talk.server(202, say(9000, 2500, 0, ACK).sack(&[(3000, 3500), (3000, 4500)]));
    let tcp = talk.end();
    assert_eq!((tcp.server.sack_blocks, tcp.server.dsacks), (2, 2));
    assert_eq!((tcp.client.spurious_retransmits, tcp.client.retransmitted_packets), (1, 2));
}

#[test]
fn a_hole_that_closes_before_a_round_trip_was_reordering_and_later_a_retransmission() {
    for (late, role) in [(39, Role::OutOfOrder), (41, Role::Retransmission(Cause::Unknown))] {
        let mut talk = Talk::shake_hands();
        talk.client(100, say(1000, 9000, 500, ACK));
        talk.client(101, say(2000, 9000, 500, ACK));
        assert_eq!(talk.client(101 + late, say(1500, 9000, 500, ACK)).unwrap().role, role);
        let tcp = talk.end();
        assert_eq!(tcp.client.unique_bytes, 1500);
        assert_eq!(tcp.client.reordering_max_bytes, if role == Role::OutOfOrder { 1000 } else { 0 });
    }
}

#[test]
fn keep_alives_and_window_probes_are_no_retransmissions() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 500, ACK));
    talk.server(130, say(9000, 1500, 0, ACK).window(0));
    assert_eq!(talk.client(400, say(1499, 9000, 0, ACK)).unwrap().role, Role::WindowProbe);
    talk.server(430, say(9000, 1500, 0, ACK).window(100));
    for (at, payload) in [(5000, 0), (6000, 1)] {
        assert_eq!(talk.client(at, say(1499, 9000, payload, ACK)).unwrap().role, Role::KeepAlive);
    }
    let tcp = talk.end();
    assert_eq!((tcp.server.zero_windows, tcp.client.window_probes, tcp.client.keep_alives), (1, 1, 2));
    assert_eq!((tcp.client.payload_bytes, tcp.client.data_packets, tcp.client.retransmitted_packets), (500, 1, 0));
    assert_eq!(tcp.longest_idle_ns, 4570 * MS);
}

#[test]
fn a_super_packet_counts_as_the_segments_in_it() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 1000, ACK));
    talk.client(101, say(2000, 9000, 100_001, ACK));
    let tcp = talk.end();
    assert_eq!((tcp.client.data_packets, tcp.client.super_packets, tcp.client.data_segments), (2, 1, 102));
    assert_eq!(tcp.client.payload_bytes, 101_001);
}

#[test]
fn ecn_is_counted_where_the_network_and_the_ends_mark() {
    let mut talk = Talk::new();
    talk.client(0, say(999, 0, 0, SYN | 0xc0));
    talk.server(1, say(8999, 1000, 0, SYN | ACK | 0x40));
    talk.client(2, say(1000, 9000, 10, ACK).ecn(2));
    talk.client(3, say(1010, 9000, 10, ACK).ecn(3));
    talk.server(4, say(9000, 1020, 0, ACK | 0x40));
    talk.client(5, say(1020, 9000, 10, ACK | 0x80).ecn(1));
    let tcp = talk.end();
    assert!(tcp.client.syn.unwrap().ecn && tcp.server.syn.unwrap().ecn);
    let c = &tcp.client;
    assert_eq!((c.ect_packets, c.ce_packets, c.cwr_packets, tcp.server.ece_packets), (2, 1, 1, 1));
}

#[test]
fn fins_both_ways_a_fin_alone_and_a_reset_are_told_apart() {
    let close = |packets: &[(bool, u8)]| {
        let mut talk = Talk::shake_hands();
        for (i, &(client, flags)) in packets.iter().enumerate() {
            let at = 100 + i as u64;
            if client {
                talk.client(at, say(1000, 9000, 0, flags))
            } else {
                talk.server(at, say(9000, 1000, 0, flags))
            };
        }
        let tcp = talk.end();
        (tcp.close, tcp.closed_by)
    };
    let (fin, rst) = (FIN | ACK, RST);
    assert_eq!(close(&[(false, fin), (true, fin)]), (Close::Fin, Some(Party::Server)));
    assert_eq!(close(&[(true, fin)]), (Close::HalfClosed, Some(Party::Client)));
    assert_eq!(close(&[(true, fin), (false, rst)]), (Close::Reset, Some(Party::Client)));
    assert_eq!(close(&[(true, fin), (false, fin), (true, rst)]), (Close::Fin, Some(Party::Client)));
    assert_eq!(close(&[(false, rst)]), (Close::Reset, Some(Party::Server)));
}

#[test]
fn acknowledged_bytes_that_were_never_seen_are_counted() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 500, ACK));
    talk.server(130, say(9000, 3000, 0, ACK));
    talk.client(140, say(3500, 9000, 500, ACK));
    let tcp = talk.end();
    assert_eq!(tcp.client.unseen_bytes, 1500, "the 500 that were jumped over last are not acknowledged");
}

#[test]
fn a_connection_met_in_the_middle_begins_with_what_is_seen() {
    let mut talk = Talk::new();
    talk.server(0, say(77_000, 5_000, 1000, ACK));
    talk.client(10, say(5_000, 78_000, 0, ACK));
    talk.server(20, say(78_000, 5_000, 1000, ACK));
    let tcp = talk.end();
    assert_eq!((tcp.handshake, tcp.starts_with_syn, tcp.client.endpoint.port()), (Handshake::None, false, 80));
    assert_eq!((tcp.client.unseen_bytes, tcp.server.unseen_bytes, tcp.client.unique_bytes), (0, 0, 2000));
    assert_eq!(tcp.server.rtt.min_ns, Some(10 * MS));
}

#[test]
fn numbers_wrap_and_flows_pass_4_gib() {
    let mut talk = Talk::new();
    talk.client(0, say(u32::MAX - 1, 0, 0, SYN));
    talk.server(1, say(8999, u32::MAX, 0, SYN | ACK));
    let mut seq = u32::MAX;
    for i in 0..90_000u64 {
        assert_eq!(talk.client(10 + i, say(seq, 9000, 60_000, ACK)).unwrap().role, Role::New);
        seq = seq.wrapping_add(60_000);
        talk.server(10 + i, say(9000, seq, 0, ACK));
    }
    let tcp = talk.end();
    assert_eq!((tcp.client.unique_bytes, tcp.client.unseen_bytes), (5_400_000_000, 0));
    assert_eq!((tcp.client.in_flight_max_bytes, tcp.client.retransmitted_packets), (60_000, 0));
}

#[test]
fn packets_out_of_time_order_and_headers_cut_short_are_counted_and_measure_nothing() {
    let mut talk = Talk::shake_hands();
    talk.client(100, say(1000, 9000, 500, ACK));
    assert_eq!(talk.server(90, say(9000, 1500, 0, ACK)).unwrap().rtt_ns, None);
    let mut tcp = talk.end();
    assert_eq!((tcp.disordered_packets, tcp.last_ns, tcp.cut_packets), (1, 100 * MS, 0));
    let mut analyzer = Analyzer::new(LinkType::Ethernet);
    let (bytes, wire_len) = say(1, 2, 10, ACK).stamps(1, 2).bytes(0);
    for len in 0..bytes.len() {
        analyzer.handle_packet(Timestamp::ZERO, wire_len, &bytes[..len]);
    }
    tcp = analyzer.finish().unwrap();
    assert_eq!((tcp.cut_packets, tcp.unreadable_packets), (12, 54));
}

#[test]
fn fragments_carry_their_segments_payload_on() {
    let (mut first, _) = say(1000, 9000, 972, ACK).bytes(0);
    let mut later = first[..34].to_vec();
    first[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    later[16..18].copy_from_slice(&(20 + 500u16).to_be_bytes());
    later[20..22].copy_from_slice(&(992 / 8u16).to_be_bytes());
    let mut talk = Analyzer::new(LinkType::Ethernet);
    assert_eq!(talk.handle_packet(Timestamp::ZERO, 534, &later), None, "whose it is is not known yet");
    talk.handle_packet(Timestamp::ZERO, 1026, &first);
    let observed = talk.handle_packet(Timestamp::ZERO, 534, &later).unwrap();
    assert_eq!((observed.role, observed.end - observed.start), (Role::New, 500));
    let (ack, wire_len) = say(9000, 1000 + 1472, 0, ACK).bytes(1);
    talk.handle_packet(Timestamp::ZERO, wire_len, &ack);
    // Without its first fragment it is counted and says nothing; from elsewhere it is another connection's.
    later[19] = 7;
    assert_eq!(talk.handle_packet(Timestamp::ZERO, 534, &later), None);
    later[29] = 9;
    assert_eq!(talk.handle_packet(Timestamp::ZERO, 534, &later), None);
    let tcp = talk.finish().unwrap();
    assert_eq!((tcp.client.unique_bytes, tcp.client.unseen_bytes, tcp.client.packets), (1472, 0, 3));
    assert_eq!((tcp.server.packets, tcp.foreign_packets, tcp.unreadable_packets, tcp.packets), (1, 1, 1, 6));
}

#[test]
fn an_analyser_that_read_nothing_has_nothing_to_say() {
    let mut analyzer = Analyzer::new(LinkType::Ethernet);
    analyzer.handle_packet(Timestamp::ZERO, 60, &[0; 14]);
    assert_eq!(analyzer.finish(), None);
}

proptest! {
    #[test]
    fn any_packets_are_analysed_and_every_one_is_counted(
        packets in proptest::collection::vec((any::<[u32; 3]>(), any::<u8>(), 0u32..3000, any::<bool>(), any::<[u8; 12]>(), any::<u16>()), 1..200),
    ) {
        let mut talk = Analyzer::new(LinkType::Ethernet);
        for ([seq, ack, at], flags, payload, client, options, window) in &packets {
            // Near each other more often than not, so that they meet.
            let near = |n: u32| if n & 1 == 0 { n >> 16 } else { n };
            let say = say(near(*seq), near(*ack), *payload, *flags).options(options).window(*window);
            let (bytes, wire_len) = say.bytes((*client).into());
            talk.handle_packet(Timestamp::from_nanos((*at).into()), wire_len, &bytes);
        }
        let tcp = talk.finish().unwrap();
        prop_assert_eq!(tcp.client.packets + tcp.server.packets, packets.len() as u64);
        for (_, end) in tcp.ends() {
            let causes = end.fast_retransmits + end.timeout_retransmits + end.spurious_retransmits + end.unknown_retransmits;
            prop_assert_eq!(causes, end.retransmitted_packets);
            prop_assert!(end.unique_bytes <= end.payload_bytes && end.data_segments >= end.data_packets);
        }
    }

    #[test]
    fn any_bytes_are_analysed_without_panic(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..20)) {
        let mut talk = Analyzer::new(LinkType::Raw);
        for (i, frame) in frames.iter().enumerate() {
            let mut frame = frame.clone();
            if let (Some(first), true) = (frame.first_mut(), i % 2 == 0) {
                *first = 0x45;
            }
            if let (Some(protocol), true) = (frame.get_mut(9), i % 2 == 0) {
                *protocol = 6;
            }
            talk.handle_packet(Timestamp::from_nanos(i as u64), frame.len() as u32, &frame);
        }
        let _ = talk.finish();
    }
}
