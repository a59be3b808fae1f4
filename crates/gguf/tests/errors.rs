//! What errors say, word for word: field, offset, expected, found.

use shoal_gguf::{Directory, Metadata, TensorType, Value, Writer};

fn write(writer: Writer<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write(&mut bytes).expect("the file is valid");
    bytes
}

/// Finds the only occurrence of `needle`.
#[track_caller]
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    let mut found = bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle);
    let (at, _) = found.next().expect("the needle is there");
    assert!(found.next().is_none(), "the needle is there twice");
    at
}

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    let error = Directory::parse(bytes, bytes.len() as u64).expect_err("the bytes are malformed");
    assert_eq!(error.to_string(), expected);
}

/// One key, two tensors: `key` at byte 32, its type at 35, its value at 39.
fn small() -> Vec<u8> {
    write(
        Writer::new().metadata("key", 7u32).tensor("a", TensorType::F32, &[2, 8], &[0; 64]).tensor(
            "b",
            TensorType::Q8_0,
            &[1, 32],
            &[0; 34],
        ),
    )
}

fn patched(at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

#[test]
fn header_errors_say_what_kind_of_file_it_is() {
    check(b"", "magic at byte 0: expected 4 bytes, but the file ends after 0");
    check(b"GGUF\x03", "version at byte 4: expected 4 bytes, but the file ends after 1");
    check(b"PK\x03\x04....", "magic at byte 0: expected `GGUF`, got `PK\\x03\\x04`");
    check(b"GGUF\x01\0\0\0", "version at byte 4: expected 2 or 3, got 1");
    check(b"GGUF\0\0\0\0", "version at byte 4: expected 2 or 3, got 0");
    check(b"GGUF\x04\0\0\0", "version at byte 4: expected 2 or 3, got 4");
    check(
        b"GGUF\0\0\0\x03",
        "version at byte 4: expected a little-endian file, got a big-endian one (version 3)",
    );
}

#[test]
fn count_errors_come_before_any_reading() {
    check(
        &patched(8, &(1u64 << 60).to_le_bytes()),
        "directory of 1152921504606846976 tensors at byte 43: \
         expected 18446744073709551615 bytes, but the file ends after 213",
    );
    check(
        &patched(16, &1000u64.to_le_bytes()),
        "metadata of 1000 entries at byte 24: expected 14000 bytes, but the file ends after 232",
    );
    let mut long = small();
    long[24..32].copy_from_slice(&65_536u64.to_le_bytes());
    check(&long, "length of metadata key 0 at byte 24: expected at most 65535 bytes, got 65536");
}

#[test]
fn metadata_errors_name_the_key() {
    check(
        &patched(35, &13u32.to_le_bytes()),
        "type of metadata key at byte 35: expected a value type (0 to 12), got 13",
    );
    check(
        &patched(35, &7u32.to_le_bytes()),
        "metadata key at byte 39: expected a bool (0 or 1), got 7",
    );
    check(
        &patched(33, b"\xff"),
        "metadata key 0 at byte 32: expected UTF-8, got byte 0xff at index 1",
    );
    let mut bytes = write(
        Writer::new()
            .metadata("tokens", vec!["ok".to_owned(), "??".to_owned()])
            .metadata("tokenz", 1u32),
    );
    let at = find(&bytes, b"??");
    bytes[at] = 0x80;
    check(&bytes, "metadata tokens[1] at byte 72: expected UTF-8, got byte 0x80 at index 0");
    bytes[at] = b'?';
    let at = find(&bytes, b"tokenz");
    bytes[at + 5] = b's';
    check(&bytes, "metadata key 1 at byte 74: expected unique keys, got \"tokens\" again");
    check(
        &write(Writer::new().metadata("general.alignment", 32u32)).tap(|bytes| {
            let at = bytes.len() - 11;
            assert_eq!(bytes[53], 32, "{at}");
            bytes[53] = 48;
        }),
        "metadata general.alignment: expected u32 that is a power of two, got u32 48",
    );
}

#[test]
fn deep_arrays_are_refused_before_the_stack_is() {
    let mut bytes = write(Writer::new().metadata("key", 9u32));
    bytes.truncate(35);
    for _ in 0..100_000 {
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
    }
    // The first type is the entry's own; each further level is a type and a length.
    bytes.splice(35..35, 9u32.to_le_bytes());
    check(
        &bytes,
        "type of metadata key at byte 75: expected arrays nested at most 4 deep, got one more level",
    );
}

#[test]
fn tensor_errors_name_the_tensor() {
    // Entry of `a`: length 43, name 51, dimensions' number 52, dimensions 56 and 64, type 72, offset 76.
    check(
        &patched(52, &5u32.to_le_bytes()),
        "number of dimensions of tensor a at byte 52: expected at most 4, got 5",
    );
    check(
        &patched(56, &0u64.to_le_bytes()),
        "dimension 0 of tensor a at byte 56: expected at least 1, got 0",
    );
    check(
        &patched(56, &(1u64 << 62).to_le_bytes()),
        "shape of tensor a at byte 52: expected f32 with rows of a multiple of 1 elements and fewer than \
         2^64 bytes, got [2, 4611686018427387904]",
    );
    check(
        &patched(72, &12u32.to_le_bytes()),
        "shape of tensor a at byte 52: expected q4_K with rows of a multiple of 256 elements and fewer \
         than 2^64 bytes, got [2, 8]",
    );
    check(
        &patched(72, &31u32.to_le_bytes()),
        "type of tensor a at byte 72: expected a tensor type of ggml, got 31",
    );
    check(
        &patched(76, &1u64.to_le_bytes()),
        "offset of tensor a, data at byte 128: expected a multiple of 32, got 1",
    );
    check(
        &patched(76, &(u64::MAX - 31).to_le_bytes()),
        "data of tensor a at byte 18446744073709551615: expected 64 bytes, but the file ends after 0",
    );
    // Entry of `b`: length 84, name 92.
    check(
        &patched(92, b"a"),
        "name of tensor 1 at byte 84: expected unique names, got \"a\" again",
    );
}

#[test]
fn overlapping_tensors_are_refused() {
    // Offset of `b`: 93 dimensions' number, 97 and 105 dimensions, 113 type, 117 offset.
    check(
        &patched(117, &32u64.to_le_bytes()),
        "data of tensor b at byte 160: expected it after the end of tensor a at 192, got an overlap",
    );
}

#[test]
fn a_cut_file_says_which_tensor_is_lost() {
    let bytes = small();
    check(
        &bytes[..198],
        "data of tensor b at byte 192: expected 34 bytes, but the file ends after 6",
    );
}

#[test]
fn getters_say_key_expected_and_found() {
    let bytes = write(
        Writer::new()
            .metadata("n", 7u32)
            .metadata("negative", Value::I32(-1))
            .metadata("wide", Value::U64(1 << 40))
            .metadata("name", "llama")
            .metadata("ids", vec![1i32, -2])
            .metadata("text", "x".repeat(100)),
    );
    let directory = Directory::parse(&bytes, bytes.len() as u64).expect("the file is valid");
    let metadata: &Metadata = &directory.metadata;
    assert_eq!(metadata.u32("absent").expect("absent is no error"), None);
    let cases = [
        (metadata.require_u32("absent").err(), "metadata absent: expected u32, got nothing"),
        (metadata.u32("negative").err(), "metadata negative: expected u32, got i32 -1"),
        (metadata.u32("wide").err(), "metadata wide: expected u32, got u64 1099511627776"),
        (metadata.f32("n").err(), "metadata n: expected f32, got u32 7"),
        (metadata.bool("n").err(), "metadata n: expected bool, got u32 7"),
        (metadata.u32("name").err(), "metadata name: expected u32, got string \"llama\""),
        (metadata.str("ids").err(), "metadata ids: expected string, got array of 2 i32s"),
        (
            metadata.strings("ids").err(),
            "metadata ids: expected array of strings, got array of 2 i32s",
        ),
        (
            metadata.u32s("ids").err(),
            "metadata ids: expected array of u32, got array of 2 i32s with the element -2",
        ),
    ];
    for (error, expected) in cases {
        assert_eq!(error.expect("the getter refuses").to_string(), expected);
    }
    let text = metadata.u32("text").expect_err("a string is no number").to_string();
    assert!(text.contains("string of 100 bytes") && text.len() < 120, "{text}");
}

/// Changes a value in the middle of an expression.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Vec<u8> {}
