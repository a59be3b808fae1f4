//! Consecutive layers of a model, and the step that they compute.

use std::fmt;
use std::sync::Arc;

use shoal_kernels::Compute;
use shoal_proto::{LayerRange, TokenId};
use tracing::debug;

use crate::rope::Rope;
use crate::step::{Buffers, Step};
use crate::{Error, Hparams, Model, Sequence};

/// Layers `[a, b)` of a model, with the embedding if `a == 0` and the head if `b == n_layer`.
///
/// It reads the weights where the file is mapped; it owns only the buffers of a step.
pub struct Shard {
    model: Arc<Model>,
    layers: LayerRange,
    rope: Rope,
    buffers: Buffers,
}

/// New tokens of one sequence in a step.
#[derive(Debug)]
pub struct Segment<'a> {
    /// The sequence, made for this shard. The step appends to it.
    pub sequence: &'a mut Sequence,
    /// The tokens that come next.
    pub tokens: &'a [TokenId],
    /// `[n_tokens, n_embd]`: what the shard before this one computed; empty on a shard that has the embedding.
    pub activations: &'a [f32],
    /// Whether a shard with the head computes logits for the last token. Others pay no attention to it.
    pub want_logits: bool,
}

/// What a step computed. Rows are in the order of the segments.
#[derive(Debug)]
pub struct Output<'a> {
    /// `[n_tokens, n_embd]`, for the next shard; empty on a shard that has the head.
    pub activations: &'a [f32],
    /// `[n_wanted, n_vocab]`, one row for each segment that wants logits; empty on a shard without head. Mutable,
    /// since [`crate::sample`] works in place.
    pub logits: &'a mut [f32],
}

/// Which rows go through the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The last one of each segment that wants logits.
    Last,
    /// All.
    All,
}

impl Shard {
    /// Prepares layers of a model for computing. Fast: weights are read from the file when they are needed.
    ///
    /// # Errors
    /// If the layers are not all the model's, or the divisors of its rotation frequencies are senseless.
    pub fn load(model: Arc<Model>, layers: LayerRange) -> Result<Self, Error> {
        let n_layer = model.n_layer();
        if layers.end() > n_layer {
            return Err(Error::Layers { layers, n_layer });
        }
        let rope = model.rope()?;
        let architecture = &model.hparams().architecture;
        debug!(%architecture, %layers, n_bytes = model.weight_bytes(layers), "shard loaded");
        Ok(Self { model, layers, rope, buffers: Buffers::default() })
    }

    /// The layers.
    pub fn layers(&self) -> LayerRange {
        self.layers
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The model's hyper-parameters.
    pub fn hparams(&self) -> &Hparams {
        self.model.hparams()
    }

    /// Computes one step and appends its tokens to their sequences.
    ///
    /// # Errors
    /// If a segment does not fit to the shard, its sequence, or the sequence's context. Nothing is changed then.
    pub fn forward(
        &mut self,
        compute: &Compute,
        segments: &mut [Segment<'_>],
    ) -> Result<Output<'_>, Error> {
        self.step(compute, segments, Wanted::Last)
    }

    pub(crate) fn has_head(&self) -> bool {
        self.layers.has_head(self.model.n_layer())
    }

    pub(crate) fn step(
        &mut self,
        compute: &Compute,
        segments: &mut [Segment<'_>],
        wanted: Wanted,
    ) -> Result<Output<'_>, Error> {
        for (segment_idx, segment) in segments.iter().enumerate() {
            self.check(segment_idx, segment)?;
        }
        let wanted = wanted.rows(segments);
        let has_head = self.has_head();
        let (model, layers) = (&*self.model, self.layers);
        let (architecture, weights) = (model.architecture(), model.weights());

        let mut step = Step::new(compute, model, &self.rope, segments, &mut self.buffers);
        if layers.has_embedding() {
            step.embed(&weights.token_embd);
        } else {
            step.take_activations();
        }
        for (layer_idx, layer) in layers.iter().enumerate() {
            let is_last_of_model = layer + 1 == model.n_layer();
            let layer = &weights.layers[layer as usize];
            step.enter_layer(layer_idx);
            (architecture.attention)(&mut step, layer);
            if is_last_of_model {
                // Nothing looks at the other rows any more.
                step.keep_rows(&wanted);
                if wanted.is_empty() {
                    break;
                }
            }
            (architecture.feed_forward)(&mut step, layer);
        }
        if has_head && !wanted.is_empty() {
            step.head(&weights.output_norm, &weights.output);
        }

        for segment in segments {
            segment.sequence.tokens.extend_from_slice(segment.tokens);
        }
        let Buffers { x, logits, .. } = &mut self.buffers;
        Ok(Output { activations: if has_head { &[] } else { x }, logits })
    }

    /// Checks that a segment can be computed.
    fn check(&self, segment_idx: usize, segment: &Segment<'_>) -> Result<(), Error> {
        let Segment { sequence, tokens, activations, .. } = segment;
        let is_same_model = Arc::ptr_eq(&sequence.model, &self.model);
        if !is_same_model || sequence.layers != self.layers {
            return Err(Error::ForeignSequence {
                segment_idx,
                expected: self.layers,
                found: sequence.layers,
                model: if is_same_model { "the same" } else { "another" },
            });
        }
        if tokens.is_empty() {
            return Err(Error::EmptySegment { segment_idx });
        }
        let hparams = self.hparams();
        let n_vocab = hparams.n_vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
            return Err(Error::Token { segment_idx, token, n_vocab });
        }
        let expected = if self.layers.has_embedding() { 0 } else { tokens.len() * hparams.n_embd };
        if activations.len() != expected {
            return Err(Error::Activations { segment_idx, expected, found: activations.len() });
        }
        let (n_ctx, wanted) = (sequence.n_ctx, sequence.tokens.len() + tokens.len());
        if wanted > n_ctx {
            return Err(Error::ContextFull { n_ctx, wanted });
        }
        Ok(())
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("architecture", &self.hparams().architecture)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

impl Wanted {
    /// Lists the rows whose logits are wanted, ascending.
    fn rows(self, segments: &[Segment<'_>]) -> Vec<usize> {
        let mut rows = Vec::new();
        let mut end = 0;
        for segment in segments {
            let start = end;
            end += segment.tokens.len();
            match self {
                Self::All => rows.extend(start..end),
                Self::Last if segment.want_logits => rows.push(end - 1),
                Self::Last => {}
            }
        }
        rows
    }
}
