//! What can go wrong with a vocabulary or a template.

/// What can go wrong with a vocabulary or a template.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metadata cannot be read.
    #[error(transparent)]
    Metadata(#[from] shoal_gguf::Error),
    /// A key that a tokenizer needs is not there.
    #[error("metadata key {key}: expected it to be there, found nothing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A kind of vocabulary or pre-tokenizer that is not supported.
    #[error("metadata key {key}: expected one of {expected}, found {found:?}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What is supported.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// Arrays that belong together have different lengths.
    #[error("metadata key {key}: expected {expected} elements, one for each token, found {found}")]
    Length {
        /// The key.
        key: &'static str,
        /// Tokens of the vocabulary.
        expected: usize,
        /// Elements that are there.
        found: usize,
    },
    /// A merge that is no pair of tokens of the vocabulary.
    #[error(
        "metadata key tokenizer.ggml.merges[{idx}]: expected two tokens that make a third, found {found:?}"
    )]
    Merge {
        /// Its index.
        idx: usize,
        /// What it says.
        found: String,
    },
    /// A token id outside the vocabulary.
    #[error("metadata key {key}: expected a token below {n_vocab}, found {found}")]
    TokenId {
        /// The key.
        key: &'static str,
        /// Tokens of the vocabulary.
        n_vocab: usize,
        /// The id.
        found: u32,
    },
    /// A token that every vocabulary of its kind has is not there.
    #[error("vocabulary: expected a token for byte {byte:#04x}, found none")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// More tokens than an id can count.
    #[error("vocabulary: expected at most {max} tokens, found {found}")]
    TooManyTokens {
        /// The bound.
        max: usize,
        /// What the file holds.
        found: usize,
    },
    /// The chat template does not parse.
    #[error("chat template does not parse")]
    TemplateSyntax {
        /// Where and why.
        source: minijinja::Error,
    },
    /// The chat template failed on these messages, or asked for more work than a template may.
    #[error("chat template failed")]
    TemplateRun {
        /// Where and why.
        source: minijinja::Error,
    },
}
