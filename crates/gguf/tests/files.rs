//! Whole models: what is written is read, from one file, from several and from the binary.

use std::error::Error as _;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use shoal_gguf::{Array, Error, Gguf, TensorType, Value, Writer};

/// A directory that is removed with its contents when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("shoal-gguf-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the directory is new");
        Self(path)
    }

    fn write(&self, name: &str, writer: Writer<'_>) -> PathBuf {
        let path = self.0.join(name);
        let file = fs::File::create(&path).expect("the directory is writable");
        let n = writer.write(file).expect("the file is valid");
        assert_eq!(fs::metadata(&path).expect("the file is there").len(), n);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The error and its sources in one line, without the scratch directory.
fn text(error: &Error, scratch: &Scratch) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text.replace(&format!("{}/", scratch.0.display()), "")
}

fn all_values() -> Vec<(&'static str, Value)> {
    vec![
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f32", Value::F32(0.1)),
        ("f64", Value::F64(0.1)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("größer, 大きい".into())),
        ("u8s", Value::Array(Array::U8(vec![1, 2]))),
        ("i8s", Value::Array(Array::I8(vec![-1, 2]))),
        ("u16s", Value::Array(Array::U16(vec![1, 2]))),
        ("i16s", Value::Array(Array::I16(vec![1, -2]))),
        ("u32s", Value::Array(Array::U32(vec![1, 2]))),
        ("i32s", Value::Array(Array::I32(vec![1, -2]))),
        ("u64s", Value::Array(Array::U64(vec![1, u64::MAX]))),
        ("i64s", Value::Array(Array::I64(vec![1, i64::MIN]))),
        ("f32s", Value::Array(Array::F32(vec![1.0, 0.1]))),
        ("f64s", Value::Array(Array::F64(vec![1.0, 0.1]))),
        ("bools", Value::Array(Array::Bool(vec![true, false, true]))),
        ("strings", Value::Array(Array::String(vec!["a".into(), String::new()]))),
        ("empty", Value::Array(Array::String(vec![]))),
        (
            "nested",
            Value::Array(Array::Array(vec![
                Array::Array(vec![Array::U8(vec![1])]),
                Array::F32(vec![]),
            ])),
        ),
    ]
}

#[test]
fn every_value_and_tensor_survives_a_round_trip_in_both_versions() {
    let scratch = Scratch::new();
    for version in [2, 3] {
        let data: Vec<Vec<u8>> = TensorType::all()
            .map(|ty| vec![ty.id() as u8; 2 * ty.block_bytes() as usize])
            .collect();
        let mut writer = Writer::new().version(version);
        for (key, value) in all_values() {
            writer = writer.metadata(key, value);
        }
        for (ty, data) in TensorType::all().zip(&data) {
            writer = writer.tensor(ty.name(), ty, &[2, 1, ty.block_len()], data);
        }
        let model = Gguf::open(&scratch.write("m.gguf", writer)).expect("the file is valid");

        let values: Vec<(&str, Value)> =
            model.metadata().iter().map(|(k, v)| (k, v.clone())).collect();
        assert_eq!(values, all_values());
        for (ty, data) in TensorType::all().zip(&data) {
            let tensor = model.tensor(ty.name()).expect("the tensor was written");
            assert_eq!((tensor.info.ty, tensor.bytes), (ty, &data[..]));
            assert_eq!(tensor.info.shape, [2, 1, ty.block_len()]);
        }
        assert!(model.tensor("absent").is_none());
    }
}

#[test]
fn data_are_aligned_as_the_metadata_say() {
    let scratch = Scratch::new();
    for alignment in [1u32, 8, 64, 4096] {
        let writer = Writer::new()
            .metadata("general.alignment", alignment)
            .tensor("a", TensorType::I8, &[3], b"abc")
            .tensor("b", TensorType::I8, &[2], b"de");
        let model = Gguf::open(&scratch.write("m.gguf", writer)).expect("the file is valid");
        assert_eq!(model.tensor("b").expect("it was written").bytes, b"de");
        for tensor in model.tensors() {
            assert!(tensor.offset.is_multiple_of(alignment.into()), "{tensor:?}");
        }
    }
}

fn part(no: u16, count: u16, name: &str) -> Writer<'_> {
    let writer = Writer::new();
    let writer = if no == 0 { writer.metadata("general.name", "whole") } else { writer };
    writer
        .metadata("split.no", Value::U16(no))
        .metadata("split.count", Value::U16(count))
        .metadata("split.tensors.count", Value::I32(3))
        .tensor(name, TensorType::I8, &[4], b"data")
}

fn parts(scratch: &Scratch) -> Vec<PathBuf> {
    (0..3)
        .map(|no| {
            let name = format!("m-{:05}-of-00003.gguf", no + 1);
            scratch.write(&name, part(no, 3, ["a", "b", "c"][usize::from(no)]))
        })
        .collect()
}

#[test]
fn a_split_model_opens_from_any_part() {
    let scratch = Scratch::new();
    for path in parts(&scratch) {
        let model = Gguf::open(&path).expect("the parts fit together");
        let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(model.tensor("c").expect("it is in the last part").info.file_idx, 2);
        assert_eq!(model.metadata().require_str("general.name").expect("part 1 has it"), "whole");
        assert_eq!(model.directory_bytes().count(), 3);
        assert!(model.directory_bytes().all(|bytes| bytes.starts_with(b"GGUF")));
    }
}

#[test]
fn parts_may_have_any_name() {
    let scratch = Scratch::new();
    let renamed: Vec<PathBuf> = parts(&scratch)
        .into_iter()
        .map(|path| {
            let to = path.with_extension("part");
            fs::rename(path, &to).expect("same directory");
            to
        })
        .collect();
    let model = Gguf::open_files(&renamed).expect("the parts fit together");
    assert_eq!(model.tensors().len(), 3);
    let error = Gguf::open_files(&renamed[1..]).expect_err("the first is missing");
    let expected = "cannot read m-00002-of-00003.part: split model: split.count: expected part 1 of 2, \
                    got part 2 of 3";
    assert_eq!(text(&error, &scratch), expected);
}

#[track_caller]
fn check_split(change: impl FnOnce(&Scratch, &[PathBuf]), expected: &str) {
    let scratch = Scratch::new();
    let paths = parts(&scratch);
    change(&scratch, &paths);
    let error = Gguf::open(&paths[0]).expect_err("the parts do not fit together");
    assert_eq!(text(&error, &scratch), expected);
}

#[test]
fn names_the_part_that_is_missing() {
    check_split(
        |_, paths| fs::remove_file(&paths[1]).expect("it is there"),
        "split model: part 2 of 3 is missing: expected it at m-00002-of-00003.gguf",
    );
}

#[test]
fn refuses_parts_that_do_not_fit_together() {
    check_split(
        |_, paths| assert!(fs::copy(&paths[2], &paths[1]).is_ok()),
        "cannot read m-00002-of-00003.gguf: split model: split.no of m-00002-of-00003.gguf: \
         expected 1, got 2",
    );
    check_split(
        |scratch, _| drop(scratch.write("m-00002-of-00003.gguf", part(1, 3, "a"))),
        "split model: tensor a: expected it in m-00001-of-00003.gguf only, \
         got it in m-00002-of-00003.gguf too",
    );
    check_split(
        |scratch, _| drop(scratch.write("m-00003-of-00003.gguf", part(2, 4, "c"))),
        "cannot read m-00003-of-00003.gguf: split model: split.count of m-00003-of-00003.gguf: \
         expected 3, got 4",
    );
    check_split(
        |scratch, _| {
            let writer = part(2, 3, "c").tensor("d", TensorType::I8, &[1], b"d");
            scratch.write("m-00003-of-00003.gguf", writer);
        },
        "split model: split.tensors.count: expected 3 tensors in all parts, got 4",
    );
    check_split(
        |scratch, _| drop(scratch.write("m-00003-of-00003.gguf", Writer::new())),
        "cannot read m-00003-of-00003.gguf: metadata split.count: expected u32, got nothing",
    );
}

#[test]
fn refuses_a_part_under_another_name() {
    let scratch = Scratch::new();
    let path = scratch.write("model.gguf", part(0, 3, "a"));
    let error = Gguf::open(&path).expect_err("the siblings cannot be found");
    assert_eq!(
        text(&error, &scratch),
        "cannot read model.gguf: split model: name of part 1 of 3: expected a file name ending in \
         -00001-of-00003.gguf, got model.gguf"
    );
}

#[test]
fn reads_a_model_in_the_binary_but_not_a_part_of_one() {
    let leak = |writer: Writer<'_>| -> &'static [u8] {
        let mut bytes = Vec::new();
        writer.write(&mut bytes).expect("the file is valid");
        bytes.leak()
    };
    let whole = leak(Writer::new().tensor("a", TensorType::I8, &[4], b"data"));
    let model = Gguf::from_static(whole).expect("the file is valid");
    assert_eq!(model.tensor("a").expect("it was written").bytes, b"data");
    assert_eq!(model.n_bytes(), whole.len() as u64);
    let error = Gguf::from_static(leak(part(0, 3, "a"))).expect_err("it is one of three parts");
    assert_eq!(
        error.to_string(),
        "split model: split.count: expected a model in one file, got one of 3 parts"
    );
}

#[test]
fn what_cannot_be_opened_is_named_with_its_reason() {
    let scratch = Scratch::new();
    let open = |name: &str| {
        let error = Gguf::open(&scratch.0.join(name)).expect_err("it is no model");
        text(&error, &scratch)
    };
    assert!(open("absent.gguf").starts_with("cannot open absent.gguf: No such file"));
    assert_eq!(open("."), "cannot open .: not a file");
    fs::write(scratch.0.join("empty.gguf"), b"").expect("the directory is writable");
    assert_eq!(
        open("empty.gguf"),
        "cannot read empty.gguf: magic at byte 0: expected 4 bytes, but the file ends after 0"
    );
    fs::write(scratch.0.join("page.gguf"), b"<html>").expect("the directory is writable");
    assert_eq!(
        open("page.gguf"),
        "cannot read page.gguf: magic at byte 0: expected `GGUF`, got `<htm`"
    );
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    #[track_caller]
    fn check(writer: Writer<'_>, expected: &str) {
        let error = writer.write(std::io::sink()).expect_err("it makes no valid file");
        assert_eq!(error.to_string(), expected);
    }
    let nested = (0..4).fold(Array::U8(vec![]), |inner, _| Array::Array(vec![inner]));
    check(Writer::new().version(1), "cannot write version: expected 2 or 3, got 1");
    check(
        Writer::new().metadata("k", Value::Array(nested)),
        "cannot write metadata k: expected arrays nested at most 4 deep, got one more level",
    );
    check(
        Writer::new().metadata("k", 1u32).metadata("k", 1u32),
        "cannot write metadata k: expected unique keys, got the key again",
    );
    check(
        Writer::new().metadata("", 1u32),
        "cannot write metadata : expected 1 to 65535 bytes, got 0",
    );
    check(
        Writer::new().tensor("t", TensorType::Q4K, &[32], &[]),
        "cannot write tensor t: expected q4_K rows of a multiple of 256, got [32]",
    );
    check(
        Writer::new().tensor("t", TensorType::F32, &[2], &[0; 4]),
        "cannot write data of tensor t: expected 8 bytes, got 4",
    );
    check(
        Writer::new().metadata("general.alignment", 48u32),
        "cannot write metadata general.alignment: expected a u32 that is a power of two, got u32 48",
    );
}

#[test]
fn a_model_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Gguf>();
    shared::<Error>();
}
