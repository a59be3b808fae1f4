//! `shoal rm`: removes models from this device, by way of the running node if it has them.

use crate::{
    amount, args::RemoveArgs, client, failure::Failure, library, output, pull::is_for_node,
};

/// What was removed.
struct Removed {
    name: String,
    n_bytes: u64,
    /// Files that nobody knows, and that were left alone.
    left: Vec<String>,
}

pub(crate) async fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    for name in &args.names {
        let removed = match through_node(args, name)? {
            Some(removed) => removed,
            None => from_disk(args, name).await?,
        };
        let mut text =
            format!("{} is removed, {} in all\n", removed.name, amount::bytes(removed.n_bytes));
        for path in &removed.left {
            text.push_str(&format!("  {path} is not of it, and was left alone\n"));
        }
        output::print(&text)?;
    }
    Ok(())
}

/// Lets the node remove it, which may be running it. `None` if there is no node, or it has no such model.
fn through_node(args: &RemoveArgs, name: &str) -> Result<Option<Removed>, Failure> {
    if !is_for_node(&args.shelf)? {
        return Ok(None);
    }
    let path = format!("/models/{}", client::escape(name));
    match client::ask(&args.shelf.at, "DELETE", &path, None) {
        Ok(body) => {
            let left = body["left"].as_array().into_iter().flatten();
            Ok(Some(Removed {
                name: body["model"].as_str().unwrap_or(name).to_owned(),
                n_bytes: body["n_bytes"].as_u64().unwrap_or_default(),
                left: left.filter_map(|path| path.as_str().map(str::to_owned)).collect(),
            }))
        }
        Err(failure) if failure.is_unknown_model() => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn from_disk(args: &RemoveArgs, name: &str) -> Result<Removed, Failure> {
    let node = library::open(&args.shelf.storage).await?;
    let removed = node.remove(name).await;
    node.shutdown().await;
    let removed = removed?;
    let left = removed.left.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    Ok(Removed { name: removed.name, n_bytes: removed.n_bytes, left })
}
