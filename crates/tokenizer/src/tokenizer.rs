//! The tokenizer: special tokens first, then the words between them.

use shoal_gguf::Metadata;
use shoal_proto::TokenId;

use crate::{
    Detokenizer, Error,
    bpe::Bpe,
    pre_tokenizer::PreTokenizer,
    spm::{SPACE, Spm},
    vocab::{Kind, Vocab},
};

/// Whether the tokens that the model expects around every text are added, as its metadata say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddSpecial {
    /// They are added.
    Yes,
    /// The text alone.
    No,
}

/// Whether the text of a control token means that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseSpecial {
    /// It means the token.
    Yes,
    /// It is text like any other.
    No,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Bpe),
    Spm(Spm),
}

/// How a vocabulary's texts are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Bpe,
    Spm,
}

impl Family {
    fn of(metadata: &Metadata) -> Result<Self, Error> {
        const MODEL: &str = "tokenizer.ggml.model";
        match metadata.str(MODEL)?.ok_or(Error::Missing { key: MODEL })? {
            "gpt2" => Ok(Self::Bpe),
            "llama" => Ok(Self::Spm),
            found => Err(Error::Unsupported {
                key: MODEL,
                expected: "gpt2, llama".to_owned(),
                found: found.to_owned(),
            }),
        }
    }
}

/// Text to token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    ends: Vec<TokenId>,
}

/// Control tokens that end an answer, whatever the metadata say: models are trained with several, and files name only one.
const END_TEXTS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
];

impl Tokenizer {
    /// Checks that the kind of a model's tokenizer is known, without building it, which takes tens of megabytes.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_kind(metadata: &Metadata) -> Result<(), Error> {
        match Family::of(metadata)? {
            Family::Bpe => PreTokenizer::check(metadata),
            Family::Spm => Ok(()),
        }
    }

    /// Builds the tokenizer of a model.
    ///
    /// # Errors
    /// If the vocabulary is of an unknown kind, incomplete, or contradicts itself.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, Error> {
        let vocab = Vocab::from_metadata(metadata)?;
        let algorithm = match Family::of(metadata)? {
            Family::Bpe => Algorithm::Bpe(Bpe::from_metadata(metadata, &vocab)?),
            Family::Spm => Algorithm::Spm(Spm::from_metadata(metadata, &vocab)?),
        };
        let is_spm = matches!(algorithm, Algorithm::Spm(_));
        let adds_bos = match &algorithm {
            Algorithm::Bpe(bpe) => bpe.adds_bos(),
            Algorithm::Spm(_) => true,
        };
        let flag =
            |key: &str, default: bool| Ok::<_, Error>(metadata.bool(key)?.unwrap_or(default));
        let bos = vocab.token(metadata, "tokenizer.ggml.bos_token_id")?;
        let eos = vocab.token(metadata, "tokenizer.ggml.eos_token_id")?;
        let eot = vocab.token(metadata, "tokenizer.ggml.eot_token_id")?;
        let is_end = |&token: &TokenId| {
            let (text, kind) = (vocab.texts[token as usize].as_str(), vocab.kinds[token as usize]);
            END_TEXTS.contains(&text) && kind == Kind::Control
        };
        let mut ends: Vec<TokenId> = vocab.special.iter().copied().filter(is_end).collect();
        ends.extend(eos.into_iter().chain(eot));
        Ok(Self {
            algorithm,
            bos,
            eos,
            // Files that do not say follow what their kind has always done.
            add_bos: flag("tokenizer.ggml.add_bos_token", adds_bos)?,
            add_eos: flag("tokenizer.ggml.add_eos_token", false)?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix", is_spm)? && is_spm,
            ends,
            vocab,
        })
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// Whether a token ends the model's answer.
    pub fn is_end_of_generation(&self, token: TokenId) -> bool {
        self.ends.contains(&token)
    }

    /// A token's text as the vocabulary has it; `None` outside the vocabulary.
    pub fn text(&self, token: TokenId) -> Option<&str> {
        self.vocab.texts.get(token as usize).map(String::as_str)
    }

    /// Turns a text into tokens.
    pub fn encode(&self, text: &str, add: AddSpecial, parse: ParseSpecial) -> Vec<TokenId> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        let wanted = |wanted: bool, token: Option<TokenId>| {
            token.filter(|_| wanted && add == AddSpecial::Yes)
        };
        out.extend(wanted(self.add_bos, self.bos));
        let mut after_special = true;
        for fragment in self.fragments(text, parse) {
            match fragment {
                Fragment::Token(token) => out.push(token),
                Fragment::Text(text) => self.encode_text(text, after_special, &mut out),
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        out.extend(wanted(self.add_eos, self.eos));
        out
    }

    /// Turns a prompt into tokens, with the tokens that the model expects around every text. In a chat's text the special tokens
    /// mean themselves, and a beginning that the template wrote itself is not added a second time.
    pub fn encode_prompt(&self, text: &str, is_chat: bool) -> Vec<TokenId> {
        if !is_chat {
            return self.encode(text, AddSpecial::Yes, ParseSpecial::No);
        }
        let bos = self.bos.and_then(|token| self.text(token)).filter(|text| !text.is_empty());
        let has_bos = bos.is_some_and(|bos| text.starts_with(bos));
        let add = if has_bos { AddSpecial::No } else { AddSpecial::Yes };
        self.encode(text, add, ParseSpecial::Yes)
    }

    fn encode_text(&self, text: &str, after_special: bool, out: &mut Vec<TokenId>) {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&self.vocab, text, out),
            Algorithm::Spm(spm) => {
                let prefix = if self.add_space_prefix && after_special { " " } else { "" };
                let escaped: String = prefix
                    .chars()
                    .chain(text.chars())
                    .map(|character| if character == ' ' { SPACE } else { character })
                    .collect();
                spm.encode(&self.vocab, &escaped, out);
            }
        }
    }

    /// Finds the special tokens in a text, the longest first, as llama.cpp does.
    fn fragments<'a>(&self, text: &'a str, parse: ParseSpecial) -> Vec<Fragment<'a>> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Text(text)];
        for &token in &self.vocab.special {
            if parse == ParseSpecial::No && self.vocab.kinds[token as usize] != Kind::UserDefined {
                continue;
            }
            let needle = self.vocab.texts[token as usize].as_str();
            let found = |fragment: &Fragment<'_>| matches!(fragment, Fragment::Text(text) if text.contains(needle));
            if !fragments.iter().any(found) {
                continue;
            }
            fragments = fragments
                .into_iter()
                .flat_map(|fragment| match fragment {
                    Fragment::Text(text) => split(text, needle, token),
                    fragment @ Fragment::Token(_) => vec![fragment],
                })
                .collect();
        }
        fragments
    }

    /// The bytes that a token adds to a text: nothing for those that only steer the model.
    pub(crate) fn bytes(&self, token: TokenId) -> Vec<u8> {
        let Some(text) = self.text(token) else { return Vec::new() };
        match (self.vocab.kinds[token as usize], &self.algorithm) {
            (Kind::Control | Kind::Unknown, _) => Vec::new(),
            (Kind::UserDefined, _) => text.as_bytes().to_vec(),
            (Kind::Byte, Algorithm::Spm(_)) => Spm::byte(text).into_iter().collect(),
            (_, Algorithm::Spm(_)) => text.replace(SPACE, " ").into_bytes(),
            (_, Algorithm::Bpe(_)) => Bpe::bytes(text),
        }
    }

    /// Returns a detokenizer for a text that continues another: an answer after its prompt.
    pub fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer::new(self)
    }

    /// Turns tokens back into the text that they were made of. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let mut detokenizer = self.detokenizer();
        let mut text: String = tokens.iter().map(|&token| detokenizer.push(token)).collect();
        text.push_str(&detokenizer.finish());
        // The space that encoding put before the text.
        if self.add_space_prefix && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }
}

/// A piece of a text.
#[derive(Debug, Clone, Copy)]
enum Fragment<'a> {
    Text(&'a str),
    Token(TokenId),
}

fn split<'a>(text: &'a str, needle: &str, token: TokenId) -> Vec<Fragment<'a>> {
    let mut out = Vec::new();
    for (i, piece) in text.split(needle).enumerate() {
        if i > 0 {
            out.push(Fragment::Token(token));
        }
        if !piece.is_empty() {
            out.push(Fragment::Text(piece));
        }
    }
    out
}

#[cfg(test)]
mod tests;
