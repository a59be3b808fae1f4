//! The terminal: how wide it is.

use std::io::IsTerminal;

use crate::env;

/// The width of terminals that do not say.
const WIDTH_DEFAULT: usize = 80;
/// Below this nothing can be laid out.
const WIDTH_MIN: usize = 20;

/// Columns of the terminal: what the user says, else what standard output's terminal says, else 80.
pub(crate) fn width() -> usize {
    let said = env::text(env::COLUMNS).and_then(|text| text.trim().parse().ok());
    said.filter(|&width| width > 0).or_else(measured).unwrap_or(WIDTH_DEFAULT).max(WIDTH_MIN)
}

fn measured() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|&width| width > 0)
}
