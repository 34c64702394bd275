//! What must not be in files and logs.

use crate::support::MARKER;
use crate::support::archive::{Stored, contains};
use crate::support::events::open_line;
use crate::support::frames::*;
use crate::support::lab::{Lab, privileged};
use crate::support::process::*;
use nix::sys::signal::Signal;
use std::path::PathBuf;

const CLIENT: &str = "203.0.113.45:40000";
const CLIENT6: &str = "[2001:db8:5:6:7:8:9:a]:40000";
const SERVER: &str = "198.51.100.1:80";
const SERVER6: &str = "[2001:db8:6::1]:80";

/// Two connections, one of each family, with their names.
fn two_families() -> (Place, PathBuf, String) {
    let place = Place::new();
    let path = place.path("in.pcap");
    let mut capture = Capture::default();
    capture.connection(NOON, CLIENT, SERVER, 2, MILLI).connection(NOON, CLIENT6, SERVER6, 2, MILLI);
    capture.write(&path);
    let events = open_line("v4", &stamp(NOON), SERVER.parse().unwrap(), CLIENT.parse().unwrap())
        + &open_line("v6", &stamp(NOON), SERVER6.parse().unwrap(), CLIENT6.parse().unwrap());
    (place, path, events)
}

/// Source and destination of an untagged record, as bytes.
fn ends(data: &[u8]) -> [&[u8]; 2] {
    if data[12..14] == [0x08, 0x00] { [&data[26..30], &data[30..34]] } else { [&data[22..38], &data[38..54]] }
}

/// T12: /24 and /48; a local address is kept.
#[test]
fn netblock_keeps_24_and_48_bits_and_local_addresses() {
    let (place, path, events) = two_families();
    replay(&place, &path, &events, &["--anonymize.ip=netblock", "--local.addr=198.51.100.1,2001:db8:6::1"]);
    let masked = [0x20, 1, 0x0d, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let server6 = [0x20, 1, 0x0d, 0xb8, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (uuid, client, server) in [("v4", &[203, 0, 113, 0][..], &[198, 51, 100, 1][..]), ("v6", &masked, &server6)] {
        let file = place.file(uuid);
        assert!(file.is_anonymized() && file.records.len() == 10);
        for record in &file.records {
            let mut seen = ends(&record.data);
            seen.sort();
            let mut wanted = [client, server];
            wanted.sort();
            assert_eq!(seen, wanted);
        }
    }
}

/// P1: the IPv4 checksum is that of the masked header, and there is no TCP checksum to solve.
#[test]
fn no_checksum_gives_a_masked_address_back() {
    let (place, path, events) = two_families();
    replay(&place, &path, &events, &["--anonymize.ip=netblock", "--local.addr=198.51.100.1,2001:db8:6::1"]);
    for record in &place.file("v4").records {
        assert_eq!(checksum(&record.data[14..34]), 0, "the checksum fits the header as it is, so it fits no other octet");
        assert_eq!(record.data[34 + 16..34 + 18], [0, 0]);
    }
    for record in &place.file("v6").records {
        assert_eq!(record.data[54 + 16..54 + 18], [0, 0]);
    }
}

/// P2: malformed options, data offsets that lie, bytes behind the IP packet.
#[test]
fn malformed_packets_leak_no_payload() {
    // Reading the archive searches every record for it.
    let (archive, out) = replay_scenario("malformed", &[]);
    assert_eq!(archive.values().map(|file| file.records.len()).sum::<usize>(), 21);
    assert!(!contains(&out.stderr, b"MUST-NOT-LEAK"));
}

/// P3: what identifies a clock or a card goes on request.
#[test]
fn hardware_addresses_ip_ids_and_timestamps_are_zeroed_on_request() {
    let place = Place::new();
    let path = place.path("in.pcap");
    let mut capture = Capture::default();
    let options = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let syn = Segment::new(CLIENT, SERVER, SYN).seq(1, 0).options(&options);
    capture.push(NOON, &syn);
    capture.push(NOON + MILLI, &syn.reply(SYN | ACK).seq(8, 2).options(&options));
    capture.write(&path);
    let event = |uuid: &str| open_line(uuid, &stamp(NOON), SERVER.parse().unwrap(), CLIENT.parse().unwrap());
    replay(&place, &path, &event("as-it-is"), &[]);
    replay(&place, &path, &event("zeroed"), &["--scrub=mac,ipid,tsopt"]);
    let parts = |file: &Stored| {
        let part = |from: usize, to: usize| file.records.iter().any(|r| r.data[from..to].iter().any(|b| *b != 0));
        [part(0, 12), part(18, 20), part(58, 66)]
    };
    assert_eq!(parts(&place.file("as-it-is")), [true; 3]);
    assert_eq!(parts(&place.file("zeroed")), [false; 3]);
    assert_eq!(place.file("zeroed").records[0].data[54..58], options[..4], "the option itself stays");
}

/// P3: two bytes of payload, a key pressed or so, are what is missing in the checksum.
#[test]
fn a_short_payload_cannot_be_had_back_from_a_checksum_that_was_zeroed() {
    let place = Place::new();
    let path = place.path("in.pcap");
    let mut capture = Capture::default();
    let syn = Segment::new(CLIENT, SERVER, SYN).seq(1, 0);
    capture.push(NOON, &syn);
    capture.push(NOON + MILLI, &Segment::new(CLIENT, SERVER, ACK).seq(2, 1).payload(2));
    capture.write(&path);
    let event = |uuid: &str| open_line(uuid, &stamp(NOON), SERVER.parse().unwrap(), CLIENT.parse().unwrap());
    replay(&place, &path, &event("as-it-is"), &[]);
    replay(&place, &path, &event("zeroed"), &["--scrub=tcpsum"]);
    let sum = |uuid: &str| place.file(uuid).records[1].data[50..52].to_vec();
    let solved = |uuid: &str| {
        let record = &place.file(uuid).records[1].data;
        let length = (record.len() - 34 + 2) as u8;
        checksum(&[&record[26..34], &[0, 6, 0, length], &record[34..]].concat()).to_be_bytes()
    };
    assert_eq!(&solved("as-it-is"), &MARKER[..2]);
    assert_eq!(sum("zeroed"), [0, 0]);
    assert_ne!(&solved("zeroed"), &MARKER[..2]);
}

/// P4, T12: which addresses are local is looked at while running, not once.
#[test]
fn an_address_that_came_while_running_is_local() {
    if !privileged("an_address_that_came_while_running_is_local") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let flags = ["--anonymize.ip=netblock", "--interface=near"];
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
    lab.near.ip("address add 198.51.100.7/24 dev near");
    lab.far.ip("address add 198.51.100.99/24 dev far");
    // The kernel tells of the address before anybody can connect to it, but another thread hears it.
    std::thread::sleep(crate::support::ms(500));
    let addresses = [("198.51.100.7", [198, 51, 100, 7], [198, 51, 100, 0]), ("192.0.2.1", [192, 0, 2, 1], [192, 0, 2, 0])];
    for (address, local, remote) in addresses {
        let mut conversation = lab.connect(address);
        events.open(address, conversation.local, conversation.remote);
        conversation.talk();
        conversation.close();
        place.wait_for_file(address);
        let file = place.file(address);
        for record in &file.records {
            let mut seen = ends(&record.data);
            seen.sort();
            assert_eq!(seen, [&remote, &local]);
        }
    }
    running.stop(Signal::SIGTERM);
}

/// P5: no line at the usual level has an address, and none at any level has one that is masked in files.
#[test]
fn logs_hold_no_addresses_of_peers() {
    for (level, method) in [("info", "none"), ("trace", "netblock")] {
        let (place, path, events) = two_families();
        let flags = ["--log.level", level, "--anonymize.ip", method];
        let (archive, out) = replay(&place, &path, &events, &flags);
        assert_eq!(archive.len(), 2);
        let log = String::from_utf8(out.stderr).unwrap();
        for secret in ["203.0.113.45", "2001:db8:5:6:7:8:9:a", "2001:db8:5:6"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

/// P6: names that would leave the folder, or are none.
#[test]
fn a_uuid_that_is_no_file_name_writes_nothing_anywhere() {
    // The scenario's own expectations name the three files that are right; all else was refused.
    let (archive, _) = replay_scenario("hostile-events", &[]);
    assert_eq!(archive.len(), 3);
    for bad in ["", ".", "..", ".hidden", "../../../../evil", "a/b", "a\\nb", "a..b", "a b", &"u".repeat(201)] {
        let (place, path, _) = two_families();
        let deep = place.path("1/2/3/4/5/data");
        let event = open_line(bad, &stamp(NOON), SERVER.parse().unwrap(), CLIENT.parse().unwrap());
        std::fs::write(place.path("e.jsonl"), event).unwrap();
        let mut command = flowarc();
        command.args(["headers", "--read"]).arg(path).arg("--events").arg(place.path("e.jsonl"));
        let out = command.arg("--datadir").arg(&deep).output().unwrap();
        assert!(out.status.success(), "{bad:?}");
        let files = crate::support::archive::names(place.top.path());
        let files: Vec<_> = files.iter().filter(|name| !name.contains(".lock-")).collect();
        assert_eq!(files, ["e.jsonl", "in.pcap"], "{bad:?}");
    }
}
