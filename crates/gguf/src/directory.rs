//! The beginning of a file: header, metadata and the directory of tensors.

use std::collections::HashSet;

use crate::reader::{Reader, malformed};
use crate::{Error, Metadata, TensorType, Value, metadata};

/// No directory may end after this byte. The largest real ones, with vocabularies of 256 k tokens and a
/// whole `tokenizer.json`, are under 40 MiB; the limit bounds what a hostile file makes a phone allocate.
pub const MAX_DIRECTORY_BYTES: u64 = 256 << 20;

/// Alignment of the data where `general.alignment` does not say otherwise, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;

/// The key that sets the alignment.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// ggml's limit for names, without the terminating zero that it counts.
pub(crate) const MAX_NAME_BYTES: u64 = 63;

/// ggml's limit for dimensions.
pub(crate) const MAX_DIMS: u32 = 4;

/// The fewest bytes of a tensor's entry: length and one byte of name, number of dimensions, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// Everything before the data of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Directory {
    /// 2 or 3.
    pub version: u32,
    /// The key-value metadata.
    pub metadata: Metadata,
    /// The tensors in the order of the file. They lie inside the file, aligned, and do not overlap.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of the data, in bytes, a power of two.
    pub alignment: u64,
    /// Where the directory ends, in bytes.
    pub end: u64,
    /// Where the data begins, in bytes: `end`, aligned. A file without tensors may end before it.
    pub data_offset: u64,
}

/// Where a tensor is and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Element type.
    pub ty: TensorType,
    /// Dimensions, outermost first (the reverse of ggml's `ne`). Empty for a scalar.
    pub shape: Vec<u64>,
    /// Where the data begins, in bytes from the beginning of its file.
    pub offset: u64,
    /// Length of the data in bytes.
    pub n_bytes: u64,
    /// Which file of a split model it is in, from 0.
    pub file_idx: usize,
}

impl Directory {
    /// Finds out whether the beginning of a file reaches to the end of its directory, without keeping any of it: what
    /// [`parse`](Self::parse) would say of the length, at a fraction of the memory. Values are not checked.
    ///
    /// # Errors
    /// [`Error::NeedMore`] if it does not; any other error is final, and `parse` returns it, or an earlier one, too.
    pub fn check_length(bytes: &[u8], file_len: u64) -> Result<(), Error> {
        let mut reader = Reader::new(bytes, file_len);
        version(&mut reader)?;
        let n_tensors = reader.u64(format_args!("tensor count"))?;
        let n_entries = reader.u64(format_args!("metadata count"))?;
        metadata::skip(&mut reader, n_entries)?;
        tensors(&mut reader, n_tensors).map(drop)
    }

    /// Parses the beginning of a file.
    ///
    /// - `bytes`: the file from its first byte; it need not reach to the end
    /// - `file_len`: length of the whole file in bytes
    ///
    /// # Errors
    /// [`Error::NeedMore`] if all is well as far as `bytes` go; any other error is final.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, file_len);
        let version = version(&mut reader)?;
        let n_tensors = reader.u64(format_args!("tensor count"))?;
        let n_entries = reader.u64(format_args!("metadata count"))?;
        let metadata = Metadata::parse(&mut reader, n_entries)?;
        let alignment = alignment(&metadata)?;

        let mut tensors = tensors(&mut reader, n_tensors)?;
        let end = reader.offset();
        // Both are far below 2^63: the directory's end is bounded and the alignment is a u32.
        let data_offset = end.next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(tensor, data_offset, alignment, file_len)?;
        }
        refuse_overlaps(&tensors)?;
        Ok(Self { version, metadata, tensors, alignment, end, data_offset })
    }
}

fn version(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let magic: [u8; 4] = reader.array(format_args!("magic"))?;
    if &magic != b"GGUF" {
        return Err(Error::Magic { found: magic });
    }
    match reader.u32(format_args!("version"))? {
        version @ (2 | 3) => Ok(version),
        // Versions are small: one whose low half is empty was written with the other byte order.
        version if version != 0 && version & 0xffff == 0 => {
            Err(Error::BigEndian { version: version.swap_bytes() })
        }
        found => Err(Error::Version { found }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, Error> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment.into()),
        Some(other) => Err(Error::WrongType {
            key: ALIGNMENT_KEY.to_owned(),
            expected: "u32 that is a power of two",
            found: other.to_string(),
        }),
    }
}

/// Reads the entries of all tensors. Their offsets are still relative to the data.
fn tensors(reader: &mut Reader<'_>, count: u64) -> Result<Vec<TensorInfo>, Error> {
    reader.require(
        count.saturating_mul(MIN_TENSOR_BYTES),
        format_args!("directory of {count} tensors"),
    )?;
    let mut names = HashSet::new();
    let mut tensors: Vec<TensorInfo> = Vec::new();
    for i in 0..count {
        let offset = reader.offset();
        let tensor = tensor(reader, i)?;
        if !names.insert(tensor.name.clone()) {
            let field = format_args!("name of tensor {i}");
            let found = format!("{:?} again", tensor.name);
            return Err(malformed(field, offset, "unique names", found));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn tensor(reader: &mut Reader<'_>, i: u64) -> Result<TensorInfo, Error> {
    let offset = reader.offset();
    let name = reader.string(MAX_NAME_BYTES, format_args!("name of tensor {i}"))?;
    if name.is_empty() {
        let field = format_args!("name of tensor {i}");
        return Err(malformed(field, offset, "a name", "an empty string"));
    }

    let offset = reader.offset();
    let n_dims = reader.u32(format_args!("number of dimensions of tensor {name}"))?;
    if n_dims > MAX_DIMS {
        let field = format_args!("number of dimensions of tensor {name}");
        return Err(malformed(field, offset, format!("at most {MAX_DIMS}"), n_dims.to_string()));
    }
    let mut shape = Vec::with_capacity(MAX_DIMS as usize);
    for dim_idx in 0..n_dims {
        let offset = reader.offset();
        let dim = reader.u64(format_args!("dimension {dim_idx} of tensor {name}"))?;
        if dim == 0 {
            let field = format_args!("dimension {dim_idx} of tensor {name}");
            return Err(malformed(field, offset, "at least 1", "0"));
        }
        shape.push(dim);
    }
    shape.reverse();

    let ty_offset = reader.offset();
    let id = reader.u32(format_args!("type of tensor {name}"))?;
    let ty = TensorType::from_id(id).ok_or_else(|| {
        let field = format_args!("type of tensor {name}");
        malformed(field, ty_offset, "a tensor type of ggml", id.to_string())
    })?;
    let n_bytes = ty.n_bytes(&shape).ok_or_else(|| {
        let expected = format!(
            "{ty} with rows of a multiple of {} elements and fewer than 2^64 bytes",
            ty.block_len()
        );
        malformed(format_args!("shape of tensor {name}"), offset, expected, format!("{shape:?}"))
    })?;
    let offset = reader.u64(format_args!("offset of tensor {name}"))?;
    Ok(TensorInfo { name: name.to_owned(), ty, shape, offset, n_bytes, file_idx: 0 })
}

/// Makes the offset of a tensor absolute and checks that it is aligned and inside the file.
fn place(
    tensor: &mut TensorInfo,
    data_offset: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), Error> {
    let name = &tensor.name;
    if !tensor.offset.is_multiple_of(alignment) {
        let field = format_args!("offset of tensor {name}, data");
        let expected = format!("a multiple of {alignment}");
        return Err(malformed(field, data_offset, expected, tensor.offset.to_string()));
    }
    let offset = data_offset.saturating_add(tensor.offset);
    if offset.saturating_add(tensor.n_bytes) > file_len {
        return Err(Error::Truncated {
            field: format!("data of tensor {name}"),
            offset,
            needed: tensor.n_bytes,
            available: file_len.saturating_sub(offset),
        });
    }
    tensor.offset = offset;
    Ok(())
}

fn refuse_overlaps(tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let end = first.offset + first.n_bytes;
        if second.offset < end {
            let expected = format!("it after the end of tensor {} at {end}", first.name);
            let field = format_args!("data of tensor {}", second.name);
            return Err(malformed(field, second.offset, expected, "an overlap"));
        }
    }
    Ok(())
}
