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

    /// By yacryptopan 1.0.2 (PyPI), of random keys and addresses; 20,000 more agreed.
    #[test]
    fn another_program_replaces_alike() {
        for (key, addresses) in [
            (
                "a54dca182530bb1d6d132cded6237b2ed91e3f721fcb1971174494d6493c9d5c",
                &[
                    ("a38f:d547:923a:7369:94e3:bf91:1a61:dbe2", "1d70:14c7:8f3a:8c66:1b1c:3f9f:1a7d:25e2"),
                    ("48.24.80.197", "255.232.83.194"),
                    ("2001:b64c:8c38:fb29:18f1:35d2:5f55:7203", "e786:49ac:8c38:c05e:3f33:c532:5f54:7201"),
                    ("16.18.240.55", "195.149.207.248"),
                    ("34b9:b5df:9e77:69b1:f42:5b4:907a:70c3", "fb57:ca3f:e04b:29b1:e8fd:fabf:2f99:f303"),
                    ("127.21.5.36", "142.97.4.155"),
                    ("2001:c6f8:6d76:b07e:881e:d162:ae2e:b154", "e786:9f7:92b1:41b9:539e:ed1d:ae01:4e64"),
                    ("80.107.242.239", "168.11.242.238"),
                ],
            ),
            (
                "eee8b9997f5c7c2999fdafe593253cd654af4dfad71427a0aeb3fee9232f8af2",
                &[
                    ("f88:80b:10a3:d6b2:aa05:e11a:b271:5945", "ca49:82c:f6a7:d55a:41f1:3565:426d:6145"),
                    ("187.45.66.15", "52.80.130.20"),
                    ("2001:93f4:a5aa:3c81:4f42:6dcb:b394:fb36", "ffd8:6cf7:5e56:3f7f:494a:5dca:c394:3d37"),
                    ("254.59.137.11", "101.251.137.19"),
                    ("48db:40af:7215:8370:d269:a9a5:ae65:8f33", "b0d4:bf68:4a65:75e1:d076:b5ba:2d9a:70f2"),
                    ("183.116.235.82", "59.131.148.188"),
                    ("2001:58d5:ab2c:d31e:e315:1288:62c3:3a4f", "ffd8:9f46:ab2c:d2ed:9f16:e888:62c0:baa6"),
                    ("5.198.175.7", "197.57.179.4"),
                ],
            ),
            (
                "ecb5563bfc1e6f93427ecbc8fe2955e5cd8e46dc8ed4b7c2764d2a5a4d767706",
                &[
                    ("2eae:5cf:96d0:cc5f:d4c2:8c2e:7c26:847f", "d6ae:3a37:892f:2c5c:54e4:8cd2:7b26:b819"),
                    ("67.67.92.197", "163.252.180.197"),
                    ("2001:6b40:254b:c4e:10c:4759:482c:9cbc", "dff9:9540:d233:4c31:32f3:c178:b192:dc9c"),
                    ("136.218.244.1", "112.219.4.190"),
                    ("5190:88f5:90fb:bd11:9c1c:aaf7:5e87:66ed", "be94:af19:96e4:4359:a41c:978f:a6bf:66e2"),
                    ("243.254.57.192", "3.255.198.63"),
                    ("2001:83f7:dbf4:a8b2:b0c4:312d:2020:3626", "dff9:5e09:bbf6:6aad:ecc3:b52f:2da0:19f6"),
                    ("243.65.224.122", "3.50.227.250"),
                ],
            ),
        ] {
            let pan = CryptoPan::new(&std::array::from_fn(|i| u8::from_str_radix(&key[2 * i..][..2], 16).unwrap()));
            for (from, to) in addresses {
                let parse = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
                assert_eq!(pan.address(parse(from)), parse(to), "{from}");
            }
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
