//! A hub with one model, and libraries that get it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use shoal_fake_hub::{Content, FakeHub};
use shoal_gguf::{TensorType, Writer};
use shoal_hub::{
    DownloadStatus, DownloadTiming, HubConfig, HubTiming, Library, LibraryConfig, LibraryError,
    ModelState, Select, Selection, StoreConfig,
};
use shoal_proto::model::{CHUNK_BYTES, Digest, FileId, FileOrigin, FileRef, ModelFiles};
use tempfile::TempDir;

pub(crate) const REPO: &str = "owner/model-GGUF";
pub(crate) const FILE: &str = "model-q4_k_m.gguf";

/// A GGUF whose tensors are random bytes, `n_chunks` chunks and a bit long.
pub(crate) fn gguf(n_chunks: u64) -> Bytes {
    let rows = n_chunks * CHUNK_BYTES / 4 / 1024;
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random ^ (random >> 29)).to_le_bytes()
    };
    let data: Vec<Vec<u8>> =
        (0..4).map(|_| (0..rows * 1024 / 8).flat_map(|_| next()).collect()).collect();
    let writer = Writer::new().metadata("general.architecture", "none");
    let names = ["blk.0.w", "blk.1.w", "blk.2.w", "blk.3.w"];
    let writer = names.iter().zip(&data).fold(writer, |writer, (name, data)| {
        writer.tensor(*name, TensorType::I8, &[rows, 1024], data)
    });
    let mut bytes = Vec::new();
    writer.write(&mut bytes).expect("memory takes it");
    bytes.into()
}

/// A hub that has [`gguf`] in [`REPO`].
pub(crate) struct Setup {
    pub(crate) hub: FakeHub,
    pub(crate) content: Bytes,
    pub(crate) model: ModelFiles,
}

impl Setup {
    pub(crate) fn new(n_chunks: u64) -> Self {
        let hub = FakeHub::start();
        let content = gguf(n_chunks);
        hub.add_repo(REPO, vec![(FILE, Content::Bytes(content.clone()))]);
        let digest: Digest = format!("sha256:{}", hub.sha256(REPO, FILE)).parse().expect("hex");
        let origin = FileOrigin::Hub {
            repo: REPO.to_owned(),
            commit: hub.commit(REPO),
            path: FILE.to_owned(),
        };
        let id = FileId { digest, n_bytes: content.len() as u64 };
        let file = FileRef { name: FILE.to_owned(), id, origin: Some(origin) };
        let model = ModelFiles { name: format!("{REPO}:Q4_K_M"), files: vec![file] };
        Self { hub, content, model }
    }

    pub(crate) fn id(&self) -> FileId {
        self.model.files[0].id
    }

    /// A library with a directory of its own.
    pub(crate) fn library(&self) -> Shelf {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let library = self.library_in(&dir);
        Shelf { library, dir }
    }

    pub(crate) fn library_in(&self, dir: &TempDir) -> Library {
        Library::open(self.config(dir)).expect("an empty directory")
    }

    pub(crate) fn config(&self, dir: &TempDir) -> LibraryConfig {
        LibraryConfig {
            store: StoreConfig::new(dir.path()),
            hub: HubConfig { endpoint: self.hub.endpoint(), token: None, timing: quick_hub() },
            timing: quick(),
            bytes_per_s: None,
            cards: None,
        }
    }

    pub(crate) async fn obtain(
        &self,
        library: &Library,
        select: Select,
    ) -> Result<(), LibraryError> {
        library.obtain(&self.model, select).await
    }

    /// Checks that a library has the whole file, and only that.
    #[track_caller]
    pub(crate) fn assert_whole(&self, shelf: &Shelf) {
        let stored = shelf.library.store().find(&self.model.name).expect("it is listed");
        assert_eq!(stored.state, ModelState::Whole);
        let bytes = std::fs::read(&stored.files[0].path).expect("it is there");
        assert!(bytes == self.content, "{} bytes, not those of the file", bytes.len());
        let mut left: Vec<String> = names(&stored.dir);
        left.retain(|name| name.ends_with(".part") || name.ends_with(".journal"));
        assert!(left.is_empty(), "{left:?}");
    }

    /// Checks that a library has nothing that looks like the whole file.
    #[track_caller]
    pub(crate) fn assert_not_whole(&self, shelf: &Shelf) {
        let stored = shelf.library.store().find(&self.model.name);
        assert!(stored.is_none_or(|model| model.state != ModelState::Whole));
        assert!(!walk(shelf.dir.path().to_owned()).iter().any(|path| path.ends_with(FILE)));
    }
}

/// A library and its directory.
pub(crate) struct Shelf {
    pub(crate) library: Library,
    pub(crate) dir: TempDir,
}

impl Shelf {
    pub(crate) fn status(&self) -> DownloadStatus {
        self.library.downloads().into_iter().next().expect("a download")
    }
}

fn quick_hub() -> HubTiming {
    HubTiming {
        stall: Duration::from_millis(300),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        n_attempts: 2,
        ..HubTiming::default()
    }
}

fn quick() -> DownloadTiming {
    DownloadTiming {
        exchange: Duration::from_millis(50),
        retry_min: Duration::from_millis(5),
        retry_max: Duration::from_millis(20),
        n_failures_max: 5,
        patience: Duration::from_millis(200),
        ..DownloadTiming::default()
    }
}

/// Wants all of a model.
pub(crate) fn whole() -> Select {
    Arc::new(|_| Ok(Selection::Whole))
}

/// Wants one tensor.
pub(crate) fn tensor(name: &'static str) -> Select {
    Arc::new(move |gguf| {
        let info = gguf.tensor(name).expect("it is in the directory").info;
        Ok(Selection::Ranges(vec![vec![info.offset..info.offset + info.n_bytes]]))
    })
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    entries
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect()
}

fn walk(dir: PathBuf) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(dir).expect("a directory").map(|it| it.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { walk(path) } else { vec![path] }).collect()
}
