//! `shoal verify`: reads models back.

use std::time::Instant;

use anyhow::anyhow;
use shoal_node::{
    Node,
    hub::{FileReport, Place, Verdict, VerifyReport},
};

use crate::{
    args::VerifyArgs,
    failure::Failure,
    library, output,
    progress::{Progress, Step},
};

pub(crate) async fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let node = library::open(&args.storage).await?;
    let result = verify_all(&node, args).await;
    node.shutdown().await;
    let n_damaged = result?;
    if n_damaged == 0 {
        return Ok(());
    }
    let failure = Failure::new(anyhow!("{n_damaged} models are damaged"), Failure::MODEL);
    Err(failure.hint(match args.repair {
        true => "`shoal pull` fetches what was damaged, and nothing else",
        false => "with --repair what is damaged is given up, so that `shoal pull` fetches it again",
    }))
}

/// Returns how many are damaged.
async fn verify_all(node: &Node, args: &VerifyArgs) -> Result<usize, Failure> {
    let mut names = args.names.clone();
    if names.is_empty() {
        let own = node.stored().await?.into_iter().filter(|model| model.place == Place::Own);
        names = own.map(|model| model.name).collect();
    }
    let mut n_damaged = 0;
    for name in names {
        let mut reading = Reading::new(name.clone());
        let step = move |n_bytes, n_total| reading.show(n_bytes, n_total);
        let report = node.verify(&name, args.repair, step).await?;
        n_damaged += usize::from(!report.is_good());
        output::print(&format(&report))?;
    }
    Ok(n_damaged)
}

/// Shows how far reading a model is.
#[derive(Debug)]
pub(crate) struct Reading {
    name: String,
    started: Instant,
    progress: Progress,
}

impl Reading {
    pub(crate) fn new(name: String) -> Self {
        Self { name, started: Instant::now(), progress: Progress::new() }
    }

    pub(crate) fn show(&mut self, n_bytes: u64, n_total: u64) {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let bytes_per_s = n_bytes as f64 / seconds;
        let left = n_total.saturating_sub(n_bytes) as f64;
        self.progress.show(&Step {
            name: self.name.clone(),
            n_bytes,
            n_total,
            bytes_per_s,
            remaining_s: (bytes_per_s > 0.0).then(|| left / bytes_per_s),
            ..Step::default()
        });
    }
}

fn format(report: &VerifyReport) -> String {
    let of_file = |file: &FileReport| match &file.verdict {
        Verdict::Good => "good".to_owned(),
        Verdict::Unknown { id } => {
            format!("readable; nothing says what it should be, it is {}", id.digest)
        }
        Verdict::Partial => "what is there is good, the rest is missing".to_owned(),
        Verdict::Damaged { chunks, repaired } => {
            let given_up = if *repaired { ", given up" } else { "" };
            format!("damaged: {} chunks are wrong{given_up}", chunks.len())
        }
    };
    match report.files.as_slice() {
        [file] => format!("{}: {}\n", report.name, of_file(file)),
        files => files
            .iter()
            .map(|file| format!("{}, {}: {}\n", report.name, file.name, of_file(file)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_file_is_wrong() {
        let file = |name: &str, verdict| FileReport { name: name.into(), n_bytes: 9, verdict };
        let damaged = Verdict::Damaged { chunks: [3, 4].into_iter().collect(), repaired: true };
        let files = vec![file("a", Verdict::Good), file("b", damaged)];
        let text = format(&VerifyReport { name: "m".into(), files });
        assert_eq!(text, "m, a: good\nm, b: damaged: 2 chunks are wrong, given up\n");
        let text =
            format(&VerifyReport { name: "m".into(), files: vec![file("a", Verdict::Partial)] });
        assert_eq!(text, "m: what is there is good, the rest is missing\n");
    }
}
