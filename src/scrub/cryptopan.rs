//! Crypto-PAn: addresses replaced one to one so that those with a common beginning have one afterwards.
//!
//! J. Xu, J. Fan, M. Ammar, S. Moon: Prefix-Preserving IP Address Anonymization, ICNP 2002; with AES-128 as its authors'
//! program, and IPv6 by the same rule over 128 bits, as others do. Who has the key can undo it; and who knows some
//! addresses in a trace learns the beginnings of others. Netblock masking gives less and keeps less.

use crate::key::Address;
use aes::Aes128;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};

/// Replaces addresses by a key.
pub struct CryptoPan {
    cipher: Aes128,
    /// What fills up the bits that are not the address's.
    pad: u128,
}

impl std::fmt::Debug for CryptoPan {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CryptoPan").finish_non_exhaustive()
    }
}

impl CryptoPan {
    /// Bytes of a key: 16 for AES and 16 for the padding.
    pub const KEY_LEN: usize = 32;

    /// A replacement by this key.
    pub fn new(key: &[u8; Self::KEY_LEN]) -> Self {
        let (aes, pad) = key.split_at(16);
        let half = |bytes: &[u8]| -> [u8; 16] { std::array::from_fn(|i| bytes[i]) };
        let cipher = Aes128::new(&Array::from(half(aes)));
        let pad = encrypt(&cipher, u128::from_be_bytes(half(pad)));
        Self { cipher, pad }
    }

    /// What an address becomes: always the same, another for every other.
    pub fn address(&self, addr: Address) -> Address {
        match addr.as_v4() {
            Some(v4) => {
                let high = self.high_bits(u128::from(u32::from_be_bytes(v4)) << 96, 32);
                Address::v4(((high >> 96) as u32).to_be_bytes())
            }
            None => Address(self.high_bits(u128::from_be_bytes(addr.0), 128).to_be_bytes()),
        }
    }

    /// Each bit is turned or not as a function of the bits before it.
    fn high_bits(&self, addr: u128, bits: u32) -> u128 {
        let mut turned = 0;
        for at in 0..bits {
            let before = u128::MAX.checked_shl(128 - at).unwrap_or(0);
            let first = encrypt(&self.cipher, addr & before | self.pad & !before) >> 127;
            turned |= first << (127 - at);
        }
        addr ^ turned
    }
}

fn encrypt(cipher: &Aes128, block: u128) -> u128 {
    let mut block = Array::from(block.to_be_bytes());
    cipher.encrypt_block(&mut block);
    u128::from_be_bytes(block.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// The key of the sample in the authors' program.
    const KEY: [u8; 32] = [
        21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131, 121, 121, 101, 39, 98, 87, 76,
        45, 42, 132, 34, 2,
    ];

    #[test]
    fn the_published_samples_come_out() {
        let pan = CryptoPan::new(&KEY);
        for (from, to) in [
            ("128.11.68.132", "135.242.180.132"),
            ("129.118.74.4", "134.136.186.123"),
            ("130.132.252.244", "133.68.164.234"),
            ("141.223.7.43", "141.167.8.160"),
            ("141.233.145.108", "141.129.237.235"),
            ("152.163.225.39", "151.140.114.167"),
            ("156.29.3.236", "147.225.12.42"),
            ("165.247.96.84", "162.9.99.234"),
            ("166.107.77.190", "160.132.178.185"),
            ("192.102.249.13", "252.138.62.131"),
            ("::1", "78ff:f001:9fc0:20df:8380:b1f1:704:ed"),
            ("::ffff", "78ff:f001:9fc0:20df:8380:b1f1:704:f838"),
            ("2001:db8::1", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e"),
        ] {
            let parse = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(pan.address(parse(from)), parse(to), "{from}");
        }
    }

    proptest! {
        #[test]
        fn common_beginnings_stay_common_and_no_longer(a: u32, b: u32) {
            let pan = CryptoPan::new(&KEY);
            let v4 = |n: u32| u32::from_be_bytes(pan.address(Address::v4(n.to_be_bytes())).as_v4().unwrap());
            prop_assert_eq!((a ^ b).leading_zeros(), (v4(a) ^ v4(b)).leading_zeros());
        }
    }
}
