//! Text to token ids and back, and chat templates, from a GGUF's own metadata.
//!
//! ```text
//! text ─ special tokens ─► fragments ─ pre-tokenizer ─► words ─ BPE or SPM merges ─► ids ─ Detokenizer ─► text
//! ```
//!
//! Two kinds of vocabulary: byte-level BPE (`gpt2`, with the pre-tokenizers of some forty families) and SentencePiece's
//! unigram-scored BPE (`llama`). What they do with a text is what llama.cpp does with it, id for id; tests hold that on real
//! vocabularies. Unknown kinds are refused by name. Every algorithm is linear, or linear times a logarithm, in the length of the
//! text, whatever the text. No file, no network, no clock.

mod bpe;
mod byte_level;
mod detokenizer;
mod error;
mod merge;
mod pre_tokenizer;
mod spm;
mod strftime;
mod template;
mod tokenizer;
mod vocab;

pub use detokenizer::Detokenizer;
pub use error::Error;
pub use template::{ChatMessage, ChatTemplate};
pub use tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
