//! `shoal import`: takes a file of this device into the models' directory.

use shoal_node::hub::ImportWay;

use crate::{args::ImportArgs, failure::Failure, library, output, verify::Reading};

pub(crate) async fn import(args: &ImportArgs) -> Result<(), Failure> {
    let node = library::open(&args.storage).await?;
    let file = args.file.to_string_lossy().into_owned();
    let mut reading = Reading::new(file);
    let step = move |n_bytes, n_total| reading.show(n_bytes, n_total);
    let imported = node.import(&args.file, args.name.as_deref(), step).await;
    node.shutdown().await;
    let imported = imported?;
    let way = match imported.way {
        ImportWay::Link => "the same file under a second name, no copy",
        ImportWay::Reflink => "its blocks are shared, no copy",
        ImportWay::Copy => "copied",
    };
    let model = imported.model;
    output::print(&format!("{} is in {} ({way})\n", model.name, model.dir.display()))
}
