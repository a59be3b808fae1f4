//! A whole model: one file, the parts of a split one, or bytes in the binary.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::split::{COUNT_KEY, Parts, TENSORS_KEY, check_part};
use crate::{Directory, Error, Metadata, TensorInfo, file};

/// A model with its bytes at hand. `Send` and `Sync`: nothing in it changes.
///
/// The bytes of files are mapped, not read: pages come from disk when they are touched, and only those take
/// memory. A file must not be changed while it is open, and least of all truncated: touching a page that is
/// gone ends the process (SIGBUS). Write a new file and rename it instead.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<Source>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

/// A tensor's description and its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Name, type and shape.
    pub info: &'a TensorInfo,
    /// The data, `info.n_bytes` long, as the file has it.
    pub bytes: &'a [u8],
}

/// One file.
#[derive(Debug)]
struct Source {
    bytes: Bytes,
    /// Length of header, metadata and directory.
    directory_len: usize,
    path: PathBuf,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Opens the model at `path`. If that is one part of a split model, all parts are opened.
    ///
    /// Metadata come from the first part, tensors from all.
    ///
    /// # Errors
    /// If a file cannot be opened, is malformed, or a part is missing or does not fit to the others.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (source, directory) = open_file(path)?;
        let in_file = |error| Error::File { path: path.to_owned(), source: Box::new(error) };
        let Some(parts) = Parts::of(path, &directory.metadata).map_err(in_file)? else {
            return Self::assemble(vec![(source, directory)]);
        };

        let mut opened = Some((source, directory));
        let mut files = Vec::new();
        for no in 0..parts.count {
            let part_path = parts.path(no);
            let part = match opened.take_if(|_| no == parts.no) {
                Some(part) => part,
                None => open_file(&part_path).map_err(|error| match error {
                    Error::Open { path, source } if source.kind() == ErrorKind::NotFound => {
                        Error::MissingPart { path, part: no + 1, count: parts.count }
                    }
                    other => other,
                })?,
            };
            let in_file = |error| Error::File { path: part_path, source: Box::new(error) };
            parts.check(no, &part.1.metadata).map_err(in_file)?;
            files.push(part);
        }
        Self::assemble(files)
    }

    /// Opens a model whose files are known, in the order of its parts, whatever they are called. A file may lack tensor data,
    /// as long as its header and directory are there: see to it that nobody reads what is not.
    ///
    /// # Errors
    /// If a file cannot be opened, is malformed, or the files are not the parts of one model.
    pub fn open_files<P: AsRef<Path>>(paths: &[P]) -> Result<Self, Error> {
        let files: Vec<_> =
            paths.iter().map(|path| open_file(path.as_ref())).collect::<Result<_, _>>()?;
        for (no, (source, directory)) in files.iter().enumerate() {
            let in_file =
                |error| Error::File { path: source.path.clone(), source: Box::new(error) };
            check_part(no, files.len(), &directory.metadata).map_err(in_file)?;
        }
        Self::assemble(files)
    }

    /// Reads a model in one file that is part of the binary.
    ///
    /// # Errors
    /// If the bytes are malformed, or one part of a split model.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, Error> {
        let path = PathBuf::from("(in the binary)");
        let directory = parse_whole(bytes)?;
        if let Some(count @ 2..) = directory.metadata.u32(COUNT_KEY)? {
            return Err(Error::Split {
                field: COUNT_KEY.to_owned(),
                expected: "a model in one file".to_owned(),
                found: format!("one of {count} parts"),
            });
        }
        Self::assemble(vec![(Source::new(Bytes::Static(bytes), &directory, path), directory)])
    }

    fn assemble(files: Vec<(Source, Directory)>) -> Result<Self, Error> {
        let mut model = Self {
            files: Vec::with_capacity(files.len()),
            metadata: Metadata::default(),
            tensors: Vec::new(),
            index: HashMap::new(),
        };
        for (file_idx, (source, directory)) in files.into_iter().enumerate() {
            if file_idx == 0 {
                model.metadata = directory.metadata;
            }
            model.files.push(source);
            for mut tensor in directory.tensors {
                tensor.file_idx = file_idx;
                if let Some(&first) = model.index.get(&tensor.name) {
                    let first: &TensorInfo = &model.tensors[first];
                    return Err(Error::Split {
                        field: format!("tensor {}", tensor.name),
                        expected: format!("it in {} only", model.path_of(first).display()),
                        found: format!("it in {} too", model.path_of(&tensor).display()),
                    });
                }
                model.index.insert(tensor.name.clone(), model.tensors.len());
                model.tensors.push(tensor);
            }
        }
        if model.files.len() > 1 {
            model.check_tensor_count()?;
        }
        Ok(model)
    }

    fn check_tensor_count(&self) -> Result<(), Error> {
        match self.metadata.u64(TENSORS_KEY)? {
            Some(expected) if expected != self.tensors.len() as u64 => Err(Error::Split {
                field: TENSORS_KEY.to_owned(),
                expected: format!("{expected} tensors in all parts"),
                found: self.tensors.len().to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The metadata; of a split model, the first part's.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let info = &self.tensors[*self.index.get(name)?];
        let bytes = self.files[info.file_idx].bytes.as_slice();
        Some(Tensor { info, bytes: &bytes[index(info.offset)..index(info.offset + info.n_bytes)] })
    }

    /// Bytes of all files together.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.as_slice().len() as u64).sum()
    }

    /// Header, metadata and directory of each file, in their order: what identifies a model cheaply.
    pub fn directory_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|file| &file.bytes.as_slice()[..file.directory_len])
    }

    /// The files, in their order. For a model in the binary a text that says so.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    fn path_of(&self, tensor: &TensorInfo) -> &Path {
        &self.files[tensor.file_idx].path
    }
}

impl Source {
    fn new(bytes: Bytes, directory: &Directory, path: PathBuf) -> Self {
        Self { bytes, directory_len: index(directory.end), path }
    }
}

fn open_file(path: &Path) -> Result<(Source, Directory), Error> {
    let map = file::map(path)?;
    let directory = parse_whole(&map)
        .map_err(|error| Error::File { path: path.to_owned(), source: Box::new(error) })?;
    Ok((Source::new(Bytes::Mapped(map), &directory, path.to_owned()), directory))
}

fn parse_whole(bytes: &[u8]) -> Result<Directory, Error> {
    Directory::parse(bytes, bytes.len() as u64)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets inside a slice fit in usize")
}
