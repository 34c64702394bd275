//! What must hold for every frame: no payload, nothing of a hidden address, and the same flow when read again.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Anonymize, Hide, ScrubPolicy, Scrubber};
use crate::capture::LinkType;
use crate::packet::testing::{Hidden, Spec, any_spec, checksum};
use crate::packet::{IpVersion, Transport, parse};

/// The bytes and the wire length that are archived of a frame.
fn scrub(policy: ScrubPolicy, link: LinkType, frame: &[u8], hide: Hide) -> (Vec<u8>, u32) {
    let packet = parse(link, frame).expect("the frame is TCP");
    let mut scrubber = Scrubber::new(policy);
    let scrubbed = scrubber.scrub(link, frame, frame.len() as u32, &packet, hide);
    (scrubbed.bytes().to_vec(), scrubbed.wire_len())
}

fn any_policy() -> impl Strategy<Value = ScrubPolicy> {
    let anonymize = prop_oneof![Just(Anonymize::None), Just(Anonymize::Netblock)];
    (anonymize, any::<[bool; 5]>()).prop_map(|(anonymize, [keep_linktype, mac, ip_id, tcp_timestamps, tcp_checksums])| {
        ScrubPolicy { anonymize, keep_linktype, mac, ip_id, tcp_timestamps, tcp_checksums }
    })
}

fn hide(spec: &Spec) -> Hide {
    Hide { src: spec.secret_hosts[0], dst: spec.secret_hosts[1] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn frames_that_differ_in_hidden_bits_alone_become_the_same_bytes(
        mut spec in any_spec(), mut policy in any_policy(), secrets in any::<[u64; 2]>(),
    ) {
        if spec.secret_hosts == [false, false] {
            spec.secret_hosts = [true, false];
        }
        policy.anonymize = Anonymize::Netblock;
        let [one, other] = secrets.map(|secret| {
            let (frame, _) = spec.build(Hidden { secret, payload: 0 });
            scrub(policy, spec.link_type(), &frame, hide(&spec))
        });
        prop_assert_eq!(one, other);
    }

    #[test]
    fn payload_and_trailer_have_no_part_in_what_is_archived(spec in any_spec(), policy in any_policy()) {
        let [one, other] = [0xa5, 0x3c].map(|payload| {
            let (frame, _) = spec.build(Hidden { secret: 3, payload });
            scrub(policy, spec.link_type(), &frame, hide(&spec))
        });
        prop_assert_eq!(one, other);
    }

    #[test]
    fn exactly_the_headers_are_archived(spec in any_spec(), policy in any_policy()) {
        let (frame, header_len) = spec.build(Hidden { secret: 3, payload: 0xa5 });
        let link_len = parse(spec.link_type(), &frame).unwrap().link_len;
        let (bytes, wire_len) = scrub(policy, spec.link_type(), &frame, hide(&spec));
        let replaced = !policy.keep_linktype && spec.link_type() != LinkType::Ethernet;
        let (lost, gained) = if replaced { (link_len, 14) } else { (0, 0) };
        prop_assert_eq!(bytes.len(), header_len - lost + gained);
        prop_assert_eq!(wire_len as usize, frame.len() - lost + gained);
    }

    #[test]
    fn without_a_policy_headers_stay_as_they_were(spec in any_spec()) {
        let (frame, header_len) = spec.build(Hidden { secret: 3, payload: 0xa5 });
        let policy = ScrubPolicy { keep_linktype: true, ..ScrubPolicy::default() };
        let (bytes, _) = scrub(policy, spec.link_type(), &frame, Hide { src: true, dst: true });
        prop_assert_eq!(&bytes[..], &frame[..header_len]);
        let policy = ScrubPolicy { anonymize: Anonymize::Netblock, ..policy };
        let (bytes, _) = scrub(policy, spec.link_type(), &frame, Hide::default());
        prop_assert_eq!(&bytes[..], &frame[..header_len]);
    }

    #[test]
    fn what_is_archived_reads_as_the_same_packet_and_scrubs_to_itself(spec in any_spec(), policy in any_policy()) {
        let (frame, _) = spec.build(Hidden { secret: 3, payload: 0xa5 });
        let before = parse(spec.link_type(), &frame).unwrap();
        let link = Scrubber::new(policy).file_link(spec.link_type());
        let (bytes, _) = scrub(policy, spec.link_type(), &frame, hide(&spec));
        let after = parse(link, &bytes).unwrap();
        match (before.transport, after.transport) {
            (Transport::Tcp { tcp: before, first_fragment: a }, Transport::Tcp { tcp: after, first_fragment: b }) => {
                prop_assert_eq!(before, after);
                prop_assert_eq!(a.is_some(), b.is_some());
            }
            (Transport::LaterFragment(_), Transport::LaterFragment(_)) => {}
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert_eq!(after.header_len, bytes.len());
        let (again, _) = scrub(policy, link, &bytes, hide(&spec));
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn a_rewritten_ipv4_header_has_its_checksum(mut spec in any_spec(), mut policy in any_policy()) {
        spec.version = IpVersion::V4;
        if let crate::packet::testing::Link::Loopback { family, .. } = &mut spec.link {
            *family = [2, 0, 0, 0];
        }
        policy.ip_id |= policy.anonymize == Anonymize::None;
        policy.keep_linktype = false;
        if hide(&spec) == Hide::default() {
            policy.ip_id = true;
        }
        let (frame, _) = spec.build(Hidden { secret: 3, payload: 0xa5 });
        let (bytes, _) = scrub(policy, spec.link_type(), &frame, hide(&spec));
        let packet = parse(LinkType::Ethernet, &bytes).unwrap();
        let ip = &bytes[packet.link_len..];
        let mut header = ip[..usize::from(ip[0] & 15) * 4].to_vec();
        header[10..12].fill(0);
        prop_assert_eq!(checksum(&header).to_be_bytes(), [ip[10], ip[11]]);
    }

    #[test]
    fn any_bytes_are_scrubbed_without_panic_even_with_the_packet_of_another_frame(
        spec in any_spec(), policy in any_policy(), other in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let (frame, _) = spec.build(Hidden { secret: 3, payload: 0xa5 });
        let packet = parse(spec.link_type(), &frame).unwrap();
        let mut scrubber = Scrubber::new(policy);
        for link in [spec.link_type(), LinkType::Ethernet, LinkType::LinuxSll, LinkType::LinuxSll2, LinkType::Raw] {
            let scrubbed = scrubber.scrub(link, &other, 0, &packet, Hide { src: true, dst: true });
            prop_assert!(scrubbed.bytes().len() <= packet.header_len.min(other.len()) + 14);
            prop_assert!(scrubbed.wire_len() as usize >= scrubbed.bytes().len());
        }
    }
}

#[test]
fn the_secrets_of_a_frame_are_in_its_headers_until_they_are_hidden() {
    let spec = Spec::plain(IpVersion::V6);
    let [one, other] = [1, 2].map(|secret| {
        let (frame, _) = spec.build(Hidden { secret, payload: 0 });
        scrub(ScrubPolicy::default(), spec.link_type(), &frame, hide(&spec))
    });
    assert_ne!(one, other);
}

/// The checker shares no code with this crate: what one side gets wrong, the other finds.
#[test]
fn the_independent_checker_accepts_what_is_scrubbed_and_refuses_what_is_not() {
    let policy = ScrubPolicy { anonymize: Anonymize::Netblock, keep_linktype: true, ..ScrubPolicy::default() };
    let bare = ScrubPolicy { anonymize: Anonymize::None, ..policy };
    let mut runner = TestRunner::deterministic();
    let specs: Vec<Spec> = (0..2_000)
        .map(|_| any_spec().new_tree(&mut runner).expect("the strategy gives values").current())
        .map(|spec| Spec { secret_hosts: [true, true], ..spec })
        .collect();

    let Some((accepted, said)) = check(&specs, policy) else { return };
    assert!(accepted, "{said}");
    let Some((accepted, said)) = check(&specs, bare) else { return };
    assert!(!accepted);
    for kind in ["address", "tcp-checksum", "ipv4-options", "extension", "tcp-options", "link-address"] {
        assert!(said.contains(&format!(": {kind}: ")), "no {kind} found");
    }
    assert!(!said.contains(": beyond-headers: "), "payload is cut in any case");
}

#[test]
fn the_independent_checker_finds_what_is_planted_in_its_own_files() {
    if let Some((accepted, said)) = run_checker(&["--self-test".as_ref()]) {
        assert!(accepted, "{said}");
    }
}

/// Whether the checker accepts these frames as scrubbed by this policy, and what it prints.
fn check(specs: &[Spec], policy: ScrubPolicy) -> Option<(bool, String)> {
    let folder = tempfile::tempdir().unwrap();
    for link in [1, 0, 108, 101, 113, 276].map(LinkType::from_number) {
        let mut file = Vec::new();
        for field in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 65_535, u32::from(link.number())] {
            file.extend(field.to_le_bytes());
        }
        for spec in specs.iter().filter(|s| s.link_type() == link) {
            let (frame, _) = spec.build(Hidden { secret: 5, payload: 0xa5 });
            let (bytes, wire_len) = scrub(policy, link, &frame, hide(spec));
            for field in [1, 0, bytes.len() as u32, wire_len] {
                file.extend(field.to_le_bytes());
            }
            file.extend(bytes);
        }
        std::fs::write(folder.path().join(format!("{}.pcap", link.number())), file).unwrap();
    }
    run_checker(&["--anonymized".as_ref(), folder.path().as_os_str()])
}

/// `None` where there is no Python.
fn run_checker(arguments: &[&OsStr]) -> Option<(bool, String)> {
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker/check_archive.py");
    match Command::new("python3").arg(checker).args(arguments).output() {
        Ok(output) => Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(e) => {
            assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "run python3: {e}");
            eprintln!("SKIPPED: no python3 to run the checker with: {e}");
            None
        }
    }
}
