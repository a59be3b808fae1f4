//! HTTP/1.1 as far as downloads need it: requests without a body, answers of a known length, connections that are kept.
//!
//! Written by hand because a hub that misbehaves must control each byte: an HTTP library would repair, refuse or delay most of
//! what [`Fault`](crate::Fault) asks for, and could not say what was really sent.

use std::{io, ops::Range, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until},
};

use crate::{
    behaviour::Faults,
    content::{CHUNK_BYTES, Source},
    log::Entry,
};

/// Longest request head, in bytes: signed URLs take a kilobyte or two.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pieces per second of a slow body: fine enough that a rate looks steady.
const N_SLOW_PIECES_PER_S: u64 = 20;

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// As it was sent.
    pub(crate) target: String,
    /// Between the slashes, decoded.
    pub(crate) segments: Vec<String>,
    /// Decoded.
    pub(crate) query: Vec<(String, String)>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The path without the query, as it was sent.
    pub(crate) fn raw_path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Parses the lines before the empty one; `None` if it is no request.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || !target.starts_with('/') || words.next().is_some() {
            return None;
        }
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        Some(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            segments: path[1..].split('/').map(decode).collect(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
            headers,
        })
    }
}

/// Undoes percent-encoding; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encodes what may not stand in a path; slashes stay.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Text(Bytes),
    File(Source, Range<u64>),
}

impl Reply {
    pub(crate) fn new(status: u16, content_type: &str, body: String) -> Self {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Self { status, headers, body: Body::Text(Bytes::from(body)) }
    }

    /// The bytes of a file that `asked` describes, with an entity tag.
    pub(crate) fn file(source: &Source, asked: &Asked, etag: &str) -> Self {
        let n_bytes = source.n_bytes();
        let reply = match asked {
            Asked::Unsatisfiable => Self::new(416, "text/plain", String::new())
                .with("Content-Range", format!("bytes */{n_bytes}")),
            Asked::Whole => Self {
                status: 200,
                headers: vec![("Content-Type", "application/octet-stream".to_owned())],
                body: Body::File(source.clone(), 0..n_bytes),
            },
            Asked::Part(range) => Self {
                status: 206,
                headers: vec![
                    ("Content-Type", "application/octet-stream".to_owned()),
                    ("Content-Range", format!("bytes {}-{}/{n_bytes}", range.start, range.end - 1)),
                ],
                body: Body::File(source.clone(), range.clone()),
            },
        };
        reply.with("Accept-Ranges", "bytes").with("ETag", format!("\"{etag}\""))
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn n_bytes(&self) -> u64 {
        match &self.body {
            Body::Text(text) => u64::try_from(text.len()).expect("a length fits 64 bits"),
            Body::File(_, range) => range.end - range.start,
        }
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.n_bytes()));
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Which bytes of a file a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Whole,
    /// Not empty, and within the file.
    Part(Range<u64>),
    Unsatisfiable,
}

impl Asked {
    /// Reads `Range` and `If-Range` (RFC 9110, section 14): what is not understood, and several ranges, mean the whole file.
    pub(crate) fn of(head: &Head, n_bytes: u64, etag: &str) -> Self {
        let Some(range) = head.header("range") else { return Self::Whole };
        if head.header("if-range").is_some_and(|tag| tag.trim_matches('"') != etag) {
            return Self::Whole;
        }
        let Some((first, last)) =
            range.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
        else {
            return Self::Whole;
        };
        let range = match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first > last => return Self::Whole,
            (Ok(first), Ok(last)) => first..last.saturating_add(1).min(n_bytes),
            (Ok(first), Err(_)) if last.is_empty() => first..n_bytes,
            (Err(_), Ok(n)) if first.is_empty() => n_bytes.saturating_sub(n)..n_bytes,
            _ => return Self::Whole,
        };
        if range.is_empty() { Self::Unsatisfiable } else { Self::Part(range) }
    }

    /// The bytes of a body, if one is due.
    pub(crate) fn body(&self, n_bytes: u64) -> Option<Range<u64>> {
        match self {
            Self::Whole => Some(0..n_bytes),
            Self::Part(range) => Some(range.clone()),
            Self::Unsatisfiable => None,
        }
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    scratch: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, received: Vec::new(), scratch: Vec::new() }
    }

    /// Waits for the next request; `None` if the client closed the connection or sent something else.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end + 4);
                return Ok(Head::parse(&text));
            }
            if self.received.len() > HEAD_BYTES_MAX
                || self.stream.read_buf(&mut self.received).await? == 0
            {
                return Ok(None);
            }
        }
    }

    /// Sends an answer as `faults` would have it; `on_sent` hears of each piece of the body that the socket took.
    ///
    /// Returns whether the connection may be kept.
    pub(crate) async fn send(
        &mut self,
        reply: &Reply,
        is_head: bool,
        faults: &Faults,
        entry: &Entry,
        on_sent: &(dyn Fn(u64) + Sync),
    ) -> io::Result<bool> {
        if let Some(delay) = faults.delay {
            sleep_until(Instant::now() + delay).await;
        }
        entry.set_status(reply.status);
        self.stream.write_all(reply.head().as_bytes()).await?;
        if is_head {
            return Ok(true);
        }
        let n_bytes = reply.n_bytes();
        let start = match &reply.body {
            Body::Text(_) => 0,
            Body::File(_, range) => range.start,
        };
        let truncated = faults.truncated.map(|n| n.saturating_sub(start));
        let limits = [truncated, faults.cut, faults.stall];
        let limit = limits.into_iter().flatten().fold(n_bytes, u64::min);

        let begun = Instant::now();
        let n_max = faults.bytes_per_s.map_or(CHUNK_BYTES, |rate| {
            usize::try_from(rate / N_SLOW_PIECES_PER_S).unwrap_or(CHUNK_BYTES).clamp(1, CHUNK_BYTES)
        });
        let mut sent = 0;
        while sent < limit {
            let n_left = usize::try_from(limit - sent).unwrap_or(usize::MAX);
            let n = self.send_piece(&reply.body, sent, n_left.min(n_max), &faults.corrupt).await?;
            sent += n;
            entry.add_sent(n);
            on_sent(n);
            if let Some(rate) = faults.bytes_per_s {
                let due = Duration::from_micros(sent.saturating_mul(1_000_000) / rate);
                sleep_until(begun + due).await;
            }
        }
        if faults.stall.is_some_and(|stall| sent == stall && sent < n_bytes) {
            self.wait_for_close().await?;
        }
        Ok(sent == n_bytes)
    }

    /// Sends at most `n_max` bytes of the body from `sent` on and returns how many the socket took.
    async fn send_piece(
        &mut self,
        body: &Body,
        sent: u64,
        n_max: usize,
        corrupt: &[u64],
    ) -> io::Result<u64> {
        let n = match body {
            Body::Text(text) => {
                let from = usize::try_from(sent).expect("within a text in memory");
                self.stream.write(&text[from..][..n_max]).await?
            }
            Body::File(source, range) => {
                let offset = range.start + sent;
                let chunk = source.read(offset, n_max, &mut self.scratch)?;
                let end = offset + u64::try_from(chunk.len()).expect("a chunk is small");
                let wrong: Vec<u64> =
                    corrupt.iter().copied().filter(|at| (offset..end).contains(at)).collect();
                if wrong.is_empty() {
                    self.stream.write(&chunk).await?
                } else {
                    let mut copy = chunk.to_vec();
                    for at in wrong {
                        let idx = usize::try_from(at - offset).expect("within a chunk");
                        copy[idx] = !copy[idx];
                    }
                    self.stream.write(&copy).await?
                }
            }
        };
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(u64::try_from(n).expect("a chunk is small"))
    }

    async fn wait_for_close(&mut self) -> io::Result<()> {
        let mut ignored = [0; 1024];
        while self.stream.read(&mut ignored).await? > 0 {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(range: &str) -> Head {
        Head::parse(&format!("GET /a HTTP/1.1\r\nRange: {range}\r\n")).unwrap()
    }

    #[track_caller]
    fn check(range: &str, expected: &Asked) {
        assert_eq!(&Asked::of(&get(range), 10, "tag"), expected, "{range}");
    }

    #[test]
    fn reads_single_ranges() {
        check("bytes=0-3", &Asked::Part(0..4));
        check("bytes=4-", &Asked::Part(4..10));
        check("bytes=-3", &Asked::Part(7..10));
        check("bytes=8-99", &Asked::Part(8..10));
        check("bytes=0-18446744073709551615", &Asked::Part(0..10));
        check("bytes=10-", &Asked::Unsatisfiable);
        check("bytes=-0", &Asked::Unsatisfiable);
        check("bytes=3-2", &Asked::Whole);
        check("bytes=0-1,4-5", &Asked::Whole);
        check("lines=1-2", &Asked::Whole);
    }

    #[test]
    fn decodes_each_segment_on_its_own() {
        let head = Head::parse("GET /a/refs%2Fpr%2F1/b%zz?q=x%20y+z&flag HTTP/1.1").unwrap();
        assert_eq!(head.segments, ["a", "refs/pr/1", "b%zz"]);
        assert_eq!((head.query("q"), head.query("flag")), (Some("x y z"), Some("")));
        assert_eq!(encode("a b/ü.gguf"), "a%20b/%C3%BC.gguf");
    }

    #[test]
    fn refuses_what_is_no_request() {
        for text in ["", "GET", "GET / SPDY", "GET a HTTP/1.1", "GET / HTTP/1.1\r\nno colon"] {
            assert!(Head::parse(text).is_none(), "{text}");
        }
    }
}
