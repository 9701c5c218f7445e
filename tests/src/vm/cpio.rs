//! The "newc" archive format of initramfs images, as far as needed: directories and files of root.
//! Pure: bytes in, bytes out.

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    pub fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// A file with its permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, 0o100_000 | permissions, content);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Header (13 fields of 8 hexadecimal digits after the magic), name and content, each padded to four bytes.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        let size = u32::try_from(content.len()).expect("files of an initramfs are small");
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        let links = 1;
        let fields = [self.inodes, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_carry_their_size() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // The second header starts after 110 + "dev\0" = 114, padded to 116.
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(&bytes[116 + 14..116 + 22], b"000081ed");
        assert_eq!(&bytes[116 + 54..116 + 62], b"0000000a");
        let content = 116 + (110 + 5_usize).next_multiple_of(4);
        assert_eq!(&bytes[content..content + 10], b"#!/bin/sh\n");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
