//! What must be true of every packet.

use super::{Check, Expect, Report};
use crate::capture::LinkType;
use crate::key::Address;
use crate::packet::{Packet, Skip, parse};
use crate::scrub::{Anonymize, Hide, ScrubPolicy, Scrubbed, Scrubber};
use crate::time::Timestamp;
use std::net::IpAddr;

/// How a file's addresses are masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Masked {
    /// They are not.
    No,
    /// They lack bits.
    Cut,
    /// They were replaced one to one, so that only what stands beside them can be judged.
    Replaced,
}

/// Checks the packets of one file, in its order.
#[derive(Debug)]
pub(super) struct Packets<'a> {
    expect: &'a Expect,
    headers_only: bool,
    masked: Masked,
    scrubber: Scrubber,
    latest: Option<Timestamp>,
    /// The address that is not masked, where one end may be.
    open: Option<Address>,
    number: u64,
}

impl<'a> Packets<'a> {
    /// `stated` is the masking that the file says it has.
    pub(super) fn new(expect: &'a Expect, headers_only: bool, stated: Masked) -> Self {
        let masked = match expect.anonymize {
            Some(Anonymize::Netblock) => Masked::Cut,
            Some(Anonymize::None) => Masked::No,
            None => stated,
        };
        let policy = ScrubPolicy { anonymize: Anonymize::Netblock, keep_linktype: true, ..ScrubPolicy::default() };
        Self { expect, headers_only, masked, scrubber: Scrubber::new(policy), latest: None, open: None, number: 0 }
    }

    /// Judges the next packet.
    pub(super) fn handle_packet(&mut self, time: Timestamp, link: LinkType, wire_len: u32, data: &[u8], report: &mut Report) {
        self.number += 1;
        report.packets = self.number;
        let at = Some(self.number);
        if let Some(latest) = self.latest.filter(|latest| time < *latest) {
            let by = latest.since(time);
            report.find(Check::Order, at, || format!("{by:?} before the packet in front of it"));
        }
        self.latest = self.latest.max(Some(time));
        if (wire_len as usize) < data.len() {
            report.find(Check::Pcap, at, || format!("{} bytes of a packet that had {wire_len} on the wire", data.len()));
        }
        match parse(link, data) {
            Ok(packet) => self.judge(link, data, &packet, report),
            Err(skip) if self.headers_only || self.masked != Masked::No => {
                report.find(Check::Headers, at, || format!("no TCP packet: {}", words(skip)));
            }
            Err(_) => {}
        }
    }

    fn judge(&mut self, link: LinkType, data: &[u8], packet: &Packet, report: &mut Report) {
        let at = Some(self.number);
        let beyond = data.len().saturating_sub(packet.header_len);
        if self.headers_only && beyond > 0 {
            report.find(Check::Headers, at, || format!("{beyond} bytes behind the headers"));
        }
        match self.masked {
            Masked::No => return,
            Masked::Replaced => return self.judge_replaced(link, data, packet, report),
            Masked::Cut => {}
        }
        let [src, dst] = [packet.src, packet.dst].map(|address| address.netblock() == address);
        for (masked, address) in [(src, packet.src), (dst, packet.dst)] {
            if !masked && !self.may_stay(address) {
                report.find(Check::Anonymized, at, || format!("address {} is not masked", IpAddr::from(address)));
            }
        }
        if !src && !dst && self.expect.local.is_empty() {
            report.find(Check::Anonymized, at, || "neither address is masked".to_owned());
            return;
        }
        // A packet between two local addresses has nothing to hide.
        if !src && !dst {
            return;
        }
        self.compare(data, packet, Hide { src, dst }, report, |scrubber, hide| {
            scrubber.scrub(link, data, data.len() as u32, packet, hide)
        });
    }

    /// Judges all but addresses.
    fn judge_replaced(&mut self, link: LinkType, data: &[u8], packet: &Packet, report: &mut Report) {
        let (hide, to) = (Hide { src: true, dst: true }, [packet.src, packet.dst]);
        self.compare(data, packet, hide, report, |scrubber, hide| {
            scrubber.replace(link, data, data.len() as u32, packet, hide, to)
        });
    }

    /// Finds the first byte that scrubbing anew changes. `hide` are the ends whose addresses look masked: one of both may be
    /// local all the same, and its hardware address stands then.
    fn compare(
        &mut self,
        data: &[u8],
        packet: &Packet,
        hide: Hide,
        report: &mut Report,
        scrub: impl for<'s> Fn(&'s mut Scrubber, Hide) -> Scrubbed<'s>,
    ) {
        let local = &self.expect.local;
        let known = Hide { src: hide.src && !local.contains(&packet.src), dst: hide.dst && !local.contains(&packet.dst) };
        let either = [known, Hide { src: true, dst: false }, Hide { src: false, dst: true }];
        let guesses = if local.is_empty() && hide.src && hide.dst { &either[..] } else { &either[..1] };
        let mut farthest = 0;
        for guess in guesses {
            let wanted = scrub(&mut self.scrubber, *guess).bytes();
            match data.iter().zip(wanted).position(|(is, wanted)| is != wanted) {
                Some(byte) => farthest = farthest.max(byte),
                None => return,
            }
        }
        report.find(Check::Anonymized, Some(self.number), || format!("{} at byte {farthest}", place(packet, farthest)));
    }

    /// Whether an address may be there whole: a local one, or the one end that is.
    fn may_stay(&mut self, address: Address) -> bool {
        if self.expect.local.is_empty() {
            *self.open.get_or_insert(address) == address
        } else {
            self.expect.local.contains(&address)
        }
    }
}

/// What an anonymised packet still tells, by where it is.
fn place(packet: &Packet, byte: usize) -> &'static str {
    let tcp = packet.link_len + packet.ip_len;
    match byte {
        _ if byte < packet.link_len => "the hardware address of a hidden end",
        _ if byte >= tcp + 20 => "a TCP option that may hold an address, a digest of one, or a sum over payload,",
        _ if byte >= tcp => "a TCP checksum, which gives hidden bits back,",
        _ if (packet.link_len + 10..packet.link_len + 12).contains(&byte) => "an IPv4 checksum that is not that of the header",
        _ => "an IP option or extension that may hold an address",
    }
}

fn words(skip: Skip) -> &'static str {
    match skip {
        Skip::UnknownLink => "unknown link type",
        Skip::NotIp => "no IP",
        Skip::NotTcp => "another protocol",
        Skip::Truncated => "cut before the TCP header ends",
        Skip::Malformed => "lengths that contradict each other",
        Skip::TinyFragment => "a first fragment without the TCP header",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{ACK, say};
    use std::path::PathBuf;

    fn findings(expect: &Expect, packets: &[(u64, Vec<u8>)]) -> Vec<(Check, Option<u64>, String)> {
        let mut report = Report::new(PathBuf::new());
        let mut judge = Packets::new(expect, true, Masked::No);
        for (time, bytes) in packets {
            judge.handle_packet(Timestamp::from_nanos(*time), LinkType::Ethernet, 2000, bytes, &mut report);
        }
        report.findings.into_iter().map(|f| (f.check, f.packet, f.text)).collect()
    }

    fn netblock() -> Expect {
        Expect { anonymize: Some(Anonymize::Netblock), ..Expect::default() }
    }

    /// A packet as the program masks it.
    fn masked() -> Vec<u8> {
        let (bytes, _) = say(1, 2, 100, ACK).options(&[1, 1, 1, 1]).bytes(0);
        let packet = parse(LinkType::Ethernet, &bytes).unwrap();
        let policy = ScrubPolicy { anonymize: Anonymize::Netblock, ..ScrubPolicy::default() };
        let hide = Hide { src: true, dst: false };
        Scrubber::new(policy).scrub(LinkType::Ethernet, &bytes, 200, &packet, hide).bytes().to_vec()
    }

    #[test]
    fn a_sound_packet_has_no_finding() {
        assert_eq!(findings(&Expect::default(), &[(1, say(1, 2, 9, ACK).bytes(0).0), (1, masked())]), []);
        assert_eq!(findings(&netblock(), &[(1, masked())]), []);
    }

    #[test]
    fn a_byte_of_payload_and_a_time_that_goes_back_are_found() {
        let (bytes, _) = say(1, 2, 9, ACK).bytes(0);
        let payload = [&bytes[..], b"x"].concat();
        let found = findings(&Expect::default(), &[(2, payload), (1, bytes)]);
        assert_eq!(found[0], (Check::Headers, Some(1), "1 bytes behind the headers".to_owned()));
        assert_eq!((found[1].0, found[1].1), (Check::Order, Some(2)));
    }

    #[test]
    fn every_byte_that_gives_a_hidden_bit_back_is_found() {
        for (byte, part) in [(29, "address"), (24, "IPv4 checksum"), (50, "TCP checksum"), (51, "TCP checksum")] {
            let mut bytes = masked();
            bytes[byte] ^= 1;
            let found = findings(&netblock(), &[(1, bytes)]);
            assert!(found.iter().any(|f| f.0 == Check::Anonymized && f.2.contains(part)), "{byte}: {found:?}");
        }
        let mut hardware = masked();
        hardware[11] = 9;
        assert_eq!(findings(&netblock(), &[(1, hardware)])[0].2, "the hardware address of a hidden end at byte 11");
        let mut option = masked();
        option[54..58].copy_from_slice(&[253, 4, 1, 2]);
        assert!(findings(&netblock(), &[(1, option)])[0].2.contains("TCP option"));
    }

    #[test]
    fn of_replaced_addresses_what_stands_beside_them_is_judged() {
        let found = |bytes: &[u8], expect: &Expect| {
            let mut report = Report::new(PathBuf::new());
            Packets::new(expect, true, Masked::Replaced).handle_packet(
                Timestamp::ZERO,
                LinkType::Ethernet,
                2000,
                bytes,
                &mut report,
            );
            report.findings.into_iter().map(|f| f.text).collect::<Vec<_>>()
        };
        let (bytes, _) = say(1, 2, 100, ACK).options(&[1, 1, 1, 1]).bytes(0);
        let packet = parse(LinkType::Ethernet, &bytes).unwrap();
        let policy = ScrubPolicy { anonymize: Anonymize::Netblock, ..ScrubPolicy::default() };
        let to = [[203, 0, 113, 77], [198, 51, 100, 99]].map(Address::v4);
        let hide = Hide { src: true, dst: true };
        let sound = Scrubber::new(policy).replace(LinkType::Ethernet, &bytes, 200, &packet, hide, to).bytes().to_vec();
        assert_eq!(found(&sound, &Expect::default()), Vec::<String>::new());
        assert!(found(&sound, &netblock())[0].contains("is not masked"), "netblock was asked for");
        for (byte, part) in [(24, "IPv4 checksum"), (50, "TCP checksum"), (51, "TCP checksum")] {
            let mut bytes = sound.clone();
            bytes[byte] ^= 1;
            assert!(found(&bytes, &Expect::default())[0].contains(part), "{byte}");
        }
    }

    #[test]
    fn a_local_address_that_looks_masked_has_its_hardware_address() {
        let (mut bytes, _) = say(1, 2, 9, ACK).bytes(0);
        bytes[33] = 0;
        bytes[..12].copy_from_slice(&[2; 12]);
        let packet = parse(LinkType::Ethernet, &bytes).unwrap();
        let hide = Hide { src: true, dst: false };
        let policy = ScrubPolicy { anonymize: Anonymize::Netblock, ..ScrubPolicy::default() };
        let masked = Scrubber::new(policy).scrub(LinkType::Ethernet, &bytes, 200, &packet, hide).bytes().to_vec();
        assert_eq!(findings(&netblock(), &[(1, masked.clone())]), []);
        let local = |local: [u8; 4]| Expect { local: vec![Address::v4(local)], ..netblock() };
        assert_eq!(findings(&local([192, 0, 2, 0]), &[(1, masked.clone())]), [], "both look alike, and both are in the list");
        assert_eq!(findings(&local([192, 0, 2, 9]), &[(1, masked)])[0].0, Check::Anonymized);
    }

    #[test]
    fn with_local_addresses_given_only_they_may_stay() {
        let expect = |local: &str| Expect { local: vec![local.parse::<IpAddr>().unwrap().into()], ..netblock() };
        assert_eq!(findings(&expect("192.0.2.2"), &[(1, masked())]), []);
        assert!(findings(&expect("192.0.2.3"), &[(1, masked())])[0].2.contains("192.0.2.2 is not masked"));
    }

    #[test]
    fn only_one_end_of_a_connection_may_stay() {
        let other = {
            let mut bytes = masked();
            bytes[33] = 3;
            bytes
        };
        let found = findings(&netblock(), &[(1, masked()), (2, other)]);
        assert!(found.iter().any(|f| f.2.contains("is not masked")), "{found:?}");
    }
}
