//! The hyper-parameters of the models that can be synthesised.

/// Which tensors and metadata keys a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Phi3,
}

impl Arch {
    /// The value of `general.architecture` and the prefix of the keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Phi3 => "phi3",
        }
    }
}

/// How rotation angles deviate from the plain ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rope {
    Plain,
    /// Llama 3's: a tensor `rope_freqs.weight` of divisors, computed from these.
    Llama3 {
        factor: f32,
        n_ctx_original: u32,
    },
    /// Phi 3's: tensors `rope_factors_{long,short}.weight`, an attention factor, and the context length
    /// above which the long factors apply.
    Long {
        n_ctx_original: u32,
        attn_factor: f32,
    },
}

/// Which kind of tokenizer is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VocabKind {
    /// Byte-level BPE with ChatML's special tokens (pre-tokenizer `qwen2`).
    Qwen2,
    /// Byte-level BPE with Llama 3's special tokens (pre-tokenizer `llama-bpe`).
    Llama3,
    /// SentencePiece with Llama 2's special tokens.
    Llama2,
    /// SentencePiece with Phi 3's special tokens after the pieces.
    Phi3,
}

/// One model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// The name on the command line.
    pub(crate) name: &'static str,
    /// The value of `general.name`.
    pub(crate) title: &'static str,
    pub(crate) arch: Arch,
    pub(crate) n_layer: u32,
    pub(crate) n_embd: u32,
    pub(crate) n_head: u32,
    pub(crate) n_head_kv: u32,
    /// Elements of a head, where that is not `n_embd / n_head`.
    pub(crate) key_length: Option<u32>,
    pub(crate) n_ff: u32,
    pub(crate) n_vocab: u32,
    pub(crate) n_ctx_train: u32,
    pub(crate) rope_freq_base: f32,
    pub(crate) rope: Rope,
    pub(crate) rms_eps: f32,
    /// Whether the embedding is the output matrix too.
    pub(crate) is_tied: bool,
    pub(crate) vocab: VocabKind,
}

impl Shape {
    pub(crate) fn head_dim(&self) -> u32 {
        self.key_length.unwrap_or(self.n_embd / self.n_head)
    }

    /// Elements of all heads' queries.
    pub(crate) fn n_embd_q(&self) -> u32 {
        self.n_head * self.head_dim()
    }
}

const QWEN2: Shape = Shape {
    name: "",
    title: "",
    arch: Arch::Qwen2,
    n_layer: 0,
    n_embd: 0,
    n_head: 0,
    n_head_kv: 2,
    key_length: None,
    n_ff: 0,
    n_vocab: 151_936,
    n_ctx_train: 32_768,
    rope_freq_base: 1e6,
    rope: Rope::Plain,
    rms_eps: 1e-6,
    // Qwen's own GGUF files hold the output matrix, though the models tie it to the embedding: 469 MiB for
    // 0.5B are 392 MB of tied weights and 94 MB of an embedding in q5_0.
    is_tied: false,
    vocab: VocabKind::Qwen2,
};

const QWEN3: Shape = Shape {
    arch: Arch::Qwen3,
    n_head: 16,
    n_head_kv: 8,
    key_length: Some(128),
    n_ctx_train: 40_960,
    is_tied: true,
    ..QWEN2
};

const TINYLLAMA: Shape = Shape {
    name: "tinyllama-1.1b",
    title: "tinyllama 1.1b chat",
    arch: Arch::Llama,
    n_layer: 22,
    n_embd: 2048,
    n_head: 32,
    n_head_kv: 4,
    key_length: None,
    n_ff: 5632,
    n_vocab: 32_000,
    n_ctx_train: 2048,
    rope_freq_base: 1e4,
    rope: Rope::Plain,
    rms_eps: 1e-5,
    is_tied: false,
    vocab: VocabKind::Llama2,
};

const LLAMA3: Shape = Shape {
    name: "llama-3.2-1b",
    title: "Llama 3.2 1B Instruct",
    arch: Arch::Llama,
    n_layer: 16,
    n_embd: 2048,
    n_head: 32,
    n_head_kv: 8,
    key_length: None,
    n_ff: 8192,
    n_vocab: 128_256,
    n_ctx_train: 131_072,
    rope_freq_base: 5e5,
    rope: Rope::Llama3 { factor: 32.0, n_ctx_original: 8192 },
    rms_eps: 1e-5,
    is_tied: true,
    vocab: VocabKind::Llama3,
};

const PHI3: Shape = Shape {
    name: "phi-3.5-mini",
    title: "Phi 3.5 Mini Instruct",
    arch: Arch::Phi3,
    n_layer: 32,
    n_embd: 3072,
    n_head: 32,
    n_head_kv: 32,
    key_length: None,
    n_ff: 8192,
    n_vocab: 32_064,
    n_ctx_train: 131_072,
    rope_freq_base: 1e4,
    // sqrt(1 + ln(131072 / 4096) / ln(4096))
    rope: Rope::Long { n_ctx_original: 4096, attn_factor: 1.190_238_1 },
    rms_eps: 1e-5,
    is_tied: false,
    vocab: VocabKind::Phi3,
};

/// All shapes: the user's seven models, further ones of the catalogue, and a small one of each kind for tests.
///
/// The small ones keep the ratios that decide which code runs: grouped heads, tied or not, rows that are a
/// multiple of 256 or not.
pub(crate) const SHAPES: [Shape; 16] = [
    Shape {
        name: "qwen2.5-0.5b",
        title: "qwen2.5-0.5b-instruct",
        n_layer: 24,
        n_embd: 896,
        n_head: 14,
        n_ff: 4864,
        ..QWEN2
    },
    Shape {
        name: "qwen2.5-1.5b",
        title: "qwen2.5-1.5b-instruct",
        n_layer: 28,
        n_embd: 1536,
        n_head: 12,
        n_ff: 8960,
        ..QWEN2
    },
    Shape {
        name: "qwen2.5-3b",
        title: "qwen2.5-3b-instruct",
        n_layer: 36,
        n_embd: 2048,
        n_head: 16,
        n_ff: 11_008,
        ..QWEN2
    },
    TINYLLAMA,
    LLAMA3,
    Shape {
        name: "llama-3.2-3b",
        title: "Llama 3.2 3B Instruct",
        n_layer: 28,
        n_embd: 3072,
        n_head: 24,
        ..LLAMA3
    },
    PHI3,
    Shape {
        name: "qwen3-0.6b",
        title: "Qwen3 0.6B",
        n_layer: 28,
        n_embd: 1024,
        n_ff: 3072,
        ..QWEN3
    },
    Shape {
        name: "qwen3-1.7b",
        title: "Qwen3 1.7B",
        n_layer: 28,
        n_embd: 2048,
        n_ff: 6144,
        ..QWEN3
    },
    Shape {
        name: "qwen3-4b",
        title: "Qwen3 4B",
        n_layer: 36,
        n_embd: 2560,
        n_head: 32,
        n_ff: 9728,
        ..QWEN3
    },
    // As qwen3-0.6b: queries of all heads are wider than the residual stream.
    Shape {
        name: "tiny-qwen3",
        title: "tiny qwen3",
        n_layer: 4,
        n_embd: 256,
        n_head: 6,
        n_head_kv: 2,
        key_length: Some(64),
        n_ff: 512,
        n_vocab: 512,
        ..QWEN3
    },
    Shape {
        name: "tiny-qwen2",
        title: "tiny qwen2, tied",
        n_layer: 4,
        n_embd: 256,
        n_head: 4,
        n_head_kv: 2,
        n_ff: 512,
        n_vocab: 512,
        is_tied: true,
        ..QWEN2
    },
    // As qwen2.5-0.5b: seven query heads per key head, and rows of n_embd that are no multiple of 256.
    Shape {
        name: "tiny-qwen2-224",
        title: "tiny qwen2 with fallback types",
        n_layer: 4,
        n_embd: 224,
        n_head: 7,
        n_head_kv: 1,
        n_ff: 512,
        n_vocab: 512,
        ..QWEN2
    },
    Shape {
        name: "tiny-tinyllama",
        title: "tiny tinyllama",
        n_layer: 4,
        n_embd: 256,
        n_head: 8,
        n_head_kv: 1,
        n_ff: 512,
        n_vocab: 512,
        ..TINYLLAMA
    },
    Shape {
        name: "tiny-llama3",
        title: "tiny Llama 3.2",
        n_layer: 4,
        n_embd: 256,
        n_head: 4,
        n_head_kv: 1,
        n_ff: 512,
        n_vocab: 512,
        ..LLAMA3
    },
    // The original context is so short that tests reach the long factors.
    Shape {
        name: "tiny-phi3",
        title: "tiny Phi 3.5",
        n_layer: 4,
        n_embd: 256,
        n_head: 4,
        n_head_kv: 4,
        n_ff: 512,
        n_vocab: 512,
        n_ctx_train: 4096,
        rope: Rope::Long { n_ctx_original: 512, attn_factor: 1.154_700_5 },
        ..PHI3
    },
];
