//! Which flows are wanted.

use crate::archive::catalogue::columns::{Micros, Table, Value, table};
use crate::archive::catalogue::parquet::ParquetReader;
use crate::archive::catalogue::row::Row;
use crate::key::Address;
use crate::scrub::CryptoPan;
use parquet::errors::Result;
use parquet::file::reader::ChunkReader;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

/// What a flow must be; what is empty or unbounded asks for nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    /// Its UUID is one of these or begins with one; none for any.
    pub uuids: Vec<String>,
    /// It ended at this time or later.
    pub since: Option<Micros>,
    /// It started before this time.
    pub until: Option<Micros>,
    /// Each of these holds one of its addresses.
    pub networks: Vec<Network>,
    /// Each of these is one of its ports.
    pub ports: Vec<u16>,
    /// Bytes on the wire, both ways.
    pub bytes: Bounds<i64>,
    /// Seconds from the first packet to the last.
    pub duration: Bounds<f64>,
    /// Retransmitted packets among those with payload, 0 to 1.
    pub retransmissions: Bounds<f64>,
    /// Why the capture ended; none for any reason.
    pub ends: Vec<String>,
}

/// The least and the most, both allowed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds<T> {
    /// The least.
    pub least: Option<T>,
    /// The most.
    pub most: Option<T>,
}

impl<T> Default for Bounds<T> {
    fn default() -> Self {
        Self { least: None, most: None }
    }
}

impl<T: PartialOrd> Bounds<T> {
    fn hold(&self, value: T) -> bool {
        self.least.as_ref().is_none_or(|least| value >= *least) && self.most.as_ref().is_none_or(|most| value <= *most)
    }

    /// Whether the least is above the most.
    pub fn is_empty(&self) -> bool {
        matches!((&self.least, &self.most), (Some(least), Some(most)) if least > most)
    }

    fn asks(&self) -> bool {
        self.least.is_some() || self.most.is_some()
    }
}

/// An address, or all that begin alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    addr: Address,
    /// Of the 128 bits of the mapped form.
    prefix: u8,
    /// The address as rows have it.
    text: String,
    /// What Crypto-PAn makes of the address, if the key was given.
    replaced: Option<Address>,
}

/// What was done to the addresses of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Masked {
    No,
    /// Some have lost their host part.
    Cut,
    /// Some were replaced one to one.
    Replaced,
}

impl Network {
    fn new(addr: Address, prefix: u8) -> Self {
        Self { addr, prefix, text: text(addr), replaced: None }
    }

    /// The address, and how many of the 128 bits of its mapped form count.
    pub fn parts(&self) -> (Address, u8) {
        (self.addr, self.prefix)
    }

    /// Whether it is one address.
    pub fn is_host(&self) -> bool {
        self.prefix == 128
    }

    /// Whether an address is in it.
    pub fn contains(&self, addr: Address) -> bool {
        self.begins_like(self.addr, addr)
    }

    /// Whether an address of a flow whose addresses were masked so is in it, or may be.
    fn may_contain(&self, addr: Address, masked: Masked) -> bool {
        match (masked, self.replaced) {
            (Masked::Replaced, Some(replaced)) => self.begins_like(replaced, addr),
            (Masked::Cut, _) => self.contains(addr) || self.stands_for(addr),
            _ => self.contains(addr),
        }
    }

    /// Whether two addresses have as many bits in common as the network has.
    fn begins_like(&self, a: Address, b: Address) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        (u128::from_be_bytes(a.0) ^ u128::from_be_bytes(b.0)) & mask == 0
    }

    /// Whether an address looks masked, and may stand for one in this network.
    fn stands_for(&self, addr: Address) -> bool {
        if addr.netblock() != addr {
            return false;
        }
        let is_block = self.prefix <= if self.addr.as_v4().is_some() { 96 + 24 } else { 48 };
        if is_block { self.contains(addr) } else { self.addr.netblock() == addr }
    }

    /// The address that stands for it, as `--anonymize.ip=netblock` masks it.
    pub fn masked(&self) -> Self {
        let bits = if self.addr.as_v4().is_some() { 96 + 24 } else { 48 };
        Self::new(if self.prefix > bits { self.addr.netblock() } else { self.addr }, self.prefix)
    }

    /// The same, and what stands for it in files whose addresses were replaced by Crypto-PAn, which keeps prefixes.
    pub fn with_key(self, pan: &CryptoPan) -> Self {
        Self { replaced: Some(pan.address(self.addr)), ..self }
    }

    /// The texts, one of which is among the addresses of a group's rows if this host's are.
    fn texts(&self, masked: bool, replaced: bool) -> Vec<String> {
        let block = masked.then(|| self.masked().text);
        let other = self.replaced.filter(|_| replaced).map(text);
        [Some(self.text.clone()), block, other].into_iter().flatten().collect()
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> std::result::Result<Self, BadNetwork> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits.parse::<u8>().map_err(|_| BadNetwork)?)),
            None => (text, None),
        };
        let addr = Address::from(addr.parse::<IpAddr>().map_err(|_| BadNetwork)?);
        let (longest, offset) = if addr.as_v4().is_some() { (32, 96) } else { (128, 0) };
        let bits = bits.unwrap_or(longest);
        if bits > longest {
            return Err(BadNetwork);
        }
        Ok(Self::new(addr, offset + bits))
    }
}

fn text(addr: Address) -> String {
    IpAddr::from(addr).to_string()
}

/// A text that is no address and no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("want an address or a network such as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/48")]
pub struct BadNetwork;

table! {
    /// What filters look at.
    pub struct Key {
        /// As in [`Row`].
        uuid: String,
        /// As in [`Row`].
        start: Micros,
        /// As in [`Row`].
        end: Micros,
        /// As in [`Row`].
        client_addr: String,
        /// As in [`Row`].
        server_addr: String,
        /// As in [`Row`].
        client_port: u16,
        /// As in [`Row`].
        server_port: u16,
        /// As in [`Row`].
        anonymized: bool,
        /// As in [`Row`].
        replaced: bool,
        /// As in [`Row`].
        client_bytes: i64,
        /// As in [`Row`].
        server_bytes: i64,
        /// As in [`Row`].
        duration_s: f64,
        /// As in [`Row`].
        retransmission_rate: f64,
        /// As in [`Row`].
        end_reason: String,
    }
}

impl From<&Row> for Key {
    fn from(row: &Row) -> Self {
        Self {
            uuid: row.uuid.clone(),
            start: row.start,
            end: row.end,
            client_addr: row.client_addr.clone(),
            server_addr: row.server_addr.clone(),
            client_port: row.client_port,
            server_port: row.server_port,
            anonymized: row.anonymized,
            replaced: row.replaced,
            client_bytes: row.client_bytes,
            server_bytes: row.server_bytes,
            duration_s: row.duration_s,
            retransmission_rate: row.retransmission_rate,
            end_reason: row.end_reason.clone(),
        }
    }
}

impl Filter {
    /// Whether a flow is wanted.
    pub fn matches(&self, key: &Key) -> bool {
        self.wants_uuid(&key.uuid)
            && self.wants_time(key.start, key.end)
            && self.ports.iter().all(|p| [key.client_port, key.server_port].contains(p))
            && self.bytes.hold(key.client_bytes.saturating_add(key.server_bytes))
            && self.duration.hold(key.duration_s)
            && self.retransmissions.hold(key.retransmission_rate)
            && (self.ends.is_empty() || self.ends.contains(&key.end_reason))
            && self.wants_addresses(key)
    }

    /// Whether flows of a UUID can be wanted.
    pub fn wants_uuid(&self, uuid: &str) -> bool {
        self.uuids.is_empty() || self.uuids.iter().any(|wanted| uuid.starts_with(wanted))
    }

    /// Whether flows of these times can be wanted.
    pub fn wants_time(&self, start: Micros, end: Micros) -> bool {
        self.since.is_none_or(|since| end >= since) && self.until.is_none_or(|until| start < until)
    }

    /// The times in which a wanted flow starts at the latest and ends at the earliest.
    pub fn window(&self) -> (Micros, Micros) {
        (self.since.unwrap_or(Micros(i64::MIN)), self.until.map_or(Micros(i64::MAX), |until| Micros(until.0.saturating_sub(1))))
    }

    /// Whether masking hides some of the bits that were asked for.
    pub fn is_widened_by_masking(&self) -> bool {
        self.networks.iter().any(|n| n.prefix > if n.addr.as_v4().is_some() { 96 + 24 } else { 48 })
    }

    /// The columns of [`Key`] that decide.
    pub fn columns(&self) -> Vec<usize> {
        let mut names = Vec::new();
        for (asked, columns) in [
            (!self.uuids.is_empty(), &["uuid"][..]),
            (self.since.is_some() || self.until.is_some(), &["start", "end"]),
            (!self.networks.is_empty(), &["client_addr", "server_addr", "anonymized", "replaced"]),
            (!self.ports.is_empty(), &["client_port", "server_port"]),
            (self.bytes.asks(), &["client_bytes", "server_bytes"]),
            (self.duration.asks(), &["duration_s"]),
            (self.retransmissions.asks(), &["retransmission_rate"]),
            (!self.ends.is_empty(), &["end_reason"]),
        ] {
            if asked {
                names.extend(columns);
            }
        }
        names.into_iter().map(Key::column).collect()
    }

    /// Whether a row group may have a wanted flow, by its statistics and Bloom filters.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn may_match<R: ChunkReader + 'static>(&self, file: &ParquetReader<Key, R>, group: usize, exact: Exact) -> Result<bool> {
        let (from, to) = self.window();
        let [start, end, uuid, client, server] = ["start", "end", "uuid", "client_addr", "server_addr"].map(Key::column);
        if file.bounds(group, start).is_some_and(|(min, _)| min > to.0)
            || file.bounds(group, end).is_some_and(|(_, max)| max < from.0)
        {
            return Ok(false);
        }
        if !self.uuids.is_empty() {
            let uuids = self.beginnings();
            if !file.may_begin(group, uuid, &uuids) || exact == Exact::Yes && !file.may_contain(group, uuid, &uuids)? {
                return Ok(false);
            }
        }
        let [masked, replaced] = ["anonymized", "replaced"].map(|name| file.may_be_true(group, Key::column(name)));
        for network in self.networks.iter().filter(|n| n.is_host()) {
            let texts = network.texts(masked, replaced);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            if !file.may_contain(group, client, &texts)? && !file.may_contain(group, server, &texts)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The rows of a group to look at: those of the pages whose times and UUIDs allow it.
    pub fn ranges<R: ChunkReader + 'static>(&self, file: &ParquetReader<Key, R>, group: usize) -> Vec<Range<usize>> {
        let (from, to) = self.window();
        let started = file.pages(group, Key::column("start"), (i64::MIN, to.0));
        let ended = file.pages(group, Key::column("end"), (from.0, i64::MAX));
        let in_time = intersection(&started, &ended);
        if self.uuids.is_empty() {
            return in_time;
        }
        // The kernel counts: UUIDs of one host rise with time, nearly.
        intersection(&in_time, &file.pages_of_text(group, Key::column("uuid"), &self.beginnings()))
    }

    /// Of rows to look at those whose addresses may be wanted. Nearly all rows of a catalogue fail here where a network is asked
    /// for, so nothing is made of them but a verdict.
    ///
    /// # Errors
    /// Fails where the file cannot be read or is damaged.
    pub fn sieve<R: ChunkReader + 'static>(
        &self,
        file: &ParquetReader<Key, R>,
        group: usize,
        ranges: Vec<Range<usize>>,
    ) -> Result<Vec<Range<usize>>> {
        if self.networks.is_empty() {
            return Ok(ranges);
        }
        // A bit for each network; of more than there are bits the others are left to [`Self::matches`].
        let networks = &self.networks[..self.networks.len().min(u32::BITS as usize)];
        let all = u32::MAX >> (u32::BITS as usize - networks.len());
        let may_be = |name| file.may_be_true(group, Key::column(name));
        let ways: Vec<Masked> = [(true, Masked::No), (may_be("anonymized"), Masked::Cut), (may_be("replaced"), Masked::Replaced)]
            .into_iter()
            .filter_map(|(may_be, masked)| may_be.then_some(masked))
            .collect();
        let mut held: Vec<u32> = vec![0; ranges.iter().map(Range::len).sum()];
        for column in ["client_addr", "server_addr"].map(Key::column) {
            file.visit(group, column, &ranges, |at, value| {
                let Value::Text(text) = value else { return };
                let addr = text.parse::<IpAddr>().ok().map(Address::from);
                for (bit, network) in networks.iter().enumerate() {
                    let is_held = addr.is_some_and(|addr| ways.iter().any(|masked| network.may_contain(addr, *masked)));
                    held[at] |= u32::from(is_held) << bit;
                }
            })?;
        }
        let hits = positions(&ranges).zip(held).filter(|(_, held)| *held == all).map(|(position, _)| position);
        Ok(joined(hits))
    }

    fn beginnings(&self) -> Vec<&str> {
        self.uuids.iter().map(String::as_str).collect()
    }

    fn wants_addresses(&self, key: &Key) -> bool {
        if !key.anonymized && self.networks.iter().all(Network::is_host) {
            // Much quicker than reading addresses, where millions are compared.
            return self.networks.iter().all(|n| [&key.client_addr, &key.server_addr].contains(&&n.text));
        }
        let masked = match (key.anonymized, key.replaced) {
            (false, _) => Masked::No,
            (true, false) => Masked::Cut,
            (true, true) => Masked::Replaced,
        };
        let ends = [&key.client_addr, &key.server_addr].map(|a| a.parse::<IpAddr>().ok().map(Address::from));
        self.networks.iter().all(|network| ends.iter().flatten().any(|addr| network.may_contain(*addr, masked)))
    }
}

/// Whether a text is a whole UUID by its form, so that no other begins with it: tcp-info's, which ends with a cookie of 16
/// hexadecimal digits, or one of RFC 9562.
pub fn is_whole(uuid: &str) -> bool {
    let cookie = uuid.rsplit_once('_').is_some_and(|(_, c)| c.len() == 16 && c.bytes().all(|b| b.is_ascii_hexdigit()));
    cookie || uuid::Uuid::try_parse(uuid).is_ok_and(|parsed| parsed.hyphenated().to_string() == uuid)
}

/// Whether a UUID must be the whole one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exact {
    /// The whole one: Bloom filters can tell.
    Yes,
    /// It may be a beginning.
    No,
}

fn intersection(a: &[Range<usize>], b: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut i, mut j, mut both) = (0, 0, Vec::new());
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let common = x.start.max(y.start)..x.end.min(y.end);
        if !common.is_empty() {
            both.push(common);
        }
        if x.end <= y.end { i += 1 } else { j += 1 }
    }
    both
}

/// Every position in some ranges.
pub(super) fn positions(ranges: &[Range<usize>]) -> impl Iterator<Item = usize> {
    ranges.iter().cloned().flatten()
}

/// Rising positions as ranges.
pub(super) fn joined(positions: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for position in positions {
        match ranges.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            _ => ranges.push(position..position + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn key(client: &str, server: &str, anonymized: bool) -> Key {
        Key { client_addr: client.into(), server_addr: server.into(), anonymized, ..Key::default() }
    }

    #[test]
    fn addresses_match_either_end_and_networks_all_in_them() {
        let flow = key("203.0.113.45", "2001:db8::1", false);
        for (asked, found) in [
            (&["203.0.113.45"][..], true),
            (&["203.0.113.44"], false),
            (&["203.0.113.0/24"], true),
            (&["0.0.0.0/0"], true),
            (&["2001:db8::/32", "203.0.113.45"], true),
            (&["2001:db8::/32", "192.0.2.1"], false),
            (&["::ffff:203.0.113.45"], true),
        ] {
            let filter = Filter { networks: asked.iter().map(|t| net(t)).collect(), ..Filter::default() };
            assert_eq!(filter.matches(&flow), found, "{asked:?}");
        }
    }

    #[test]
    fn in_a_masked_archive_an_address_finds_its_block_and_whole_local_addresses() {
        let flow = key("203.0.113.0", "192.0.2.10", true);
        for (asked, found) in [
            ("203.0.113.45", true),
            ("203.0.114.45", false),
            ("203.0.113.64/28", true),
            ("192.0.2.10", true),
            ("192.0.2.11", false),
        ] {
            let filter = Filter { networks: vec![net(asked)], ..Filter::default() };
            assert_eq!(filter.matches(&flow), found, "{asked}");
            assert!(filter.is_widened_by_masking());
        }
        let six = key("2001:db8:1::", "2001:db8:9::1", true);
        let filter = Filter { networks: vec![net("2001:db8:1:2::3")], ..Filter::default() };
        assert!(filter.matches(&six));
    }

    #[test]
    fn in_a_replaced_archive_a_key_finds_the_address_and_no_neighbour() {
        // The key of the sample in the authors' program, and pairs of its output (see scrub::cryptopan).
        let pan = CryptoPan::new(&[
            21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131, 121, 121, 101, 39, 98, 87,
            76, 45, 42, 132, 34, 2,
        ]);
        let finds =
            |asked: &str, key: &Key| Filter { networks: vec![net(asked).with_key(&pan)], ..Filter::default() }.matches(key);
        let ends_in_zero = (0..=255u8).map(|d| Address::v4([128, 11, 68, d])).find(|a| pan.address(*a).as_v4().unwrap()[3] == 0);
        let (zero, stands_for_zero) = (pan.address(ends_in_zero.unwrap()), ends_in_zero.unwrap());
        let replaced = |client: &str| Key { replaced: true, ..key(client, "192.0.2.10", true) };
        for (asked, archived, found) in [
            ("128.11.68.132", "135.242.180.132", true),
            ("128.11.68.133", "135.242.180.132", false),
            ("128.11.68.0/24", "135.242.180.132", true),
            ("128.11.69.0/24", "135.242.180.132", false),
            ("2001:db8::1", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e", true),
            ("2001:db8::2", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e", false),
            // One whose replacement looks like a block is no block.
            (&text(stands_for_zero), &text(zero), true),
            ("128.11.68.132", &text(zero), false),
        ] {
            assert_eq!(finds(asked, &replaced(archived)), found, "{asked} in {archived}");
        }
        // What was not replaced is compared as it is, whatever key was given.
        assert!(finds("203.0.113.45", &key("203.0.113.45", "192.0.2.10", false)));
        assert!(finds("203.0.113.45", &key("203.0.113.0", "192.0.2.10", true)));
        assert!(!finds("203.0.113.45", &replaced("203.0.113.45")) && !finds("203.0.113.45", &replaced("203.0.113.0")));
        // Without the key addresses that were kept are found, and a block stands for nobody.
        let plain = |asked: &str, key: &Key| Filter { networks: vec![net(asked)], ..Filter::default() }.matches(key);
        assert!(plain("192.0.2.10", &replaced("135.242.180.132")) && !plain("203.0.113.45", &replaced("203.0.113.0")));
    }

    #[test]
    fn a_flow_is_in_a_window_while_it_lives() {
        let flow = Key { start: Micros(10), end: Micros(20), ..Key::default() };
        for (since, until, found) in [(21, 99, false), (20, 99, true), (0, 10, false), (0, 11, true), (12, 13, true)] {
            let filter = Filter { since: Some(Micros(since)), until: Some(Micros(until)), ..Filter::default() };
            assert_eq!(filter.matches(&flow), found, "{since}..{until}");
        }
    }

    #[test]
    fn a_uuid_of_a_known_form_is_whole_and_nothing_else_is() {
        for (uuid, whole) in [
            ("ndt-x7kq2_1795262400_0000000000003E7A", true),
            ("vm_1795260780_unsafe_00000000000EE55C", true),
            ("972c0dbb-17c6-5153-9a57-d1cb6ef1bf1c", true),
            ("ndt-x7kq2_1795262400_0000000000003E7", false),
            ("ndt-x7kq2_1795262400_", false),
            ("0000000000003E7A", false),
            ("972c0dbb-17c6-5153-9a57-d1cb6ef1bf1", false),
            ("972c0dbb17c651539a57d1cb6ef1bf1c", false),
            ("", false),
        ] {
            assert_eq!(is_whole(uuid), whole, "{uuid}");
        }
    }

    #[test]
    fn numbers_have_bounds_on_both_sides() {
        let flow = Key { client_bytes: 70, server_bytes: 30, duration_s: 1.5, client_port: 443, ..Key::default() };
        let bounds = |least, most| Bounds { least, most };
        assert!(Filter { bytes: bounds(Some(100), Some(100)), ..Filter::default() }.matches(&flow));
        assert!(!Filter { bytes: bounds(Some(101), None), ..Filter::default() }.matches(&flow));
        assert!(!Filter { duration: Bounds { least: None, most: Some(1.0) }, ..Filter::default() }.matches(&flow));
        assert!(Filter { ports: vec![443, 0], ..Filter::default() }.matches(&flow));
        assert!(!Filter { ports: vec![443, 80], ..Filter::default() }.matches(&flow));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "x", "192.0.2.1/33", "192.0.2.1/", "2001:db8::/129", "192.0.2.1/-1"] {
            assert_eq!(text.parse::<Network>(), Err(BadNetwork), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_intersection_has_what_both_have(a in proptest::collection::btree_set(0usize..30, 0..20), b in proptest::collection::btree_set(0usize..30, 0..20)) {
            let ranges = |set: &std::collections::BTreeSet<usize>| set.iter().map(|n| *n..n + 1).collect::<Vec<_>>();
            let common: Vec<usize> = intersection(&ranges(&a), &ranges(&b)).into_iter().flatten().collect();
            prop_assert_eq!(common, a.intersection(&b).copied().collect::<Vec<_>>());
        }
    }
}
