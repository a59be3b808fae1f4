//! What the hub holds: repositories, their commits and files, and the addresses of large files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Behaviour, Content, content::Source, log::Log, sha1::git_blob_oid};

/// Files of other kinds are in LFS from this size on, in bytes.
const LFS_BYTES_MIN: u64 = 1024 * 1024 + 1;
/// How long signed URLs last on the real hub.
const URL_LIFETIME: Duration = Duration::from_secs(3600);
/// Entries of a listing's page on the real hub.
const N_PAGE_ENTRIES: usize = 1000;

/// Who may fetch the files of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// Everybody.
    #[default]
    Open,
    /// Those with a token whose holder was granted access: [`FakeHub::TOKEN`](crate::FakeHub::TOKEN) is.
    Granted,
    /// Nobody: the holder of the token asked for access, or did not, and has none.
    Waiting,
    /// Those with the token; to all others the repository does not exist.
    Private,
}

/// What a search shows of a repository.
#[derive(Debug, Clone, Default)]
pub struct Card {
    /// Downloads, by which searches are sorted.
    pub downloads: u64,
    /// Likes.
    pub likes: u64,
    /// Tags, besides those that follow from the files.
    pub tags: Vec<String>,
    /// The library that the model is for; `gguf` or `transformers` by its files if `None`.
    pub library: Option<String>,
    /// The summary of a GGUF file as the hub shows it: `{"total": .., "architecture": .., "context_length": ..}`.
    pub gguf: Option<Value>,
}

#[derive(Debug, Default)]
pub(crate) struct Repo {
    pub(crate) gate: Gate,
    pub(crate) card: Card,
    /// Oldest first; never empty once the repository is there.
    commits: Vec<Arc<Commit>>,
}

impl Repo {
    pub(crate) fn head(&self) -> &Arc<Commit> {
        self.commits.last().expect("a repository is made with a commit")
    }

    /// Finds a branch (there is only `main`) or a commit.
    pub(crate) fn revision(&self, revision: &str) -> Option<&Arc<Commit>> {
        if revision == "main" {
            return Some(self.head());
        }
        self.commits.iter().find(|commit| commit.id == revision)
    }

    pub(crate) fn library(&self) -> &str {
        match &self.card.library {
            Some(library) => library,
            None if self.has("gguf") => "gguf",
            None => "transformers",
        }
    }

    pub(crate) fn tags(&self) -> Vec<String> {
        let mut tags: BTreeSet<String> = self.card.tags.iter().cloned().collect();
        for kind in ["gguf", "safetensors"] {
            if self.has(kind) {
                tags.insert(kind.to_owned());
            }
        }
        tags.into_iter().collect()
    }

    fn has(&self, extension: &str) -> bool {
        self.head().files.keys().any(|path| has_extension(path, extension))
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(extension))
}

#[derive(Debug)]
pub(crate) struct Commit {
    /// 40 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) files: BTreeMap<String, RepoFile>,
}

impl Commit {
    /// Makes a commit out of its files; equal files make the same commit.
    pub(crate) fn new(files: Vec<(&str, Content)>) -> io::Result<Self> {
        let files: BTreeMap<_, _> = files
            .into_iter()
            .map(|(path, content)| Ok((path.to_owned(), RepoFile::new(path, content)?)))
            .collect::<io::Result<_>>()?;
        let listing: String =
            files.iter().map(|(path, file)| format!("{} {path}\n", file.oid)).collect();
        Ok(Self { id: git_blob_oid(listing.as_bytes()), files })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RepoFile {
    pub(crate) source: Source,
    /// What git calls the file, or the pointer that stands for it.
    pub(crate) oid: String,
    /// Size of that pointer in bytes, if the file is in LFS.
    pub(crate) pointer_bytes: Option<usize>,
}

impl RepoFile {
    fn new(path: &str, content: Content) -> io::Result<Self> {
        let source = Source::new(content)?;
        let n_bytes = source.n_bytes();
        let is_lfs = n_bytes >= LFS_BYTES_MIN
            || has_extension(path, "gguf")
            || has_extension(path, "safetensors");
        if is_lfs {
            let pointer = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {n_bytes}\n",
                source.sha256()
            );
            let pointer_bytes = Some(pointer.len());
            return Ok(Self { source, oid: git_blob_oid(pointer.as_bytes()), pointer_bytes });
        }
        let n_max = usize::try_from(LFS_BYTES_MIN).expect("a small constant");
        let oid = git_blob_oid(&source.read(0, n_max, &mut Vec::new())?);
        Ok(Self { source, oid, pointer_bytes: None })
    }

    /// Where the CDN keeps it.
    pub(crate) fn cdn_path(&self) -> String {
        let sha = self.source.sha256();
        format!("/repos/{}/{}/{sha}", &sha[..2], &sha[2..4])
    }
}

/// A file of the CDN and the names under which repositories hold it.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) source: Source,
    pub(crate) names: BTreeSet<String>,
}

/// All that a running hub knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) repos: BTreeMap<String, Repo>,
    pub(crate) renamed: BTreeMap<String, String>,
    pub(crate) plain: BTreeMap<String, Source>,
    /// By path at the CDN.
    pub(crate) blobs: BTreeMap<String, Blob>,
    pub(crate) behaviours: Vec<Behaviour>,
    pub(crate) log: Log,
    pub(crate) url_lifetime: Duration,
    /// Signatures of earlier keys are not valid any more.
    pub(crate) signing_key: u64,
    pub(crate) n_page_entries: usize,
    pub(crate) resolve_cache: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            repos: BTreeMap::new(),
            renamed: BTreeMap::new(),
            plain: BTreeMap::new(),
            blobs: BTreeMap::new(),
            behaviours: Vec::new(),
            log: Log::default(),
            url_lifetime: URL_LIFETIME,
            signing_key: 0,
            n_page_entries: N_PAGE_ENTRIES,
            resolve_cache: true,
        }
    }
}

impl State {
    pub(crate) fn add_commit(&mut self, repo: &str, commit: Commit) {
        for (path, file) in commit.files.iter().filter(|(_, file)| file.pointer_bytes.is_some()) {
            let blob = self
                .blobs
                .entry(file.cdn_path())
                .or_insert_with(|| Blob { source: file.source.clone(), names: BTreeSet::new() });
            blob.names.insert(format!("{repo}/{path}"));
        }
        let repo = self.repos.entry(repo.to_owned()).or_default();
        // An earlier commit that is made again becomes the head.
        repo.commits.retain(|earlier| earlier.id != commit.id);
        repo.commits.push(Arc::new(commit));
    }

    /// Signs a path at the CDN; `expires` in seconds since 1970.
    pub(crate) fn sign(&self, path: &str, expires: u64) -> String {
        let signed = format!("{} {path} {expires}", self.signing_key);
        HEXLOWER.encode(&Sha256::digest(signed))
    }

    /// When a URL that is signed now will expire, in seconds since 1970: rounded up, as URLs carry whole seconds.
    pub(crate) fn expires(&self) -> u64 {
        let expires = since_1970() + self.url_lifetime;
        expires.as_secs() + u64::from(expires.subsec_nanos() > 0)
    }
}

/// The time by this machine's clock.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
