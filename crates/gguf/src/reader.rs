//! A cursor over the first bytes of a file that knows how long the whole file is.
//!
//! It is the one place that decides between the three ways of running out of bytes: the file is too short
//! for what it announces, the directory is absurdly long, or the prefix at hand is shorter than the file.

use std::fmt;

use crate::Error;
use crate::directory::MAX_DIRECTORY_BYTES;

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: u64,
    file_len: u64,
}

impl<'a> Reader<'a> {
    /// - `bytes`: the file from its first byte, perhaps not to its end
    /// - `file_len`: length of the whole file in bytes
    pub(crate) fn new(bytes: &'a [u8], file_len: u64) -> Self {
        let n = usize::try_from(file_len).map_or(bytes.len(), |len| len.min(bytes.len()));
        Self { bytes: &bytes[..n], offset: 0, file_len }
    }

    /// Where the next field begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next `n` bytes as part of `field`.
    pub(crate) fn take(&mut self, n: u64, field: fmt::Arguments<'_>) -> Result<&'a [u8], Error> {
        let end = self.require(n, field)?;
        let range = index(self.offset)..index(end);
        self.offset = end;
        Ok(&self.bytes[range])
    }

    /// Checks that `n` more bytes are at hand and returns where they end.
    ///
    /// Counts go through here, times the least size of what they count, before anything is allocated.
    pub(crate) fn require(&self, n: u64, field: fmt::Arguments<'_>) -> Result<u64, Error> {
        let end = self.offset.saturating_add(n);
        if end > self.file_len {
            return Err(Error::Truncated {
                field: field.to_string(),
                offset: self.offset,
                needed: n,
                available: self.file_len - self.offset,
            });
        }
        if end > MAX_DIRECTORY_BYTES {
            return Err(Error::DirectoryTooLarge {
                field: field.to_string(),
                offset: self.offset,
                end,
                limit: MAX_DIRECTORY_BYTES,
            });
        }
        if end > self.bytes.len() as u64 {
            return Err(Error::NeedMore { at_least: end });
        }
        Ok(end)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: fmt::Arguments<'_>,
    ) -> Result<[u8; N], Error> {
        let bytes = self.take(N as u64, field)?;
        Ok(bytes.try_into().expect("take returns as many bytes as it was asked for"))
    }

    pub(crate) fn u32(&mut self, field: fmt::Arguments<'_>) -> Result<u32, Error> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: fmt::Arguments<'_>) -> Result<u64, Error> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Reads a length and as many bytes of UTF-8.
    ///
    /// - `len_max`: bytes that the string may have
    pub(crate) fn string(
        &mut self,
        len_max: u64,
        field: fmt::Arguments<'_>,
    ) -> Result<&'a str, Error> {
        let offset = self.offset;
        let len = self.u64(format_args!("length of {field}"))?;
        if len > len_max {
            return Err(malformed(
                format_args!("length of {field}"),
                offset,
                format!("at most {len_max} bytes"),
                len.to_string(),
            ));
        }
        let offset = self.offset;
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            let byte = bytes[at];
            malformed(field, offset, "UTF-8".to_owned(), format!("byte {byte:#04x} at index {at}"))
        })
    }
}

pub(crate) fn malformed(
    field: fmt::Arguments<'_>,
    offset: u64,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Error {
    Error::Malformed {
        field: field.to_string(),
        offset,
        expected: expected.into(),
        found: found.into(),
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets that were checked against a slice fit in usize")
}
