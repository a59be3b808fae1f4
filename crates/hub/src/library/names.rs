//! From what a user typed to the files of a model: this device is asked first, then the cluster, then the hub.

use std::path::{Path, PathBuf};

use shoal_gguf::Gguf;
use shoal_proto::model::{Digest, FileId, FileOrigin, FileRef, ModelFiles};

use super::{Library, LibraryError, blocking};
use crate::{
    Catalogue, FileState, HubError, Imported, LocalFile, Place, Space, StoredModel, VerifyReport,
    catalogue::Card,
    client::RepoListing,
    demo::Source,
    quant::{PREFERENCE, PickError, Quant, pick, pick_file},
    reference::{Reference, ReferenceError, RepoReference, RepoWhat},
};

/// What a user's text leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolved {
    /// The demonstration model.
    Demo,
    /// A file of this device: one that the user named, or a model of the store of which nobody knows more.
    Path(PathBuf),
    /// Files that are here or can be had.
    Files(ModelFiles),
}

/// Why a text leads to no model.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// It names nothing.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// There is no such file.
    #[error("model {}: no such file", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// The hub does not tell.
    #[error("model {name}: the hub does not tell what it is made of")]
    Hub {
        /// What was asked for.
        name: String,
        /// Why.
        source: HubError,
    },
    /// The repository has nothing that can be taken.
    #[error("repository {repo}")]
    Pick {
        /// The repository.
        repo: String,
        /// Why.
        source: PickError,
    },
    /// What is on this device under that name is damaged.
    #[error("model {name} on this device is damaged: {what}")]
    Damaged {
        /// The model.
        name: String,
        /// What is wrong.
        what: String,
    },
}

impl Library {
    /// Finds what a user's text leads to. What is on this device is found without any network; then the cluster is asked, and
    /// only then the hub.
    ///
    /// # Errors
    /// If it names nothing, or nobody knows what it is made of.
    pub async fn resolve(&self, text: &str) -> Result<Resolved, NameError> {
        if let Some(stored) = self.inner.find(text.trim()).await {
            return of_stored(stored);
        }
        match Reference::parse(text, self.catalogue())? {
            Reference::Demo => Ok(Resolved::Demo),
            Reference::Path(path) => {
                let path = expand_home(&path);
                match path.canonicalize() {
                    Ok(found) if found.is_file() => Ok(Resolved::Path(found)),
                    _ => Err(NameError::NoFile { path }),
                }
            }
            Reference::Url(url) => self.resolve_url(&url).await,
            Reference::Repo(reference) => match self.resolve_nearby(&reference).await? {
                Some(found) => Ok(found),
                None => self.resolve_at_hub(&reference).await,
            },
        }
    }

    /// Like [`resolve`](Self::resolve), but asks nobody but the hub for what can come from there: what it has now may be newer
    /// than what is here.
    ///
    /// # Errors
    /// If the text names nothing, or the hub does not know what it is made of.
    pub async fn resolve_newest(&self, text: &str) -> Result<Resolved, NameError> {
        match Reference::parse(text, self.catalogue())? {
            Reference::Repo(reference) => self.resolve_at_hub(&reference).await,
            _ => self.resolve(text).await,
        }
    }

    /// The names that a model may have that a user's text leads to, the preferred one first, without a look at any disk.
    pub fn names_of(&self, text: &str) -> Vec<String> {
        let mut names = vec![text.trim().to_owned()];
        if let Ok(Reference::Repo(reference)) = Reference::parse(text, self.catalogue()) {
            names.extend(model_names(&reference));
        }
        names
    }

    /// The catalogue, with the user's cards.
    pub fn catalogue(&self) -> &Catalogue {
        &self.inner.catalogue
    }

    /// The quantisation of a card that would be taken: the preferred one of those that can be computed with.
    pub fn quant_of(&self, card: &Card) -> Option<Quant> {
        let supported = card.quants.iter().map(|it| &it.quant).filter(|it| it.is_supported());
        supported.min_by_key(|quant| preference(quant)).cloned()
    }

    /// The models on this device.
    pub async fn list(&self) -> Vec<StoredModel> {
        let store = self.inner.store.clone();
        blocking(move || store.list()).await
    }

    /// Free space for models.
    ///
    /// # Errors
    /// If the system does not tell.
    pub async fn space(&self) -> Result<Space, LibraryError> {
        let store = self.inner.store.clone();
        Ok(blocking(move || store.space()).await?)
    }

    /// Takes a file into the store; see [`Store::import`](crate::Store::import).
    ///
    /// # Errors
    /// If it is no model, or the disk refuses.
    pub async fn import(
        &self,
        file: &Path,
        name: Option<&str>,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<Imported, LibraryError> {
        let (store, file) = (self.inner.store.clone(), file.to_owned());
        let name = name.map(str::to_owned);
        Ok(blocking(move || store.import(&file, name.as_deref(), &mut progress)).await?)
    }

    /// Reads every byte of a model; see [`Store::verify`](crate::Store::verify).
    ///
    /// # Errors
    /// If it is not here, or cannot be read.
    pub async fn verify(
        &self,
        name: &str,
        repair: bool,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<VerifyReport, LibraryError> {
        let (store, model) = (self.inner.store.clone(), name.to_owned());
        let report = blocking(move || store.verify(&model, repair, &mut progress)).await?;
        if !report.is_good() {
            // What is damaged is not given to peers any more.
            let stored = self.inner.find(name).await.and_then(|model| model.manifest);
            let files = stored.iter().flat_map(|manifest| &manifest.files);
            files.for_each(|file| self.inner.serving.forget(&file.id));
        }
        Ok(report)
    }

    /// Opens a model of this device by its files. Parts may be missing: read only what was obtained. Blocks.
    ///
    /// # Errors
    /// If it is not here, or its header cannot be read.
    pub fn open_files(&self, model: &ModelFiles) -> Result<Source, LibraryError> {
        let unknown = || crate::StoreError::Unknown { name: model.name.clone() };
        let stored = self.inner.store.find(&model.name).ok_or_else(unknown)?;
        Ok(crate::demo::source(model.name.clone(), self.open_model(&stored)?))
    }

    /// The files of a model that lies anywhere on this device, hashed, so that other nodes can get them from here. The hashes
    /// are kept, so that a second call is quick.
    ///
    /// # Errors
    /// If it is no model, or cannot be read.
    pub async fn identify(&self, path: &Path) -> Result<ModelFiles, LibraryError> {
        let (library, path) = (self.clone(), path.to_owned());
        blocking(move || library.identify_now(&path)).await
    }

    fn identify_now(&self, path: &Path) -> Result<ModelFiles, LibraryError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let header = |source| LibraryError::Header { name: name.clone(), source };
        let gguf = Gguf::open(path).map_err(header)?;
        let mut files = Vec::new();
        for path in gguf.paths() {
            let n_bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            let local = LocalFile {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                path: path.to_owned(),
                id: None,
                n_bytes,
                state: FileState::Whole,
                place: Place::Own,
            };
            let hashes = self.inner.store.hashes(&local)?;
            let file = FileRef { name: local.name, id: hashes.id, origin: None };
            self.inner.serving.adopt(path, hashes)?;
            files.push(file);
        }
        // Files of one name are not always one model.
        let digest = files[0].id.digest.to_string();
        let short = digest.rsplit(':').next().unwrap_or_default().get(..8).unwrap_or_default();
        Ok(ModelFiles { name: format!("{name}-{short}"), files })
    }

    async fn resolve_url(&self, url: &str) -> Result<Resolved, NameError> {
        let hub = |source| NameError::Hub { name: url.to_owned(), source };
        let found = self.inner.client.probe(url).await.map_err(hub)?;
        let name = found.name.strip_suffix(".gguf").unwrap_or(&found.name).to_owned();
        let file =
            FileRef { id: found.id(), name: found.name, origin: Some(FileOrigin::Url(found.url)) };
        Ok(Resolved::Files(ModelFiles { name, files: vec![file] }))
    }

    /// Looks on this device, then in the cluster.
    async fn resolve_nearby(
        &self,
        reference: &RepoReference,
    ) -> Result<Option<Resolved>, NameError> {
        let names = model_names(reference);
        for name in &names {
            if let Some(stored) = self.inner.find(name).await {
                return of_stored(stored).map(Some);
            }
        }
        let peers = self.inner.peers();
        let answers = futures_util::future::join_all(names.iter().map(|name| peers.find(name)));
        Ok(answers.await.into_iter().flatten().next().map(Resolved::Files))
    }

    async fn resolve_at_hub(&self, reference: &RepoReference) -> Result<Resolved, NameError> {
        let listing = self.inner.client.repo(&reference.repo, reference.revision.as_deref()).await;
        let listing =
            listing.map_err(|source| NameError::Hub { name: reference.repo.clone(), source })?;
        of_listing(reference, &listing).map(Resolved::Files)
    }
}

/// The names that what a reference means may be stored under, the preferred one first.
fn model_names(reference: &RepoReference) -> Vec<String> {
    match &reference.what {
        RepoWhat::File(path) => vec![reference.file_name(path)],
        RepoWhat::Quant(Some(quant)) => vec![reference.model_name(quant)],
        RepoWhat::Quant(None) => {
            let quants = PREFERENCE.iter().filter_map(|label| label.parse::<Quant>().ok());
            let supported = quants.filter(Quant::is_supported);
            supported.map(|quant| reference.model_name(&quant)).collect()
        }
    }
}

/// A model of the store by its files if they are identified, else by its path.
fn of_stored(stored: StoredModel) -> Result<Resolved, NameError> {
    if let crate::ModelState::Damaged { what } = stored.state {
        return Err(NameError::Damaged { name: stored.name, what });
    }
    match stored.manifest {
        Some(manifest) => Ok(Resolved::Files(manifest)),
        None => match stored.files.into_iter().next() {
            Some(first) => Ok(Resolved::Path(first.path)),
            None => Err(NameError::NoFile { path: stored.dir }),
        },
    }
}

fn of_listing(reference: &RepoReference, listing: &RepoListing) -> Result<ModelFiles, NameError> {
    let files: Vec<(&str, u64)> =
        listing.files.iter().map(|file| (file.path.as_str(), file.n_bytes)).collect();
    let (picked, name) = match &reference.what {
        RepoWhat::File(path) => (pick_file(&files, path), Some(reference.file_name(path))),
        RepoWhat::Quant(quant) => (pick(&files, quant.as_ref(), Quant::is_supported), None),
    };
    let picked = picked.map_err(|source| NameError::Pick { repo: listing.repo.clone(), source })?;
    let name = name.unwrap_or_else(|| match &picked.quant {
        Some(quant) => reference.model_name(quant),
        None => reference.file_name(&picked.files[0].path),
    });
    let file = |path: &str, n_bytes| {
        let known = listing.files.iter().find(|file| file.path == path);
        let digest = match known.and_then(|file| file.sha256) {
            Some(sha256) => Digest::Sha256(sha256),
            None => {
                let place = format!("{}@{}/{path}", listing.repo, listing.commit);
                Digest::Origin(*blake3::hash(place.as_bytes()).as_bytes())
            }
        };
        let origin = FileOrigin::Hub {
            repo: listing.repo.clone(),
            commit: listing.commit.clone(),
            path: path.to_owned(),
        };
        FileRef {
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            id: FileId { digest, n_bytes },
            origin: Some(origin),
        }
    };
    let files = picked.files.iter().map(|picked| file(&picked.path, picked.n_bytes)).collect();
    Ok(ModelFiles { name, files })
}

fn preference(quant: &Quant) -> usize {
    let place = PREFERENCE.iter().position(|label| *label == quant.as_str());
    place.unwrap_or(PREFERENCE.len())
}

/// A leading `~/`, which shells leave alone inside of quotes.
fn expand_home(path: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(rest) => std::env::home_dir().map_or_else(|| path.to_owned(), |home| home.join(rest)),
        Err(_) => path.to_owned(),
    }
}
