//! How fast a model comes from a hub: `bench_pull ENDPOINT OWNER/REPO DIRECTORY`, for instance from the stand-in of
//! `cargo run --release -p shoal-fake-hub --example serve -- --repo OWNER/REPO FILE.gguf`.

use std::{error::Error, io::Write as _, sync::Arc, time::Instant};

use shoal_hub::{
    DownloadTiming, HubConfig, Library, LibraryConfig, Resolved, Select, Selection, StoreConfig,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, repo, dir] = arguments.as_slice() else {
        return Err("expected ENDPOINT OWNER/REPO DIRECTORY".into());
    };
    let library = Library::open(LibraryConfig {
        store: StoreConfig::new(dir),
        hub: HubConfig { endpoint: endpoint.clone(), ..HubConfig::default() },
        timing: DownloadTiming::default(),
        bytes_per_s: None,
        cards: None,
    })?;
    let Resolved::Files(model) = library.resolve(repo).await? else {
        return Err(format!("{repo} is not of the hub").into());
    };
    let whole: Select = Arc::new(|_| Ok(Selection::Whole));
    let start = Instant::now();
    library.obtain(&model, whole).await?;
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let rate = model.n_bytes() as f64 / 1e6 / seconds;
    writeln!(std::io::stdout(), "{rate:.0} MB/s ({seconds:.2} s), {peak}")?;
    Ok(())
}
