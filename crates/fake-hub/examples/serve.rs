//! Serves files by hand: `cargo run -p shoal-fake-hub --example serve -- --repo OWNER/NAME FILE...`.
//! It runs until its standard input ends.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use shoal_fake_hub::{Content, FakeHub};

fn main() -> io::Result<()> {
    let mut repo = "owner/name".to_owned();
    let mut paths = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repo" => {
                repo = args.next().ok_or_else(|| io::Error::other("--repo: expected a name"))?
            }
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let mut files = Vec::new();
    for path in &paths {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other("expected paths of files"))?;
        path.metadata()?;
        files.push((name, Content::File(path.clone())));
    }
    let hub = FakeHub::start();
    hub.add_repo(&repo, files);
    let mut out = io::stdout().lock();
    writeln!(out, "HF_ENDPOINT={}", hub.endpoint())?;
    writeln!(out, "{repo} at {}; ends with its standard input", hub.commit(&repo))?;
    out.flush()?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}
