//! Serves files by hand: `cargo run -p shoal-fake-hub --example serve -- --repo OWNER/NAME FILE...`, with `--bytes-per-s N` as
//! slowly as a bad line. It runs until its standard input ends.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use shoal_fake_hub::{At, Behaviour, Content, FakeHub, Fault};

fn main() -> io::Result<()> {
    let mut repo = "owner/name".to_owned();
    let mut paths = Vec::new();
    let mut bytes_per_s = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repo" => {
                repo = args.next().ok_or_else(|| io::Error::other("--repo: expected a name"))?
            }
            "--bytes-per-s" => {
                let rate = args.next().and_then(|it| it.parse().ok()).filter(|&rate| rate > 0);
                bytes_per_s =
                    Some(rate.ok_or_else(|| io::Error::other("--bytes-per-s: expected a number"))?);
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
    if let Some(bytes_per_s) = bytes_per_s {
        hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s }).times(u64::MAX));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "HF_ENDPOINT={}", hub.endpoint())?;
    writeln!(out, "{repo} at {}; ends with its standard input", hub.commit(&repo))?;
    out.flush()?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}
