//! What a node keeps over a restart beside its identity and its cluster: the peers that it has met, and the instances that it
//! knows.
//!
//! Both files follow what is known, written by a thread that may wait for the disk. A file that cannot be read is set aside
//! under another name and never keeps the node from starting: its peers know the same.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use shoal_proto::{control::InstanceRecord, stored};
use tracing::{info, warn};

use crate::{durable, node::Inner, remembered};

/// The file of the peers, in the data directory.
pub(crate) const PEERS: &str = "peers";
/// The file of the instances.
pub(crate) const INSTANCES: &str = "instances";

/// Reads the instances of an earlier life. What cannot be read is set aside, with a message, and none are returned.
pub(crate) fn load_instances(dir: &Path) -> Vec<InstanceRecord> {
    let path = dir.join(INSTANCES);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            set_aside(&path, &error.to_string());
            return Vec::new();
        }
    };
    match stored::decode(&bytes) {
        Ok(instances) => instances,
        Err(error) => {
            set_aside(&path, &error.to_string());
            Vec::new()
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(stored::FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > stored::FILE_BYTES_MAX {
        let message = format!("it has more than {} bytes", stored::FILE_BYTES_MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// Moves a file that cannot be used out of the way, for whoever wants to know what happened to it.
fn set_aside(path: &Path, reason: &str) {
    let aside = path.with_extension("damaged");
    let kept = match fs::rename(path, &aside) {
        Ok(()) => aside.display().to_string(),
        Err(error) => format!("not even moved: {error}"),
    };
    warn!(path = %path.display(), reason, kept, "instances of the last run cannot be read");
}

/// A file that follows what the node knows.
struct Kept {
    path: PathBuf,
    /// What was last written.
    written: Vec<u8>,
}

impl Kept {
    fn new(path: PathBuf) -> Self {
        let written = read(&path).unwrap_or_default();
        Self { path, written }
    }

    /// Writes `bytes` if they are news.
    async fn update(&mut self, bytes: Vec<u8>) {
        if bytes == self.written {
            return;
        }
        let (path, again) = (self.path.clone(), bytes.clone());
        let written = tokio::task::spawn_blocking(move || durable::replace(&path, &again)).await;
        match written {
            Ok(Ok(())) => self.written = bytes,
            Ok(Err(error)) => warn!(path = %self.path.display(), %error, "not kept on disk"),
            Err(error) => warn!(path = %self.path.display(), %error, "not kept on disk"),
        }
    }
}

/// Keeps the files as the node is, until it ends.
pub(crate) async fn keep(inner: Arc<Inner>, dir: PathBuf) {
    let (mut peers, mut instances) = (Kept::new(dir.join(PEERS)), Kept::new(dir.join(INSTANCES)));
    let mut changes = inner.peers().changes();
    loop {
        let is_ending = inner.cancel().is_cancelled();
        let records = inner.peers().known_records();
        peers.update(remembered::text(&records).into_bytes()).await;
        let known = inner.peers().known_instances();
        instances.update(stored::encode(&known)).await;
        if is_ending {
            return;
        }
        tokio::select! {
            () = inner.cancel().cancelled() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Says what a node that has started again goes on with.
pub(crate) fn say(instances: &[InstanceRecord]) {
    if !instances.is_empty() {
        info!(n_instances = instances.len(), "instances of the last run");
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::{
        Epoch, InstanceId, LayerRange, NodeId,
        control::{ModelRef, Phase, Placement, Stage},
    };

    use super::*;

    fn instance() -> InstanceRecord {
        let layers = LayerRange::new(0, 6).expect("not empty");
        InstanceRecord {
            id: InstanceId(7),
            epoch: Epoch(1 << 24),
            phase: Phase::Ready,
            model: ModelRef { name: "m".into(), files: None, fingerprint: [1; 32], n_layer: 6 },
            placement: Placement { stages: vec![Stage { node: NodeId([2; 32]), layers }] },
            n_ctx: 512,
            unload_after_s: None,
        }
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
        let whole = stored::encode(&[instance()]);
        let torn = [&whole[..whole.len() / 2], &vec![0; whole.len() / 2]].concat();
        let broken = [vec![], whole[..whole.len() - 1].to_vec(), torn, b"rubbish".to_vec()];
        for bytes in broken {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join(INSTANCES);
            fs::write(&path, &bytes).expect("writable");
            assert_eq!(load_instances(dir.path()), [], "{bytes:?}");
            assert!(!path.exists());
            let aside = fs::read(dir.path().join("instances.damaged")).expect("it is kept");
            assert_eq!(aside, bytes);
            durable::replace(&path, &whole).expect("writable");
            assert_eq!(load_instances(dir.path()), [instance()]);
        }
    }

    #[test]
    fn a_directory_in_the_place_of_the_file_does_not_keep_the_node_from_starting() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join(INSTANCES)).expect("writable");
        assert_eq!(load_instances(dir.path()), []);
        assert_eq!(load_instances(tempfile::tempdir().expect("a directory").path()), []);
    }
}
