//! Layers of a node as people type them: `old-pixel:0-12` is node old-pixel with the layers 0 to 11.

use std::str::FromStr;

/// A node's layers `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) node: String,
    pub(crate) layers: [u32; 2],
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (node, layers) = text.rsplit_once(':')?;
            let (start, end) = layers.split_once('-')?;
            let layers: [u32; 2] = [start.parse().ok()?, end.parse().ok()?];
            (!node.is_empty() && layers[0] < layers[1]).then(|| (node.to_owned(), layers))
        };
        let (node, layers) = parse()
            .ok_or_else(|| format!("expected NODE:A-B like old-pixel:0-12, got {text:?}"))?;
        Ok(Self { node, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_node_and_its_layers() {
        let span = Span { node: "a:b".into(), layers: [3, 12] };
        assert_eq!("a:b:3-12".parse(), Ok(span));
        for text in ["", "a", "a:3", "a:3-", "a:3-3", "a:4-3", ":0-1", "a:-1-2", "a:x-y"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
