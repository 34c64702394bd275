//! Names made from the connection itself, for captures that nobody announces.

use crate::key::{Endpoint, FlowKey, FlowUuid, Name};
use crate::time::{CivilDate, Timestamp};
use uuid::Uuid;

/// The name of a flow: a version 5 UUID (RFC 9562 section 5.5) of its endpoints, its first packet's time and its first
/// sequence number. A replay of the same capture gives the same names.
///
/// `hide` says which endpoints are masked in the archive and `isns` has the sequence numbers that they began with, each of the
/// lower endpoint first. A hidden address enters in its masked form: from the hash of the whole one, the file's own ports and
/// times would lead back to it in 256 guesses. So does the order of the two, which hidden bits decide in one network.
pub fn name(key: &FlowKey, hide: [bool; 2], first: Timestamp, isns: [Option<u32>; 2]) -> Name {
    let mut ends =
        [(key.lo(), hide[0], isns[0]), (key.hi(), hide[1], isns[1])].map(|(end, hidden, isn)| (endpoint(end, hidden), isn));
    ends.sort();
    let isn = ends[0].1.or(ends[1].1).unwrap_or(0);
    let mut bytes = [0; 2 * ENDPOINT + 8 + 4];
    bytes[..ENDPOINT].copy_from_slice(&ends[0].0);
    bytes[ENDPOINT..2 * ENDPOINT].copy_from_slice(&ends[1].0);
    bytes[2 * ENDPOINT..2 * ENDPOINT + 8].copy_from_slice(&first.as_nanos().to_be_bytes());
    bytes[2 * ENDPOINT + 8..].copy_from_slice(&isn.to_be_bytes());
    let uuid = Uuid::new_v5(&NAMESPACE, &bytes).hyphenated().to_string();
    Name { date: CivilDate::from_utc(first), uuid: FlowUuid::parse(&uuid).expect("hexadecimal and hyphens are safe") }
}

fn endpoint(end: Endpoint, hidden: bool) -> [u8; ENDPOINT] {
    let addr = if hidden { end.addr.netblock() } else { end.addr };
    let mut bytes = [0; ENDPOINT];
    bytes[..16].copy_from_slice(&addr.0);
    bytes[16..].copy_from_slice(&end.port.to_be_bytes());
    bytes
}

const ENDPOINT: usize = 18;

/// Made once at random for this purpose.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d6b_9d0e_2c41_4f0a_9a57_e3f1_6c88_b7d4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Address;

    fn key(last: u8) -> FlowKey {
        let a = Endpoint { addr: Address::v4([192, 0, 2, last]), port: 443 };
        let b = Endpoint { addr: Address::v4([198, 51, 100, 7]), port: 50_000 };
        FlowKey::new(a, b).0
    }

    #[test]
    fn the_name_of_a_hidden_endpoint_does_not_depend_on_the_hidden_bits() {
        let t = Timestamp::from_parts(1_795_218_624, 5);
        assert_eq!(name(&key(1), [true, false], t, [Some(9); 2]), name(&key(77), [true, false], t, [Some(9); 2]));
        assert_ne!(name(&key(1), [false, false], t, [Some(9); 2]), name(&key(77), [false, false], t, [Some(9); 2]));
    }

    #[test]
    fn in_one_network_the_hidden_bits_do_not_decide_the_order() {
        let t = Timestamp::from_parts(1_795_218_624, 5);
        // The local host is .10, and sent 7; the other one sent 9.
        let of = |hidden: u8, port: u16| {
            let local = Endpoint { addr: Address::v4([192, 0, 2, 10]), port: 443 };
            let other = Endpoint { addr: Address::v4([192, 0, 2, hidden]), port };
            let (key, _) = FlowKey::new(local, other);
            let mine = [key.lo() == local, key.hi() == local];
            name(&key, mine.map(|mine| !mine), t, mine.map(|mine| Some(if mine { 7 } else { 9 })))
        };
        assert_eq!(of(3, 50_000), of(77, 50_000));
        let both_hidden = |a: u8, b: u8| {
            let [a, b] = [(a, 7), (b, 9)].map(|(last, isn)| (Endpoint { addr: Address::v4([192, 0, 2, last]), port: 443 }, isn));
            let isns = if a.0 <= b.0 { [Some(a.1), Some(b.1)] } else { [Some(b.1), Some(a.1)] };
            name(&FlowKey::new(a.0, b.0).0, [true, true], t, isns)
        };
        assert_eq!(both_hidden(3, 77), both_hidden(77, 3));
    }

    #[test]
    fn a_generated_name_never_changes() {
        let n = name(&key(1), [false, false], Timestamp::from_parts(1_795_218_624, 5), [Some(9), Some(3)]);
        assert_eq!(n.uuid.as_str(), "006c1bcb-59f6-53ff-bb14-51a0bc30c560");
        assert_eq!(n.date.to_string(), "2026/11/20");
    }
}
