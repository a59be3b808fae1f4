//! Tokens back to text as they come, without ever splitting a character.

use shoal_proto::TokenId;

use crate::Tokenizer;

/// Turns tokens into text one by one. Bytes that may still become a character wait for the next token.
#[derive(Debug)]
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    held: Vec<u8>,
}

impl<'a> Detokenizer<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, held: Vec::new() }
    }

    /// Takes the next token and returns the text that is complete. Bytes that can never become a character come out as
    /// U+FFFD.
    pub fn push(&mut self, token: TokenId) -> String {
        self.held.extend(self.tokenizer.bytes(token));
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.held.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = self.held.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(n_bad) = error.error_len() else {
                        self.held = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.held = rest[n_bad..].to_vec();
                }
            }
        }
    }

    /// Returns what is still held back, as U+FFFD: the text has ended within a character.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }
}
