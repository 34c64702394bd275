//! What identifies a connection: two endpoints on the wire, in no order, and its UUID everywhere else.
//!
//! Addresses are 16 bytes; an IPv4 address is its IPv4-mapped IPv6 form (RFC 4291 section 2.5.5.2), so that an
//! event that names `::ffff:192.0.2.1` and a packet from `192.0.2.1` meet. There is no protocol (always TCP), no
//! VLAN and no interface in a key.

use crate::time::CivilDate;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// An IPv6 address, or an IPv4 address in mapped form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The mapped form of four network-order bytes.
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// The address without the bits that netblock masking hides: the last 8 of IPv4, the last 80 of IPv6 (/48), the last
    /// 88 of 6to4, whose first 48 bits hold a whole IPv4 address (RFC 3056 section 2).
    pub const fn netblock(self) -> Self {
        match self.as_v4() {
            Some([a, b, c, _]) => Self::v4([a, b, c, 0]),
            None => {
                let b = self.0;
                let sixth = if b[0] == 0x20 && b[1] == 0x02 { 0 } else { b[5] };
                Self([b[0], b[1], b[2], b[3], b[4], sixth, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
        }
    }

    /// The four bytes if this is an IPv4 address.
    pub const fn as_v4(self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(a: Address) -> Self {
        match a.as_v4() {
            Some(b) => IpAddr::V4(Ipv4Addr::from(b)),
            None => IpAddr::V6(Ipv6Addr::from(a.0)),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", IpAddr::from(*self))
    }
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// The address.
    pub addr: Address,
    /// The TCP port, host order.
    pub port: u16,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.addr.into(), self.port))
    }
}

/// The unordered pair of a connection's endpoints: `lo <= hi`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct FlowKey {
    lo: Endpoint,
    hi: Endpoint,
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the lower endpoint of the key to the higher one.
    LoToHi,
    /// From the higher endpoint of the key to the lower one.
    HiToLo,
}

impl FlowKey {
    /// The key of a packet from `src` to `dst`, and the packet's direction in it.
    pub fn new(src: Endpoint, dst: Endpoint) -> (Self, Direction) {
        if src <= dst { (Self { lo: src, hi: dst }, Direction::LoToHi) } else { (Self { lo: dst, hi: src }, Direction::HiToLo) }
    }

    /// The lower endpoint.
    pub fn lo(&self) -> Endpoint {
        self.lo
    }

    /// The higher endpoint.
    pub fn hi(&self) -> Endpoint {
        self.hi
    }
}

impl Direction {
    /// The other way.
    pub fn reverse(self) -> Self {
        match self {
            Self::LoToHi => Self::HiToLo,
            Self::HiToLo => Self::LoToHi,
        }
    }

    /// 0 for `LoToHi`, 1 for `HiToLo`: for arrays of per-direction values.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Who tells of connections and their names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UuidSource {
    /// tcp-info, by its event socket or a file of its events.
    EventSocket,
    /// This host's kernel.
    Kernel,
}

/// A connection's name, safe as a file name: 1 to 200 of `A-Z a-z 0-9 . _ : -`, not starting with a dot, no `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowUuid(Arc<str>);

impl FlowUuid {
    /// Longest name taken, in bytes: with date, suffix and temporary parts it stays below NAME_MAX.
    pub const MAX_LEN: usize = 200;

    /// Takes a name if it is safe in a path.
    ///
    /// # Errors
    /// Says what makes it unsafe; never holds the name itself.
    pub fn parse(name: &str) -> Result<Self, BadUuid> {
        if name.is_empty() {
            return Err(BadUuid::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(BadUuid::TooLong);
        }
        if name.starts_with('.') || name.contains("..") {
            return Err(BadUuid::Dots);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')) {
            return Err(BadUuid::Alphabet);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FlowUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FlowUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name cannot be a file name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadUuid {
    /// No name at all.
    #[error("empty UUID")]
    Empty,
    /// Longer than [`FlowUuid::MAX_LEN`].
    #[error("UUID longer than {} bytes", FlowUuid::MAX_LEN)]
    TooLong,
    /// Starts with a dot or holds two in a row.
    #[error("UUID with a leading dot or '..'")]
    Dots,
    /// Holds a byte outside the alphabet.
    #[error("UUID with a character other than A-Z a-z 0-9 . _ : -")]
    Alphabet,
}

/// A file's name below the data folder: the day and the UUID.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The folder: the event timestamp's day in the event's own UTC offset.
    pub date: CivilDate,
    /// The file name without `.pcap.gz`.
    pub uuid: FlowUuid,
}

impl fmt::Display for Name {
    /// Writes `YYYY/MM/DD/UUID.pcap.gz`, the path below the data folder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.pcap.gz", self.date, self.uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_of_a_connection_have_one_key() {
        let a = Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 443 };
        let b = Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 50_000 };
        let (k1, d1) = FlowKey::new(a, b);
        let (k2, d2) = FlowKey::new(b, a);
        assert_eq!(k1, k2);
        assert_eq!(d1, d2.reverse());
    }

    #[test]
    fn netblock_hides_the_host_and_of_6to4_the_host_behind_it() {
        for (whole, masked) in
            [("192.0.2.77", "192.0.2.0"), ("2001:db8:1:2::77", "2001:db8:1::"), ("2002:c000:24d:1::77", "2002:c000:200::")]
        {
            let parse = |s: &str| Address::from(s.parse::<IpAddr>().unwrap());
            assert_eq!(parse(whole).netblock(), parse(masked));
        }
    }

    #[test]
    fn a_mapped_address_equals_its_ipv4_form() {
        let mapped: IpAddr = "::ffff:10.9.0.1".parse().unwrap();
        let plain: IpAddr = "10.9.0.1".parse().unwrap();
        assert_eq!(Address::from(mapped), Address::from(plain));
        assert_eq!(format!("{:?}", Address::from(mapped)), "10.9.0.1");
    }
}
