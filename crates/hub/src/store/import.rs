//! Takes a model file from elsewhere on this device into the store, without a copy where the file system can do that.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use shoal_gguf::Gguf;
use shoal_proto::model::{FileRef, ModelFiles};

use super::{
    ChunkHashes, Store, StoreError, StoredModel, group,
    hashes::{self, FileHashes},
    is_same,
    layout::{self, DirLock, UNFINISHED, slug},
    manifest::{self, Manifest},
    now, own, refuse_open_part,
};

/// How a file came into the store. The order is from the cheapest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImportWay {
    /// The file got a second name (a hard link): whoever changes it under the first changes it here.
    Link,
    /// The file system shares its blocks until one of the two is changed (a reflink).
    Reflink,
    /// It was copied.
    Copy,
}

/// A model that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The model, as it is in the store now.
    pub model: StoredModel,
    /// How its files came there: the most expensive way of them.
    pub way: ImportWay,
}

/// What is imported.
struct Import<'a> {
    store: &'a Store,
    sources: Vec<PathBuf>,
    /// The directory that is made, still under an unfinished name.
    dir: PathBuf,
    n_done: u64,
    n_total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Store {
    /// Takes the model in `file` into the store; a part of a split model stands for all of them. Every byte is read once, for its
    /// identity.
    ///
    /// - `name`: what it will be called; the file's name without `.gguf` and number if it is `None`
    /// - `progress`: gets the bytes done and their total
    ///
    /// A model that is there already with the same content is left as it is.
    ///
    /// # Errors
    /// If the file is no GGUF, the disk has too little space for a copy, or there is another model of that name.
    pub fn import(
        &self,
        file: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Imported, StoreError> {
        let sources = sources(file)?;
        let names = sources.iter().map(|path| file_name(path)).collect::<Result<Vec<_>, _>>()?;
        let stem = group::part_of(&names[0]).map_or(group::stem_of(&names[0]), |(stem, ..)| stem);
        let name = name.unwrap_or(stem);
        let mut n_total = 0;
        for source in &sources {
            n_total += fs::metadata(source).map_err(StoreError::at(source))?.len();
        }
        static N: AtomicU64 = AtomicU64::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir().join(format!("{UNFINISHED}import-{}-{n}", std::process::id()));
        fs::create_dir(&dir).map_err(StoreError::at(&dir))?;
        let mut import =
            Import { store: self, sources, dir: dir.clone(), n_done: 0, n_total, progress };
        let imported = import.run(name, &names);
        if imported.is_err() || dir.exists() {
            // Whatever is in it has another name elsewhere, or is an unfinished copy.
            let _ = fs::remove_dir_all(&dir);
        }
        imported
    }
}

impl Import<'_> {
    fn run(&mut self, name: &str, names: &[String]) -> Result<Imported, StoreError> {
        let _lock = DirLock::take(&self.dir, name)?;
        let mut way = ImportWay::Link;
        let mut files = Vec::new();
        for (source, file_name) in self.sources.clone().iter().zip(names) {
            let target = self.dir.join(file_name);
            let (taken, hashes) = self.take(source, &target)?;
            way = way.max(taken);
            let id = hashes.id();
            hashes::write_beside(&target, &ChunkHashes { id, hashes: hashes.chunks })?;
            files.push(FileRef { name: file_name.clone(), id, origin: None });
        }
        let model = ModelFiles { name: name.to_owned(), files };
        let invalid = |what| StoreError::Invalid { name: name.to_owned(), what };
        manifest::check_model(&model).map_err(invalid)?;
        let mut manifest = Manifest::new(model.clone());
        manifest.checked = names.iter().map(|name| (name.clone(), now())).collect();
        manifest.write(&self.dir)?;
        self.place(&model)?;
        let find = self.store.find(name).filter(|found| found.place == super::Place::Own);
        let model = find.ok_or_else(|| StoreError::Unknown { name: name.to_owned() })?;
        Ok(Imported { model, way })
    }

    /// Gives the finished directory its name, unless the model is there already.
    fn place(&self, model: &ModelFiles) -> Result<(), StoreError> {
        let _changes = self.store.changes();
        let dir = self.store.dir_of(&model.name);
        let other = || StoreError::OtherVersion { name: model.name.clone(), dir: dir.clone() };
        if let Some(there) = Manifest::read(&dir)? {
            return if is_same(&there.model, model) {
                self.complete(&dir, model)
            } else {
                Err(other())
            };
        }
        // Renaming onto a directory that has something in it fails.
        match fs::rename(&self.dir, self.store.dir().join(slug(&model.name))) {
            Ok(()) => layout::sync_dir(self.store.dir()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(other()),
            Err(source) => Err(StoreError::Io { path: dir, source }),
        }
    }

    /// Gives a model that is there already the files that it lacks.
    fn complete(&self, dir: &Path, model: &ModelFiles) -> Result<(), StoreError> {
        let _lock = DirLock::take(dir, &model.name)?;
        for file in &model.files {
            let [whole, part, journal, list] = own::companions(&dir.join(&file.name));
            if whole.exists() {
                continue;
            }
            refuse_open_part(&part, &model.name)?;
            let [new, _, _, new_list] = own::companions(&self.dir.join(&file.name));
            fs::rename(&new_list, &list).map_err(StoreError::at(&list))?;
            fs::rename(&new, &whole).map_err(StoreError::at(&whole))?;
            layout::sync_dir(dir)?;
            layout::remove_file(&part)?;
            layout::remove_file(&journal)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        source: &Path,
        target: &Path,
    ) -> Result<(ImportWay, FileHashes), StoreError> {
        let way = if fs::hard_link(source, target).is_ok() {
            ImportWay::Link
        } else if reflink(source, target).is_ok() {
            ImportWay::Reflink
        } else {
            ImportWay::Copy
        };
        let (n_total, store) = (self.n_total, self.store);
        if way == ImportWay::Copy {
            store.check_space(n_total - self.n_done)?;
        }
        let mut step = |n_bytes: u64| {
            self.n_done += n_bytes;
            (self.progress)(self.n_done, n_total);
        };
        if way != ImportWay::Copy {
            return Ok((way, hashes::hash_file(target, &mut step)?));
        }
        let from = File::open(source).map_err(StoreError::at(source))?;
        let to = File::create(target).map_err(StoreError::at(target))?;
        let hashes = hashes::hash(from, &to, &mut step).map_err(StoreError::at(target))?;
        to.sync_all().map_err(StoreError::at(target))?;
        Ok((way, hashes))
    }
}

/// The files of the model that `file` is, or is a part of.
fn sources(file: &Path) -> Result<Vec<PathBuf>, StoreError> {
    // A link to a link would be a link to something that may go away.
    let file = file.canonicalize().map_err(StoreError::at(file))?;
    let no_model = |source| StoreError::NoModel { path: file.clone(), source };
    let gguf = Gguf::open(&file).map_err(no_model)?;
    gguf.paths().map(|path| path.canonicalize().map_err(StoreError::at(path))).collect()
}

fn file_name(path: &Path) -> Result<String, StoreError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| StoreError::Invalid {
        name: path.display().to_string(),
        what: "expected a file name that is text".to_owned(),
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reflink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a file that shares the blocks of another, where the file system can.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reflink(source: &Path, target: &Path) -> io::Result<()> {
    let from = File::open(source)?;
    let to = File::create_new(target)?;
    let linked = rustix::fs::ioctl_ficlone(&to, &from);
    if linked.is_err() {
        fs::remove_file(target)?;
    }
    linked?;
    to.sync_all()
}
