//! `shoal rm`: removes models from this device, by way of the running node if it has them.

use crate::{
    amount, args::RemoveArgs, client, failure::Failure, library, output, pull::is_for_node,
};

pub(crate) async fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    for name in &args.names {
        let (name, n_bytes) = match through_node(args, name)? {
            Some(removed) => removed,
            None => from_disk(args, name).await?,
        };
        output::print(&format!("{name} is removed, {} are free\n", amount::bytes(n_bytes)))?;
    }
    Ok(())
}

/// Lets the node remove it, which may be running it. `None` if there is no node, or it has no such model.
fn through_node(args: &RemoveArgs, name: &str) -> Result<Option<(String, u64)>, Failure> {
    if !is_for_node(&args.shelf) {
        return Ok(None);
    }
    let path = format!("/models/{}", client::escape(name));
    match client::ask(args.shelf.node, "DELETE", &path, None) {
        Ok(body) => {
            let removed = body["model"].as_str().unwrap_or(name).to_owned();
            Ok(Some((removed, body["n_bytes"].as_u64().unwrap_or_default())))
        }
        Err(failure) if failure.is_unknown_model() => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn from_disk(args: &RemoveArgs, name: &str) -> Result<(String, u64), Failure> {
    let node = library::open(&args.shelf.storage).await?;
    let removed = node.remove(name).await;
    node.shutdown().await;
    let removed = removed?;
    Ok((removed.name, removed.n_bytes))
}
