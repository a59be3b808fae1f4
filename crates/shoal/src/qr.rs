//! Texts as QR codes, for the camera of another device.

use anyhow::Context as _;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

use crate::failure::Failure;

/// Draws a text as a QR code of half blocks, light on dark as most terminals are. A text of capitals and digits alone makes a
/// much smaller one.
pub(crate) fn draw(text: &str) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .with_context(|| format!("{} characters do not fit a QR code", text.len()))?;
    let mut image = code.render::<Dense1x2>();
    let drawn = image.dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    Ok(format!("{drawn}\n"))
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
        assert!(draw(&"x".repeat(5000)).is_err());
    }
}
