//! The protobuf wire format: tags, varints, lengths. Knows no message.

use super::DecodeError;

/// One field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
    Fixed32(u32),
}

/// Walks the fields of one message.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index as u32);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a number does not end"))
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(DecodeError::Malformed("a field is longer than the message"));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Field number and value, None at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'b>)>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).unwrap_or(0);
        let bytes = |b: &[u8]| b.iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(bytes(self.take(8)?)),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(bytes(self.take(4)?) as u32),
            _ => return Err(DecodeError::Malformed("a field has an unknown wire type")),
        };
        Ok(Some((number, value)))
    }
}
