//! Bytes from anybody: cut, changed or random, they give an error or a sound directory, never a panic.

use proptest::prelude::*;
use shoal_gguf::{Array, Directory, Error, TensorType, Value, Writer};

/// A small file with every kind of value and several tensors.
fn file() -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new()
        .metadata("general.architecture", "llama")
        .metadata("a.u8", Value::U8(1))
        .metadata("a.i64", Value::I64(-1))
        .metadata("a.bool", true)
        .metadata("a.f64", Value::F64(0.5))
        .metadata("a.strings", vec!["one".to_owned(), "zwei".to_owned(), "três".to_owned()])
        .metadata("a.numbers", vec![1i32, 2, 3])
        .metadata("a.bools", Value::Array(Array::Bool(vec![true, false])))
        .metadata(
            "a.nested",
            Value::Array(Array::Array(vec![Array::U16(vec![7]), Array::String(vec!["x".into()])])),
        )
        .tensor("norm", TensorType::F32, &[4], &[1; 16])
        .tensor("weight", TensorType::Q8_0, &[2, 32], &[2; 68])
        .tensor("scalar", TensorType::F16, &[], &[3; 2])
        .write(&mut bytes)
        .expect("the file is valid");
    bytes
}

/// Asserts what a directory promises to whoever slices the file by it.
#[track_caller]
fn assert_sound(directory: &Directory, file_len: u64) {
    let mut ends: Vec<(u64, u64)> = Vec::new();
    for tensor in &directory.tensors {
        let end = tensor.offset.checked_add(tensor.n_bytes).expect("the end does not overflow");
        assert!(end <= file_len && tensor.offset >= directory.data_offset, "{tensor:?}");
        assert!(tensor.offset.is_multiple_of(directory.alignment), "{tensor:?}");
        assert_eq!(tensor.ty.n_bytes(&tensor.shape), Some(tensor.n_bytes));
        ends.push((tensor.offset, end));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "tensors overlap: {ends:?}");
}

#[test]
fn refuses_a_file_cut_at_every_byte() {
    let bytes = file();
    let whole = Directory::parse(&bytes, bytes.len() as u64).expect("the whole file is valid");
    let last = whole.tensors.iter().map(|t| t.offset + t.n_bytes).max().expect("it has tensors");
    for n in 0..last {
        let cut = &bytes[..n as usize];
        match Directory::parse(cut, n) {
            Err(Error::Truncated { .. }) => {}
            other => panic!("cut at {n}: {other:?}"),
        }
    }
}

#[test]
fn asks_for_more_until_it_has_the_directory_and_not_a_byte_longer() {
    let bytes = file();
    let file_len = bytes.len() as u64;
    let whole = Directory::parse(&bytes, file_len).expect("the whole file is valid");
    for n in 0..bytes.len() {
        match Directory::parse(&bytes[..n], file_len) {
            Ok(directory) => {
                assert!(n as u64 >= whole.end);
                assert_eq!(directory, whole);
            }
            Err(Error::NeedMore { at_least }) => {
                assert!(at_least > n as u64 && at_least <= whole.end, "{n}: {at_least}");
            }
            Err(other) => panic!("prefix of {n}: {other}"),
        }
        let is_long_enough = n as u64 >= whole.end;
        match Directory::check_length(&bytes[..n], file_len) {
            Ok(()) => assert!(is_long_enough, "{n}"),
            Err(Error::NeedMore { at_least }) => {
                assert!(!is_long_enough && at_least > n as u64, "{n}: {at_least}");
            }
            Err(other) => panic!("prefix of {n}: {other}"),
        }
    }
}

#[test]
fn following_need_more_reaches_the_directory() {
    let bytes = file();
    let mut n = 0;
    let directory = loop {
        match Directory::parse(&bytes[..n], bytes.len() as u64) {
            Ok(directory) => break directory,
            Err(Error::NeedMore { at_least }) => n = at_least as usize,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(n as u64, directory.end);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn survives_changed_bytes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        file_len in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let mut bytes = file();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let file_len = file_len.unwrap_or(bytes.len() as u64);
        let length = Directory::check_length(&bytes, file_len);
        if let Ok(directory) = Directory::parse(&bytes, file_len) {
            assert_sound(&directory, file_len);
            assert!(length.is_ok(), "what can be parsed has all its length");
        }
    }

    #[test]
    fn survives_changed_counts_and_lengths(
        at in any::<prop::sample::Index>(),
        number in prop_oneof![0u64..64, Just(1u64 << 60), Just(u64::MAX), any::<u64>()],
    ) {
        let mut bytes = file();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        if let Ok(directory) = Directory::parse(&bytes, bytes.len() as u64) {
            assert_sound(&directory, bytes.len() as u64);
        }
    }

    #[test]
    fn survives_random_bytes_after_a_good_beginning(
        n_tensors in 0u64..4,
        n_entries in 0u64..4,
        rest in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(n_entries.to_le_bytes());
        bytes.extend(rest);
        if let Ok(directory) = Directory::parse(&bytes, bytes.len() as u64) {
            assert_sound(&directory, bytes.len() as u64);
        }
    }
}
