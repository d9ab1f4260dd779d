//! The SHA-256 of a file: its type, and the ways clients and servers write it.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// A SHA-256. Displays as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Reads the value of a `Repr-Digest` header ([RFC 9530]): `None` if it names no SHA-256.
    ///
    /// [RFC 9530]: https://www.rfc-editor.org/rfc/rfc9530.html#section-3
    pub fn from_repr_digest(value: &str) -> Result<Option<Self>, InvalidDigest> {
        let fields: sfv::Dictionary = sfv::Parser::new(value).parse().map_err(|_| InvalidDigest)?;
        let mut sha256 = None;
        for (algorithm, member) in &fields {
            // Whatever the algorithm: what is no byte sequence is no digest.
            let sfv::ListEntry::Item(sfv::Item { bare_item: sfv::BareItem::ByteSequence(bytes), .. }) =
                member
            else {
                return Err(InvalidDigest);
            };
            if algorithm.as_str() == "sha-256" {
                sha256 = Some(Self(bytes.as_slice().try_into().map_err(|_| InvalidDigest)?));
            }
        }
        Ok(sha256)
    }

    /// The value of a `Repr-Digest` header.
    pub fn to_repr_digest(self) -> String {
        format!("sha-256=:{}:", BASE64_STANDARD.encode(self.0))
    }

    /// The first eight bytes as a number.
    pub fn leading_bits(self) -> u64 {
        self.0[..8].iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidDigest)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A text that is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256")]
pub struct InvalidDigest;

/// Computes a digest block by block.
#[derive(Debug, Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(sha2::Digest::finalize(self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.to_uppercase().parse(), Ok(Digest::of(b"abc")));
        for text in ["", "abc", &ABC[1..], &format!("{ABC}\n"), &"g".repeat(64)] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text:?}");
        }
    }

    #[test]
    fn repr_digest_goes_both_ways() {
        let digest = Digest::of(b"abc");
        assert_eq!(Digest::from_repr_digest(&digest.to_repr_digest()), Ok(Some(digest)));
        let among_others = format!("sha-512=:YWJj:, {};x=1", digest.to_repr_digest());
        assert_eq!(Digest::from_repr_digest(&among_others), Ok(Some(digest)));
        assert_eq!(Digest::from_repr_digest("sha-512=:YWJj:"), Ok(None));
        for value in
            ["sha-256", "sha-256=abc", "sha-256=:YWJj:", "sha-256=(1 2)", "sha-512", "=", "sha-256=:%:"]
        {
            assert_eq!(Digest::from_repr_digest(value), Err(InvalidDigest), "{value}");
        }
    }
}
