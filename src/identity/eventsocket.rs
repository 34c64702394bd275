//! Events of tcp-info's event socket, checked and made ours.
//!
//! The line and its transport are `flowarc_eventsocket`'s; here it is decided what an event means for a flow, and
//! tcp-info's defects are made good: an IPv6 address that it prints as IPv4, a UUID that is not fit to be a file
//! name. [`read_events`] does the same for a file of recorded lines.

use crate::identity::{BadUuid, FlowUuid, Name, Opened, UuidEvent, UuidSource};
use crate::key::{Address, Endpoint};
use crate::time::{CivilDate, Timestamp};
use flowarc_eventsocket::{BadLine, CHUNK, Decoder, Event, Kind, SocketId};
use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv6Addr};

/// Makes a [`UuidEvent`] of a line's event; `None` if its kind is one to ignore.
///
/// An event without a timestamp keeps the predecessor's folder, `0001/01/01`; what is before 1970 is
/// [`Timestamp::ZERO`].
///
/// # Errors
/// The first thing that makes the event useless.
pub fn convert(event: &Event) -> Result<Option<UuidEvent>, BadEvent> {
    let at = Timestamp::from_nanos(event.timestamp.unix_nanos().clamp(0, u64::MAX.into()) as u64);
    match event.kind {
        Kind::Open => {
            let (local, remote) = endpoints(event.id.as_ref().ok_or(BadEvent::NilId)?).ok_or(BadEvent::BadIp)?;
            let (year, month, day) = event.timestamp.civil_date();
            let name = Name { date: CivilDate { year, month, day }, uuid: FlowUuid::parse(&event.uuid)? };
            Ok(Some(UuidEvent::Open(Opened { name, at, local, remote, gone: false, source: UuidSource::EventSocket })))
        }
        Kind::Close => Ok(Some(UuidEvent::Close { uuid: FlowUuid::parse(&event.uuid)?, at, last_word: None })),
        Kind::Other(_) => Ok(None),
    }
}

/// Reads a file of event lines, in the order of the file; who needs them in the order of time sorts them.
///
/// Lines are taken as the socket takes them: bad ones are told and skipped, events of unknown kinds are passed over.
pub fn read_events<R: BufRead>(reader: R) -> EventsFile<R> {
    EventsFile { reader, decoder: Decoder::new(), ended: false }
}

/// What [`read_events`] gives.
#[derive(Debug)]
pub struct EventsFile<R> {
    reader: R,
    decoder: Decoder,
    ended: bool,
}

impl<R: BufRead> Iterator for EventsFile<R> {
    type Item = Result<UuidEvent, EventsFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_line() {
                Ok(None) => return None,
                Ok(Some(Ok(event))) => match convert(&event) {
                    Ok(None) => {}
                    Ok(Some(event)) => return Some(Ok(event)),
                    Err(bad) => return Some(Err(bad.into())),
                },
                Ok(Some(Err(bad))) => return Some(Err(bad.into())),
                Err(e) => return Some(Err(e.into())),
            }
        }
    }
}

impl<R: BufRead> EventsFile<R> {
    fn next_line(&mut self) -> io::Result<Option<Result<Event, BadLine>>> {
        loop {
            if let Some(line) = self.decoder.poll() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(self.decoder.finish());
            }
            match self.reader.fill_buf() {
                Ok(bytes) => {
                    let count = bytes.len().min(CHUNK);
                    self.decoder.handle_bytes(&bytes[..count]);
                    self.reader.consume(count);
                    self.ended = count == 0;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.ended = true;
                    self.decoder = Decoder::new();
                    return Err(e);
                }
            }
        }
    }
}

/// A line of an events file that gives no event. Only [`Self::Read`] is the end of the file.
#[derive(Debug, thiserror::Error)]
pub enum EventsFileError {
    /// The file cannot be read further.
    #[error("cannot read the events file")]
    Read(#[from] io::Error),
    /// The line is no event.
    #[error("skipped a line: {0}")]
    Line(#[from] BadLine),
    /// The event is of no use.
    #[error("skipped an event: {0}")]
    Event(#[from] BadEvent),
}

/// Why an event is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadEvent {
    /// An open event that does not say whose.
    #[error("open event without a socket ID")]
    NilId,
    /// An address that is none.
    #[error("address that is neither IPv4 nor IPv6")]
    BadIp,
    /// A UUID that cannot be a file name.
    #[error(transparent)]
    BadUuid(#[from] BadUuid),
}

impl BadEvent {
    /// The reason as a label of `pcap_tcpinfohandler_bad_events_total`, one of [`crate::metrics::BAD_EVENTS`].
    pub fn label(self) -> &'static str {
        match self {
            Self::NilId => "nilid",
            Self::BadIp => "badip",
            Self::BadUuid(_) => "baduuid",
        }
    }
}

/// The local and the remote end, unless an address is none.
///
/// tcp-info takes an address whose last 12 bytes are zero for IPv4 (inetdiag/structs.go): `2001:db8::` arrives as
/// `32.1.13.184`. A connection has one IP version, so beside an IPv6 address such a text means IPv6. If both ends end
/// in twelve zero bytes there is no way to tell, and the event stays without a flow.
fn endpoints(id: &SocketId) -> Option<(Endpoint, Endpoint)> {
    let (src, dst): (IpAddr, IpAddr) = (id.src_ip.parse().ok()?, id.dst_ip.parse().ok()?);
    // A mapped address is an IPv4 address, whatever its text.
    let (src, dst) = match (src.to_canonical(), dst.to_canonical()) {
        (IpAddr::V4(_), peer @ IpAddr::V6(_)) => (misprinted(src), peer),
        (peer @ IpAddr::V6(_), IpAddr::V4(_)) => (peer, misprinted(dst)),
        alike => alike,
    };
    let end = |ip: IpAddr, port| Endpoint { addr: Address::from(ip), port };
    Some((end(src, id.src_port), end(dst, id.dst_port)))
}

/// The IPv6 address that tcp-info printed as IPv4.
fn misprinted(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            Ipv6Addr::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0, 0, 0, 0, 0, 0).into()
        }
        v6 => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufReader, Read};

    const OPEN: &str = r#"{"Event":0,"Timestamp":"2026-11-21T00:11:14.659974346Z","UUID":"vm_1795218624_0000000000000004","ID":{"SPort":8080,"DPort":58594,"SrcIP":"10.9.0.1","DstIP":"10.9.0.2","Interface":0,"Cookie":4}}"#;
    const CLOSE: &str =
        r#"{"Event":1,"Timestamp":"2026-11-21T00:11:15.670925147Z","UUID":"vm_1795218624_0000000000000004","ID":null}"#;

    #[test]
    fn a_real_open_event_is_read_whole() {
        let name = Name { date: date(2026, 11, 21), uuid: uuid("vm_1795218624_0000000000000004") };
        let expected = Opened {
            name,
            at: Timestamp::from_parts(1_795_219_874, 659_974_346),
            local: end("10.9.0.1", 8080),
            remote: end("10.9.0.2", 58594),
            gone: false,
            source: UuidSource::EventSocket,
        };
        assert_eq!(convert(&event(OPEN)), Ok(Some(UuidEvent::Open(expected))));
    }

    #[test]
    fn a_real_close_event_is_read_whole() {
        let expected = UuidEvent::Close {
            uuid: uuid("vm_1795218624_0000000000000004"),
            at: Timestamp::from_parts(1_795_219_875, 670_925_147),
            last_word: None,
        };
        assert_eq!(convert(&event(CLOSE)), Ok(Some(expected)));
    }

    #[test]
    fn unknown_kinds_are_ignored_however_bad_the_rest_is() {
        assert_eq!(convert(&event(r#"{"Event":7}"#)), Ok(None));
        assert_eq!(convert(&event(r#"{"Event":-1,"UUID":"../x"}"#)), Ok(None));
    }

    #[test]
    fn the_day_is_that_of_the_timestamp_s_own_offset() {
        let opened = opened(&OPEN.replace("00:11:14.659974346Z", "00:11:14.659974346+02:00"));
        assert_eq!(opened.name.date, date(2026, 11, 21));
        assert_eq!(CivilDate::from_utc(opened.at), date(2026, 11, 20));
    }

    #[test]
    fn a_missing_timestamp_gives_the_predecessor_s_folder() {
        let opened = opened(&OPEN.replace(r#""Timestamp":"2026-11-21T00:11:14.659974346Z","#, ""));
        assert_eq!((opened.name.date.to_string().as_str(), opened.at), ("0001/01/01", Timestamp::ZERO));
    }

    #[test]
    fn a_timestamp_past_the_last_that_we_have_is_the_last() {
        let opened = opened(&OPEN.replace("2026-11-21", "9999-12-31"));
        assert_eq!((opened.name.date.to_string().as_str(), opened.at), ("9999/12/31", Timestamp::MAX));
    }

    #[test]
    fn an_open_event_without_a_socket_is_refused() {
        let line = r#"{"Event":0,"Timestamp":"2026-11-21T00:11:14Z","UUID":"u","ID":null}"#;
        assert_eq!(convert(&event(line)), Err(BadEvent::NilId));
        assert_eq!(convert(&event("{}")), Err(BadEvent::NilId));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "x", "10.9.0", "10.9.0.256", "010.9.0.1", " 10.9.0.1", "fe80::1%eth0", "10.9.0.1:80", "<nil>"] {
            assert_eq!(convert(&with_addresses(text, "10.9.0.2")), Err(BadEvent::BadIp), "{text}");
            assert_eq!(convert(&with_addresses("10.9.0.2", text)), Err(BadEvent::BadIp), "{text}");
        }
    }

    #[test]
    fn a_uuid_that_cannot_be_a_file_name_is_refused() {
        for (text, why) in [
            ("", BadUuid::Empty),
            ("u\n", BadUuid::Alphabet),
            ("host_123\n_000000000000000A", BadUuid::Alphabet),
            ("u ", BadUuid::Alphabet),
            ("a/b", BadUuid::Alphabet),
            ("../../etc/passwd", BadUuid::Dots),
            (&"x".repeat(201), BadUuid::TooLong),
        ] {
            let (open, close) = (Event { uuid: text.into(), ..event(OPEN) }, Event { uuid: text.into(), ..event(CLOSE) });
            assert_eq!(convert(&open), Err(BadEvent::BadUuid(why)), "{text:?}");
            assert_eq!(convert(&close), Err(BadEvent::BadUuid(why)), "{text:?}");
        }
    }

    #[test]
    fn the_labels_are_those_of_the_metric() {
        let labels = [BadEvent::NilId, BadEvent::BadIp, BadEvent::BadUuid(BadUuid::Empty)].map(BadEvent::label);
        assert_eq!(labels, crate::metrics::BAD_EVENTS);
    }

    #[test]
    fn mapped_addresses_are_ipv4_addresses() {
        for (src, dst) in [("::ffff:10.9.0.1", "10.9.0.2"), ("10.9.0.1", "::ffff:10.9.0.2"), ("::ffff:a09:1", "::ffff:a09:2")] {
            assert_eq!(addresses(src, dst), ("10.9.0.1".into(), "10.9.0.2".into()));
        }
    }

    #[test]
    fn an_ipv6_address_that_was_printed_as_ipv4_is_put_right() {
        for (src, dst, local, remote) in [
            ("32.1.13.184", "2001:db8::2", "2001:db8::", "2001:db8::2"),
            ("2001:db8::2", "32.1.13.184", "2001:db8::2", "2001:db8::"),
            ("0.0.0.0", "fd09::1", "::", "fd09::1"),
            // Nothing to compare with, or nothing to put right.
            ("32.1.13.184", "32.1.13.185", "32.1.13.184", "32.1.13.185"),
            ("fd09::1", "fd09::2", "fd09::1", "fd09::2"),
            ("fd09::1", "::ffff:10.9.0.2", "fd09::1", "10.9.0.2"),
        ] {
            assert_eq!(addresses(src, dst), (local.into(), remote.into()), "{src} {dst}");
        }
    }

    #[test]
    fn a_file_of_events_is_read_past_everything_that_is_wrong() {
        let long = "x".repeat(flowarc_eventsocket::MAX_LINE + 1);
        let bad_ip = OPEN.replace("10.9.0.1", "ten");
        let text = format!("{OPEN}\n\nnonsense\n{{\"Event\":9}}\n{long}\n{bad_ip}\n{CLOSE}\n{}", &OPEN[..50]);
        let expected = ["open", "empty", "malformed", "toolong", "badip", "close", "halfline"];
        assert_eq!(outline(read_events(text.as_bytes())), expected);
        assert_eq!(outline(read_events(BufReader::with_capacity(7, text.as_bytes()))), expected);
    }

    #[test]
    fn the_last_line_needs_no_line_end() {
        assert_eq!(outline(read_events(CLOSE.as_bytes())), ["close"]);
        assert!(read_events(b"".as_slice()).next().is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_further_ends_there() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("input/output error"))
            }
        }
        let line = format!("{CLOSE}\n");
        assert_eq!(outline(read_events(BufReader::new(line.as_bytes().chain(Broken)))), ["close", "read"]);
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            read_events(bytes.as_slice()).for_each(drop);
        }

        #[test]
        fn any_event_is_converted_without_a_panic(kind in -1i64..3, uuid in any::<String>(), src in any::<Option<IpAddr>>(), dst in any::<String>()) {
            let src_ip = src.map_or_else(|| dst.clone(), |ip| ip.to_string());
            let id = SocketId { src_ip, dst_ip: dst, ..SocketId::default() };
            let _ = convert(&Event { kind: kind.into(), uuid, id: Some(id), ..Event::default() });
        }
    }

    fn event(line: &str) -> Event {
        Event::decode(line.as_bytes()).unwrap()
    }

    fn with_addresses(src: &str, dst: &str) -> Event {
        event(&OPEN.replace("10.9.0.1", src).replace(r#""DstIP":"10.9.0.2""#, &format!(r#""DstIP":"{dst}""#)))
    }

    fn opened(line: &str) -> Opened {
        opened_of(&event(line))
    }

    fn opened_of(event: &Event) -> Opened {
        match convert(event) {
            Ok(Some(UuidEvent::Open(opened))) => opened,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(src: &str, dst: &str) -> (String, String) {
        let opened = opened_of(&with_addresses(src, dst));
        (format!("{:?}", opened.local.addr), format!("{:?}", opened.remote.addr))
    }

    fn outline<R: BufRead>(file: EventsFile<R>) -> Vec<&'static str> {
        file.map(|item| match item {
            Ok(UuidEvent::Open(_)) => "open",
            Ok(UuidEvent::Close { .. }) => "close",
            Err(EventsFileError::Line(bad)) => bad.kind.label(),
            Err(EventsFileError::Event(bad)) => bad.label(),
            Err(EventsFileError::Read(_)) => "read",
        })
        .collect()
    }

    fn uuid(text: &str) -> FlowUuid {
        FlowUuid::parse(text).unwrap()
    }

    fn date(year: u16, month: u8, day: u8) -> CivilDate {
        CivilDate { year, month, day }
    }

    fn end(ip: &str, port: u16) -> Endpoint {
        Endpoint { addr: ip.parse::<IpAddr>().unwrap().into(), port }
    }
}
