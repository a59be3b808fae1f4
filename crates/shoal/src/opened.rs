//! A node that is opened to others: its token, and the addresses and names to give to them.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    path::Path,
};

use anyhow::Context as _;

use crate::failure::Failure;

/// Characters of a token, 32 of them, none of which is taken for another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Characters of a token: 130 bits.
const TOKEN_CHARS: usize = 26;

/// The name that this device gives itself, unless that is what every device calls itself.
pub(crate) fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!["", "localhost", "(none)"].contains(&name.as_str())).then_some(name)
}

/// The name under which other devices find this one by multicast DNS: `kitchen.local`.
pub(crate) fn network_name() -> Option<String> {
    local_name(&host_name()?)
}

fn local_name(host: &str) -> Option<String> {
    let label = host.split('.').next().unwrap_or_default();
    let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_plain && !label.is_empty()).then(|| format!("{label}.local"))
}

/// The node's token: the one that it has, or a new one, kept in a file of mode 0600.
pub(crate) fn token(data_dir: &Path, is_new: bool) -> Result<String, Failure> {
    let path = data_dir.join("api-token");
    if !is_new && let Some(token) = read(&path)? {
        return Ok(token);
    }
    let token = random()?;
    write(&path, &token).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(token)
}

/// The token in a file; `None` if there is no file.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, error)),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(|error| unreadable(path, error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let path = path.display();
            let error = anyhow::anyhow!("{path}: expected mode 600, got {:o}", mode & 0o777);
            return Err(Failure::from(error).hint(format!(
                "others on this device may know the token: --new-token makes another one; if nobody does, chmod 600 {path}"
            )));
        }
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| unreadable(path, error))?;
    let token = text.trim();
    if token.len() == TOKEN_CHARS && token.bytes().all(|c| ALPHABET.contains(&c)) {
        return Ok(Some(token.to_owned()));
    }
    let error = anyhow::anyhow!(
        "{}: expected a token of {TOKEN_CHARS} characters, got {} others",
        path.display(),
        token.len()
    );
    Err(Failure::from(error).hint("--new-token makes a new one"))
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    let error = anyhow::Error::from(error).context(format!("{}: cannot be read", path.display()));
    Failure::from(error).hint("--new-token makes a new one")
}

fn random() -> Result<String, Failure> {
    let mut token = String::with_capacity(TOKEN_CHARS);
    while token.len() < TOKEN_CHARS {
        let mut bits = shoal_node::random_u64()?;
        // Twelve characters of five bits each.
        for _ in 0..12.min(TOKEN_CHARS - token.len()) {
            token.push(char::from(ALPHABET[usize::try_from(bits % 32).unwrap_or_default()]));
            bits /= 32;
        }
    }
    Ok(token)
}

/// Writes it beside the file and renames, so that nobody ever reads a half one, and nobody else at all.
fn write(path: &Path, token: &str) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(format!("{token}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// The page's addresses for other devices, the likeliest first.
pub(crate) fn urls(listening: SocketAddr, own: &[SocketAddr], token: &str) -> Vec<String> {
    let urls = shoal_api::lan_urls(listening, own).into_iter();
    urls.map(|url| format!("{url}?token={token}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_until_a_new_one_is_wanted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = token(dir.path(), false).expect("written");
        assert_eq!(first.len(), TOKEN_CHARS);
        assert_eq!(token(dir.path(), false).expect("read"), first);
        let second = token(dir.path(), true).expect("written");
        assert_ne!(second, first);
        assert_eq!(token(dir.path(), false).expect("read"), second);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let file = fs::metadata(dir.path().join("api-token")).expect("it is there");
            assert_eq!(file.permissions().mode() & 0o777, 0o600);
        }
        fs::write(dir.path().join("api-token"), "short").expect("writable");
        assert!(token(dir.path(), false).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        token(dir.path(), false).expect("written");
        // Not text: the disk has lost it, or it is something else.
        fs::write(dir.path().join("api-token"), [0xff; 27]).expect("writable");
        assert!(token(dir.path(), false).is_err());
        assert_eq!(fs::read(dir.path().join("api-token")).expect("it is there"), [0xff; 27]);
        #[cfg(unix)]
        {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("api-token");
            std::os::unix::fs::symlink(&path, &path).expect("writable");
            assert!(token(dir.path(), false).is_err(), "it leads to itself");
            assert!(fs::symlink_metadata(&path).expect("it is there").is_symlink());
        }
        assert!(token(dir.path(), true).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_token_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = token(dir.path(), false).expect("written");
        let set = |mode| {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(dir.path().join("api-token"), permissions).expect("it is ours");
        };
        for mode in [0o644, 0o640, 0o602] {
            set(mode);
            let failure = token(dir.path(), false).expect_err("others know it");
            let text = format!("{failure:?}");
            assert!(text.contains(&format!("{mode:o}")) && text.contains("chmod 600"), "{text}");
        }
        set(0o600);
        assert_eq!(token(dir.path(), false).expect("read"), first);
        set(0o644);
        assert_ne!(token(dir.path(), true).expect("written"), first);
        assert!(token(dir.path(), false).is_ok(), "a new one is nobody else's");
    }

    #[test]
    fn a_host_has_one_name_in_the_network() {
        for (host, expected) in [
            ("kitchen", Some("kitchen.local")),
            ("Old-Pixel.home.example", Some("Old-Pixel.local")),
            ("", None),
            (".example", None),
            ("my phone", None),
            ("a:80", None),
        ] {
            assert_eq!(local_name(host).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn the_addresses_are_those_of_the_network() {
        let own =
            ["192.168.1.5:1".parse().expect("an address"), "[fd00::1]:1".parse().expect("one")];
        let everywhere = "0.0.0.0:52415".parse().expect("an address");
        assert_eq!(urls(everywhere, &own, "t"), ["http://192.168.1.5:52415/?token=t"]);
        let both = "[::]:52415".parse().expect("an address");
        assert_eq!(urls(both, &own, "t").len(), 2);
        let one = "127.0.0.1:80".parse().expect("an address");
        assert_eq!(urls(one, &own, "t"), ["http://127.0.0.1:80/?token=t"]);
    }
}
