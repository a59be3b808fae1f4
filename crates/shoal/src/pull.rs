//! `shoal pull`: brings a model to this device, by way of the running node if there is one.
//!
//! A node's download goes on whoever watches it; one of this process ends with it, and the next one goes on from there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::anyhow;
use serde_json::json;
use shoal_api::view::{DownloadView, StoredState, StoredView};
use shoal_node::Node;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    args::{NodeArgs, PullArgs, ShelfArgs},
    client,
    failure::Failure,
    library, output,
    progress::{Progress, Step},
    stop,
};

/// Between two looks at a download or a placement.
pub(crate) const POLL: Duration = Duration::from_millis(250);
/// How long a node may say of a download that was just started what was true before: that it failed, was complete, or is not
/// there.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) async fn pull(args: PullArgs) -> Result<(), Failure> {
    let model = absolute(&args.model);
    if is_for_node(&args.shelf)? {
        let (name, dir) = through_node(&args, &model).await?;
        return output::print(&line(&name, Path::new(&dir)));
    }
    let node = library::open(&args.shelf.storage).await?;
    let result = fetch_and_find(&node, &model, args.update).await;
    node.shutdown().await;
    let (name, place) = result?;
    output::print(&line(&name, &place))
}

/// A path that means the same to a node that runs elsewhere; anything else as it is.
pub(crate) fn absolute(model: &str) -> String {
    match Path::new(model).canonicalize() {
        Ok(path) if path.is_file() => path.to_string_lossy().into_owned(),
        _ => model.to_owned(),
    }
}

/// Whether the running node should do it: one answers, and the user has not named a directory that is not its.
pub(crate) fn is_for_node(args: &ShelfArgs) -> Result<bool, Failure> {
    let Some(state) = client::state_if_running(&args.at)? else { return Ok(false) };
    let Some(disk) = state.disk else { return Ok(false) };
    Ok(match &args.storage.library.models_dir {
        None => true,
        Some(dir) => dir.canonicalize().is_ok_and(|dir| dir == Path::new(&disk.dir)),
    })
}

/// Brings all of a model to this device while showing how it goes. Returns its name.
///
/// Signals are not looked at: whoever listens for one once keeps its default, which is to end, away for good.
pub(crate) async fn fetch(node: &Node, model: &str, update: bool) -> Result<String, Failure> {
    let mut progress = Progress::new();
    let pulled =
        async { if update { node.update(model).await } else { node.pull_now(model).await } };
    tokio::select! {
        pulled = pulled => Ok(pulled?),
        () = show(node, &mut progress) => unreachable!("it has no end"),
    }
}

async fn show(node: &Node, progress: &mut Progress) {
    let mut ticks = interval(POLL);
    // What is on this device already is found within the first.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let downloads = node.downloads();
        match downloads.first().filter(|download| download.n_total > 0) {
            Some(download) => progress.show(&Step::from(&DownloadView::from(download.clone()))),
            None => progress.wait("asking the hub"),
        }
    }
}

async fn fetch_and_find(
    node: &Node,
    model: &str,
    update: bool,
) -> Result<(String, PathBuf), Failure> {
    let mut stop = stop::Signals::listen()?;
    let name = tokio::select! {
        name = fetch(node, model, update) => name?,
        () = stop.next() => return Err(interrupted("what was fetched is kept; run it again to go on")),
    };
    let stored = node.stored().await?;
    let place = match stored.into_iter().find(|stored| stored.name == name) {
        Some(stored) => stored.dir,
        None => PathBuf::from(&name),
    };
    Ok((name, place))
}

async fn through_node(args: &PullArgs, model: &str) -> Result<(String, String), Failure> {
    let node = &args.shelf.at;
    let mut progress = Progress::new();
    progress.wait("asking the node");
    let mut stop = stop::Signals::listen()?;
    let body = json!({"model": model, "update": args.update});
    let started = blocking(|| client::ask(node, "POST", "/download/start", Some(&body)))?;
    let name = started["model"].as_str().unwrap_or(model).to_owned();
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settled = Instant::now() + SETTLE;
    let mut has_run = false;
    loop {
        tokio::select! {
            () = stop.next() => {
                progress.finish();
                return Err(interrupted("the node goes on with it; `shoal pull` shows how it goes"));
            }
            _ = ticks.tick() => {}
        }
        let download = blocking(|| find_download(args, &name))?;
        match download {
            Some(download) if download.state == "running" => {
                if download.n_total > 0 {
                    progress.show(&Step::from(&download));
                }
                settled = Instant::now() + SETTLE;
                has_run = true;
            }
            Some(download) if download.state != "complete" => {
                if has_run || Instant::now() >= settled {
                    let disk = blocking(|| Ok(disk_of(args, &name)))?;
                    return Err(ended(&download, disk));
                }
            }
            // All is there, or nothing is.
            _ => match blocking(|| find_stored(args, &name))? {
                Some(stored) if stored.state == StoredState::Whole => {
                    return Ok((name, stored.dir));
                }
                _ if name == "demo" || Path::new(&name).is_file() => {
                    return Ok((name.clone(), name));
                }
                _ if Instant::now() < settled => {}
                _ => {
                    let error = anyhow!("model {name}: the node did not take all of it");
                    return Err(Failure::new(error, Failure::MODEL).hint("its log says why"));
                }
            },
        }
    }
}

fn downloads(node: &NodeArgs) -> Result<Vec<DownloadView>, Failure> {
    client::parse(client::ask(node, "GET", "/downloads", None)?["downloads"].take())
}

/// Why a node's download has ended before its time.
///
/// - `disk`: bytes of the model that the node lacks, and bytes that its disk may still take, if it tells
fn ended(download: &DownloadView, disk: Option<(u64, u64)>) -> Failure {
    let name = &download.model;
    let said = download.message.as_ref().map(|message| anyhow!("{message}"));
    if let Some((missing, free)) = disk.filter(|(missing, free)| free < missing) {
        let what = format!("the disk is full: expected {missing} bytes of free space, got {free}");
        let error = said.unwrap_or_else(|| anyhow!("model {name}: {what}"));
        return Failure::new(error, Failure::DISK).hint("make space, and run it again to go on");
    }
    match said {
        Some(error) if download.n_bytes < download.n_total => Failure::new(error, Failure::HUB)
            .hint("run it again to go on: what was fetched is kept"),
        // All that was asked for came: it is not the network's fault.
        Some(error) => Failure::new(error, Failure::MODEL),
        None => Failure::new(anyhow!("the download of {name} was paused"), 1)
            .hint("run it again to go on"),
    }
}

/// What a model lacks on a node, and what the node's disk may still take.
fn disk_of(args: &PullArgs, name: &str) -> Option<(u64, u64)> {
    let free = client::state(&args.shelf.at).ok()?.disk?.free_bytes;
    let stored = find_stored(args, name).ok()??;
    let held = match stored.state {
        StoredState::Partial { n_bytes_held } => n_bytes_held,
        _ => stored.n_bytes,
    };
    Some((stored.n_bytes.saturating_sub(held), free))
}

fn find_download(args: &PullArgs, name: &str) -> Result<Option<DownloadView>, Failure> {
    Ok(downloads(&args.shelf.at)?.into_iter().find(|download| download.model == name))
}

fn find_stored(args: &PullArgs, name: &str) -> Result<Option<StoredView>, Failure> {
    let mut list = client::ask(&args.shelf.at, "GET", "/models?status=downloaded", None)?;
    let list: Vec<StoredView> = client::parse(list["models"].take())?;
    Ok(list.into_iter().find(|stored| stored.name == name))
}

/// Waits for an answer while the runtime's other tasks go on.
pub(crate) fn blocking<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    tokio::task::block_in_place(work)
}

fn interrupted(what: &'static str) -> Failure {
    Failure::new(anyhow!("interrupted"), Failure::INTERRUPTED).hint(what)
}

fn line(name: &str, place: &Path) -> String {
    format!("{name} is in {}\n", place.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(n_bytes: u64, message: Option<&str>, disk: Option<(u64, u64)>, code: u8) {
        let message = message.map(str::to_owned);
        let download = DownloadView { n_bytes, n_total: 100, message, ..DownloadView::default() };
        let failure = ended(&download, disk);
        assert_eq!(failure.code(), code, "{failure:?}");
    }

    #[test]
    fn a_download_of_the_node_ends_with_its_code() {
        check(40, Some("no route"), Some((60, 60)), Failure::HUB);
        check(40, Some("no route"), None, Failure::HUB);
        check(40, Some("no space"), Some((60, 59)), Failure::DISK);
        check(100, Some("no space for more than the header"), Some((900, 59)), Failure::DISK);
        check(40, None, Some((60, 59)), Failure::DISK);
        check(100, Some("architecture gemma3"), Some((900, 1000)), Failure::MODEL);
        check(40, None, Some((60, 60)), 1);
    }

    #[test]
    fn only_files_become_absolute() {
        assert_eq!(absolute("qwen2.5:0.5b"), "qwen2.5:0.5b");
        assert_eq!(absolute("src"), "src", "a directory is no model");
        assert!(Path::new(&absolute("Cargo.toml")).is_absolute());
    }
}
