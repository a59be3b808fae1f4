//! The peers that a node has met, on disk, so that it finds its cluster again after a restart without a ticket.
//!
//! One line for each: the node id, and where it was. A hint like any other: nothing is believed before the handshake.

use std::{fs, net::SocketAddr, path::Path};

use shoal_proto::{NodeId, control::NodeRecord};
use tracing::warn;

/// Reads the remembered peers. A missing file means none; a line that makes no sense is skipped and logged.
pub(crate) fn load(path: &Path) -> Vec<NodeRecord> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let parse = |line: &str| {
        let (id, addrs) = line.split_once(' ')?;
        let addrs: Vec<SocketAddr> =
            addrs.split(' ').filter_map(|addr| addr.parse().ok()).collect();
        Some(record(id.parse().ok()?, addrs))
    };
    let parsed = text.lines().filter_map(|line| {
        let record = parse(line);
        if record.is_none() {
            warn!(path = %path.display(), line, "not a remembered peer");
        }
        record
    });
    parsed.collect()
}

fn record(id: NodeId, addrs: Vec<SocketAddr>) -> NodeRecord {
    NodeRecord { name: id.short(), addrs, ..NodeRecord::unknown(id) }
}

/// The file's text.
pub(crate) fn text(records: &[NodeRecord]) -> String {
    let line = |record: &NodeRecord| {
        let addrs: Vec<String> = record.addrs.iter().map(ToString::to_string).collect();
        format!("{} {}\n", record.id, addrs.join(" "))
    };
    records.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_survive_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("peers");
        assert_eq!(load(&path), []);
        let addrs = vec![([127, 0, 0, 1], 9).into(), "[::1]:7".parse().expect("an address")];
        let records = [record(NodeId([3; 32]), addrs), record(NodeId([4; 32]), Vec::new())];
        fs::write(&path, text(&records)).expect("writable");
        assert_eq!(load(&path), records);
    }

    #[test]
    fn a_damaged_line_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("peers");
        let text = text(&[record(NodeId([3; 32]), Vec::new())]);
        fs::write(&path, format!("rubbish\n{text}\u{0}")).expect("writable");
        assert_eq!(load(&path).len(), 1);
    }
}
