//! Payload and hidden addresses are planted wherever a capture can hold them, and must leave no trace in anything that is written.
//!
//! Each capture is made twice, alike but for its secrets. What is written of both must be the same, byte for byte: that finds a
//! single bit that got through, in whatever form, compressed or summed up or as an order. The twins differ where nothing is
//! hidden, so the secrets are there to be found.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::archive::contains;
use support::frames::{MILLI, NOON, SECOND, checksum};
use support::process::{Place, flowarc};

const LOCAL: &str = "--local.addr=192.0.2.10,2001:db8:1::10";
const NETBLOCK: &str = "--anonymize.ip=netblock";

#[test]
fn hidden_bits_of_addresses_have_no_part_in_what_is_written() {
    let twins = [Secrets { hidden: 1, payload: 0 }, Secrets { hidden: 2, payload: 0 }];
    for flags in [&[][..], &["--keep-linktype"], &["--keep-linktype", "--stream=true", "--shards=2"]] {
        let [one, other] = twins.map(|secrets| archived(secrets, &[flags, &[NETBLOCK, LOCAL]].concat()));
        assert_same(&one.written, &other.written);
        let files = one.written.keys().filter(|path| path.ends_with(".pcap.gz")).count();
        assert!(files >= FLOWS as usize, "{files} files");
        one.verify(&[NETBLOCK, LOCAL]);
    }
    let [one, other] = twins.map(|secrets| archived(secrets, &[]));
    assert!(one.written != other.written, "the secrets are in the capture");
}

#[test]
fn payload_has_no_part_in_what_is_written() {
    let twins = [Secrets { hidden: 1, payload: 1 }, Secrets { hidden: 1, payload: 2 }];
    for flags in [&["--scrub=tcpsum"][..], &["--scrub=tcpsum", "--keep-linktype", "--stream=true"], &[NETBLOCK, LOCAL]] {
        let [one, other] = twins.map(|secrets| archived(secrets, flags));
        assert_same(&one.written, &other.written);
        one.verify(&["--header-only"]);
    }
    let [one, other] = twins.map(|secrets| archived(secrets, &[]));
    assert!(one.written != other.written, "the checksums, which are kept without these flags, cover the payload");
}

#[test]
fn a_masked_copy_has_nothing_of_what_was_hidden_in_it() {
    let twins = [Secrets { hidden: 1, payload: 1 }, Secrets { hidden: 2, payload: 2 }];
    let copies = twins.map(|secrets| {
        let plain = archived(secrets, &["--keep-linktype"]);
        let out = plain.place.path("masked");
        let done = flowarc().arg("anonymize").arg(&plain.place.data).arg("-o").arg(&out).arg(LOCAL).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        tree(&out)
    });
    assert!(copies[0].len() >= FLOWS as usize);
    assert_same(&copies[0], &copies[1]);
}

#[test]
fn logs_of_every_level_name_nothing_that_is_hidden() {
    let secrets = Secrets { hidden: 1, payload: 1 };
    let run = archived(secrets, &[NETBLOCK, LOCAL, "--log.level=trace"]);
    let log = String::from_utf8(run.log).unwrap();
    assert!(log.contains("DEBUG") || log.contains("TRACE"), "{log}");
    for n in 0..FLOWS {
        let text = std::net::IpAddr::from(secrets.client(n)).to_string();
        assert!(!log.contains(&text), "{text}: {log}");
    }
    assert!(!contains(log.as_bytes(), TEXT.as_bytes()), "{log}");
}

/// What a capture gave.
struct Run {
    place: Place,
    /// Archive and catalogue.
    written: BTreeMap<String, Vec<u8>>,
    log: Vec<u8>,
}

impl Run {
    #[track_caller]
    fn verify(&self, flags: &[&str]) {
        let out = flowarc().arg("verify").arg(&self.place.data).args(flags).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

#[track_caller]
fn archived(secrets: Secrets, flags: &[&str]) -> Run {
    let place = Place::new();
    let (input, catalog) = (place.path("in.pcapng"), place.path("catalog"));
    fs::write(&input, capture(secrets)).unwrap();
    let mut command = flowarc();
    command.args(["headers", "--read"]).arg(input).arg("--datadir").arg(&place.data).arg("--catalog").arg(&catalog);
    // One writer, so that rows stand in one order.
    command.arg("--writers=1").args(flags);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut written = tree(&place.data);
    for (path, bytes) in tree(&catalog) {
        // The name ends with a number of the process's own.
        let (path, _) = path.rsplit_once('-').expect("a part of a catalogue");
        assert!(written.insert(path.to_owned(), bytes).is_none());
    }
    assert!(written.values().any(|bytes| bytes.starts_with(b"PAR1")));
    Run { place, written, log: [out.stderr, out.stdout].concat() }
}

/// All files below a folder.
fn tree(top: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::from(top)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(top).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[track_caller]
fn assert_same(one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>) {
    let paths = one.keys().chain(other.keys());
    let different: std::collections::BTreeSet<_> = paths.filter(|path| one.get(*path) != other.get(*path)).collect();
    assert!(different.is_empty(), "{different:?}");
}

// ---- The capture.

/// Kinds of addresses, times links: each kind of address meets each link.
const FLOWS: u64 = 10 * 6;
/// A part of every comment and description that a capture file may bring.
const TEXT: &str = "CANARY-IN-A-COMMENT";

const SERVER4: [u8; 4] = [192, 0, 2, 10];
const SERVER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const URG: u8 = 32;

/// What twins differ in: seeds of all bytes that must not be told.
#[derive(Clone, Copy)]
struct Secrets {
    hidden: u64,
    payload: u64,
}

impl Secrets {
    /// Bytes that follow from the hidden part of a flow's address; none is 10, which is the server's.
    fn hidden<const N: usize>(self, flow: u64) -> [u8; N] {
        bytes(self.hidden, flow, N).try_into().unwrap()
    }

    fn payload(self, at: u64, len: usize) -> Vec<u8> {
        bytes(self.payload ^ 0xff00, at, len)
    }

    /// The client's address, of which netblock masking keeps what does not come from the seed.
    fn client(self, flow: u64) -> [u8; 16] {
        let h: [u8; 10] = self.hidden(flow);
        let v6 = |net: [u8; 6], host: [u8; 10]| -> [u8; 16] { [&net[..], &host].concat().try_into().unwrap() };
        match flow % 10 {
            0 => mapped([203, 0, 113, h[0]]),
            // In the server's own network, where which is the lower one follows from the hidden bits.
            1 => mapped([192, 0, 2, h[0]]),
            2 => v6([0x20, 1, 0x0d, 0xb8, 0, 5], h),
            3 => v6([0x20, 1, 0x0d, 0xb8, 0, 1], h),
            4 => v6([0x20, 2, 203, 0, 113, h[9]], h),
            // Teredo, ISATAP, NAT64, and an identifier that is made of the hardware address.
            5 => v6([0x20, 1, 0, 0, 192, 0], h),
            6 => v6([0x20, 1, 0x0d, 0xb8, 0, 9], [h[0], h[1], 0, 0, 0x5e, 0xfe, h[2], h[3], h[4], h[5]]),
            7 => v6([0, 0x64, 0xff, 0x9b, 0, 0], [0, 0, 0, 0, 0, 0, h[2], h[3], h[4], h[5]]),
            8 => v6([0x20, 1, 0x0d, 0xb8, 0, 8], [h[0], h[1], 0, 0x42, h[2], 0xff, 0xfe, h[3], h[4], h[5]]),
            _ => v6([0x20, 1, 0x0d, 0xb8, 0xff, 0xff], h),
        }
    }

    fn client_mac(self, flow: u64) -> [u8; 6] {
        let address = self.client(flow);
        match flow % 10 {
            8 => [2, 0x42, address[10], address[13], address[14], address[15]],
            _ => [2, 0x42, address[12], address[13], address[14], address[15]],
        }
    }
}

fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [&[0; 10][..], &[0xff, 0xff], &v4].concat().try_into().unwrap()
}

/// A stream that follows from a seed (splitmix64), without the byte 10.
fn bytes(seed: u64, of: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ of.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
    };
    std::iter::repeat_with(next).filter(|b| *b != 10).take(len).collect()
}

/// One packet's parts, before they are put together.
#[derive(Clone, Default)]
struct Packet {
    to_server: bool,
    flags: u8,
    seq: u32,
    options: Vec<u8>,
    payload: Vec<u8>,
    /// Overrides the data offset.
    offset: Option<u8>,
    /// IPv4 options, or the IPv6 extension headers with the number of the first.
    ip: Vec<u8>,
    first: u8,
    /// IPv4's fragment field.
    fragment: u16,
    /// Replaces the TCP header: of later fragments and other protocols.
    body: Option<(u8, Vec<u8>)>,
    /// What the IP length says more or less than there is; `None` for a length of 0.
    lie: Option<i32>,
    /// Behind the packet.
    trailer: Vec<u8>,
    snap: Option<usize>,
}

/// All that can be hidden in the packets of one flow.
fn packets(secrets: Secrets, flow: u64) -> Vec<Packet> {
    let is_v4 = secrets.client(flow)[..12] == mapped([0; 4])[..12];
    let secret: [u8; 16] = secrets.hidden(flow + 1000);
    let plain = Packet { to_server: true, flags: ACK, seq: 2, lie: Some(0), first: 6, ..Packet::default() };
    let mut count = flow * 1000;
    let mut payload = |len| {
        count += 1;
        secrets.payload(count, len)
    };
    let option = |kind: u8, data: &[u8]| [&[kind, data.len() as u8 + 2][..], data].concat();
    let of = |options: &[&[u8]]| {
        let mut all = options.concat();
        all.resize(all.len().next_multiple_of(4), 1);
        all
    };
    // The sum over data of Multipath TCP, and that of RFC 1146.
    let (data, sum) = {
        let data = payload(60);
        let sum = checksum(&data).to_be_bytes();
        (data, sum)
    };
    let mapping = option(30, &[&[0x20, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 60][..], &sum].concat());
    let mut all = vec![
        // A cookie made of the address, and data in the SYN.
        Packet { flags: SYN, seq: 1, options: of(&[&option(34, &secret[..8])]), payload: payload(20), ..plain.clone() },
        Packet { to_server: false, flags: SYN | ACK, seq: 8, options: of(&[&option(2, &[5, 180])]), ..plain.clone() },
        plain.clone(),
        Packet { flags: ACK | URG, options: of(&[&option(19, &secret)]), payload: payload(1), ..plain.clone() },
        Packet { options: of(&[&mapping]), payload: data.clone(), ..plain.clone() },
        Packet { options: of(&[&option(15, &sum)]), payload: data, ..plain.clone() },
        Packet {
            to_server: false,
            options: of(&[&option(30, &[&[0x30, 5][..], &secret[..12]].concat()), &option(254, &secret[..6])]),
            payload: payload(2),
            ..plain.clone()
        },
        // What is no option, with an address in it.
        Packet { options: of(&[&[8, 99], &secret[..10]]), payload: payload(9), ..plain.clone() },
        Packet { options: of(&[&[0], &secret[..7]]), payload: payload(9), ..plain.clone() },
        // Data offsets and lengths that are not true.
        Packet { offset: Some(4), payload: payload(40), ..plain.clone() },
        Packet { offset: Some(15), payload: payload(12), trailer: payload(60), ..plain.clone() },
        Packet { lie: Some(-30), payload: payload(50), ..plain.clone() },
        Packet { lie: Some(300), payload: payload(50), ..plain.clone() },
        Packet { lie: None, payload: payload(50), ..plain.clone() },
        Packet { trailer: payload(6), ..plain.clone() },
        Packet { payload: payload(900), snap: Some(200), ..plain.clone() },
        // Other protocols that quote or carry TCP: an ICMP error, a tunnel, UDP.
        Packet { body: Some((1, [&[3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0][..], &secret, &payload(80)].concat())), ..plain.clone() },
        Packet { body: Some((4, [&[0x45, 0, 0, 100][..], &secret, &payload(80)].concat())), ..plain.clone() },
        Packet { body: Some((47, [&[0, 0, 8, 0, 0x45, 0, 0, 100][..], &secret, &payload(80)].concat())), ..plain.clone() },
        Packet { body: Some((17, payload(80))), ..plain.clone() },
    ];
    if is_v4 {
        all.extend([
            Packet { ip: of(&[&option(7, &[&[12][..], &secret[..8]].concat()), &option(94, &secret[..4])]), ..plain.clone() },
            Packet { ip: of(&[&[131, 99], &secret[..6]]), payload: payload(30), ..plain.clone() },
            Packet { fragment: 0x2000, payload: payload(44), ..plain.clone() },
            Packet { fragment: 8, body: Some((6, payload(64))), ..plain.clone() },
            // It overlaps the TCP header of the first.
            Packet { fragment: 1, body: Some((6, payload(16))), ..plain.clone() },
            Packet { ip: vec![6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], first: 51, ..plain.clone() }.with_icv(&secret[..12]),
        ]);
    } else {
        let home = [&[6, 2, 0xc9, 16][..], &secret, &[1, 2, 0, 0]].concat();
        let unknown = [&[6, 1, 0x1e, 12][..], &secret[..12]].concat();
        let routing = [&[6, 2, 4, 1, 0, 0, 0, 0][..], &secret].concat();
        let mobility = [&[6, 1][..], &secret[..14]].concat();
        for (first, ip) in [(60, home), (0, unknown), (43, routing), (135, mobility)] {
            all.push(Packet { first, ip, payload: payload(30), ..plain.clone() });
        }
        all.push(Packet { first: 44, ip: vec![6, 0, 0, 1, 0, 0, 0, 9], payload: payload(44), ..plain.clone() });
        let later = |offset: u8, body| Packet {
            first: 44,
            ip: vec![6, 0, 0, offset << 3, 0, 0, 0, 9],
            body: Some((6, body)),
            ..plain.clone()
        };
        all.extend([later(8, payload(64)), later(1, payload(16))]);
    }
    all.extend([
        Packet { to_server: false, flags: FIN | ACK, payload: payload(70), ..plain.clone() },
        Packet { flags: RST | ACK, payload: payload(30), ..plain.clone() },
        Packet { payload: payload(30), ..plain },
    ]);
    all
}

impl Packet {
    /// An authentication header's check value, which covers the addresses.
    fn with_icv(mut self, icv: &[u8]) -> Self {
        self.ip[1] = 1 + (icv.len() / 4) as u8;
        self.ip.extend(icv);
        self
    }

    /// The IP packet, with the checksums that its sender would compute.
    fn build(&self, secrets: Secrets, flow: u64) -> Vec<u8> {
        let client = secrets.client(flow);
        let is_v4 = client[..12] == mapped([0; 4])[..12];
        let server = if is_v4 { mapped(SERVER4) } else { SERVER6 };
        let (src, dst) = if self.to_server { (client, server) } else { (server, client) };
        let keep = if is_v4 { 12 } else { 0 };
        let (src, dst) = (&src[keep..], &dst[keep..]);
        let (protocol, body) = match &self.body {
            Some((protocol, body)) => (*protocol, body.clone()),
            None => (6, self.tcp(src, dst, flow)),
        };
        let ip_len = if is_v4 { 20 } else { 40 } + self.ip.len();
        let total = self.lie.map_or(0, |lie| (ip_len + body.len()) as i32 + lie);
        // Extension headers of IPv4 are behind its options, of which there are none then.
        let is_extension = self.first == 51;
        if is_v4 {
            let options: &[u8] = if is_extension { &[] } else { &self.ip };
            let mut header = vec![0x45 + (options.len() / 4) as u8, 0];
            header.extend((total as u16).to_be_bytes());
            header.extend([0x12, flow as u8]);
            header.extend(self.fragment.to_be_bytes());
            header.extend([64, if is_extension { 51 } else { protocol }, 0, 0]);
            header.extend([src, dst, options].concat());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let extension: &[u8] = if is_extension { &self.ip } else { &[] };
            [&header, extension, &body].concat()
        } else {
            let first = if self.ip.is_empty() { protocol } else { self.first };
            let mut header = vec![0x60, 0, 0, 7];
            header.extend(if self.lie.is_some() { (total - 40) as u16 } else { 0 }.to_be_bytes());
            header.extend([first, 64]);
            header.extend([src, dst, &self.ip].concat());
            [&header[..], &body].concat()
        }
    }

    fn tcp(&self, src: &[u8], dst: &[u8], flow: u64) -> Vec<u8> {
        let ports = [40_000 + flow as u16, 443];
        let [from, to] = if self.to_server { ports } else { [ports[1], ports[0]] };
        let mut tcp = [from.to_be_bytes(), to.to_be_bytes()].concat();
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend([0, 0, 0, 9, self.offset.unwrap_or(5 + (self.options.len() / 4) as u8) << 4, self.flags, 1, 0, 0, 0, 0, 0]);
        tcp.extend([&self.options[..], &self.payload].concat());
        let sum = checksum(&[src, dst, &(tcp.len() as u32).to_be_bytes(), &[0, 0, 0, 6], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    /// The whole frame on one of the links.
    fn frame(&self, secrets: Secrets, flow: u64) -> Vec<u8> {
        let packet = self.build(secrets, flow);
        let client = secrets.client_mac(flow);
        let (src, dst) = if self.to_server { (client, SERVER_MAC) } else { (SERVER_MAC, client) };
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let link = match link(flow) {
            0 => [&dst[..], &src, &kind].concat(),
            1 => [&dst[..], &src, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], &kind].concat(),
            2 => {
                let len = (packet.len() as u16 + 2).to_be_bytes();
                let ppp = if kind == [8, 0] { [0, 0x21] } else { [0, 0x57] };
                [&dst[..], &src, &[0x88, 0x64, 0x11, 0, 0, 9], &len, &ppp].concat()
            }
            // Of a tunnel the cooked address is the outer IPv4 address.
            3 => [&[0, 0, 3, 10, 0, 4][..], if self.to_server { &client[2..] } else { &SERVER4[..] }, &[0; 4], &kind].concat(),
            4 => [&kind[..], &[0, 0, 0, 0, 0, 2, 0, 1, 0, 6], &src, &[0, 0]].concat(),
            _ => vec![],
        };
        [&link[..], &packet, &self.trailer].concat()
    }
}

fn link(flow: u64) -> usize {
    (flow / 10) as usize
}

/// The flows as a pcapng file, with comments, names and keys that tell everything.
fn capture(secrets: Secrets) -> Vec<u8> {
    let mut file = Vec::new();
    let note = |flow: u64| format!("{TEXT} {} {:?}", std::net::IpAddr::from(secrets.client(flow)), secrets.payload(flow, 20));
    block(
        &mut file,
        0x0a0d_0d0a,
        &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat(),
        &[(1, note(0).into_bytes())],
    );
    for number in [1u16, 1, 1, 113, 276, 101] {
        let head = [number.to_le_bytes(), [0, 0], [0, 0], [4, 0]].concat();
        block(&mut file, 1, &head, &[(3, note(1).into_bytes()), (9, vec![9])]);
    }
    let name = [&secrets.client(0)[12..], b"canary.example\0"].concat();
    let mut names = [&[1, 0][..], &(name.len() as u16).to_le_bytes(), &name].concat();
    names.resize(names.len().next_multiple_of(4), 0);
    names.extend([0; 4]);
    block(&mut file, 4, &names, &[]);
    // Keys of TLS, as tools put them into captures.
    block(&mut file, 10, &[&b"KSLT"[..], &20u32.to_le_bytes(), &secrets.payload(7, 20)].concat(), &[]);
    for flow in 0..FLOWS {
        for (n, packet) in packets(secrets, flow).iter().enumerate() {
            let frame = packet.frame(secrets, flow);
            let ts = NOON + flow * SECOND / 10 + n as u64 * MILLI;
            let captured = &frame[..packet.snap.map_or(frame.len(), |snap| snap.min(frame.len()))];
            let mut head = Vec::new();
            for word in [link(flow) as u32, (ts >> 32) as u32, ts as u32, captured.len() as u32, frame.len() as u32] {
                head.extend(word.to_le_bytes());
            }
            head.extend(captured);
            head.resize(head.len().next_multiple_of(4), 0);
            block(&mut file, 6, &head, &[(1, note(flow).into_bytes())]);
        }
    }
    file
}

/// A block of a pcapng file with its options.
fn block(file: &mut Vec<u8>, kind: u32, content: &[u8], options: &[(u16, Vec<u8>)]) {
    let mut body = content.to_vec();
    for (code, value) in options {
        body.extend(code.to_le_bytes());
        body.extend((value.len() as u16).to_le_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    if !options.is_empty() {
        body.extend([0; 4]);
    }
    let len = (body.len() as u32 + 12).to_le_bytes();
    file.extend([&kind.to_le_bytes()[..], &len, &body, &len].concat());
}
