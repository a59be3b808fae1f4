//! How a download goes, on standard error: a bar if that is a terminal, else a line now and then.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shoal_api::view::DownloadView;

use crate::amount;

/// Between two lines where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Something of a known size that is under way.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Step {
    /// What it is about.
    pub(crate) name: String,
    pub(crate) n_bytes: u64,
    pub(crate) n_total: u64,
    pub(crate) bytes_per_s: f64,
    pub(crate) remaining_s: Option<f64>,
    /// Where the bytes come from, if there is something to tell.
    pub(crate) sources: Option<String>,
    /// Nodes that gave wrong bytes.
    pub(crate) bad_peers: Vec<String>,
}

/// The display.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None` if standard error is no terminal.
    bar: Option<ProgressBar>,
    last_line: Instant,
    has_waited: bool,
    bad_peers: Vec<String>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("it is right"));
            bar
        });
        Self { bar, last_line: Instant::now(), has_waited: false, bad_peers: Vec::new() }
    }

    /// Shows that something is awaited whose size is not known yet.
    pub(crate) fn wait(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(what.to_owned());
                bar.tick();
            }
            None if !self.has_waited && self.last_line.elapsed() >= LINE_INTERVAL => {
                write_err(what);
                self.has_waited = true;
            }
            None => {}
        }
    }

    /// Shows how far it is.
    pub(crate) fn show(&mut self, step: &Step) {
        for bad in &step.bad_peers {
            if !self.bad_peers.contains(bad) {
                self.say(&format!("node {bad} gave wrong bytes and is not asked any more"));
                self.bad_peers.push(bad.clone());
            }
        }
        match &self.bar {
            Some(bar) => {
                if bar.length().is_none() {
                    bar.println(&step.name);
                    let template = "[{wide_bar}] {percent:>3} %\n{msg}";
                    let style = ProgressStyle::with_template(template).expect("it is right");
                    bar.set_style(style.progress_chars("=> "));
                }
                if bar.length() != Some(step.n_total) {
                    bar.set_length(step.n_total);
                }
                bar.update(|state| state.set_pos(step.n_bytes));
                bar.set_message(describe(step));
            }
            None if self.last_line.elapsed() >= LINE_INTERVAL => {
                write_err(&format!("{}: {} %, {}", step.name, percent(step), describe(step)));
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    /// Shows what phase something is in.
    ///
    /// - `news`: what has changed, a line each, where no bar can be drawn
    /// - `now`: all of it, for a terminal
    pub(crate) fn phases(&self, news: &[String], now: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(now.to_owned());
                bar.tick();
            }
            None => news.iter().for_each(|line| write_err(line)),
        }
    }

    /// Prints a line that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => write_err(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl From<&DownloadView> for Step {
    fn from(download: &DownloadView) -> Self {
        let (hub, peers) = (download.from_hub, download.from_peers);
        let (hub_text, peers_text) = (amount::bytes(hub), amount::bytes(peers));
        Self {
            name: download.model.clone(),
            n_bytes: download.n_bytes,
            n_total: download.n_total,
            bytes_per_s: download.bytes_per_s,
            remaining_s: download.remaining_s,
            sources: (peers > 0)
                .then(|| format!("{hub_text} from the hub, {peers_text} from peers")),
            bad_peers: download
                .bad_peers
                .iter()
                .map(|bad| bad.node.chars().take(10).collect())
                .collect(),
        }
    }
}

/// Whole per cent; 100 only when it is all there.
fn percent(step: &Step) -> u128 {
    u128::from(step.n_bytes) * 100 / u128::from(step.n_total.max(1))
}

/// What a bar does not show.
pub(crate) fn describe(step: &Step) -> String {
    let mut text = format!("{} of {}", amount::bytes(step.n_bytes), amount::bytes(step.n_total));
    if step.bytes_per_s >= 1.0 {
        text.push_str(&format!(", {}/s", amount::bytes(step.bytes_per_s as u64)));
    }
    if let Some(seconds) = step.remaining_s {
        text.push_str(&format!(", {} left", amount::duration(seconds)));
    }
    if let Some(sources) = &step.sources {
        text.push_str(&format!(" ({sources})"));
    }
    text
}

fn write_err(text: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_far_it_is_and_where_it_comes_from() {
        let mut download = DownloadView {
            model: "m".into(),
            n_bytes: 180_300_000,
            n_total: 397_807_936,
            bytes_per_s: 23_100_000.0,
            remaining_s: Some(9.4),
            from_hub: 180_300_000,
            ..DownloadView::default()
        };
        let step = Step::from(&download);
        assert_eq!(describe(&step), "180 MB of 398 MB, 23 MB/s, 10 s left");
        assert_eq!(percent(&step), 45);
        download.from_hub = 12_000_000;
        download.from_peers = 300_000_000;
        let text = describe(&Step::from(&download));
        assert!(text.ends_with("(12 MB from the hub, 300 MB from peers)"), "{text}");
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(percent(&Step::default()), 0);
        assert_eq!(describe(&Step::default()), "0 B of 0 B");
    }
}
