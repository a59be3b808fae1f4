//! What the hub answers: the API, redirects, the CDN and plain files.
//!
//! Sources: the clients `huggingface_hub` (`file_download.py`, `hf_api.py`, `utils/_http.py`) and `hf-hub`, and headers that
//! the hub's users quote in their issues. A public repository's small files are behind a relative redirect to
//! `/api/resolve-cache`; those of gated ones are served directly.

mod api;

use std::{net::SocketAddr, ops::Range, time::Duration};

use crate::{
    At, FakeHub, Gate,
    behaviour::{Faults, Subject},
    content::Source,
    http::{Asked, Head, Reply, encode},
    repo::{Commit, Repo, RepoFile, State, since_1970},
};

/// The hosts of one hub: each is a port of its own, so that clients see them as different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    Hub,
    Cdn,
    Plain,
}

/// Where those hosts listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) hub: SocketAddr,
    pub(crate) cdn: SocketAddr,
    pub(crate) plain: SocketAddr,
}

/// What a request is about, before any fault is considered.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) at: At,
    /// Names of the file, or the path of an API request.
    pub(crate) names: Vec<String>,
    /// The file whose bytes the answer would hold, and its entity tag.
    file: Option<(Source, String)>,
}

impl Topic {
    pub(crate) fn of(state: &State, host: Host, head: &Head) -> Self {
        match host {
            Host::Cdn => {
                let blob = state.blobs.get(head.raw_path());
                let names = blob.map(|blob| blob.names.iter().cloned().collect());
                let file = blob.map(|blob| (blob.source.clone(), cdn_etag(&blob.source)));
                Self { at: At::Cdn, names: names.unwrap_or_default(), file }
            }
            Host::Plain => {
                let path = head.segments.join("/");
                let source = state.plain.get(&path);
                let file = source.map(|source| (source.clone(), cdn_etag(source)));
                Self { at: At::Plain, names: vec![path], file }
            }
            Host::Hub => Self::of_hub(state, head),
        }
    }

    fn of_hub(state: &State, head: &Head) -> Self {
        let Some(route) = Route::of(&head.segments) else {
            let path = format!("/{}", head.segments.join("/"));
            return Self { at: At::Api, names: vec![path], file: None };
        };
        let small = state
            .repos
            .get(&route.repo)
            .and_then(|repo| repo.revision(&route.revision))
            .and_then(|commit| commit.files.get(&route.path))
            .filter(|file| file.pointer_bytes.is_none())
            .map(|file| (file.source.clone(), file.oid.clone()));
        let names = vec![format!("{}/{}", route.repo, route.path)];
        Self { at: At::Resolve, names, file: small }
    }

    /// What behaviours are asked with.
    pub(crate) fn subject(&self, head: &Head) -> Subject<'_> {
        let n_bytes = self.file.as_ref().map_or(0, |(source, _)| source.n_bytes());
        let body: Option<Range<u64>> = match &self.file {
            Some((_, etag)) if head.method == "GET" => Asked::of(head, n_bytes, etag).body(n_bytes),
            // The length of an API's answer is not known yet; it has a body at any rate.
            None if self.at == At::Api && head.method == "GET" => Some(0..u64::MAX),
            _ => None,
        };
        Subject { at: self.at, names: &self.names, body, n_bytes }
    }
}

/// An opaque tag: that of a CDN need not be the hash which the hub tells.
fn cdn_etag(source: &Source) -> String {
    format!("{}-1", &source.sha256()[..32])
}

/// `/{repo}/resolve/{revision}/{path}`, or the address in the cache that it may redirect to.
#[derive(Debug)]
struct Route {
    repo: String,
    revision: String,
    path: String,
    is_cached: bool,
}

impl Route {
    fn of(segments: &[String]) -> Option<Self> {
        if let [api, cache, models, owner, name, commit, path @ ..] = segments
            && (api.as_str(), cache.as_str(), models.as_str()) == ("api", "resolve-cache", "models")
        {
            let repo = format!("{owner}/{name}");
            return Some(Self {
                repo,
                revision: commit.clone(),
                path: path.join("/"),
                is_cached: true,
            });
        }
        // Repositories from the hub's first days have no owner.
        let marker = segments.iter().take(3).position(|segment| segment == "resolve")?;
        let (repo, [_, revision, path @ ..]) = segments.split_at_checked(marker)? else {
            return None;
        };
        if repo.is_empty() || path.is_empty() {
            return None;
        }
        Some(Self {
            repo: repo.join("/"),
            revision: revision.clone(),
            path: path.join("/"),
            is_cached: false,
        })
    }
}

/// Answers a request.
pub(crate) fn answer(
    state: &State,
    addresses: &Addresses,
    head: &Head,
    topic: &Topic,
    faults: &Faults,
) -> Reply {
    if let Some((status, retry_after_s)) = faults.status {
        let reply = Reply::new(status, "text/plain", "told to misbehave\n".to_owned());
        return match retry_after_s {
            Some(seconds) => reply.with("Retry-After", seconds.to_string()),
            None => reply,
        };
    }
    if !["GET", "HEAD"].contains(&head.method.as_str()) {
        return Reply::new(405, "text/plain", "only GET and HEAD\n".to_owned());
    }
    match topic.at {
        At::Api => api::answer(state, addresses, head, faults),
        At::Resolve => match Route::of(&head.segments) {
            Some(route) => resolve(state, addresses, head, &route, faults),
            None => Refusal::NoEntry.reply(),
        },
        At::Cdn => cdn(state, head, topic, faults),
        At::Plain => match &topic.file {
            Some((source, etag)) => file(head, source, etag, faults),
            None => Reply::new(404, "text/plain", "not found\n".to_owned()),
        },
    }
}

/// Why the hub gives no answer, and how it says so.
#[derive(Debug)]
enum Refusal<'a> {
    BadToken,
    NoRepo { has_token: bool },
    NoRevision(&'a str),
    NoEntry,
    Gated { repo: &'a str, has_token: bool },
}

impl Refusal<'_> {
    fn reply(&self) -> Reply {
        let (status, code, message) = match self {
            Self::BadToken => (401, None, "Invalid credentials in Authorization header".to_owned()),
            // A stranger is not told whether a repository is private or missing.
            Self::NoRepo { has_token: false } => {
                (401, Some("RepoNotFound"), "Invalid username or password.".to_owned())
            }
            Self::NoRepo { has_token: true } => {
                (404, Some("RepoNotFound"), "Repository not found".to_owned())
            }
            Self::NoRevision(revision) => {
                (404, Some("RevisionNotFound"), format!("Invalid rev id: {revision}"))
            }
            Self::NoEntry => (404, Some("EntryNotFound"), "Entry not found".to_owned()),
            Self::Gated { repo, has_token: false } => (
                401,
                Some("GatedRepo"),
                format!(
                    "Access to model {repo} is restricted. You must have access to it and be authenticated to access \
                     it. Please log in."
                ),
            ),
            Self::Gated { repo, has_token: true } => (
                403,
                Some("GatedRepo"),
                format!(
                    "Access to model {repo} is restricted and you are not in the authorized list. Visit \
                     https://huggingface.co/{repo} to ask for access."
                ),
            ),
        };
        let body = serde_json::json!({ "error": message }).to_string();
        let reply = Reply::new(status, "application/json; charset=utf-8", body)
            .with("X-Error-Message", message);
        match code {
            Some(code) => reply.with("X-Error-Code", code),
            None => reply,
        }
    }
}

/// Whether a request has a valid token.
fn has_token<'a>(head: &Head) -> Result<bool, Refusal<'a>> {
    match head.header("authorization") {
        None => Ok(false),
        Some(value) if value.strip_prefix("Bearer ") == Some(FakeHub::TOKEN) => Ok(true),
        Some(_) => Err(Refusal::BadToken),
    }
}

/// Finds a repository that the client may know of. `Err` may also be a redirect, when it was renamed.
fn find_repo<'a>(state: &'a State, head: &Head, name: &str) -> Result<(&'a Repo, bool), Reply> {
    let has_token = has_token(head).map_err(|refusal| refusal.reply())?;
    if let Some(new) = state.renamed.get(name) {
        let location = head.target.replacen(&encode(name), &encode(new), 1);
        return Err(Reply::new(307, "text/plain", format!("Temporary Redirect to {location}"))
            .with("Location", location));
    }
    match state.repos.get(name) {
        Some(repo) if repo.gate != Gate::Private || has_token => Ok((repo, has_token)),
        _ => Err(Refusal::NoRepo { has_token }.reply()),
    }
}

fn resolve(
    state: &State,
    addresses: &Addresses,
    head: &Head,
    route: &Route,
    faults: &Faults,
) -> Reply {
    let (repo, commit, file) = match find_file(state, head, route) {
        Ok(found) => found,
        Err(reply) => return reply,
    };
    if file.pointer_bytes.is_some() {
        return redirect(state, addresses, commit, file, route, faults);
    }
    let is_direct = route.is_cached || repo.gate != Gate::Open || !route.repo.contains('/');
    let reply = if state.resolve_cache && !is_direct && file.source.n_bytes() > 0 {
        let location = format!(
            "/api/resolve-cache/models/{}/{}/{}?etag=%22{}%22",
            encode(&route.repo),
            commit.id,
            encode(&route.path),
            file.oid
        );
        Reply::new(307, "text/plain", format!("Temporary Redirect to {location}"))
            .with("ETag", format!("\"{}\"", file.oid))
            .with("X-Linked-Size", file.source.n_bytes().to_string())
            .with("Location", location)
    } else {
        self::file(head, &file.source, &file.oid, faults)
    };
    reply.with("X-Repo-Commit", commit.id.as_str())
}

fn find_file<'a>(
    state: &'a State,
    head: &Head,
    route: &Route,
) -> Result<(&'a Repo, &'a Commit, &'a RepoFile), Reply> {
    let (repo, has_token) = find_repo(state, head, &route.repo)?;
    let is_gated = match repo.gate {
        Gate::Open | Gate::Private => false,
        Gate::Granted => !has_token,
        Gate::Waiting => true,
    };
    let commit = repo
        .revision(&route.revision)
        .ok_or_else(|| Refusal::NoRevision(&route.revision).reply())?;
    let file = commit.files.get(&route.path);
    let file =
        file.ok_or_else(|| Refusal::NoEntry.reply().with("X-Repo-Commit", commit.id.as_str()))?;
    if is_gated {
        let refusal = Refusal::Gated { repo: &route.repo, has_token };
        return Err(refusal.reply().with("X-Repo-Commit", commit.id.as_str()));
    }
    Ok((repo, commit, file))
}

/// Sends the client of a large file to the CDN, by a URL that expires.
fn redirect(
    state: &State,
    addresses: &Addresses,
    commit: &Commit,
    file: &RepoFile,
    route: &Route,
    faults: &Faults,
) -> Reply {
    let path = file.cdn_path();
    let expires = if faults.expired_url {
        since_1970().saturating_sub(Duration::from_secs(60)).as_secs()
    } else {
        state.expires()
    };
    let name = encode(route.path.rsplit('/').next().unwrap_or_default());
    let location = format!(
        "http://{}{path}?response-content-disposition=inline%3B+filename*%3DUTF-8%27%27{name}%3B\
         &Expires={expires}&Signature={}&Key-Pair-Id=FAKE",
        addresses.cdn,
        state.sign(&path, expires)
    );
    let reply = Reply::new(302, "text/plain", format!("Found. Redirecting to {location}"))
        .with("Accept-Ranges", "bytes")
        .with("X-Repo-Commit", commit.id.as_str())
        .with("X-Linked-Size", file.source.n_bytes().to_string())
        .with("Location", location);
    if faults.no_sha {
        return reply;
    }
    let etag = format!("\"{}\"", file.source.sha256());
    reply.with("X-Linked-ETag", etag.as_str()).with("ETag", etag)
}

fn cdn(state: &State, head: &Head, topic: &Topic, faults: &Faults) -> Reply {
    if head.header("authorization").is_some() {
        // Real signed URLs fail with it too, and a token has no business here.
        let body = "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>";
        return Reply::new(400, "application/xml", body.to_owned());
    }
    let expires = head.query("Expires").and_then(|expires| expires.parse::<u64>().ok());
    let is_valid = expires.is_some_and(|expires| {
        since_1970().as_secs() < expires
            && head.query("Signature") == Some(&state.sign(head.raw_path(), expires))
    });
    match &topic.file {
        Some((source, etag)) if is_valid && !faults.expired_url => file(head, source, etag, faults),
        _ => {
            let body = "<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>";
            Reply::new(403, "application/xml", body.to_owned())
        }
    }
}

fn file(head: &Head, source: &Source, etag: &str, faults: &Faults) -> Reply {
    let asked =
        if faults.ranges_ignored { Asked::Whole } else { Asked::of(head, source.n_bytes(), etag) };
    if head.header("if-none-match").is_some_and(|tag| tag.trim_matches('"') == etag) {
        return Reply::new(304, "text/plain", String::new()).with("ETag", format!("\"{etag}\""));
    }
    Reply::file(source, &asked, etag)
}
