//! SentencePiece's BPE: neighbours whose union is the token of the highest score are merged first (Kudo and Richardson,
//! arXiv:1808.06226); what remains outside the vocabulary becomes bytes.

use std::cmp::Ordering;

use shoal_gguf::Metadata;
use shoal_proto::TokenId;

use crate::{
    Error,
    merge::merge,
    vocab::{Vocab, check_len},
};

/// Stands for a space.
pub(crate) const SPACE: char = '\u{2581}';

/// An SPM vocabulary's scores.
#[derive(Debug)]
pub(crate) struct Spm {
    scores: Vec<f32>,
    bytes: Vec<TokenId>,
}

/// A score; the higher goes first.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Spm {
    pub(crate) fn from_metadata(metadata: &Metadata, vocab: &Vocab) -> Result<Self, Error> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = metadata.f32s(SCORES)?.ok_or(Error::Missing { key: SCORES })?.into_owned();
        check_len(SCORES, vocab.len(), scores.len())?;
        let mut bytes = vec![0; 256];
        for (token, byte) in bytes.iter_mut().zip(0..=u8::MAX) {
            *token = vocab.id(&format!("<0x{byte:02X}>")).ok_or(Error::MissingByte { byte })?;
        }
        Ok(Self { scores, bytes })
    }

    /// Appends the tokens of a text without special tokens; its spaces are already [`SPACE`]s.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
        let symbols = merge(ends, |start, _, end| {
            let token = vocab.id(&text[start..end])?;
            // Nothing and minus nothing are one score.
            Some(Score(self.scores[token as usize] + 0.0))
        });
        for symbol in symbols {
            let piece = &text[symbol.start..symbol.end];
            match vocab.id(piece) {
                Some(token) => out.push(token),
                None => out.extend(piece.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// The byte that a byte token's text names.
    pub(crate) fn byte(text: &str) -> Option<u8> {
        let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
        u8::from_str_radix(digits, 16).ok()
    }
}
