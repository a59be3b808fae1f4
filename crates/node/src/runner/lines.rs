//! What a runner's process writes to standard error, as lines of the node's own log.
//!
//! The process's log lines begin with their level. Whatever else comes (the last words of a panic, a complaint of the
//! system's loader) is a warning, and the last such line is kept, since it may say why the process ended.

use std::time::Instant;

use tracing::Level;

/// Longest line that is kept; the rest of a longer one is left out.
const LINE_BYTES_MAX: usize = 2048;
/// Most lines of one second; more are counted, and not shown.
const LINES_PER_S_MAX: u32 = 100;

/// A line, and how important its writer thinks it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: String,
}

/// Lines out of bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    last_words: Option<String>,
    /// The second that is being counted, its lines so far, and how many were left out.
    second: Option<Instant>,
    n_lines: u32,
    n_left_out: u32,
}

impl Lines {
    /// Takes in the next piece and returns the lines that it completes.
    pub(super) fn push(&mut self, piece: &[u8], now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut parts = piece.split(|&byte| byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.extend(part);
            let line = self.take();
            lines.extend(line.and_then(|line| self.let_through(line, now)));
        }
        self.extend(last);
        lines
    }

    /// The last line that was no log line, with what was begun and not ended.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let _ = self.take();
        self.last_words.take()
    }

    fn extend(&mut self, part: &[u8]) {
        let n = part.len().min(LINE_BYTES_MAX.saturating_sub(self.begun.len()));
        self.begun.extend_from_slice(&part[..n]);
    }

    fn take(&mut self) -> Option<Line> {
        let text = String::from_utf8_lossy(&self.begun).trim().to_owned();
        self.begun.clear();
        if text.is_empty() {
            return None;
        }
        let begins = text.split_once(' ').and_then(|(level, rest)| {
            Some((level.parse::<Level>().ok().filter(|it| it.as_str() == level)?, rest))
        });
        if let Some((level, rest)) = begins {
            return Some(Line { level, text: rest.trim_start().to_owned() });
        }
        self.last_words = Some(text.clone());
        Some(Line { level: Level::WARN, text })
    }

    /// Leaves out lines of which there are too many.
    fn let_through(&mut self, line: Line, now: Instant) -> Option<Line> {
        if self.second.is_none_or(|since| now.saturating_duration_since(since).as_secs() >= 1) {
            self.second = Some(now);
            self.n_lines = 0;
        }
        self.n_lines += 1;
        if self.n_lines > LINES_PER_S_MAX {
            self.n_left_out += 1;
            return None;
        }
        let n_left_out = std::mem::take(&mut self.n_left_out);
        let text = match n_left_out {
            0 => line.text,
            n => format!("{} ({n} lines before it were left out)", line.text),
        };
        Some(Line { text, ..line })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<(Level, String)>, Option<String>) {
        let (mut all, now) = (Lines::default(), Instant::now());
        let lines = pieces.iter().flat_map(|piece| all.push(piece, now)).collect::<Vec<_>>();
        let lines = lines.into_iter().map(|line| (line.level, line.text)).collect();
        (lines, all.last_words())
    }

    #[test]
    fn a_line_comes_whole_however_it_is_cut() {
        let text = b"INFO stage ready\n WARN  slow\nthread panicked\n";
        let expected = [
            (Level::INFO, "stage ready".to_owned()),
            (Level::WARN, "slow".to_owned()),
            (Level::WARN, "thread panicked".to_owned()),
        ];
        for n in 1..text.len() {
            let pieces: Vec<&[u8]> = text.chunks(n).collect();
            assert_eq!(lines(&pieces), (expected.to_vec(), Some("thread panicked".into())), "{n}");
        }
    }

    #[test]
    fn what_was_begun_and_not_ended_are_last_words() {
        assert_eq!(lines(&[b"INFO fine\nFatal: no"]).1.as_deref(), Some("Fatal: no"));
        assert_eq!(lines(&[b"INFO fine\n"]).1, None);
    }

    #[test]
    fn endless_lines_and_floods_take_no_memory() {
        let (mut all, now) = (Lines::default(), Instant::now());
        for _ in 0..1000 {
            assert!(all.push(&[b'x'; 1024], now).is_empty());
        }
        assert_eq!(all.push(b"\n", now)[0].text.len(), LINE_BYTES_MAX);
        let shown = all.push("INFO x\n".repeat(500).as_bytes(), now).len();
        assert_eq!(shown, 99, "one came before");
        let later = all.push(b"INFO y\n", now + Duration::from_secs(1));
        assert_eq!(later[0].text, "y (401 lines before it were left out)");
    }
}
