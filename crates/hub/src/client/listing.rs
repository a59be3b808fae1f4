//! What a repository holds: `GET /api/models/{repo}/revision/{revision}` says its name and commit,
//! `GET /api/models/{repo}/tree/{commit}?recursive=true` its files, in pages that name the next one in a `Link` header.

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use super::{
    HubClient,
    error::{HubError, shortened, shown},
    exchange::{Subject, parse_sha256},
    name::{check_file_path, check_repo, check_revision, is_commit, url_below},
};

/// Most pages of a listing. The hub puts up to a thousand entries on one.
const PAGES_MAX: usize = 100;
/// Most files of a repository. The largest model repositories have some thousands.
const REPO_FILES_MAX: usize = 50_000;

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoListing {
    /// `owner/name`, as the hub calls it now, after renames.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// Whether its files are only for those who accepted its licence.
    pub gated: bool,
    /// Its files, in the hub's order.
    pub files: Vec<RepoFile>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFile {
    /// Its path in the repository, with `/` between segments.
    pub path: String,
    /// Its size.
    pub n_bytes: u64,
    /// Its hash, which the hub has of files in large-file storage: of every model file, but not of small texts.
    pub sha256: Option<[u8; 32]>,
}

/// The part of a repository's description that is used.
#[derive(Deserialize)]
struct Description {
    id: String,
    sha: String,
    #[serde(default)]
    gated: Gated,
}

/// `false`, or how access is granted: `"auto"` or `"manual"`.
#[derive(Deserialize, Default)]
#[serde(untagged)]
pub(super) enum Gated {
    #[default]
    Absent,
    Switch(bool),
    How(String),
}

impl Gated {
    pub(super) fn is_gated(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Switch(on) => *on,
            Self::How(how) => !how.is_empty(),
        }
    }
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

/// A file's entry in large-file storage.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl HubClient {
    /// Lists the files of a repository at a revision, `main` if none is given. The revision is resolved to a commit first, so
    /// that a push in between cannot mix two versions.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn repo(&self, repo: &str, revision: Option<&str>) -> Result<RepoListing, HubError> {
        let revision = revision.unwrap_or("main");
        check_repo(repo)?;
        check_revision(revision)?;
        let Description { id, sha, gated } = self.describe(repo, revision).await?;
        let files = self.tree(&id, &sha).await?;
        Ok(RepoListing { repo: id, commit: sha, gated: gated.is_gated(), files })
    }

    async fn describe(&self, repo: &str, revision: &str) -> Result<Description, HubError> {
        let segments = ["api", "models"].into_iter().chain(repo.split('/'));
        let url = url_below(&self.inner.endpoint_url, segments.chain(["revision", revision]))?;
        let subject = Subject::Repo { repo, revision };
        let (found, _) = self.inner.get_json::<Description>(&url, subject).await?;
        check_repo(&found.id)?;
        if !is_commit(&found.sha)
            || is_commit(revision) && !found.sha.eq_ignore_ascii_case(revision)
        {
            return Err(HubError::Unexpected {
                url: shown(&url),
                what: "sha",
                reason: shortened(&format!("expected a commit of {revision}, got {:?}", found.sha)),
            });
        }
        Ok(found)
    }

    async fn tree(&self, repo: &str, commit: &str) -> Result<Vec<RepoFile>, HubError> {
        let segments = ["api", "models"].into_iter().chain(repo.split('/'));
        let mut url = url_below(&self.inner.endpoint_url, segments.chain(["tree", commit]))?;
        url.query_pairs_mut().append_pair("recursive", "true");
        let too_large = |limit: usize, unit: &'static str| HubError::TooLarge {
            url: format!("{}/{repo}", self.inner.endpoint),
            limit: limit as u64,
            unit,
        };
        let mut files = Vec::new();
        for _ in 0..PAGES_MAX {
            let subject = Subject::Repo { repo, revision: commit };
            let (entries, headers): (Vec<TreeEntry>, _) =
                self.inner.get_json(&url, subject).await?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                files.push(file_of(entry, &url)?);
            }
            if files.len() > REPO_FILES_MAX {
                return Err(too_large(REPO_FILES_MAX, "files"));
            }
            match next_page(&url, &headers)? {
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        Err(too_large(PAGES_MAX, "pages of files"))
    }
}

fn file_of(entry: TreeEntry, url: &Url) -> Result<RepoFile, HubError> {
    check_file_path(&entry.path)?;
    let Some(lfs) = entry.lfs else {
        return Ok(RepoFile { path: entry.path, n_bytes: entry.size, sha256: None });
    };
    let Some(sha256) = parse_sha256(&lfs.oid) else {
        return Err(HubError::Unexpected {
            url: shown(url),
            what: "lfs.oid",
            reason: shortened(&format!(
                "of {}: expected 64 hexadecimal digits, got {:?}",
                entry.path, lfs.oid
            )),
        });
    };
    Ok(RepoFile { path: entry.path, n_bytes: lfs.size, sha256: Some(sha256) })
}

/// The page after this one, by its `Link` header (RFC 8288).
fn next_page(url: &Url, headers: &HeaderMap) -> Result<Option<Url>, HubError> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|links| links.split(", <")).find_map(|link| {
        let (target, parameters) = link.trim_start_matches('<').split_once('>')?;
        let is_next = |p: &str| matches!(p.trim(), "rel=\"next\"" | "rel=next");
        parameters.split([';', ',']).any(is_next).then_some(target)
    });
    let Some(next) = next else { return Ok(None) };
    match url.join(next) {
        Ok(next) if next.origin() == url.origin() => Ok(Some(next)),
        _ => Err(HubError::Unexpected {
            url: shown(url),
            what: "Link",
            reason: shortened(&format!("expected the next page on the same server, got {next}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_server() {
        let url: Url =
            "https://hub.example/api/models/a/b/tree/c?recursive=true".parse().expect("a URL");
        let next = |link: &str| {
            let headers = [(LINK, link.parse().expect("a value"))].into_iter().collect();
            next_page(&url, &headers).map(|url| url.map(|url| url.to_string()))
        };
        let page = "https://hub.example/api?cursor=x";
        for link in [
            format!("<{page}>; rel=\"next\""),
            format!("<https://hub.example/first>; rel=\"first\", <{page}>; rel=\"next\""),
            "</api?cursor=x>;rel=next".to_owned(),
        ] {
            assert_eq!(next(&link).expect("a page").as_deref(), Some(page), "{link}");
        }
        for link in [format!("<{page}>; rel=\"prev\""), "nonsense".to_owned()] {
            assert_eq!(next(&link).expect("no error"), None, "{link}");
        }
        for link in ["<https://evil.example/>; rel=\"next\"", "<http://hub.example/>; rel=\"next\""]
        {
            assert!(next(link).is_err(), "{link}");
        }
    }
}
