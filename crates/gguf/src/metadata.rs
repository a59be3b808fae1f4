//! The key-value metadata of a model, with getters that say what was expected when something else is there.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::reader::{Reader, malformed};
use crate::value::ValueType;
use crate::{Array, Error, MAX_ARRAY_DEPTH, Value};

/// The format's own limit for keys, in bytes.
const MAX_KEY_BYTES: u64 = 65_535;

/// The fewest bytes of an entry: the length of its key, one byte of it, a type and one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;

/// Key-value metadata in the order of the file. Keys are unique.
///
/// The typed getters come in two kinds: `u32(key)` is `None` if the key is absent, `require_u32(key)` an
/// error. Both refuse a key that is there with another type: a wrong type is never read as "absent".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub(crate) fn parse(reader: &mut Reader<'_>, count: u64) -> Result<Self, Error> {
        reader.require(
            count.saturating_mul(MIN_ENTRY_BYTES),
            format_args!("metadata of {count} entries"),
        )?;
        let mut metadata = Self::default();
        for i in 0..count {
            let offset = reader.offset();
            let key = reader.string(MAX_KEY_BYTES, format_args!("metadata key {i}"))?;
            if key.is_empty() {
                let field = format_args!("metadata key {i}");
                return Err(malformed(field, offset, "a name", "an empty string"));
            }
            if metadata.index.contains_key(key) {
                let field = format_args!("metadata key {i}");
                let found = format!("{key:?} again");
                return Err(malformed(field, offset, "unique keys", found));
            }
            let value = value(reader, key)?;
            metadata.index.insert(key.to_owned(), metadata.entries.len());
            metadata.entries.push((key.to_owned(), value));
        }
        Ok(metadata)
    }

    /// Iterates over the entries in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the value of `key` as the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Returns an integer of any stored type that fits in a `u32`.
    ///
    /// # Errors
    /// If the key has another type or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.integer(key, "u32")
    }

    /// Like [`u32`](Self::u32), but the key must be there.
    ///
    /// # Errors
    /// If the key is absent, has another type or does not fit.
    pub fn require_u32(&self, key: &str) -> Result<u32, Error> {
        required(self.u32(key), key, "u32")
    }

    /// Returns an integer of any stored type that fits in a `u64`.
    ///
    /// # Errors
    /// If the key has another type or is negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.integer(key, "u64")
    }

    /// Like [`u64`](Self::u64), but the key must be there.
    ///
    /// # Errors
    /// If the key is absent, has another type or is negative.
    pub fn require_u64(&self, key: &str) -> Result<u64, Error> {
        required(self.u64(key), key, "u64")
    }

    /// Returns a float; an `f64` is rounded.
    ///
    /// # Errors
    /// If the key has another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::F32(value)) => Ok(Some(value)),
            Some(&Value::F64(value)) => Ok(Some(value as f32)),
            Some(other) => Err(wrong_type(key, "f32", other)),
        }
    }

    /// Like [`f32`](Self::f32), but the key must be there.
    ///
    /// # Errors
    /// If the key is absent or has another type.
    pub fn require_f32(&self, key: &str) -> Result<f32, Error> {
        required(self.f32(key), key, "f32")
    }

    /// Returns a bool.
    ///
    /// # Errors
    /// If the key has another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, "bool", other)),
        }
    }

    /// Like [`bool`](Self::bool), but the key must be there.
    ///
    /// # Errors
    /// If the key is absent or has another type.
    pub fn require_bool(&self, key: &str) -> Result<bool, Error> {
        required(self.bool(key), key, "bool")
    }

    /// Returns a string.
    ///
    /// # Errors
    /// If the key has another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, "string", other)),
        }
    }

    /// Like [`str`](Self::str), but the key must be there.
    ///
    /// # Errors
    /// If the key is absent or has another type.
    pub fn require_str(&self, key: &str) -> Result<&str, Error> {
        required(self.str(key), key, "string")
    }

    /// Returns an array of strings.
    ///
    /// # Errors
    /// If the key has another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(values))) => Ok(Some(values)),
            Some(other) => Err(wrong_type(key, "array of strings", other)),
        }
    }

    /// Returns an array of any integer type whose elements all fit in a `u32`; borrows if it is stored so.
    ///
    /// # Errors
    /// If the key has another type or an element does not fit.
    pub fn u32s(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, Error> {
        match self.get(key) {
            Some(Value::Array(Array::U32(values))) => Ok(Some(Cow::Borrowed(values))),
            _ => Ok(self.integers(key, "array of u32")?.map(Cow::Owned)),
        }
    }

    /// Returns an array of any integer type whose elements all fit in an `i32`; borrows if it is stored so.
    ///
    /// # Errors
    /// If the key has another type or an element does not fit.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, Error> {
        match self.get(key) {
            Some(Value::Array(Array::I32(values))) => Ok(Some(Cow::Borrowed(values))),
            _ => Ok(self.integers(key, "array of i32")?.map(Cow::Owned)),
        }
    }

    /// Returns an array of floats; `f64` are rounded, `f32` borrowed.
    ///
    /// # Errors
    /// If the key has another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(values))) => Ok(Some(Cow::Borrowed(values))),
            Some(Value::Array(Array::F64(values))) => {
                Ok(Some(values.iter().map(|&value| value as f32).collect()))
            }
            Some(other) => Err(wrong_type(key, "array of f32", other)),
        }
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let converted = value.as_integer().and_then(|integer| T::try_from(integer).ok());
        converted.map(Some).ok_or_else(|| wrong_type(key, expected, value))
    }

    fn integers<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<Vec<T>>, Error> {
        fn convert<S: Copy + Into<i128>, T: TryFrom<i128>>(values: &[S]) -> Result<Vec<T>, i128> {
            values.iter().map(|&v| T::try_from(v.into()).map_err(|_| v.into())).collect()
        }
        let Some(value) = self.get(key) else { return Ok(None) };
        let converted = match value {
            Value::Array(Array::U8(values)) => convert(values),
            Value::Array(Array::I8(values)) => convert(values),
            Value::Array(Array::U16(values)) => convert(values),
            Value::Array(Array::I16(values)) => convert(values),
            Value::Array(Array::U32(values)) => convert(values),
            Value::Array(Array::I32(values)) => convert(values),
            Value::Array(Array::U64(values)) => convert(values),
            Value::Array(Array::I64(values)) => convert(values),
            other => return Err(wrong_type(key, expected, other)),
        };
        converted.map(Some).map_err(|element| Error::WrongType {
            key: key.to_owned(),
            expected,
            found: format!("{value} with the element {element}"),
        })
    }
}

fn required<T>(
    value: Result<Option<T>, Error>,
    key: &str,
    expected: &'static str,
) -> Result<T, Error> {
    value?.ok_or_else(|| Error::MissingKey { key: key.to_owned(), expected })
}

fn wrong_type(key: &str, expected: &'static str, found: &Value) -> Error {
    Error::WrongType { key: key.to_owned(), expected, found: found.to_string() }
}

fn value_type(reader: &mut Reader<'_>, key: &str) -> Result<ValueType, Error> {
    let offset = reader.offset();
    let id = reader.u32(format_args!("type of metadata {key}"))?;
    ValueType::from_id(id).ok_or_else(|| {
        let field = format_args!("type of metadata {key}");
        malformed(field, offset, "a value type (0 to 12)", id.to_string())
    })
}

fn value(reader: &mut Reader<'_>, key: &str) -> Result<Value, Error> {
    let ty = value_type(reader, key)?;
    let field = format_args!("metadata {key}");
    Ok(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(reader.array(field)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(reader.array(field)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(reader.array(field)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(reader.array(field)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(reader.array(field)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(reader.array(field)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(reader.array(field)?)),
        ValueType::Bool => Value::Bool(bool(reader, key)?),
        ValueType::String => Value::String(reader.string(u64::MAX, field)?.to_owned()),
        ValueType::Array => Value::Array(array(reader, key, 1)?),
        ValueType::U64 => Value::U64(u64::from_le_bytes(reader.array(field)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(reader.array(field)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(reader.array(field)?)),
    })
}

/// - `depth`: how many arrays this one is in, itself included
fn array(reader: &mut Reader<'_>, key: &str, depth: u32) -> Result<Array, Error> {
    let ty_offset = reader.offset();
    let ty = value_type(reader, key)?;
    if ty == ValueType::Array && depth == MAX_ARRAY_DEPTH {
        let field = format_args!("type of metadata {key}");
        let expected = format!("arrays nested at most {MAX_ARRAY_DEPTH} deep");
        return Err(malformed(field, ty_offset, expected, "one more level"));
    }
    let len = reader.u64(format_args!("length of metadata {key}"))?;
    let field = format_args!("metadata {key} of {len} elements");
    reader.require(len.saturating_mul(ty.min_bytes()), field)?;
    Ok(match ty {
        ValueType::U8 => Array::U8(numbers(reader, len, u8::from_le_bytes, field)?),
        ValueType::I8 => Array::I8(numbers(reader, len, i8::from_le_bytes, field)?),
        ValueType::U16 => Array::U16(numbers(reader, len, u16::from_le_bytes, field)?),
        ValueType::I16 => Array::I16(numbers(reader, len, i16::from_le_bytes, field)?),
        ValueType::U32 => Array::U32(numbers(reader, len, u32::from_le_bytes, field)?),
        ValueType::I32 => Array::I32(numbers(reader, len, i32::from_le_bytes, field)?),
        ValueType::F32 => Array::F32(numbers(reader, len, f32::from_le_bytes, field)?),
        ValueType::U64 => Array::U64(numbers(reader, len, u64::from_le_bytes, field)?),
        ValueType::I64 => Array::I64(numbers(reader, len, i64::from_le_bytes, field)?),
        ValueType::F64 => Array::F64(numbers(reader, len, f64::from_le_bytes, field)?),
        ValueType::Bool => {
            Array::Bool((0..len).map(|_| bool(reader, key)).collect::<Result<_, _>>()?)
        }
        ValueType::String => {
            let mut strings = Vec::with_capacity(capacity(len));
            for i in 0..len {
                let string = reader.string(u64::MAX, format_args!("metadata {key}[{i}]"))?;
                strings.push(string.to_owned());
            }
            Array::String(strings)
        }
        ValueType::Array => {
            let mut arrays = Vec::with_capacity(capacity(len));
            for _ in 0..len {
                arrays.push(array(reader, key, depth + 1)?);
            }
            Array::Array(arrays)
        }
    })
}

/// Passes over `count` entries without keeping them.
pub(crate) fn skip(reader: &mut Reader<'_>, count: u64) -> Result<(), Error> {
    for i in 0..count {
        let key = reader.string(MAX_KEY_BYTES, format_args!("metadata key {i}"))?;
        let ty = value_type(reader, key)?;
        skip_values(reader, key, ty, 1, 0)?;
    }
    Ok(())
}

/// - `depth`: how many arrays these values are in
fn skip_values(
    reader: &mut Reader<'_>,
    key: &str,
    ty: ValueType,
    count: u64,
    depth: u32,
) -> Result<(), Error> {
    let field = format_args!("metadata {key}");
    match ty {
        ValueType::String => {
            for _ in 0..count {
                reader.string(u64::MAX, field)?;
            }
        }
        ValueType::Array => {
            for _ in 0..count {
                let ty_offset = reader.offset();
                let ty = value_type(reader, key)?;
                if depth == MAX_ARRAY_DEPTH {
                    let expected = format!("arrays nested at most {MAX_ARRAY_DEPTH} deep");
                    return Err(malformed(field, ty_offset, expected, "one more level"));
                }
                let len = reader.u64(format_args!("length of metadata {key}"))?;
                skip_values(reader, key, ty, len, depth + 1)?;
            }
        }
        fixed => drop(reader.take(count.saturating_mul(fixed.min_bytes()), field)?),
    }
    Ok(())
}

fn bool(reader: &mut Reader<'_>, key: &str) -> Result<bool, Error> {
    let offset = reader.offset();
    match reader.array(format_args!("metadata {key}"))? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => {
            let field = format_args!("metadata {key}");
            Err(malformed(field, offset, "a bool (0 or 1)", other.to_string()))
        }
    }
}

fn numbers<T, const N: usize>(
    reader: &mut Reader<'_>,
    len: u64,
    from_le_bytes: fn([u8; N]) -> T,
    field: std::fmt::Arguments<'_>,
) -> Result<Vec<T>, Error> {
    let bytes = reader.take(len.saturating_mul(N as u64), field)?;
    let (numbers, _) = bytes.as_chunks::<N>();
    Ok(numbers.iter().map(|&bytes| from_le_bytes(bytes)).collect())
}

/// The capacity for `len` elements, each of which has been found to have at least 8 bytes at hand.
fn capacity(len: u64) -> usize {
    usize::try_from(len).expect("a count that was checked against a slice fits in usize")
}
