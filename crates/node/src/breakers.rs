//! The tokens of an answer that end repetitions: those whose text has a line end in it, say.
//!
//! The stage that samples knows no texts. So with each step go those tokens of the log that matter, and these grow with it.

use std::collections::HashSet;

use shoal_proto::{BREAKERS_MAX, TokenId};
use shoal_tokenizer::Tokenizer;

/// What ends a repetition unless a request says otherwise: llama.cpp's.
pub const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Looks for tokens with certain texts in them.
#[derive(Debug)]
pub(crate) struct Breakers {
    texts: Vec<String>,
    seen: HashSet<TokenId>,
}

impl Breakers {
    /// Looks for these texts.
    pub(crate) fn new(texts: Vec<String>) -> Self {
        Self { texts, seen: HashSet::new() }
    }

    /// Adds those of `tokens` that have one of the texts in them to `found`, which stays ascending.
    pub(crate) fn find(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: &[TokenId],
        found: &mut Vec<TokenId>,
    ) {
        if self.texts.is_empty() {
            return;
        }
        for &token in tokens {
            if !self.seen.insert(token) || found.len() == BREAKERS_MAX {
                continue;
            }
            let text = tokenizer.decode(&[token]);
            if self.texts.iter().any(|breaker| text.contains(breaker.as_str()))
                && let Err(at) = found.binary_search(&token)
            {
                found.insert(at, token);
            }
        }
    }
}
