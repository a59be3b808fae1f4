//! The page at `/`: a chat box. Its files are part of the binary and refer to nothing outside of it.

use axum::http::{HeaderName, HeaderValue, header};

/// What the page may do: run its own script, show its own style and icon, ask its own node. Nothing inline, nothing foreign.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

type Asset = ([(HeaderName, HeaderValue); 3], &'static str);

fn asset(content_type: &'static str, text: &'static str) -> Asset {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        // The files change with the binary, and only with it.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, text)
}

pub(crate) async fn index() -> Asset {
    asset("text/html; charset=utf-8", include_str!("../page/index.html"))
}

pub(crate) async fn script() -> Asset {
    asset("text/javascript; charset=utf-8", include_str!("../page/app.js"))
}

pub(crate) async fn style() -> Asset {
    asset("text/css; charset=utf-8", include_str!("../page/style.css"))
}

pub(crate) async fn icon() -> Asset {
    asset("image/svg+xml", include_str!("../page/icon.svg"))
}

#[cfg(test)]
mod tests {
    const FILES: [&str; 4] = [
        include_str!("../page/index.html"),
        include_str!("../page/app.js"),
        include_str!("../page/style.css"),
        include_str!("../page/icon.svg"),
    ];

    #[test]
    fn the_page_refers_to_nothing_outside() {
        for file in FILES {
            let file = file.replace("http://www.w3.org/2000/svg", "");
            assert!(!file.contains("://") && !file.contains("\"//"), "{file}");
        }
    }

    #[test]
    fn the_page_keeps_its_own_policy() {
        let [index, script, ..] = FILES;
        for inline in ["<style", "style=", "onclick=", "<script>"] {
            assert!(!index.contains(inline), "{inline}");
        }
        for unsafe_sink in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!script.contains(unsafe_sink), "{unsafe_sink}");
        }
    }
}
