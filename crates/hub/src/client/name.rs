//! Names of the hub's repositories, revisions and paths, and the URLs that are made of them. Nothing goes into a URL unchecked:
//! `..` in a name, encoded or not, would make another URL of it.

use url::Url;

use super::error::{HubError, shortened};

/// Longest owner or name of a repository, in bytes, by the hub's rules.
const NAME_BYTES_MAX: usize = 96;
/// Longest revision or path, in bytes: what file systems and git hosts take.
const PATH_BYTES_MAX: usize = 1024;

/// Parses a URL that can be fetched.
pub(super) fn parse_url(text: &str) -> Result<Url, HubError> {
    let bad = |reason: String| HubError::BadUrl { url: shortened(text), reason };
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("expected http or https, got {}", url.scheme())));
    }
    Ok(url)
}

/// Checks that a text may name a repository.
pub(super) fn check_repo(repo: &str) -> Result<(), HubError> {
    let is_name = |name: &str| {
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
            && is_word(name.chars().next())
            && is_word(name.chars().next_back())
            && !name.contains("--")
            && !name.contains("..")
    };
    match repo.split_once('/') {
        Some((owner, name)) if is_name(owner) && is_name(name) && !name.ends_with(".git") => Ok(()),
        _ => Err(HubError::BadName {
            what: "repository",
            expected: "owner/name of letters, digits and single -, _ or .",
            got: shortened(repo),
        }),
    }
}

/// Checks that a text may name a revision.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    check_path(revision, "revision", "a branch, a tag or a commit")
}

/// Checks that a text may name a file in a repository.
pub(super) fn check_file_path(path: &str) -> Result<(), HubError> {
    check_path(path, "path", "a relative path without . and ..")
}

fn check_path(path: &str, what: &'static str, expected: &'static str) -> Result<(), HubError> {
    let is_plain = path.len() <= PATH_BYTES_MAX
        && !path.contains(|c: char| c.is_control() || c == '\\')
        && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if is_plain { Ok(()) } else { Err(HubError::BadName { what, expected, got: shortened(path) }) }
}

/// Whether a revision is a commit, which always means the same.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A URL below the hub's endpoint. Each segment is encoded whole, so a slash within one stays in it.
pub(super) fn url_below<'a>(
    endpoint: &Url,
    segments: impl IntoIterator<Item = &'a str>,
) -> Result<Url, HubError> {
    let mut url = endpoint.clone();
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(segments),
        Err(()) => {
            return Err(HubError::BadUrl {
                url: shortened(endpoint.as_str()),
                reason: "expected a URL with a path".to_owned(),
            });
        }
    };
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_the_hubs_names() {
        for good in ["Qwen/Qwen2.5-0.5B-Instruct-GGUF", "a/b", "TheBloke/x_1.y-z", "_a/b_"] {
            assert!(check_repo(good).is_ok(), "{good}");
        }
        let long = format!("a/{}", "x".repeat(97));
        for bad in [
            "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b..c", "a/b--c", "-a/b", "a/b.",
            "a/b.git", "a/b?x", "a/b#", "a/b c", "a/%2e", "ä/b", &long,
        ] {
            assert!(check_repo(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_stay_in_their_repository() {
        for good in ["x.gguf", "a b/c%2e.gguf", "refs/pr/1"] {
            assert!(check_file_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/x", "a//b", "a/../b", "..", "./x", "a\\b", "a\nb", "x/"] {
            assert!(check_file_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn segments_are_encoded_whole() {
        let endpoint = parse_url("https://hub.example/mirror").expect("a URL");
        let url =
            url_below(&endpoint, ["a", "resolve", "refs/pr/1", "x y?#%.gguf"]).expect("a URL");
        assert_eq!(
            url.as_str(),
            "https://hub.example/mirror/a/resolve/refs%2Fpr%2F1/x%20y%3F%23%25.gguf"
        );
        assert!(parse_url("ftp://x/y").is_err() && parse_url("x").is_err());
    }
}
