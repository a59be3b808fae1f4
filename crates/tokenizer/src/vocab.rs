//! The tokens of a vocabulary.

use std::collections::HashMap;

use shoal_gguf::Metadata;
use shoal_proto::TokenId;

use crate::Error;

/// Most tokens: far above any real vocabulary, and an id counts them.
const TOKENS_MAX: usize = 1 << 24;

/// What a token is, by ggml's numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    /// Steers the model; never text.
    Control,
    /// Text that is always one token.
    UserDefined,
    Unused,
    /// Stands for one byte.
    Byte,
}

/// The tokens.
#[derive(Debug)]
pub(crate) struct Vocab {
    pub(crate) texts: Vec<String>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) ids: HashMap<String, TokenId>,
    /// Tokens that text is searched for before anything else: the longest first, then by id.
    pub(crate) special: Vec<TokenId>,
}

impl Vocab {
    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self, Error> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let texts = metadata.strings(TOKENS)?.ok_or(Error::Missing { key: TOKENS })?.to_vec();
        if texts.len() > TOKENS_MAX {
            return Err(Error::TooManyTokens { max: TOKENS_MAX, found: texts.len() });
        }
        let types = metadata.i32s(TYPES)?;
        let kinds: Vec<Kind> = match types {
            None => vec![Kind::Normal; texts.len()],
            Some(types) => types.iter().map(|&ty| kind(ty)).collect::<Result<_, _>>()?,
        };
        check_len(TYPES, texts.len(), kinds.len())?;
        let id = |idx: usize| TokenId::try_from(idx).expect("bounded above");
        let mut ids = HashMap::with_capacity(texts.len());
        for (idx, text) in texts.iter().enumerate() {
            // Of equal texts the first counts, as padding repeats nothing that matters.
            ids.entry(text.clone()).or_insert_with(|| id(idx));
        }
        let is_special =
            |kind: &Kind| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown);
        let mut special: Vec<TokenId> = (0..texts.len())
            .filter(|&idx| is_special(&kinds[idx]) && !texts[idx].is_empty())
            .map(id)
            .collect();
        special.sort_by_key(|&token| (std::cmp::Reverse(texts[token as usize].len()), token));
        Ok(Self { texts, kinds, ids, special })
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(crate) fn id(&self, text: &str) -> Option<TokenId> {
        self.ids.get(text).copied()
    }

    /// The token that a metadata key names, if it is there.
    pub(crate) fn token(
        &self,
        metadata: &Metadata,
        key: &'static str,
    ) -> Result<Option<TokenId>, Error> {
        match metadata.u32(key)? {
            Some(found) if found as usize >= self.len() => {
                Err(Error::TokenId { key, n_vocab: self.len(), found })
            }
            token => Ok(token),
        }
    }
}

/// Checks that an array has an element for each token.
pub(crate) fn check_len(key: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Length { key, expected, found }) }
}

fn kind(ty: i32) -> Result<Kind, Error> {
    match ty {
        1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        _ => Err(Error::Unsupported {
            key: "tokenizer.ggml.token_type",
            expected: "1 to 6".to_owned(),
            found: ty.to_string(),
        }),
    }
}
