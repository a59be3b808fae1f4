//! The dashboard: what `npm run build` made of `dashboard/`, as files in the binary.
//!
//! They refer to nothing outside of themselves and hold nothing secret, so everybody may have them; what they show comes from
//! the API, which asks for the token where there is one.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::Write as _,
    sync::{LazyLock, OnceLock},
};

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use rust_embed::{Embed, EmbeddedFile};

/// What the page may do: run its own scripts, show its own styles and icon, ask its own node. Nothing inline, nothing foreign.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The page itself; the others are named in it.
const INDEX: &str = "index.html";

#[derive(Embed)]
#[folder = "../../dashboard/dist"]
struct Dist;

/// A file and how it travels.
struct File {
    bytes: Cow<'static, [u8]>,
    content_type: &'static str,
    /// A hash of the contents, in quotes.
    tag: HeaderValue,
    /// The same packed, once somebody has asked for it.
    packed: OnceLock<Vec<u8>>,
}

/// The files by their path.
static FILES: LazyLock<BTreeMap<String, File>> = LazyLock::new(|| {
    let mut files: BTreeMap<String, File> = Dist::iter()
        .filter_map(|name| Some((format!("/{name}"), File::new(&name, Dist::get(&name)?))))
        .collect();
    if let Some(index) = files.remove(&format!("/{INDEX}")) {
        files.insert("/".to_owned(), index);
    }
    files
});

impl File {
    fn new(name: &str, file: EmbeddedFile) -> Self {
        let hash = blake3::hash(&file.data).to_hex();
        let tag = HeaderValue::from_str(&format!("\"{}\"", &hash[..32]));
        Self {
            content_type: content_type(name),
            tag: tag.expect("hexadecimal digits in quotes"),
            bytes: file.data,
            packed: OnceLock::new(),
        }
    }

    fn packed(&self) -> &[u8] {
        self.packed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            let written = encoder.write_all(&self.bytes).and_then(|()| encoder.finish());
            written.expect("a vector takes everything")
        })
    }

    fn answer(&'static self, headers: &HeaderMap) -> Response {
        let mut response = if says(headers, &header::IF_NONE_MATCH, self.tag.to_str().ok()) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if says(headers, &header::ACCEPT_ENCODING, Some("gzip")) {
            let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (encoding, self.packed()).into_response()
        } else {
            (&*self.bytes).into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(header::ETAG, self.tag.clone());
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        // The files change with the binary, and only with it: their tags say whether they did.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// Whether a header's list has a value, which is not given a weight of nothing.
fn says(headers: &HeaderMap, name: &HeaderName, value: Option<&str>) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| {
        let (item, weight) = item.split_once(';').unwrap_or((item, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        // A tag that a proxy has weakened names the same contents.
        Some(item.trim().trim_start_matches("W/")) == value && !is_refused
    })
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        // The tests refuse any other.
        _ => "application/octet-stream",
    }
}

/// Adds the page's files to the routes.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    FILES.iter().fold(router, |router, (path, file)| {
        router.route(path, get(async |headers: HeaderMap| file.answer(&headers)))
    })
}

/// Whether a request asks for one of the page's files.
pub(crate) fn is_asked_for<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && FILES.contains_key(request.uri().path())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    /// Bytes that the page may weigh on its way to a phone.
    const PACKED_MAX: usize = 250_000;

    fn text(file: &File) -> String {
        String::from_utf8(file.bytes.to_vec()).expect("text")
    }

    #[test]
    fn the_page_is_whole() {
        let index = text(FILES.get("/").expect("the page; `npm run build` in dashboard/ makes it"));
        let named = index.split('"').filter_map(|it| it.strip_prefix("./"));
        let named: Vec<&str> = named.collect();
        assert!(named.len() >= 3, "a script, a style and an icon: {named:?}");
        for name in named {
            assert!(FILES.contains_key(&format!("/{name}")), "{name}");
        }
        for (path, file) in FILES.iter() {
            assert_ne!(file.content_type, "application/octet-stream", "{path}");
        }
    }

    #[test]
    fn the_page_is_light() {
        let weight: usize = FILES.values().map(|file| file.packed().len()).sum();
        assert!(weight <= PACKED_MAX, "{weight} bytes packed, {PACKED_MAX} are allowed");
    }

    #[test]
    fn the_page_keeps_its_own_policy() {
        let index = text(&FILES["/"]);
        for inline in ["<style", "style=", "onclick=", "<script>", "://", "\"//"] {
            assert!(!index.contains(inline), "{inline}");
        }
        for (path, file) in FILES.iter().filter(|(path, _)| path.ends_with(".css")) {
            let style = text(file);
            assert!(!style.contains("url(") && !style.contains("@import"), "{path}");
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let file = &FILES["/"];
        let headers = |name: HeaderName, value: &str| -> HeaderMap {
            [(name, HeaderValue::from_str(value).expect("a value"))].into_iter().collect()
        };
        let tag = file.tag.to_str().expect("a tag").to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let response = file.answer(&headers(header::IF_NONE_MATCH, &known));
            assert_eq!(response.status(), 304, "{known}");
        }
        let other = file.answer(&headers(header::IF_NONE_MATCH, "\"other\""));
        assert_eq!(other.status(), 200);
    }

    #[test]
    fn a_file_is_packed_for_those_who_can_unpack_it() {
        let file = &FILES["/"];
        for (accepted, expected) in
            [("gzip", true), ("br, gzip;q=0.5", true), ("identity", false), ("gzip;q=0", false)]
        {
            let headers = [(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))]
                .into_iter()
                .collect();
            let response = file.answer(&headers);
            let is_packed = response.headers().contains_key(header::CONTENT_ENCODING);
            assert_eq!(is_packed, expected, "{accepted}");
        }
        let mut unpacked = Vec::new();
        GzDecoder::new(file.packed()).read_to_end(&mut unpacked).expect("a whole file");
        assert_eq!(unpacked, *file.bytes);
    }
}
