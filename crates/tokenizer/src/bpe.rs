//! Byte-level BPE: within each word the pair of neighbours that was merged earliest in training is merged first (Sennrich et al.,
//! arXiv:1508.07909; over bytes as GPT-2).

use std::{cmp::Reverse, collections::HashMap};

use shoal_gguf::Metadata;
use shoal_proto::TokenId;

use crate::{Error, byte_level, merge::merge, pre_tokenizer::PreTokenizer, vocab::Vocab};

/// A byte-level BPE.
#[derive(Debug)]
pub(crate) struct Bpe {
    pre_tokenizer: PreTokenizer,
    /// Rank of the merge that makes a text of its two halves: the text, and the length of the left half in bytes.
    ranks: HashMap<String, Vec<(usize, u32)>>,
    /// The token of each byte. Some vocabularies lack bytes that their training never met; such a byte has no token, as in llama.cpp.
    bytes: Vec<Option<TokenId>>,
}

impl Bpe {
    pub(crate) fn from_metadata(metadata: &Metadata, vocab: &Vocab) -> Result<Self, Error> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let pre_tokenizer = PreTokenizer::from_metadata(metadata)?;
        let merges = metadata.strings(MERGES)?.ok_or(Error::Missing { key: MERGES })?;
        let mut ranks: HashMap<String, Vec<(usize, u32)>> = HashMap::with_capacity(merges.len());
        for (idx, merge) in merges.iter().enumerate() {
            let error = || Error::Merge { idx, found: merge.clone() };
            // The first space separates; a byte-level token holds none.
            let (left, right) = merge.split_once(' ').ok_or_else(error)?;
            let whole = format!("{left}{right}");
            if left.is_empty() || right.is_empty() || vocab.id(&whole).is_none() {
                return Err(error());
            }
            let rank = u32::try_from(idx).map_err(|_| error())?;
            ranks.entry(whole).or_default().push((left.len(), rank));
        }
        let id = |byte| vocab.id(byte_level::char_of(byte).encode_utf8(&mut [0; 4]));
        let bytes = (0..=u8::MAX).map(id).collect();
        Ok(Self { pre_tokenizer, ranks, bytes })
    }

    /// Whether texts begin with the token for it, if the file does not say.
    pub(crate) fn adds_bos(&self) -> bool {
        self.pre_tokenizer.adds_bos()
    }

    /// Appends the tokens of a text without special tokens.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let mut mapped = String::new();
        for word in self.pre_tokenizer.words(text) {
            mapped.clear();
            mapped.extend(word.bytes().map(byte_level::char_of));
            if self.pre_tokenizer.ignores_merges()
                && let Some(token) = vocab.id(&mapped)
            {
                out.push(token);
                continue;
            }
            let ends = mapped.char_indices().map(|(at, character)| at + character.len_utf8());
            let symbols = merge(ends, |start, middle, end| {
                let ranks = self.ranks.get(&mapped[start..end])?;
                let (_, rank) = ranks.iter().find(|(left, _)| *left == middle - start)?;
                Some(Reverse(*rank))
            });
            for symbol in symbols {
                let piece = &mapped[symbol.start..symbol.end];
                match vocab.id(piece) {
                    Some(token) => out.push(token),
                    None => out.extend(piece.chars().filter_map(|character| {
                        self.bytes[usize::from(byte_level::byte_of(character)?)]
                    })),
                }
            }
        }
    }

    /// The bytes of a token's text. A character outside the alphabet, which some vocabularies have in added tokens, stands for
    /// itself.
    pub(crate) fn bytes(text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len());
        for character in text.chars() {
            match byte_level::byte_of(character) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }
}
