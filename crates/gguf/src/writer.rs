//! Writes model files, as the format wants them and as [`crate::Directory::parse`] accepts them.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};

use crate::directory::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_DIMS, MAX_NAME_BYTES};
use crate::{Array, Error, TensorType, Value};

/// Makes the data of one tensor.
type Fill<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>;

/// Collects metadata and tensors in their order and writes a file.
///
/// Tensors' data are given as bytes or made by a callback while the file is written, so that a model need
/// not fit in memory. The data are aligned to `general.alignment` if that is set, else to 32 bytes.
pub struct Writer<'a> {
    version: u32,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Entry<'a>>,
}

struct Entry<'a> {
    name: String,
    ty: TensorType,
    shape: Vec<u64>,
    fill: Fill<'a>,
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("version", &self.version)
            .field("n_metadata", &self.metadata.len())
            .field("n_tensors", &self.tensors.len())
            .finish()
    }
}

impl Default for Writer<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Writer<'a> {
    /// Starts a file of version 3 with neither metadata nor tensors.
    pub fn new() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Sets the version, 2 or 3. They differ in nothing but the number.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Appends a metadata entry.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Appends a tensor with its bytes.
    ///
    /// - `shape`: outermost dimension first
    pub fn tensor(
        self,
        name: impl Into<String>,
        ty: TensorType,
        shape: &[u64],
        bytes: &'a [u8],
    ) -> Self {
        self.tensor_with(name, ty, shape, move |out| out.write_all(bytes))
    }

    /// Appends a tensor whose bytes `fill` writes when it is their turn.
    ///
    /// - `shape`: outermost dimension first
    pub fn tensor_with(
        mut self,
        name: impl Into<String>,
        ty: TensorType,
        shape: &[u64],
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> Self {
        let (name, shape) = (name.into(), shape.to_vec());
        self.tensors.push(Entry { name, ty, shape, fill: Box::new(fill) });
        self
    }

    /// Writes the file and returns its length in bytes.
    ///
    /// # Errors
    /// If `out` fails, or what was collected makes no valid file: a version that is not 2 or 3, keys or names
    /// that are empty, too long or not unique, a shape that its type cannot have, an alignment that is no
    /// power of two, a mixed or too deep array, or data of another length than the shape's.
    pub fn write(self, out: impl Write) -> Result<u64, Error> {
        self.check()?;
        let alignment = self.alignment()?;
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(self.version.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            push_string(&mut head, key);
            head.extend(value.value_type().id().to_le_bytes());
            push_value(&mut head, value);
        }
        let mut offset = 0u64;
        let mut sizes = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            push_string(&mut head, &tensor.name);
            let n_dims = u32::try_from(tensor.shape.len()).expect("checked to be at most 4");
            head.extend(n_dims.to_le_bytes());
            head.extend(tensor.shape.iter().rev().flat_map(|dim| dim.to_le_bytes()));
            head.extend(tensor.ty.id().to_le_bytes());
            head.extend(offset.to_le_bytes());
            let n_bytes = tensor.n_bytes()?;
            sizes.push(n_bytes);
            let end =
                offset.checked_add(n_bytes).and_then(|n| n.checked_next_multiple_of(alignment));
            offset = end.ok_or_else(|| {
                let field = format!("tensor {}", tensor.name);
                unwritable(field, "a file of fewer than 2^64 bytes", "more")
            })?;
        }

        let mut out = Counted { out, n_bytes: 0 };
        out.write_all(&head)?;
        for (tensor, n_bytes) in self.tensors.into_iter().zip(sizes) {
            pad(&mut out, alignment)?;
            let before = out.n_bytes;
            (tensor.fill)(&mut out)?;
            let written = out.n_bytes - before;
            if written != n_bytes {
                let field = format!("data of tensor {}", tensor.name);
                let expected = format!("{n_bytes} bytes");
                return Err(unwritable(field, &expected, &written.to_string()));
            }
        }
        pad(&mut out, alignment)?;
        out.flush()?;
        Ok(out.n_bytes)
    }

    fn check(&self) -> Result<(), Error> {
        if !matches!(self.version, 2 | 3) {
            return Err(unwritable("version".into(), "2 or 3", &self.version.to_string()));
        }
        let mut keys = HashSet::new();
        for (key, value) in &self.metadata {
            let field = || format!("metadata {key}");
            check_name(key, 65_535, field)?;
            if !keys.insert(key) {
                return Err(unwritable(field(), "unique keys", "the key again"));
            }
            if let Value::Array(array) = value {
                check_array(array, 1)
                    .map_err(|(expected, found)| unwritable(field(), &expected, &found))?;
            }
        }
        let mut names = HashSet::new();
        for tensor in &self.tensors {
            let field = || format!("tensor {}", tensor.name);
            check_name(&tensor.name, MAX_NAME_BYTES, field)?;
            if !names.insert(&tensor.name) {
                return Err(unwritable(field(), "unique names", "the name again"));
            }
            if tensor.shape.len() > MAX_DIMS as usize || tensor.shape.contains(&0) {
                let found = format!("{:?}", tensor.shape);
                return Err(unwritable(field(), "at most 4 dimensions of at least 1", &found));
            }
        }
        Ok(())
    }

    fn alignment(&self) -> Result<u64, Error> {
        match self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT.into()),
            Some(&(_, Value::U32(alignment))) if alignment.is_power_of_two() => {
                Ok(alignment.into())
            }
            Some((key, other)) => {
                let field = format!("metadata {key}");
                Err(unwritable(field, "a u32 that is a power of two", &other.to_string()))
            }
        }
    }
}

impl Entry<'_> {
    fn n_bytes(&self) -> Result<u64, Error> {
        self.ty.n_bytes(&self.shape).ok_or_else(|| {
            let expected = format!("{} rows of a multiple of {}", self.ty, self.ty.block_len());
            unwritable(format!("tensor {}", self.name), &expected, &format!("{:?}", self.shape))
        })
    }
}

fn check_name(name: &str, len_max: u64, field: impl Fn() -> String) -> Result<(), Error> {
    let len = name.len() as u64;
    if len == 0 || len > len_max {
        return Err(unwritable(field(), &format!("1 to {len_max} bytes"), &len.to_string()));
    }
    Ok(())
}

fn check_array(array: &Array, depth: u32) -> Result<(), (String, String)> {
    let Array::Array(arrays) = array else { return Ok(()) };
    if depth == crate::MAX_ARRAY_DEPTH {
        let expected = format!("arrays nested at most {} deep", crate::MAX_ARRAY_DEPTH);
        return Err((expected, "one more level".to_owned()));
    }
    arrays.iter().try_for_each(|array| check_array(array, depth + 1))
}

fn unwritable(field: String, expected: &str, found: &str) -> Error {
    Error::Unwritable { field, expected: expected.to_owned(), found: found.to_owned() }
}

fn push_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => push_string(out, v),
        Value::Array(v) => push_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn push_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        Array::String(v) => v.iter().for_each(|v| push_string(out, v)),
        Array::Array(v) => v.iter().for_each(|v| push_array(out, v)),
        Array::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
    }
}

/// Counts what goes through to `out`.
struct Counted<W> {
    out: W,
    n_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn pad(out: &mut Counted<impl Write>, alignment: u64) -> io::Result<()> {
    let n = out.n_bytes.next_multiple_of(alignment) - out.n_bytes;
    io::copy(&mut io::Read::take(io::repeat(0), n), out)?;
    Ok(())
}
