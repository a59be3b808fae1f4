//! Tokenizers for synthetic models: a small one trained on the spot, or one copied from a file and made to
//! fit.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, bail};
use shoal_gguf::{Array, Metadata, Value};

use self::train::train;
use super::shape::{Shape, VocabKind};

mod train;

/// The `tokenizer.*` entries of a model.
#[derive(Debug)]
pub(crate) struct Vocab {
    pub(crate) entries: Vec<(String, Value)>,
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Token types, as SentencePiece numbers them.
const NORMAL: i32 = 1;
const UNKNOWN_TYPE: i32 = 2;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of tokens that no text is cut into.
const SCORE_UNUSED: f32 = -10_000.0;

/// Most special tokens that survive when a vocabulary is cut.
const SPECIAL_MAX: usize = 16;

/// What a family of models adds to its pieces.
struct Specials {
    model: &'static str,
    pre: &'static str,
    /// Control tokens after the pieces.
    tokens: &'static [&'static str],
    bos: &'static str,
    eos: &'static str,
    padding: &'static str,
    add_bos: bool,
    chat_template: &'static str,
}

const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

const LLAMA3_CHAT: &str = "{{ bos_token }}{% for message in messages %}<|start_header_id|>\
{{ message['role'] }}<|end_header_id|>

{{ message['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant\
<|end_header_id|>

{% endif %}";

const ZEPHYR: &str = "{% for message in messages %}<|{{ message['role'] }}|>
{{ message['content'] }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}";

const PHI3_CHAT: &str = "{% for message in messages %}<|{{ message['role'] }}|>
{{ message['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}";

fn specials(kind: VocabKind) -> Specials {
    match kind {
        VocabKind::Qwen2 => Specials {
            model: "gpt2",
            pre: "qwen2",
            tokens: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            bos: "<|endoftext|>",
            eos: "<|im_end|>",
            padding: "<|endoftext|>",
            add_bos: false,
            chat_template: CHATML,
        },
        VocabKind::Llama3 => Specials {
            model: "gpt2",
            pre: "llama-bpe",
            tokens: &[
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
            ],
            bos: "<|begin_of_text|>",
            eos: "<|eot_id|>",
            padding: "<|end_of_text|>",
            add_bos: true,
            chat_template: LLAMA3_CHAT,
        },
        VocabKind::Llama2 => Specials {
            model: "llama",
            pre: "default",
            tokens: &[],
            bos: "<s>",
            eos: "</s>",
            padding: "</s>",
            add_bos: true,
            chat_template: ZEPHYR,
        },
        VocabKind::Phi3 => Specials {
            model: "llama",
            pre: "default",
            tokens: &["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
            bos: "<s>",
            eos: "<|endoftext|>",
            padding: "<|endoftext|>",
            add_bos: false,
            chat_template: PHI3_CHAT,
        },
    }
}

/// A vocabulary under construction.
#[derive(Default)]
struct Tokens {
    texts: Vec<String>,
    types: Vec<i32>,
    scores: Vec<f32>,
}

impl Tokens {
    fn push(&mut self, text: impl Into<String>, ty: i32, score: f32) {
        self.texts.push(text.into());
        self.types.push(ty);
        self.scores.push(score);
    }

    /// Fills up to `n_vocab` tokens with `[PADn]`, as converters do.
    fn pad(&mut self, n_vocab: usize) {
        for id in self.texts.len()..n_vocab {
            self.push(format!("[PAD{id}]"), UNUSED, SCORE_UNUSED);
        }
    }

    fn id(&self, text: &str) -> anyhow::Result<u32> {
        let id = self.texts.iter().position(|token| token == text);
        let id = id.with_context(|| format!("vocabulary: expected the token {text}, got none"))?;
        Ok(u32::try_from(id)?)
    }
}

/// Makes a small tokenizer of the kind that the shape's family uses.
pub(crate) fn generate(shape: &Shape) -> anyhow::Result<Vocab> {
    let specials = specials(shape.vocab);
    let n_vocab = usize::try_from(shape.n_vocab)?;
    let is_bpe = specials.model == "gpt2";
    let mut tokens = Tokens::default();
    let mut merges = Vec::new();
    if is_bpe {
        push_byte_level(&mut tokens, &mut merges, n_vocab - specials.tokens.len());
    } else {
        push_sentence_pieces(&mut tokens, n_vocab - specials.tokens.len());
    }
    for token in specials.tokens {
        tokens.push(*token, CONTROL, 0.0);
    }
    tokens.pad(n_vocab);

    let ids = [(BOS, specials.bos), (EOS, specials.eos), (PADDING, specials.padding)];
    let ids: Vec<(&str, u32)> = ids
        .into_iter()
        .map(|(key, text)| Ok((key, tokens.id(text)?)))
        .collect::<anyhow::Result<_>>()?;
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut push = |key: &str, value: Value| entries.push((key.to_owned(), value));
    push(MODEL, specials.model.into());
    push(PRE, specials.pre.into());
    push(TOKENS, tokens.texts.into());
    if !is_bpe {
        push(SCORES, tokens.scores.into());
    }
    push(TOKEN_TYPE, tokens.types.into());
    if is_bpe {
        push(MERGES, merges.into());
    }
    for (key, id) in ids {
        push(key, id.into());
    }
    if !is_bpe {
        push(UNKNOWN, 0u32.into());
    }
    push(ADD_BOS, specials.add_bos.into());
    push(CHAT_TEMPLATE, specials.chat_template.into());
    Ok(Vocab { entries })
}

/// The bytes in GPT-2's alphabet, in its order, then what training adds.
fn push_byte_level(tokens: &mut Tokens, merges: &mut Vec<String>, n_max: usize) {
    for byte in train::byte_order() {
        tokens.push(train::byte_char(byte), NORMAL, 0.0);
    }
    let mut known: HashSet<String> = tokens.texts.iter().cloned().collect();
    for (left, right) in train(|word| format!(" {word}").bytes().map(train::byte_char).collect()) {
        let text = format!("{left}{right}");
        if known.contains(&text) {
            continue;
        }
        if tokens.texts.len() == n_max {
            break;
        }
        merges.push(format!("{left} {right}"));
        known.insert(text.clone());
        tokens.push(text, NORMAL, 0.0);
    }
}

/// Llama 2's three special tokens, the bytes, pieces by rank, and the single characters.
fn push_sentence_pieces(tokens: &mut Tokens, n_max: usize) {
    tokens.push("<unk>", UNKNOWN_TYPE, 0.0);
    tokens.push("<s>", CONTROL, 0.0);
    tokens.push("</s>", CONTROL, 0.0);
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"), BYTE, 0.0);
    }
    let chars: Vec<char> = std::iter::once('▁').chain('!'..='~').collect();
    let n_pieces = n_max - tokens.texts.len() - chars.len();
    let mut known = HashSet::new();
    for (left, right) in train(|word| format!("▁{word}").chars().collect()) {
        let piece = format!("{left}{right}");
        if known.len() < n_pieces && known.insert(piece.clone()) {
            tokens.push(piece, NORMAL, 1.0 - known.len() as f32);
        }
    }
    for (i, c) in chars.into_iter().enumerate() {
        tokens.push(c, NORMAL, -1000.0 - i as f32);
    }
}

/// Copies the tokenizer of a file, cut or padded to `shape`'s number of tokens.
pub(crate) fn copy(source: &Metadata, shape: &Shape) -> anyhow::Result<Vocab> {
    let texts = source.strings(TOKENS)?.with_context(|| format!("vocabulary: no {TOKENS}"))?;
    let types = source.i32s(TOKEN_TYPE)?.with_context(|| format!("vocabulary: no {TOKEN_TYPE}"))?;
    let scores = source.f32s(SCORES)?;
    if types.len() != texts.len() || scores.as_ref().is_some_and(|s| s.len() != texts.len()) {
        bail!("vocabulary: expected as many types and scores as tokens, {}", texts.len());
    }
    let n_vocab = usize::try_from(shape.n_vocab)?;
    let kept = kept_ids(source, &types, n_vocab)?;
    let mut tokens = Tokens::default();
    let mut new_ids = HashMap::new();
    for &id in &kept {
        new_ids.insert(u32::try_from(id)?, u32::try_from(tokens.texts.len())?);
        tokens.push(texts[id].clone(), types[id], scores.as_ref().map_or(0.0, |s| s[id]));
    }
    let specials = specials(shape.vocab);
    // Phi 3 is Llama 2's vocabulary with its own special tokens after it.
    if shape.vocab == VocabKind::Phi3 && tokens.texts.len() + specials.tokens.len() <= n_vocab {
        for token in specials.tokens {
            tokens.push(*token, CONTROL, SCORE_UNUSED);
        }
        let old = source.require_u32(EOS)?;
        new_ids.insert(old, tokens.id(specials.eos)?);
    }
    tokens.pad(n_vocab);

    let known: HashSet<&str> = tokens.texts.iter().map(String::as_str).collect();
    let is_known = |merge: &String| {
        merge.split_once(' ').is_some_and(|(left, right)| {
            known.contains(left)
                && known.contains(right)
                && known.contains(format!("{left}{right}").as_str())
        })
    };
    let merges = source.strings(MERGES)?.unwrap_or_default();
    let merges: Vec<String> = merges.iter().filter(|merge| is_known(merge)).cloned().collect();

    let mut entries: Vec<(String, Value)> = Vec::new();
    for (key, value) in source.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        let value = match (key, value) {
            (TOKENS, _) => tokens.texts.clone().into(),
            (TOKEN_TYPE, _) => tokens.types.clone().into(),
            (SCORES, _) => tokens.scores.clone().into(),
            (MERGES, _) => merges.clone().into(),
            (key, Value::Array(array)) if array.len() == texts.len() => bail!(
                "vocabulary: {key}: expected an array that this program can cut, got {}",
                Value::Array(Array::clone(array))
            ),
            (key, value) if key.ends_with("_token_id") => {
                let old = source.require_u32(key)?;
                let new = new_ids
                    .get(&old)
                    .with_context(|| format!("vocabulary: {key}: expected a token, got {value}"))?;
                (*new).into()
            }
            (_, other) => other.clone(),
        };
        entries.push((key.to_owned(), value));
    }
    if source.get(CHAT_TEMPLATE).is_none() {
        entries.push((CHAT_TEMPLATE.to_owned(), specials.chat_template.into()));
    }
    Ok(Vocab { entries })
}

/// Which tokens of a file make a vocabulary of at most `n_vocab`: all, or the first ones and the special ones.
fn kept_ids(source: &Metadata, types: &[i32], n_vocab: usize) -> anyhow::Result<Vec<usize>> {
    if types.len() <= n_vocab {
        return Ok((0..types.len()).collect());
    }
    let mut special: Vec<usize> = Vec::new();
    for (key, _) in source.iter().filter(|(key, _)| key.ends_with("_token_id")) {
        special.push(usize::try_from(source.require_u32(key)?)?);
    }
    special.extend((0..types.len()).filter(|&id| types[id] == CONTROL));
    let mut seen = HashSet::new();
    special.retain(|&id| id < types.len() && seen.insert(id));
    special.truncate(SPECIAL_MAX);
    special.sort_unstable();

    let mut kept: Vec<usize> =
        (0..types.len()).filter(|id| !special.contains(id)).take(n_vocab - special.len()).collect();
    kept.extend(special);
    kept.sort_unstable();
    Ok(kept)
}
