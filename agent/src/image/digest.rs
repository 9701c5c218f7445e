//! sha256 digests: reading their names, and hashing what flows by.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// A sha256 digest; shown as `sha256:<64 hex>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(String);

impl Digest {
    /// Only the hexadecimal digits.
    pub(super) fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Read `sha256:<64 hex>`. Other algorithms are not used by images that people have.
pub(super) fn parse(s: &str) -> Option<Digest> {
    from_hex(s.strip_prefix("sha256:")?)
}

/// Read 64 lower-case hexadecimal digits.
pub(super) fn from_hex(hex: &str) -> Option<Digest> {
    let ok = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ok.then(|| Digest(hex.to_owned()))
}

/// The digest of bytes in memory.
pub(super) fn of(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}

/// What has flown through a hasher.
pub(super) fn finish(hasher: Sha256) -> Digest {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    Digest(hex)
}

/// A reader that hashes and counts what is read through it.
pub(super) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// Read what is left, then say what all of it hashes to.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(finish(self.hasher))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of(b"").to_string(), empty);
        assert_eq!(HashingReader::new(&b""[..]).finish().unwrap().to_string(), empty);
        assert_eq!(parse(empty).unwrap().to_string(), empty);
    }

    #[test]
    fn a_partly_read_stream_is_hashed_whole() {
        let mut reader = HashingReader::new(&b"kobune"[..]);
        reader.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(reader.finish().unwrap(), of(b"kobune"));
    }

    #[test]
    fn other_digests_are_refused() {
        for bad in ["sha512:00", "sha256:", "e3b0", &format!("sha256:{}", "A".repeat(64))] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
