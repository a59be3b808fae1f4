//! How settings are kept: a text of lines like `parallel = 4`, of what differs from the defaults.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::{Said, Setting, SettingValue, checked, set_aside};

/// Longest file that is read: each setting once, with room.
const BYTES_MAX: u64 = 4096;

/// Reads a file. One that cannot be used is set aside, with a message, and says nothing.
pub(super) fn load(path: &Path) -> Said {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
    if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Said::new();
    }
    let parsed = match read {
        Ok(n) if n as u64 > BYTES_MAX => {
            Err(format!("expected at most {BYTES_MAX} bytes, got more"))
        }
        Ok(_) => parse(&bytes),
        Err(error) => Err(error.to_string()),
    };
    parsed.unwrap_or_else(|reason| {
        set_aside(path, &reason);
        Said::new()
    })
}

/// The file that says this.
pub(super) fn text(said: &Said) -> String {
    let mut text = String::from("# What the owner of this device has set; Shoal writes it.\n");
    for (setting, value) in said {
        let value = match value {
            SettingValue::Switch(is_on) => is_on.to_string(),
            value => value.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} = {value}", setting.as_str());
    }
    text
}

fn parse(bytes: &[u8]) -> Result<Said, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut said = Said::new();
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, value) = line.split_once('=').ok_or("expected lines like name = value")?;
        let (name, value) = (name.trim(), value.trim());
        let setting = Setting::of_name(name).ok_or_else(|| format!("unknown setting {name:?}"))?;
        let value = match setting {
            Setting::Name => SettingValue::Text(value.to_owned()),
            Setting::Auto => SettingValue::Switch(value.parse().map_err(|_| bad(name, value))?),
            _ => SettingValue::Number(value.parse().map_err(|_| bad(name, value))?),
        };
        let value = checked(setting, value).map_err(|error| error.to_string())?;
        if said.iter().any(|(other, _)| *other == setting) {
            return Err(format!("{name}: expected once, got twice"));
        }
        said.push((setting, value));
    }
    said.sort_by_key(|(setting, _)| *setting);
    Ok(said)
}

fn bad(name: &str, value: &str) -> String {
    format!("{name}: expected another kind of value, got {value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        vec![
            (Setting::Name, SettingValue::Text("my = phone # 2".into())),
            (Setting::BatteryFloor, SettingValue::Number(30)),
            (Setting::DownloadRate, SettingValue::Number(2_000_000)),
            (Setting::Auto, SettingValue::Switch(true)),
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(parse(text(&said()).as_bytes()), Ok(said()));
        assert_eq!(parse(text(&Said::new()).as_bytes()), Ok(Said::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("colour = red", "unknown setting \"colour\""),
            ("parallel", "name = value"),
            ("parallel = many", "parallel: expected another kind"),
            ("parallel = 0", "parallel: expected 1 to 64, got 0"),
            ("parallel = 2\nparallel = 2", "twice"),
            ("auto = maybe", "auto: expected another kind"),
            ("name =", "name: expected 1 to 64 characters, got 0"),
            ("battery_floor_percent = 99999999999999999999", "another kind"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
        assert!(parse(&[0xff, b'\n']).is_err());
    }

    #[test]
    fn a_file_of_no_use_is_set_aside() {
        for bytes in [vec![0xff; 10], b"colour = red".to_vec(), vec![b'#'; 5000]] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("settings");
            std::fs::write(&path, &bytes).expect("writable");
            assert_eq!(load(&path), Said::new());
            assert!(!path.exists());
            assert_eq!(std::fs::read(path.with_extension("damaged")).expect("kept"), bytes);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(load(&dir.path().join("settings")), Said::new(), "none is no error");
    }
}
