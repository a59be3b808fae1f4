//! The directory of a GGUF file, from any bytes that claim to be the beginning of one.
//!
//! The first byte chooses what is claimed about the length of the file: that it ends with the bytes, or that
//! it goes on, as a remote file does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_gguf::{Directory, Error};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let len = bytes.len() as u64;
    let file_len = match choice % 4 {
        0 | 1 => len,
        2 => len.saturating_mul(u64::from(choice)),
        _ => u64::MAX,
    };
    match Directory::parse(bytes, file_len) {
        Ok(directory) => check(&directory, len, file_len),
        Err(Error::NeedMore { at_least }) => assert!(len < at_least && at_least <= file_len),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// What a directory promises to whoever slices the file by it.
fn check(directory: &Directory, len: u64, file_len: u64) {
    assert!(directory.end <= len);
    let mut ranges = Vec::new();
    for tensor in &directory.tensors {
        let end = tensor.offset.checked_add(tensor.n_bytes).expect("the end does not overflow");
        assert!(directory.data_offset <= tensor.offset && end <= file_len);
        assert_eq!(tensor.offset % directory.alignment, 0);
        assert_eq!(tensor.ty.n_bytes(&tensor.shape), Some(tensor.n_bytes));
        ranges.push((tensor.offset, end));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}
