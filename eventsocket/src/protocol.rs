//! One line of the protocol: what it says, how it is read, how it is written.
//!
//! The source of the format is tcp-info's `eventsocket/server.go`: Go's `encoding/json` of a struct, one object per
//! line. Reading is as tolerant as Go: field names in any case, unknown fields ignored, absent or null fields zero.
//! Writing gives the bytes that Go would. Strings are kept as they came, so that a line can be relayed unchanged;
//! whether an address or a UUID is usable is for the reader of the event to decide.

use crate::lines::BadLine;
use crate::timestamp::Timestamp;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

/// Something that happened to a TCP connection of the server's host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// When the server noticed: its polling time, which is later than the first packet.
    pub timestamp: Timestamp,
    /// The connection's name, unchecked. It can hold anything, even a newline: tcp-info puts the unchanged content
    /// of its prefix file in front.
    pub uuid: String,
    /// The socket; `None` on a close event.
    pub id: Option<SocketId>,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Kind {
    /// The server sees the connection for the first time.
    #[default]
    Open,
    /// The server no longer sees it. A client that came late gets this without an open event; a connection that the
    /// server overlooked once gets it and is then opened again under the same name.
    Close,
    /// A kind that this version does not know, to be ignored.
    Other(i64),
}

/// A TCP socket as the kernel's inet_diag names it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketId {
    /// Local port.
    pub src_port: u16,
    /// Remote port.
    pub dst_port: u16,
    /// Local address, unchecked text. tcp-info writes an IPv6 address whose last 12 bytes are zero as if its first four
    /// were an IPv4 address: `2001:db8::` is `32.1.13.184`.
    pub src_ip: String,
    /// Remote address, likewise.
    pub dst_ip: String,
    /// Index of the interface that the socket is bound to, or 0. tcp-info writes it with its bytes swapped: interface 6
    /// is 100663296.
    pub interface: u32,
    /// The socket's cookie, a u64 that tcp-info writes as signed.
    pub cookie: i64,
}

impl Event {
    /// A connection appears.
    pub fn open(timestamp: Timestamp, uuid: impl Into<String>, id: SocketId) -> Self {
        Self { kind: Kind::Open, timestamp, uuid: uuid.into(), id: Some(id) }
    }

    /// A connection is gone.
    pub fn close(timestamp: Timestamp, uuid: impl Into<String>) -> Self {
        Self { kind: Kind::Close, timestamp, uuid: uuid.into(), id: None }
    }

    /// Reads one line, with or without its line end.
    ///
    /// # Errors
    /// [`BadKind::Empty`](crate::BadKind::Empty) or [`BadKind::Malformed`](crate::BadKind::Malformed). A line that is
    /// not UTF-8 is malformed.
    pub fn decode(line: &[u8]) -> Result<Self, BadLine> {
        if line.trim_ascii().is_empty() {
            return Err(BadLine::empty());
        }
        serde_json::from_slice(line).map_err(|e| BadLine::malformed(&e))
    }

    /// Writes the line without its line end.
    pub fn encode(&self) -> String {
        let mut line = String::with_capacity(256);
        self.write(&mut line).expect("a String takes all");
        line
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        write!(out, r#"{{"Event":{},"Timestamp":"{}","UUID":"#, self.kind.number(), self.timestamp)?;
        write_string(out, &self.uuid)?;
        out.push_str(r#","ID":"#);
        match &self.id {
            None => out.push_str("null"),
            Some(id) => {
                write!(out, r#"{{"SPort":{},"DPort":{},"SrcIP":"#, id.src_port, id.dst_port)?;
                write_string(out, &id.src_ip)?;
                out.push_str(r#","DstIP":"#);
                write_string(out, &id.dst_ip)?;
                write!(out, r#","Interface":{},"Cookie":{}}}"#, id.interface, id.cookie)?;
            }
        }
        out.push('}');
        Ok(())
    }
}

impl Kind {
    /// The number on the wire.
    pub fn number(self) -> i64 {
        match self {
            Self::Open => 0,
            Self::Close => 1,
            Self::Other(n) => n,
        }
    }
}

impl From<i64> for Kind {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Close,
            n => Self::Other(n),
        }
    }
}

impl SocketId {
    /// The socket between two endpoints, bound to no interface, with the kernel's cookie.
    pub fn new(local: SocketAddr, remote: SocketAddr, cookie: u64) -> Self {
        Self {
            src_port: local.port(),
            dst_port: remote.port(),
            src_ip: go_address(local.ip()),
            dst_ip: go_address(remote.ip()),
            interface: 0,
            cookie: cookie.cast_signed(),
        }
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EventVisitor)
    }
}

impl<'de> Deserialize<'de> for SocketId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SocketIdVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event object")
    }

    fn visit_unit<E>(self) -> Result<Event, E> {
        Ok(Event::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut event = Event::default();
        while let Some(name) = map.next_key_seed(OneOf(&["event", "timestamp", "uuid", "id"]))? {
            match name {
                Some("event") => set(&mut map, &mut event.kind, |n: i64| Ok(n.into()))?,
                Some("timestamp") => set(&mut map, &mut event.timestamp, |Rfc3339(time)| Ok(time))?,
                Some("uuid") => set(&mut map, &mut event.uuid, Ok)?,
                Some("id") => event.id = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(event)
    }
}

struct SocketIdVisitor;

impl<'de> Visitor<'de> for SocketIdVisitor {
    type Value = SocketId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a socket object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SocketId, A::Error> {
        let mut id = SocketId::default();
        while let Some(name) = map.next_key_seed(OneOf(&["sport", "dport", "srcip", "dstip", "interface", "cookie"]))? {
            match name {
                Some("sport") => set(&mut map, &mut id.src_port, Ok)?,
                Some("dport") => set(&mut map, &mut id.dst_port, Ok)?,
                Some("srcip") => set(&mut map, &mut id.src_ip, Ok)?,
                Some("dstip") => set(&mut map, &mut id.dst_ip, Ok)?,
                Some("interface") => set(&mut map, &mut id.interface, Ok)?,
                Some("cookie") => set(&mut map, &mut id.cookie, Ok)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(id)
    }
}

/// A field's name: one of these, in lower case, or a stranger's. Names come in any case, and no copy is made of them.
struct OneOf(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for OneOf {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|known| known.eq_ignore_ascii_case(name)))
    }
}

/// A time as text.
struct Rfc3339(Timestamp);

impl<'de> Deserialize<'de> for Rfc3339 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TimeVisitor)
    }
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = Rfc3339;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Rfc3339, E> {
        text.parse().map(Rfc3339).map_err(E::custom)
    }
}

/// Stores the next value of `map` in `field`; null leaves the field alone, as in Go.
fn set<'de, A, T, F>(map: &mut A, field: &mut F, convert: impl FnOnce(T) -> Result<F, A::Error>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    if let Some(value) = map.next_value::<Option<T>>()? {
        *field = convert(value)?;
    }
    Ok(())
}

/// The text of an address as Go's `net.IP.String` writes it: an IPv4-mapped address appears as IPv4.
fn go_address(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// Writes a JSON string with the escapes of Go's `encoding/json`, which also hides what HTML and JavaScript would
/// stumble over: `<`, `>`, `&` and the line separators U+2028 and U+2029.
fn write_string(out: &mut String, text: &str) -> fmt::Result {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str(r#"\""#),
            '\\' => out.push_str(r"\\"),
            '\u{8}' => out.push_str(r"\b"),
            '\u{c}' => out.push_str(r"\f"),
            '\n' => out.push_str(r"\n"),
            '\r' => out.push_str(r"\r"),
            '\t' => out.push_str(r"\t"),
            '\0'..'\u{20}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => write!(out, r"\u{:04x}", u32::from(c))?,
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::BadKind;
    use proptest::prelude::*;

    const REAL: [&str; 4] = [
        r#"{"Event":0,"Timestamp":"2026-11-21T00:11:14.659974346Z","UUID":"vm_1795218624_0000000000000004","ID":{"SPort":8080,"DPort":58594,"SrcIP":"10.9.0.1","DstIP":"10.9.0.2","Interface":0,"Cookie":4}}"#,
        r#"{"Event":1,"Timestamp":"2026-11-21T00:11:15.670925147Z","UUID":"vm_1795218624_0000000000000004","ID":null}"#,
        r#"{"Event":0,"Timestamp":"2026-11-21T00:45:13.291362591Z","UUID":"host_123_0000000000003E7A","ID":{"SPort":8080,"DPort":40498,"SrcIP":"fd09::1","DstIP":"fd09::2","Interface":0,"Cookie":15994}}"#,
        r#"{"Event":0,"Timestamp":"2026-11-21T00:45:11.240955433Z","UUID":"host_123_0000000000003E79","ID":{"SPort":8095,"DPort":44322,"SrcIP":"10.9.0.1","DstIP":"10.9.0.2","Interface":100663296,"Cookie":15993}}"#,
    ];

    fn decode(line: &str) -> Event {
        Event::decode(line.as_bytes()).unwrap()
    }

    fn kind_of(line: &[u8]) -> BadKind {
        Event::decode(line).unwrap_err().kind
    }

    #[test]
    fn real_lines_round_trip_byte_for_byte() {
        for line in REAL {
            assert_eq!(decode(line).encode(), line);
        }
    }

    #[test]
    fn a_real_open_event_is_read_whole() {
        let id = SocketId {
            src_port: 8095,
            dst_port: 44322,
            src_ip: "10.9.0.1".into(),
            dst_ip: "10.9.0.2".into(),
            interface: 6u32.swap_bytes(),
            cookie: 15993,
        };
        let at = Timestamp::from_unix_nanos(1_795_221_911_240_955_433);
        assert_eq!(decode(REAL[3]), Event::open(at, "host_123_0000000000003E79", id));
    }

    #[test]
    fn field_names_are_read_in_any_case_and_order_and_strangers_are_ignored() {
        let line = r#" {"id":{"SPORT":1,"dport":2,"SRCip":"::1","DsTiP":"::2","New":[{}],"cookie":-3},"extra":{"a":[1]},"uuid":"x","EVENT":0}"#;
        let id = SocketId { src_port: 1, dst_port: 2, src_ip: "::1".into(), dst_ip: "::2".into(), interface: 0, cookie: -3 };
        assert_eq!(decode(line), Event::open(Timestamp::default(), "x", id));
    }

    #[test]
    fn absent_and_null_fields_are_zero() {
        assert_eq!(decode("{}"), Event::default());
        assert_eq!(decode("null"), Event::default());
        assert_eq!(decode(r#"{"Event":null,"Timestamp":null,"UUID":null,"ID":null}"#), Event::default());
        assert_eq!(decode(r#"{"ID":{}}"#).id, Some(SocketId::default()));
        assert_eq!(decode(r#"{"ID":{"SPort":null}}"#).id, Some(SocketId::default()));
    }

    #[test]
    fn of_a_field_given_twice_the_last_counts() {
        assert_eq!(decode(r#"{"UUID":"a","uuid":"b","ID":{},"ID":null}"#), Event { uuid: "b".into(), ..Event::default() });
    }

    #[test]
    fn an_unknown_kind_is_no_error() {
        assert_eq!(decode(r#"{"Event":7}"#).kind, Kind::Other(7));
        assert_eq!(decode(r#"{"Event":-1}"#).kind, Kind::Other(-1));
        assert!(decode(r#"{"Event":7}"#).encode().starts_with(r#"{"Event":7,"#));
    }

    #[test]
    fn a_line_end_does_not_matter() {
        assert_eq!(decode(&format!("{}\r\n", REAL[0])), decode(REAL[0]));
    }

    #[test]
    fn empty_lines_are_told_from_malformed_ones() {
        for line in ["", "\r\n", " \t"] {
            assert_eq!(kind_of(line.as_bytes()), BadKind::Empty);
        }
        for line in [
            "{",
            "[]",
            "7",
            "\"x\"",
            "garbage",
            r#"{"Event":"Open"}"#,
            r#"{"Event":1.5}"#,
            r#"{"ID":{"SPort":65536}}"#,
            r#"{"ID":{"SPort":-1}}"#,
            r#"{"ID":{"Interface":4294967296}}"#,
            r#"{"ID":{"Cookie":9223372036854775808}}"#,
            r#"{"ID":[]}"#,
            r#"{"ID":{"SrcIP":4}}"#,
            r#"{"Timestamp":"yesterday"}"#,
            r#"{"Timestamp":4}"#,
            r#"{} {}"#,
        ] {
            assert_eq!(kind_of(line.as_bytes()), BadKind::Malformed, "{line}");
        }
        assert_eq!(kind_of(b"{\"UUID\":\"\xff\"}"), BadKind::Malformed);
        assert_eq!(kind_of("[".repeat(100_000).as_bytes()), BadKind::Malformed);
        assert_eq!(kind_of(format!("{{\"x\":{}", "[".repeat(100_000)).as_bytes()), BadKind::Malformed);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_content() {
        let bad = Event::decode(br#"{"ID":{"SPort":"192.0.2.77"}}"#).unwrap_err();
        assert_eq!(bad.to_string(), "malformed: a value of the wrong type or out of range, at column 27");
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        let event = Event { uuid: "a<b>&\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}\u{2028}\u{2029}é😀/".into(), ..Event::default() };
        let uuid = r#""UUID":"a\u003cb\u003e\u0026\"\\\n\r\t\b\f\u0001"#.to_string() + "\u{7f}" + r#"\u2028\u2029é😀/","#;
        assert!(event.encode().contains(&uuid), "{}", event.encode());
        assert_eq!(decode(&event.encode()), event);
    }

    #[test]
    fn addresses_are_written_as_go_does() {
        for (read, written) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::", "::"),
            ("::1", "::1"),
            ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("::192.0.2.1", "::c000:201"),
            ("fe80:0:0:0:1::", "fe80::1:0:0:0"),
        ] {
            assert_eq!(go_address(read.parse().unwrap()), written, "{read}");
        }
    }

    #[test]
    fn a_cookie_of_all_64_bits_is_written_signed() {
        let (local, remote) = ("[2001:db8::1]:443".parse().unwrap(), "192.0.2.1:50000".parse().unwrap());
        let line = Event::open(Timestamp::from_unix_nanos(0), "u", SocketId::new(local, remote, u64::MAX)).encode();
        assert_eq!(
            line,
            r#"{"Event":0,"Timestamp":"1970-01-01T00:00:00Z","UUID":"u","ID":{"SPort":443,"DPort":50000,"SrcIP":"2001:db8::1","DstIP":"192.0.2.1","Interface":0,"Cookie":-1}}"#
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Event::decode(&line);
        }

        #[test]
        fn a_damaged_line_is_read_without_a_panic(which in 0..REAL.len(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut line = REAL[which].as_bytes().to_vec();
            let at = at.index(line.len());
            line[at] = byte;
            if let Ok(event) = Event::decode(&line) {
                prop_assert_eq!(Event::decode(event.encode().as_bytes()), Ok(event));
            }
        }

        #[test]
        fn what_is_written_is_read_back(
            kind in any::<i64>(), nanos in any::<u64>(), uuid in any::<String>(),
            id in proptest::option::of((any::<(u16, u16)>(), any::<(String, String)>(), any::<u32>(), any::<i64>())),
        ) {
            let id = id.map(|((src_port, dst_port), (src_ip, dst_ip), interface, cookie)| {
                SocketId { src_port, dst_port, src_ip, dst_ip, interface, cookie }
            });
            let event = Event { kind: kind.into(), timestamp: Timestamp::from_unix_nanos(nanos), uuid, id };
            let line = event.encode();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(Event::decode(line.as_bytes()), Ok(event));
        }
    }
}
