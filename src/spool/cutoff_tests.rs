use super::*;
use proptest::prelude::*;

#[test]
fn a_flow_keeps_packets_until_one_does_not_fit_and_none_after_it() {
    // At the limit, one byte above it, and a packet without payload behind.
    for (sizes, kept) in [(&[600, 400, 0][..], 3), (&[600, 401, 0], 1), (&[1000, 1, 0], 1), (&[1001, 0], 0)] {
        let mut lab = Lab::new(bytes(1000));
        let verdicts: Vec<_> = sizes.iter().map(|&size| lab.udp(A, B, size)).collect();
        assert!(verdicts[..kept].iter().all(|v| *v == Verdict::Kept), "{sizes:?}: {verdicts:?}");
        assert!(verdicts[kept..].iter().all(|v| *v == Verdict::CutOff), "{sizes:?}: {verdicts:?}");
    }
}

#[test]
fn a_limit_of_packets_keeps_exactly_so_many() {
    let mut lab = Lab::new(CutoffConfig { limits: Limits { bytes: None, packets: Some(3) }, ..all() });
    assert_eq!((0..5).filter(|_| lab.udp(A, B, 1) == Verdict::Kept).count(), 3);
}

#[test]
fn both_directions_share_a_limit_unless_it_is_for_each() {
    for (scope, last) in [(Scope::Connection, Verdict::CutOff), (Scope::Direction, Verdict::Kept)] {
        let mut lab = Lab::new(CutoffConfig { scope, ..bytes(1000) });
        assert_eq!(lab.udp(A, B, 800), Verdict::Kept);
        assert_eq!(lab.udp(B, A, 800), last, "{scope:?}");
        assert_eq!(lab.udp(A, B, 800), Verdict::CutOff);
        let cut: Vec<_> = lab.events().into_iter().filter(|e| matches!(e, FlowEvent::CutOff(..))).collect();
        assert_eq!(cut.len(), 1, "{cut:?}");
    }
}

#[test]
fn what_is_not_ip_is_never_cut_off() {
    let mut lab = Lab::new(CutoffConfig { limits: Limits { bytes: Some(0), packets: Some(1) }, ..all() });
    for _ in 0..10 {
        assert_eq!(lab.frame(&[[2; 12].as_slice(), &[8, 6], &[0; 46]].concat()), (Tuple::not_ip(), Verdict::Kept));
    }
    assert_eq!(lab.cutoff.flows(), 0);
}

#[test]
fn the_first_class_that_matches_the_first_packet_decides() {
    let class = |name: &str, filter, most| Class {
        name: name.into(),
        filter: Filter::parse(filter).unwrap(),
        limits: Limits { bytes: most, packets: None },
    };
    let classes = vec![class("dns", "udp port 53", None), class("udp", "udp", Some(10)), class("never", "ip", Some(0))];
    let mut lab = Lab::new(CutoffConfig { classes, ..bytes(1000) });
    assert_eq!(lab.udp(A, (2, 53), 5000), Verdict::Kept);
    assert_eq!(lab.udp((2, 53), A, 5000), Verdict::Kept, "the class is the flow's, both ways");
    assert_eq!(lab.udp(A, B, 11), Verdict::CutOff);
    assert_eq!(lab.tcp(A, B, SYN, 1, 0), Verdict::Kept, "0 bytes are within 0");
    assert_eq!(lab.tcp(A, B, ACK, 2, 1), Verdict::CutOff);
    assert_eq!(lab.cutoff.started(), [1, 1, 1, 0]);
}

#[test]
fn ends_are_kept_behind_the_cutoff_when_asked_for_and_only_so_many() {
    for keep_ends in [false, true] {
        let mut lab = Lab::new(CutoffConfig { keep_ends, ..bytes(10) });
        lab.tcp(A, B, SYN, 0, 0);
        assert_eq!(lab.tcp(A, B, ACK, 1, 100), Verdict::CutOff);
        let kept = (0..100).filter(|_| lab.tcp(A, B, FIN | ACK, 101, 0) == Verdict::KeptEnd).count();
        assert_eq!(kept, if keep_ends { ENDS_KEPT.into() } else { 0 });
    }
}

#[test]
fn the_last_packets_are_kept_when_the_flow_ends() {
    let mut lab = Lab::new(CutoffConfig { tail: 300, ..bytes(10) });
    for payload in [100, 90, 80, 70] {
        // 42 bytes of headers each.
        assert_eq!(lab.udp(A, B, payload), Verdict::Held);
    }
    assert_eq!(lab.udp(A, B, 300), Verdict::CutOff, "larger than all that may be held");
    assert_eq!(lab.cutoff.poll_tail(), None);
    lab.wait(60);
    let tail: Vec<_> = std::iter::from_fn(|| lab.cutoff.poll_tail()).map(|f| f.data.len() - 42).collect();
    assert_eq!(tail, [80, 70]);
}

#[test]
fn a_new_connection_between_the_same_ends_has_a_budget_of_its_own() {
    let mut lab = Lab::new(bytes(10));
    lab.tcp(A, B, SYN, 1000, 0);
    assert_eq!(lab.tcp(A, B, ACK, 1001, 20), Verdict::CutOff);
    assert_eq!(lab.tcp(A, B, SYN, 1000, 0), Verdict::CutOff, "the same SYN again");
    assert_eq!(lab.tcp(A, B, SYN, 5000, 0), Verdict::Kept);
    assert_eq!(lab.tcp(A, B, ACK, 5001, 10), Verdict::Kept);
    let ends: Vec<_> = lab.events().into_iter().filter(|e| matches!(e, FlowEvent::Ended(_, FlowEnd::Reused, _))).collect();
    assert_eq!(ends.len(), 1);
}

#[test]
fn a_flow_ends_by_fin_both_ways_by_rst_or_by_silence() {
    for (flags, reason, after) in [
        (&[FIN, FIN][..], FlowEnd::Closed, 2),
        (&[RST], FlowEnd::Closed, 2),
        (&[FIN], FlowEnd::Idle, 60),
        (&[ACK], FlowEnd::Idle, 60),
    ] {
        let mut lab = Lab::new(all());
        for (i, f) in flags.iter().enumerate() {
            let (from, to) = if i == 0 { (A, B) } else { (B, A) };
            lab.tcp(from, to, *f | ACK, 1, 0);
        }
        lab.wait(after - 1);
        assert_eq!(lab.events(), [], "{flags:?}");
        lab.wait(1);
        assert!(matches!(lab.events()[..], [FlowEvent::Ended(_, r, _)] if r == reason), "{flags:?}");
        assert_eq!(lab.cutoff.flows(), 0);
    }
}

#[test]
fn one_flow_too_many_pushes_out_an_ended_one_first_then_the_longest_idle() {
    let mut lab = Lab::new(CutoffConfig { flows: 3, ..all() });
    lab.udp((1, 1), B, 1);
    lab.udp((1, 2), B, 1);
    lab.tcp((1, 3), B, RST, 1, 0);
    lab.udp((1, 1), B, 1);
    lab.udp((1, 4), B, 1);
    lab.udp((1, 5), B, 1);
    let ports = lab.events().into_iter().map(|e| match e {
        FlowEvent::Ended(t, FlowEnd::Evicted, _) => t.ends.lo().port,
        other => panic!("{other:?}"),
    });
    assert_eq!(ports.collect::<Vec<_>>(), [3, 2]);
    assert_eq!(lab.cutoff.flows(), 3);
}

#[test]
fn a_flow_is_a_quarter_of_a_kilobyte_at_most_so_that_a_flood_of_a_million_is_bounded() {
    const { assert!(Flows::<Record>::FLOW_COST <= 256) }
}

#[test]
fn a_suspended_cutoff_keeps_all_until_it_is_resumed() {
    let tuple = Tuple::of(&datagram(&udp(A, B, 0))).0;
    for target in [Target::Flow(tuple), Target::Address(Address::v4([192, 0, 2, 2]))] {
        let mut lab = Lab::new(bytes(10));
        assert_eq!(lab.udp(A, B, 20), Verdict::CutOff);
        lab.cutoff.suspend(target);
        assert_eq!(lab.udp(A, B, 20), Verdict::KeptSuspended);
        assert_eq!(lab.udp(A, (3, 7), 20), Verdict::CutOff, "another flow");
        assert!(lab.cutoff.resume(target));
        assert!(!lab.cutoff.resume(target));
        assert_eq!(lab.udp(A, B, 20), Verdict::CutOff);
    }
}

#[test]
fn later_fragments_count_for_the_flow_of_their_first() {
    let mut lab = Lab::new(bytes(1000));
    let mut first = udp(A, B, 500);
    first[20] = 0x20;
    let mut later = first.clone();
    later[20..22].copy_from_slice(&[0, 63]);
    let (flow, verdict) = lab.frame(&first);
    assert_eq!(verdict, Verdict::Kept);
    assert_eq!(lab.frame(&later), (flow, Verdict::CutOff), "500 bytes, and 508 behind the IP header");
    assert_eq!(lab.cutoff.flows(), 1);
}

#[test]
fn a_large_flow_is_told_at_each_doubling() {
    let mut lab = Lab::new(CutoffConfig { large: Some(1000), ..all() });
    for _ in 0..50 {
        lab.udp(A, B, 100);
    }
    let told = lab.events().into_iter().map(|e| match e {
        FlowEvent::Large(_, _, seen) => seen.bytes,
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [1000, 2000, 4000]);
}

#[test]
fn a_target_reads_back_what_it_writes() {
    for text in ["192.0.2.1", "2001:db8::1", "tcp 192.0.2.1:80 198.51.100.2:50000", "47 [2001:db8::1]:0 [2001:db8::2]:0"] {
        assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "192.0.2.1:80",
        "tcp 192.0.2.1 198.51.100.2",
        "xyz 192.0.2.1:80 198.51.100.2:1",
        "tcp 192.0.2.1:80",
        "70000 1.2.3.4:1 1.2.3.4:2",
    ] {
        assert_eq!(text.parse::<Target>(), Err(BadTarget), "{text:?}");
    }
}

proptest! {
    /// The model: one pass over each flow's packets, as the documentation has it.
    #[test]
    fn what_is_kept_is_what_a_simple_reading_of_the_rule_keeps(
        packets in prop::collection::vec((0..4u16, any::<bool>(), 0..400u16), 0..200),
        most_bytes in prop::option::of(0..2000u64),
        most_packets in prop::option::of(0..20u64),
        per_direction: bool,
    ) {
        let scope = if per_direction { Scope::Direction } else { Scope::Connection };
        let mut lab = Lab::new(CutoffConfig { limits: Limits { bytes: most_bytes, packets: most_packets }, scope, ..all() });
        let mut model = std::collections::HashMap::new();
        for (port, back, size) in packets {
            let (from, to) = if back { (B, (1, 1000 + port)) } else { ((1, 1000 + port), B) };
            let verdict = lab.udp(from, to, size.into());
            let (bytes, count, cut) = model.entry((port, back && per_direction)).or_insert((0, 0, false));
            *bytes += u64::from(size);
            *count += 1;
            *cut |= most_bytes.is_some_and(|m| *bytes > m) || most_packets.is_some_and(|m| *count > m);
            prop_assert_eq!(verdict == Verdict::Kept, !*cut);
        }
    }
}

const A: (u8, u16) = (1, 50_000);
const B: (u8, u16) = (2, 80);
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A cutoff with its time.
struct Lab {
    cutoff: Cutoff,
    now: Timestamp,
}

impl Lab {
    fn new(config: CutoffConfig) -> Self {
        Self { cutoff: Cutoff::new(config), now: Timestamp::from_parts(1_795_262_400, 0) }
    }

    fn frame(&mut self, data: &[u8]) -> (Tuple, Verdict) {
        let frame = Frame { ts: self.now, wire_len: data.len() as u32, link: LinkType::Ethernet, interface: 0, data };
        self.cutoff.handle_frame(&frame, self.now)
    }

    fn udp(&mut self, from: (u8, u16), to: (u8, u16), payload: usize) -> Verdict {
        self.frame(&udp(from, to, payload)).1
    }

    fn tcp(&mut self, from: (u8, u16), to: (u8, u16), flags: u8, seq: u32, payload: usize) -> Verdict {
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&seq.to_be_bytes());
        (header[12], header[13]) = (0x50, flags);
        self.frame(&ip(6, from, to, &header, payload)).1
    }

    fn wait(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
        self.cutoff.advance(self.now);
    }

    fn events(&mut self) -> Vec<FlowEvent> {
        std::iter::from_fn(|| self.cutoff.poll_event()).collect()
    }
}

fn udp(from: (u8, u16), to: (u8, u16), payload: usize) -> Vec<u8> {
    ip(17, from, to, &[0; 8], payload)
}

fn ip(protocol: u8, from: (u8, u16), to: (u8, u16), header: &[u8], payload: usize) -> Vec<u8> {
    let len = (20 + header.len() + payload) as u16;
    let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0]].concat();
    frame.extend(len.to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, from.0, 192, 0, 2, to.0]);
    let mut header = header.to_vec();
    header[..2].copy_from_slice(&from.1.to_be_bytes());
    header[2..4].copy_from_slice(&to.1.to_be_bytes());
    frame.extend(header);
    frame.resize(frame.len() + payload, 0xa5);
    frame
}

fn datagram(data: &[u8]) -> Datagram {
    Datagram::recognise(LinkType::Ethernet, data, data.len() as u32).unwrap()
}

fn all() -> CutoffConfig {
    CutoffConfig {
        limits: Limits::default(),
        scope: Scope::Connection,
        classes: Vec::new(),
        keep_ends: false,
        tail: 0,
        idle: Duration::from_secs(60),
        flows: 1000,
        large: None,
        report: false,
    }
}

fn bytes(most: u64) -> CutoffConfig {
    CutoffConfig { limits: Limits { bytes: Some(most), packets: None }, ..all() }
}
