//! The hub's API: what a repository is, what it holds, and which there are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Addresses, Refusal, find_repo};
use crate::{
    Gate,
    behaviour::Faults,
    http::{Head, Reply, encode},
    repo::{Commit, Repo, RepoFile, State},
    sha1::git_blob_oid,
};

/// When everything here was last changed: no test depends on it, and nothing else would be the same in each run.
const LAST_MODIFIED: &str = "2025-03-01T12:00:00.000Z";

pub(super) fn answer(state: &State, addresses: &Addresses, head: &Head, faults: &Faults) -> Reply {
    let segments: Vec<&str> = head.segments.iter().map(String::as_str).collect();
    let found = match segments.as_slice() {
        ["api", "models"] => return search(state, addresses, head),
        ["api", "models", rest @ ..] => of_repo(state, addresses, head, rest, faults),
        ["api", "whoami-v2"] => whoami(head),
        _ => Err(Reply::new(404, "text/plain", "not found\n".to_owned())),
    };
    found.unwrap_or_else(|reply| reply)
}

fn json_reply(value: &Value) -> Reply {
    Reply::new(200, "application/json; charset=utf-8", value.to_string())
}

fn whoami(head: &Head) -> Result<Reply, Reply> {
    match super::has_token(head) {
        Ok(true) => Ok(json_reply(&json!({ "type": "user", "name": "tester" }))),
        Ok(false) | Err(_) => Err(Refusal::BadToken.reply()),
    }
}

fn of_repo(
    state: &State,
    addresses: &Addresses,
    head: &Head,
    rest: &[&str],
    faults: &Faults,
) -> Result<Reply, Reply> {
    let marker = rest.iter().take(3).position(|word| ["tree", "revision"].contains(word));
    let (name, rest) = rest.split_at(marker.unwrap_or(rest.len()));
    let name = name.join("/");
    let (repo, _) = find_repo(state, head, &name)?;
    let revision = rest.get(1).copied().unwrap_or("main");
    let commit = repo.revision(revision).ok_or_else(|| Refusal::NoRevision(revision).reply())?;
    let reply = if rest.first() == Some(&"tree") {
        let folder = rest.get(2..).unwrap_or_default().join("/");
        tree(state, addresses, head, commit, &folder, faults)?
    } else {
        json_reply(&summary(&name, repo, commit))
    };
    Ok(reply.with("X-Repo-Commit", commit.id.as_str()))
}

/// What is the same in a summary and in a search.
fn outline(name: &str, repo: &Repo) -> Value {
    json!({
        "_id": git_blob_oid(name.as_bytes())[..24],
        "id": name,
        "modelId": name,
        "author": name.split_once('/').map(|(owner, _)| owner),
        "private": repo.gate == Gate::Private,
        "gated": match repo.gate {
            Gate::Open | Gate::Private => json!(false),
            Gate::Granted | Gate::Waiting => json!("manual"),
        },
        "lastModified": LAST_MODIFIED,
        "createdAt": LAST_MODIFIED,
        "downloads": repo.card.downloads,
        "likes": repo.card.likes,
        "tags": repo.tags(),
        "library_name": repo.library(),
    })
}

fn summary(name: &str, repo: &Repo, commit: &Commit) -> Value {
    let mut summary = outline(name, repo);
    let siblings: Vec<_> = commit.files.keys().map(|path| json!({ "rfilename": path })).collect();
    summary["sha"] = json!(commit.id);
    summary["disabled"] = json!(false);
    summary["usedStorage"] =
        json!(commit.files.values().map(|file| file.source.n_bytes()).sum::<u64>());
    summary["siblings"] = json!(siblings);
    if let Some(gguf) = &repo.card.gguf {
        summary["gguf"] = gguf.clone();
    }
    summary
}

/// Lists a folder, with all below it if `recursive`, folders among the files.
fn tree(
    state: &State,
    addresses: &Addresses,
    head: &Head,
    commit: &Commit,
    folder: &str,
    faults: &Faults,
) -> Result<Reply, Reply> {
    let is_recursive =
        head.query("recursive").is_some_and(|value| value != "false" && value != "0");
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut entries = BTreeMap::new();
    for (path, file) in &commit.files {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        let folders: BTreeSet<String> =
            rest.match_indices('/').map(|(end, _)| format!("{prefix}{}", &rest[..end])).collect();
        let is_below = !folders.is_empty();
        // In the order of length: the first is the one that a flat listing shows.
        for folder in folders.into_iter().take(if is_recursive { usize::MAX } else { 1 }) {
            let oid = git_blob_oid(folder.as_bytes());
            let entry = json!({ "type": "directory", "oid": oid, "size": 0, "path": folder });
            entries.insert(folder, entry);
        }
        if is_recursive || !is_below {
            entries.insert(path.clone(), file_entry(path, file, faults));
        }
    }
    if entries.is_empty() && !folder.is_empty() {
        return Err(Refusal::NoEntry.reply());
    }
    let entries: Vec<Value> = entries.into_values().collect();
    Ok(page(state, addresses, head, entries))
}

fn file_entry(path: &str, file: &RepoFile, faults: &Faults) -> Value {
    let mut entry =
        json!({ "type": "file", "oid": file.oid, "size": file.source.n_bytes(), "path": path });
    if let Some(pointer_bytes) = file.pointer_bytes
        && !faults.no_sha
    {
        entry["lfs"] = json!({
            "oid": file.source.sha256(),
            "size": file.source.n_bytes(),
            "pointerSize": pointer_bytes,
        });
    }
    entry
}

/// Models whose name holds the words of `search` and that have the tags of `filter`, most downloaded first.
fn search(state: &State, addresses: &Addresses, head: &Head) -> Reply {
    let words = head.query("search").unwrap_or_default().to_lowercase();
    let author = head.query("author");
    let filters: Vec<&str> = head
        .query
        .iter()
        .filter(|(name, _)| name == "filter")
        .flat_map(|(_, value)| value.split(','))
        .filter(|tag| !tag.is_empty())
        .collect();
    let mut found: Vec<(&String, &Repo)> = state
        .repos
        .iter()
        .filter(|(name, repo)| {
            let lower = name.to_lowercase();
            let tags = repo.tags();
            repo.gate != Gate::Private
                && words.split_whitespace().all(|word| lower.contains(word))
                && author.is_none_or(|author| name.starts_with(&format!("{author}/")))
                && filters.iter().all(|tag| tags.iter().any(|other| other == tag))
        })
        .collect();
    // The sort is stable: equals stay in the order of their names.
    match head.query("sort") {
        Some("likes") => found.sort_by_key(|(_, repo)| std::cmp::Reverse(repo.card.likes)),
        _ => found.sort_by_key(|(_, repo)| std::cmp::Reverse(repo.card.downloads)),
    }
    let found = found.into_iter().map(|(name, repo)| outline(name, repo)).collect();
    page(state, addresses, head, found)
}

/// Cuts a list into pages: `limit` and `cursor` choose one, a `Link` header leads to the next.
fn page(state: &State, addresses: &Addresses, head: &Head, entries: Vec<Value>) -> Reply {
    let limit = head.query("limit").and_then(|limit| limit.parse::<usize>().ok());
    let limit = limit.unwrap_or(usize::MAX).clamp(1, state.n_page_entries.max(1));
    let start = match head.query("cursor") {
        None => 0,
        Some(cursor) => match read_cursor(cursor) {
            Some(start) => start,
            None => {
                let body = json!({ "error": "Invalid cursor" }).to_string();
                return Reply::new(400, "application/json; charset=utf-8", body);
            }
        },
    };
    let n_entries = entries.len();
    let shown: Vec<Value> = entries.into_iter().skip(start).take(limit).collect();
    let end = start.saturating_add(shown.len());
    let reply = json_reply(&Value::Array(shown));
    if end >= n_entries {
        return reply;
    }
    let mut query = String::new();
    for (name, value) in head.query.iter().filter(|(name, _)| name != "cursor") {
        query.push_str(&format!("{}={}&", encode(name), encode(value)));
    }
    let url = format!("http://{}{}?{query}cursor={}", addresses.hub, head.raw_path(), cursor(end));
    reply.with("Link", format!("<{url}>; rel=\"next\""))
}

/// Clients must not guess what comes after a cursor, so it does not look like a number.
fn cursor(start: usize) -> String {
    data_encoding::BASE64URL.encode(format!("after:{start}").as_bytes()).replace('=', "%3D")
}

fn read_cursor(cursor: &str) -> Option<usize> {
    let bytes = data_encoding::BASE64URL.decode(cursor.as_bytes()).ok()?;
    str::from_utf8(&bytes).ok()?.strip_prefix("after:")?.parse().ok()
}
