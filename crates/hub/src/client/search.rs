//! Searching the hub: `GET /api/models?search=…`.

use serde::Deserialize;

use super::{
    HubClient,
    error::HubError,
    exchange::Subject,
    listing::Gated,
    name::{check_repo, url_below},
};

/// Most hits of one search: more than anybody reads, and one page of the hub's.
const HITS_MAX: usize = 100;
/// Longest search text, in characters.
const WORDS_MAX: usize = 200;
/// What is asked for of each hit. Without this the hub says other things, such as every file's name.
const FIELDS: [&str; 6] = ["downloads", "likes", "lastModified", "tags", "gated", "library_name"];

/// A repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchHit {
    /// `owner/name`.
    pub repo: String,
    /// Downloads in the last month.
    pub n_downloads: u64,
    /// Likes.
    pub n_likes: u64,
    /// When it last changed, as the hub writes it (ISO 8601, UTC).
    pub last_modified: Option<String>,
    /// What its owner and the hub say about it.
    pub tags: Vec<String>,
    /// Whether its files are only for those who accepted its licence.
    pub gated: bool,
    /// In which format its weights seem to be.
    pub format: RepoFormat,
}

/// The format of a repository's weights, by its tags. Only its listing shows what is really there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoFormat {
    /// GGUF, which Shoal runs.
    Gguf,
    /// MLX, for Apple's GPUs.
    Mlx,
    /// Anything else, such as the weights as they were published.
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hit {
    id: String,
    #[serde(default)]
    downloads: u64,
    #[serde(default)]
    likes: u64,
    last_modified: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    gated: Gated,
    #[serde(rename = "library_name")]
    library_name: Option<String>,
}

impl HubClient {
    /// Searches the hub's models, most downloaded first.
    ///
    /// - `limit`: most hits; 100 if it is more
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn search(&self, words: &str, limit: usize) -> Result<Vec<SearchHit>, HubError> {
        let limit = limit.min(HITS_MAX);
        let words: String = words.chars().take(WORDS_MAX).collect();
        let mut url = url_below(&self.inner.endpoint_url, ["api", "models"])?;
        url.query_pairs_mut()
            .append_pair("search", &words)
            .append_pair("limit", &limit.to_string())
            .append_pair("sort", "downloads")
            .append_pair("direction", "-1")
            .extend_pairs(FIELDS.map(|field| ("expand[]", field)));
        let (hits, _): (Vec<Hit>, _) = self.inner.get_json(&url, Subject::Search).await?;
        // Repositories from before there were owners cannot be named, and so not offered.
        let hits = hits.into_iter().filter(|hit| check_repo(&hit.id).is_ok()).take(limit);
        Ok(hits.map(SearchHit::from).collect())
    }
}

impl From<Hit> for SearchHit {
    fn from(hit: Hit) -> Self {
        let says = |format: &str| {
            let is_library = hit.library_name.as_deref().is_some_and(|name| name == format);
            is_library || hit.tags.iter().any(|tag| tag.eq_ignore_ascii_case(format))
        };
        let format = if says("gguf") {
            RepoFormat::Gguf
        } else if says("mlx") {
            RepoFormat::Mlx
        } else {
            RepoFormat::Other
        };
        Self {
            repo: hit.id,
            n_downloads: hit.downloads,
            n_likes: hit.likes,
            last_modified: hit.last_modified,
            gated: hit.gated.is_gated(),
            tags: hit.tags,
            format,
        }
    }
}
