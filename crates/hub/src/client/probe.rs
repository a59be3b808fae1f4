//! What a plain URL leads to.

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_LENGTH, ETAG, HeaderMap},
};
use shoal_proto::model::{Digest, FileId};
use url::Url;

use super::{
    HubClient,
    error::{HubError, shown},
    exchange::{Answer, Subject},
    name::parse_url,
    remote_file::content_range,
    retry::Attempts,
};

/// A file on any server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlFile {
    /// The URL as it was given, before redirects.
    pub url: String,
    /// A plain file name, from the answer or from the URL.
    pub name: String,
    /// The file's size.
    pub n_bytes: u64,
    /// The strong tag of this version of it, if the server gives one.
    pub etag: Option<String>,
    /// Its hash, if it is the hub's and the hub has one.
    pub sha256: Option<[u8; 32]>,
}

impl UrlFile {
    /// What identifies the file's content: its hash, or else the version that the server's tag names.
    pub fn id(&self) -> FileId {
        let digest = match self.sha256 {
            Some(sha256) => Digest::Sha256(sha256),
            None => origin_digest(&self.url, self.etag.as_deref()),
        };
        FileId { digest, n_bytes: self.n_bytes }
    }
}

/// BLAKE3 of a URL, a zero byte, and the strong tag, nothing if there is none.
pub(super) fn origin_digest(url: &str, etag: Option<&str>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(url.as_bytes()).update(&[0]).update(etag.unwrap_or_default().as_bytes());
    Digest::Origin(*hasher.finalize().as_bytes())
}

/// The strong tag of an answer, with its quotes.
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"')).then_some(tag)
}

impl HubClient {
    /// Asks what a URL leads to.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn probe(&self, url: &str) -> Result<UrlFile, HubError> {
        let parsed = parse_url(url)?;
        let mut attempts = Attempts::new(&self.inner.timing);
        loop {
            match self.probe_once(url, &parsed).await {
                Ok(file) => return Ok(file),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn probe_once(&self, text: &str, url: &Url) -> Result<UrlFile, HubError> {
        let head = self.inner.follow(Method::HEAD, url, None).await?;
        if let (StatusCode::OK, Some(n_bytes)) =
            (head.response.status(), content_length(head.response.headers()))
        {
            return file_of(text, url, &head, n_bytes);
        }
        // A signature is often for one method only, and some servers know no HEAD or answer it without a length.
        let get = self.inner.follow(Method::GET, url, Some("bytes=0-0")).await?;
        let headers = get.response.headers();
        let n_bytes = match get.response.status() {
            StatusCode::PARTIAL_CONTENT => content_range(headers).and_then(|range| range.total),
            StatusCode::OK => content_length(headers),
            // An empty file has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                content_range(headers).and_then(|range| range.total)
            }
            _ => return Err(self.inner.refusal(&get, Subject::Url)),
        };
        let n_bytes = n_bytes.ok_or_else(|| HubError::Unexpected {
            url: shown(url),
            what: "Content-Length",
            reason: "expected the file's size, got none".to_owned(),
        })?;
        file_of(text, url, &get, n_bytes)
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn file_of(text: &str, url: &Url, answer: &Answer, n_bytes: u64) -> Result<UrlFile, HubError> {
    let headers = answer.response.headers();
    let last_segment = |url: &Url| {
        let segment = url.path_segments().and_then(|mut segments| segments.next_back());
        segment.map(percent_decoded)
    };
    let names = [disposition_name(headers), last_segment(url), last_segment(&answer.url)];
    let Some(name) = names.into_iter().flatten().find(|name| is_plain(name)) else {
        return Err(HubError::BadUrl {
            url: shown(url),
            reason: "expected a file name at its end".to_owned(),
        });
    };
    Ok(UrlFile {
        url: text.to_owned(),
        name,
        n_bytes: answer.linked.n_bytes.unwrap_or(n_bytes),
        etag: strong_etag(headers).map(str::to_owned),
        sha256: answer.linked.sha256(),
    })
}

/// The name in `Content-Disposition: attachment; filename="x.gguf"` (RFC 6266). The extended form is skipped: servers that
/// send it send this one too.
fn disposition_name(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_DISPOSITION)?.to_str().ok()?;
    let name = text.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
    Some(name.trim().trim_matches('"').to_owned())
}

/// Whether a name stays in its directory, on any system.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
    (1..=255).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_plain)
}

fn percent_decoded(segment: &str) -> String {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high << 4 | low));
                rest = &after[2..];
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_and_stay_in_their_directory() {
        assert_eq!(percent_decoded("a%20b%2Fc%zz%4"), "a b/c%zz%4");
        assert!(is_plain("a b.gguf"));
        for bad in ["", "..", ".x", "a/b", "a\\b", "c:x", "a\0"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_strong_tags_name_a_version() {
        let tag = |text: &str| {
            let headers = [(ETAG, text.parse().expect("a value"))].into_iter().collect();
            strong_etag(&headers).map(str::to_owned)
        };
        assert_eq!(tag("\"abc\"").as_deref(), Some("\"abc\""));
        for weak in ["W/\"abc\"", "abc", "\"\"", ""] {
            assert_eq!(tag(weak), None, "{weak}");
        }
    }
}
