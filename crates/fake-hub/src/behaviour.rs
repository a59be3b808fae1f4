//! How the hub misbehaves: faults, where they strike and how often.

use std::{ops::Range, time::Duration};

/// The part of the hub a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// Anything below `/api`.
    Api,
    /// `/{repo}/resolve/{revision}/{path}`: a redirect, or a small file.
    Resolve,
    /// The host that redirects lead to.
    Cdn,
    /// Files by plain URLs, without a hub ([`FakeHub::url`](crate::FakeHub::url)).
    Plain,
}

/// One way to misbehave.
///
/// Those on bodies count only responses that they alter: a cut after 1000 bytes is not used up by a body of 500, nor a flipped
/// byte by a range without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status instead, e.g. 429 or 503.
    Status {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` says, in seconds; no header if `None`.
        retry_after_s: Option<u64>,
    },
    /// Says nothing for so long before it answers.
    Delay(Duration),
    /// Closes the connection after so many bytes of the body.
    Cut {
        /// Bytes of the body that are still sent.
        after_bytes: u64,
    },
    /// Falls silent after so many bytes of the body and keeps the connection open until the client closes it.
    Stall {
        /// Bytes of the body that are still sent.
        after_bytes: u64,
    },
    /// Sends the body at this rate at most.
    Slow {
        /// Bytes per second, for each connection; at least 1.
        bytes_per_s: u64,
    },
    /// Sends one byte of the file with its bits flipped.
    Corrupt {
        /// Offset of the byte in the file, in bytes.
        offset: u64,
    },
    /// Acts as if the file ended early, though its whole size is announced.
    Truncated {
        /// What there is of the file, in bytes.
        n_bytes: u64,
    },
    /// Answers 200 with the whole file where a range was asked for.
    RangesIgnored,
    /// Tells no SHA-256: no `x-linked-etag` from [`At::Resolve`], no `lfs.oid` from [`At::Api`].
    NoSha,
    /// At [`At::Resolve`]: redirects to a URL that has expired already. At [`At::Cdn`]: refuses as if the URL had expired.
    ExpiredUrl,
}

/// A fault, the requests that it strikes, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    at: At,
    fault: Fault,
    path: Option<String>,
    after: u64,
    times: Option<u64>,
}

impl Behaviour {
    /// A fault at a part of the hub: always, for every file.
    pub fn new(at: At, fault: Fault) -> Self {
        Self { at, fault, path: None, after: 0, times: None }
    }

    /// Limits it to the next `n` requests that it fits.
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// Lets `n` requests that it fits pass first.
    pub fn after(mut self, n: u64) -> Self {
        self.after = n;
        self
    }

    /// Limits it to files in whose name, `owner/name/path` or the path of a plain URL or of an API request, `part` occurs.
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = Some(part.into());
        self
    }

    fn is_for(&self, subject: &Subject<'_>) -> bool {
        self.at == subject.at
            && self.path.as_ref().is_none_or(|part| subject.names.iter().any(|n| n.contains(part)))
            && self.alters(subject.body.as_ref())
    }

    fn alters(&self, body: Option<&Range<u64>>) -> bool {
        let len = body.map_or(0, |body| body.end - body.start);
        match self.fault {
            Fault::Status { .. } | Fault::Delay(_) | Fault::NoSha | Fault::ExpiredUrl => true,
            Fault::Cut { after_bytes } | Fault::Stall { after_bytes } => len > after_bytes,
            Fault::Slow { .. } => len > 0,
            Fault::RangesIgnored => body.is_some(),
            Fault::Corrupt { offset } => body.is_some_and(|body| body.contains(&offset)),
            Fault::Truncated { n_bytes } => body.is_some_and(|body| body.end > n_bytes),
        }
    }

    /// Counts a request that it fits; true if it strikes.
    fn strikes(&mut self) -> bool {
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
        }
    }
}

/// A request, as behaviours see it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) at: At,
    /// The names of what is asked for.
    pub(crate) names: &'a [String],
    /// Which bytes of a file the body will hold, if it will.
    pub(crate) body: Option<Range<u64>>,
    /// Size of that file, in bytes.
    pub(crate) n_bytes: u64,
}

/// The faults that strike one request.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) status: Option<(u16, Option<u64>)>,
    pub(crate) delay: Option<Duration>,
    pub(crate) cut: Option<u64>,
    pub(crate) stall: Option<u64>,
    pub(crate) bytes_per_s: Option<u64>,
    pub(crate) corrupt: Vec<u64>,
    pub(crate) truncated: Option<u64>,
    pub(crate) ranges_ignored: bool,
    pub(crate) no_sha: bool,
    pub(crate) expired_url: bool,
}

impl Faults {
    /// Takes what strikes `subject` from `behaviours`, in the order in which they were asked for, and drops what is used up.
    ///
    /// After a status the others are left alone, for there is no body that they could alter.
    pub(crate) fn take(behaviours: &mut Vec<Behaviour>, mut subject: Subject<'_>) -> Self {
        let mut faults = Self::default();
        for behaviour in behaviours.iter_mut() {
            if faults.status.is_some() {
                break;
            }
            if !behaviour.is_for(&subject) || !behaviour.strikes() {
                continue;
            }
            match behaviour.fault {
                Fault::Status { status, retry_after_s } => {
                    faults.status = Some((status, retry_after_s));
                }
                Fault::Delay(delay) => faults.delay = Some(delay),
                Fault::Cut { after_bytes } => faults.cut = Some(after_bytes),
                Fault::Stall { after_bytes } => faults.stall = Some(after_bytes),
                Fault::Slow { bytes_per_s } => faults.bytes_per_s = Some(bytes_per_s.max(1)),
                Fault::Corrupt { offset } => faults.corrupt.push(offset),
                Fault::Truncated { n_bytes } => faults.truncated = Some(n_bytes),
                Fault::RangesIgnored => {
                    faults.ranges_ignored = true;
                    subject.body = Some(0..subject.n_bytes);
                }
                Fault::NoSha => faults.no_sha = true,
                Fault::ExpiredUrl => faults.expired_url = true,
            }
        }
        behaviours.retain(|behaviour| behaviour.times != Some(0));
        faults
    }
}
