//! Split models: `NAME-00001-of-00003.gguf` and its siblings.

use std::path::{Path, PathBuf};

use crate::{Error, Metadata};

/// How many files a model is in. The key is absent, 0 or 1 for a model in one file.
pub(crate) const COUNT_KEY: &str = "split.count";
/// Which of the files this is, from 0.
const NO_KEY: &str = "split.no";
/// How many tensors all files hold together.
pub(crate) const TENSORS_KEY: &str = "split.tensors.count";

/// Where the parts of a split model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The path up to the last `-` before the number.
    prefix: PathBuf,
    /// How many files there are, at least 2.
    pub(crate) count: u32,
    /// Which of them was opened, from 0.
    pub(crate) no: u32,
}

impl Parts {
    /// Returns the siblings of the file at `path`, or `None` if it is a whole model.
    ///
    /// # Errors
    /// If the metadata announces parts and the file's name is not that of the part.
    pub(crate) fn of(path: &Path, metadata: &Metadata) -> Result<Option<Self>, Error> {
        let Some(count @ 2..) = metadata.u32(COUNT_KEY)? else { return Ok(None) };
        let no = metadata.require_u32(NO_KEY)?;
        if no >= count {
            return Err(Error::Split {
                field: NO_KEY.to_owned(),
                expected: format!("less than {count}"),
                found: no.to_string(),
            });
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let suffix = suffix(no, count);
        let stem = name.strip_suffix(&suffix).ok_or_else(|| Error::Split {
            field: format!("name of part {} of {count}", no + 1),
            expected: format!("a file name ending in {suffix}"),
            found: path.display().to_string(),
        })?;
        Ok(Some(Self { prefix: path.with_file_name(stem), count, no }))
    }

    /// The path of part `no`, from 0.
    pub(crate) fn path(&self, no: u32) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(suffix(no, self.count));
        path.into()
    }

    /// Checks that the metadata of part `no` says that it is this part.
    pub(crate) fn check(&self, no: u32, metadata: &Metadata) -> Result<(), Error> {
        for (key, expected) in [(COUNT_KEY, self.count), (NO_KEY, no)] {
            let found = metadata.require_u32(key)?;
            if found != expected {
                return Err(Error::Split {
                    field: format!("{key} of {}", self.path(no).display()),
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// Checks that metadata are those of part `no`, from 0, of `count`.
pub(crate) fn check_part(no: usize, count: usize, metadata: &Metadata) -> Result<(), Error> {
    let found_count = metadata.u32(COUNT_KEY)?.unwrap_or(1).max(1);
    let found_no = metadata.u32(NO_KEY)?.unwrap_or(0);
    if (found_no as usize, found_count as usize) == (no, count) {
        return Ok(());
    }
    Err(Error::Split {
        field: COUNT_KEY.to_owned(),
        expected: format!("part {} of {count}", no + 1),
        found: format!("part {} of {found_count}", u64::from(found_no) + 1),
    })
}

fn suffix(no: u32, count: u32) -> String {
    // `no` is less than `count`, so this cannot overflow.
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}
