//! A model file whose hyper-parameters and tensors have been checked.

use std::sync::Arc;

use shoal_gguf::{Gguf, TensorInfo};
use shoal_proto::LayerRange;

use crate::arch::Architecture;
use crate::hparams::Keys;
use crate::rope::Rope;
use crate::weights::{Tensors, Vector, Weights};
use crate::{Error, Hparams};

/// A model that can be computed. Cheap to make: no weight is read.
#[derive(Debug)]
pub struct Model {
    gguf: Arc<Gguf>,
    architecture: &'static Architecture,
    hparams: Hparams,
    weights: Weights,
}

/// What the parts of a model weigh, for whoever cuts it over devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The layers, `[n_layer]`.
    pub layers: Vec<Part>,
    /// Bytes of the table of embeddings, of which a step reads a row for each token.
    pub embedding_bytes: u64,
    /// The output head, with the last norm.
    pub head: Part,
    /// Whether the head is the table of embeddings.
    pub is_head_tied: bool,
}

/// A part of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Bytes of its weights.
    pub n_bytes: u64,
    /// Multiply-accumulates for each token, without attention.
    pub n_macs: u64,
}

impl Part {
    fn add(&mut self, other: Self) {
        self.n_bytes += other.n_bytes;
        self.n_macs += other.n_macs;
    }
}

impl Model {
    /// Checks the hyper-parameters, and every tensor's presence, type and shape.
    ///
    /// # Errors
    /// If the architecture is unknown, a key is missing or senseless, or a tensor is missing, unknown, or of
    /// another type or shape than the hyper-parameters ask for.
    pub fn new(gguf: Arc<Gguf>) -> Result<Arc<Self>, Error> {
        let name = gguf.metadata().require_str("general.architecture")?;
        let architecture = Architecture::named(name)?;
        let hparams = (architecture.hparams)(&Keys::new(gguf.metadata(), name))?;
        let mut tensors = Tensors::new(&gguf);
        let weights = Weights::find(architecture, &hparams, &mut tensors)?;
        tensors.finish(name)?;
        Ok(Arc::new(Self { gguf, architecture, hparams, weights }))
    }

    /// The hyper-parameters.
    pub fn hparams(&self) -> &Hparams {
        &self.hparams
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Transformer layers.
    pub fn n_layer(&self) -> u32 {
        self.hparams.n_layer
    }

    /// Bytes of the tensors that a shard of `layers` reads. An embedding that is the head too counts once.
    pub fn weight_bytes(&self, layers: LayerRange) -> u64 {
        self.tensors_of(layers).map(|tensor| tensor.n_bytes).sum()
    }

    /// The tensors that a shard of `layers` reads, in the file's order.
    pub fn tensors_of(&self, layers: LayerRange) -> impl Iterator<Item = &TensorInfo> {
        self.gguf.tensors().iter().filter(move |tensor| self.is_read(layers, tensor))
    }

    /// Bytes of the KV cache of one sequence of `n_ctx` positions on a shard of `layers`, when it is full.
    pub fn kv_bytes(&self, layers: LayerRange, n_ctx: usize) -> u64 {
        let per_position = 2 * size_of::<u16>() as u64 * self.hparams.n_embd_kv() as u64;
        per_position * u64::from(layers.n_layer()) * n_ctx as u64
    }

    /// What each part of the model weighs.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape {
            layers: vec![Part::default(); self.n_layer() as usize],
            embedding_bytes: 0,
            head: Part::default(),
            is_head_tied: self.weights.output.name() == self.weights.token_embd.name(),
        };
        for tensor in self.gguf.tensors() {
            let is_matrix = tensor.shape.len() > 1;
            let n_macs = if is_matrix { tensor.shape.iter().product() } else { 0 };
            let part = Part { n_bytes: tensor.n_bytes, n_macs };
            let layer = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            let layer = layer.and_then(|(layer, _)| layer.parse::<usize>().ok());
            if let Some(layer) = layer.and_then(|layer| shape.layers.get_mut(layer)) {
                layer.add(part);
            } else if tensor.name == self.weights.token_embd.name() {
                shape.embedding_bytes += tensor.n_bytes;
                if shape.is_head_tied {
                    shape.head.add(part);
                }
            } else {
                shape.head.add(part);
            }
        }
        shape
    }

    pub(crate) fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Reads the frequencies' divisors and computes the rotations.
    ///
    /// # Errors
    /// If a divisor is not a finite number above zero.
    pub(crate) fn rope(&self) -> Result<Rope, Error> {
        let read = |vector: &'_ Option<Vector>| -> Result<Option<Vec<f32>>, Error> {
            let Some(vector) = vector else { return Ok(None) };
            let values = vector.values(&self.gguf);
            match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
                None => Ok(Some(values.to_vec())),
                Some(value) => Err(Error::Tensor {
                    name: vector.name().to_owned(),
                    expected: "finite divisors above zero".to_owned(),
                    found: value.to_string(),
                }),
            }
        };
        let divisors = read(&self.weights.rope_divisors.usual)?;
        let long_divisors = read(&self.weights.rope_divisors.long)?;
        Ok(Rope::new(&self.hparams.rope, divisors.as_deref(), long_divisors.as_deref()))
    }

    /// Whether a shard of `layers` reads a tensor.
    fn is_read(&self, layers: LayerRange, tensor: &TensorInfo) -> bool {
        let has_head = layers.has_head(self.n_layer());
        let is_tied = self.weights.output.name() == self.weights.token_embd.name();
        match tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, _)) => layer.parse().is_ok_and(|layer| layers.iter().contains(&layer)),
            None if tensor.name == self.weights.token_embd.name() => {
                layers.has_embedding() || (has_head && is_tied)
            }
            None if tensor.name.starts_with("output") => has_head,
            None => true,
        }
    }
}
