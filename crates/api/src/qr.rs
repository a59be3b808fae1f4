//! Texts as QR codes, for the camera of another device: half blocks for a terminal, a path for a page.

use std::fmt::Write as _;

use qrcode::{Color, EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};

/// Modules of light around a code, so that cameras find it: what the standard asks for.
const QUIET: usize = 4;

/// A text that does not fit a QR code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{n_bytes} bytes do not fit a QR code")]
pub struct QrError {
    n_bytes: usize,
}

/// Draws a text as a QR code of half blocks, light on dark as most terminals are. A text of capitals and digits alone makes a
/// much smaller one.
///
/// # Errors
/// If the text is too long.
pub fn draw(text: &str) -> Result<String, QrError> {
    let code = encode(text)?;
    let mut image = code.render::<Dense1x2>();
    let drawn = image.dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    Ok(format!("{drawn}\n"))
}

/// A text as the page draws it: `{"size", "path"}`, an SVG path of the dark modules in a square of `size` with the quiet zone.
pub(crate) fn view(text: &str) -> Result<Value, QrError> {
    let code = encode(text)?;
    let (width, colors) = (code.width(), code.to_colors());
    let mut path = String::new();
    for (y, row) in colors.chunks(width).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| a == b) {
            if run[0] == Color::Dark {
                // Writing to a string cannot fail.
                let _ = write!(path, "M{} {}h{n}v1h-{n}z", x + QUIET, y + QUIET, n = run.len());
            }
            x += run.len();
        }
    }
    Ok(json!({"size": width + 2 * QUIET, "path": path}))
}

fn encode(text: &str) -> Result<QrCode, QrError> {
    QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|_| QrError { n_bytes: text.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_make_a_smaller_code() {
        let width = |text: &str| {
            let drawn = draw(text).expect("it fits");
            drawn.lines().next().expect("lines").chars().count()
        };
        let ticket = "shoal2".to_owned() + &"abcdefgh".repeat(15);
        assert!(width(&ticket.to_uppercase()) < width(&ticket));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert_eq!(draw(&"x".repeat(5000)), Err(QrError { n_bytes: 5000 }));
        assert!(view(&"x".repeat(5000)).is_err());
    }

    /// Every module of the path again, as a page would draw it.
    #[test]
    fn the_path_covers_the_dark_modules_and_nothing_else() {
        let code = encode("SHOAL2ABC").expect("it fits");
        let view = view("SHOAL2ABC").expect("it fits");
        let size = code.width() + 8;
        assert_eq!(view["size"], size);
        let mut drawn = vec![Color::Light; size * size];
        let path = view["path"].as_str().expect("a text");
        for run in path.split_terminator('z') {
            let numbers: Vec<usize> = run
                .split(|c: char| !c.is_ascii_digit())
                .filter(|text| !text.is_empty())
                .map(|text| text.parse().expect("digits"))
                .collect();
            let [x, y, n, 1, back] = numbers[..] else { panic!("{run}") };
            assert_eq!(n, back);
            drawn[y * size + x..][..n].fill(Color::Dark);
        }
        for (at, color) in drawn.into_iter().enumerate() {
            let (x, y) = (at % size, at / size);
            let is_inside = |v: usize| (4..size - 4).contains(&v);
            let expected = match is_inside(x) && is_inside(y) {
                true => code[(x - 4, y - 4)],
                false => Color::Light,
            };
            assert_eq!(color, expected, "{x} {y}");
        }
    }
}
