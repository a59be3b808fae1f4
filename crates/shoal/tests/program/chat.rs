//! Questions to a node, shared like its start.

use serde_json::{Value, json};

/// A request for an answer of the demonstration model.
pub(crate) fn chat_body(question: &str, temperature: f32, seed: u64) -> Value {
    json!({
        "model": "demo",
        "messages": [{"role": "user", "content": question}],
        "temperature": temperature,
        "seed": seed,
        "max_tokens": 48,
    })
}
