//! Hashes, signatures and encodings: SHA-256, HMAC-SHA256, HKDF, base64url, constant-time
//! comparison.

use std::io;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// A key for [`SigningKey::sign`]; `config` ensures at least 32 bytes.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// The CRC-32 of zlib. Not for security: PocketBase makes the ids of definitions of it.
pub fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32| match crc & 1 {
        1 => (crc >> 1) ^ POLYNOMIAL,
        _ => crc >> 1,
    };
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

impl SigningKey {
    /// Hashes the key once for all signatures.
    pub fn new(secret: &[u8]) -> SigningKey {
        let mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(secret);
        SigningKey(mac.expect("HMAC accepts keys of any length"))
    }

    /// HMAC-SHA256 of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    /// True if `signature` is valid for `message`; compares in constant time.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.verify_slice(signature).is_ok()
    }
}

/// Derives a key from a secret for one use (HKDF-SHA256, RFC 5869): keys for different uses reveal
/// nothing about each other or about the secret.
pub fn derive_key(secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; 32] {
    let pseudorandom = SigningKey::new(salt).sign(secret);
    // The first block is as long as a key.
    let block = [info, &[1]].concat();
    SigningKey::new(&pseudorandom).sign(&block)
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// An incremental SHA-256.
pub struct Sha256Hasher(Sha256);

impl Sha256Hasher {
    pub fn new() -> Sha256Hasher {
        Sha256Hasher(Sha256::new())
    }

    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Reads to the end; returns the number of bytes and their SHA-256.
pub fn sha256_of(mut from: impl Read) -> io::Result<(u64, [u8; 32])> {
    let (mut hasher, mut size) = (Sha256Hasher::new(), 0);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((size, hasher.finish())),
            length => {
                hasher.update(&buffer[..length]);
                size += length as u64;
            }
        }
    }
}

/// Base64 with the URL alphabet, without padding (RFC 4648, section 5).
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes [`base64url`]; none if the string is invalid.
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Base64 with the standard alphabet and padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes [`base64()`]; none if the string is invalid.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"id"), 3_208_210_256);
    }

    /// RFC 5869, test cases 1 to 3; a key is the first 32 bytes of their output.
    #[test]
    fn derived_keys_match_the_published_vectors() {
        let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
        for (secret, salt, info, key) in [
            (
                vec![0x0b; 22],
                range(0x00, 0x0c),
                range(0xf0, 0xf9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
            ),
            (
                range(0x00, 0x4f),
                range(0x60, 0xaf),
                range(0xb0, 0xff),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
            ),
            (
                vec![0x0b; 22],
                Vec::new(),
                Vec::new(),
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
            ),
        ] {
            assert_eq!(
                crate::base::ids::hex(&derive_key(&secret, &salt, &info)),
                key
            );
        }
    }

    /// RFC 4231, test case 2.
    #[test]
    fn hmac_matches_the_published_vector() {
        let key = SigningKey::new(b"Jefe");
        let signature = key.sign(b"what do ya want for nothing?");
        assert_eq!(
            crate::base::ids::hex(&signature),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(key.verify(b"what do ya want for nothing?", &signature));
        assert!(!key.verify(b"what do ya want for nothing!", &signature));
        assert!(!key.verify(b"what do ya want for nothing?", &signature[..31]));
    }
}
