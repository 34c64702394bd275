//! Names made from the connection itself, for captures that nobody announces.

use crate::key::{Endpoint, FlowKey, FlowUuid, Name};
use crate::time::{CivilDate, Timestamp};
use uuid::Uuid;

/// The name of a flow: a version 5 UUID (RFC 9562 section 5.5) of its endpoints, its first packet's time and its first
/// sequence number. A replay of the same capture gives the same names.
///
/// `hide` says which endpoints are masked in the archive, lower one first. A hidden address enters in its masked form:
/// from the hash of the whole one, the file's own ports and times would lead back to it in 256 guesses.
pub fn name(key: &FlowKey, hide: [bool; 2], first: Timestamp, isn: u32) -> Name {
    let mut bytes = [0; 2 * ENDPOINT + 8 + 4];
    for (i, (end, hidden)) in [key.lo(), key.hi()].into_iter().zip(hide).enumerate() {
        bytes[i * ENDPOINT..(i + 1) * ENDPOINT].copy_from_slice(&endpoint(end, hidden));
    }
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
        assert_eq!(name(&key(1), [true, false], t, 9), name(&key(77), [true, false], t, 9));
        assert_ne!(name(&key(1), [false, false], t, 9), name(&key(77), [false, false], t, 9));
    }

    #[test]
    fn a_generated_name_never_changes() {
        let n = name(&key(1), [false, false], Timestamp::from_parts(1_795_218_624, 5), 9);
        assert_eq!(n.uuid.as_str(), name(&key(1), [false, false], Timestamp::from_parts(1_795_218_624, 5), 9).uuid.as_str());
        assert_eq!(n.date.to_string(), "2026/11/20");
    }
}
