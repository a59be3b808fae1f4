//! What the device is called: by its maker, and by its owner where nobody gave it a name.

use std::{
    fs::File,
    io::Read as _,
    process::{Command, Stdio},
};

use crate::opened;

/// Longest name, in characters.
const CHARS_MAX: usize = 64;
/// More than any name has, in bytes.
const BYTES_MAX: u64 = 512;
/// Where Linux tells what a computer or a board is called.
const FILES: [&str; 2] = ["/sys/devices/virtual/dmi/id/product_name", "/proc/device-tree/model"];

/// What its maker calls the device, like `Redmi Note 8`; empty if that cannot be found out.
pub(crate) fn model() -> String {
    android()
        .or_else(|| FILES.iter().find_map(|path| clean(&read(path)?)))
        .or_else(|| said_by("sysctl", &["-n", "hw.model"]).filter(|_| cfg!(target_os = "macos")))
        .unwrap_or_default()
}

/// The name of a device to which its owner gave none. Phones all have the same host name: there it is what the maker says.
pub(crate) fn name() -> String {
    opened::host_name().or_else(android).unwrap_or_else(|| "device".to_owned())
}

/// Android's properties, where there are any.
fn android() -> Option<String> {
    if !cfg!(target_os = "android") {
        return None;
    }
    let model = said_by("getprop", &["ro.product.model"])?;
    Some(match said_by("getprop", &["ro.product.manufacturer"]) {
        Some(maker) => joined(&maker, &model),
        None => model,
    })
}

/// The maker before the model, unless the model begins with it.
fn joined(maker: &str, model: &str) -> String {
    if model.to_lowercase().starts_with(&maker.to_lowercase()) {
        return model.to_owned();
    }
    let mut letters = maker.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{} {model}", letters.as_str()).chars().take(CHARS_MAX).collect()
}

fn said_by(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    clean(&output.stdout).filter(|_| output.status.success())
}

fn read(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// One line of plain characters, if anything is left.
fn clean(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0').trim();
    let text: String = text.chars().filter(|it| !it.is_control()).take(CHARS_MAX).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maker_stands_before_the_model_once() {
        assert_eq!(joined("Xiaomi", "Redmi Note 8"), "Xiaomi Redmi Note 8");
        assert_eq!(joined("samsung", "SM-A515F"), "Samsung SM-A515F");
        assert_eq!(joined("motorola", "Motorola edge"), "Motorola edge");
        assert_eq!(joined("x", &"y".repeat(99)).chars().count(), CHARS_MAX);
    }

    #[test]
    fn what_is_no_name_is_left_out() {
        assert_eq!(clean(b"Raspberry Pi 4\0").as_deref(), Some("Raspberry Pi 4"));
        assert_eq!(clean(b"Two\nlines\x1b[2J\n").as_deref(), Some("Twolines[2J"));
        assert_eq!(clean(b" \n\0"), None);
        assert_eq!(said_by("a-program-that-is-not-there", &[]), None);
    }
}
