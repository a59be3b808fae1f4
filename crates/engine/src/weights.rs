//! The tensors of a model: what a forward pass needs, where it is, and that it is what it should be.
//!
//! [`Tensors`] checks presence, type and shape of every tensor once, when a model is made, so that nothing
//! later has to; a tensor that no forward pass would read is an error too, since a model that has one is not
//! the model that we know how to compute. Matrices stay in the file's own bytes; vectors are small and are
//! copied out at first use.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::OnceLock;

use shoal_gguf::{Gguf, TensorInfo, TensorType};
use shoal_kernels::{Matrix, WeightType};

use crate::arch::Architecture;
use crate::{Error, Hparams};

/// All tensors of a model.
#[derive(Debug)]
pub(crate) struct Weights {
    /// `[n_vocab, n_embd]`
    pub(crate) token_embd: Weight,
    pub(crate) layers: Vec<LayerWeights>,
    /// `[n_embd]`
    pub(crate) output_norm: Vector,
    /// `[n_vocab, n_embd]`; the embedding again where the model ties them
    pub(crate) output: Weight,
    pub(crate) rope_divisors: RopeDivisors,
}

/// What rotation frequencies are divided by, where that is not one.
#[derive(Debug, Default)]
pub(crate) struct RopeDivisors {
    /// `[n_rot / 2]`
    pub(crate) usual: Option<Vector>,
    /// `[n_rot / 2]`: for contexts beyond the original length
    pub(crate) long: Option<Vector>,
}

impl Weights {
    /// Finds and checks the tensors of a model, those outside the layers here and the others as the architecture
    /// has them.
    pub(crate) fn find(
        architecture: &Architecture,
        hparams: &Hparams,
        tensors: &mut Tensors<'_>,
    ) -> Result<Self, Error> {
        let (n_vocab, n_embd) = (hparams.n_vocab, hparams.n_embd);
        let token_embd = tensors.matrix("token_embd.weight", n_vocab, n_embd)?;
        let output = tensors.optional_matrix("output.weight", n_vocab, n_embd)?;
        let output_norm = tensors.vector("output_norm.weight", n_embd)?;
        let rope_divisors = (architecture.rope_divisors)(hparams, tensors)?;
        let mut layers = Vec::new();
        for layer in 0..hparams.n_layer {
            tensors.enter_layer(layer);
            layers.push((architecture.layer)(hparams, tensors)?);
        }
        Ok(Self {
            output: output.unwrap_or_else(|| token_embd.clone()),
            token_embd,
            layers,
            output_norm,
            rope_divisors,
        })
    }
}

/// The tensors of one layer. Where a file has several of these in one tensor, they are ranges of its rows.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    /// `[n_embd]`
    pub(crate) attn_norm: Vector,
    /// `[n_head * head_dim, n_embd]`
    pub(crate) attn_q: Linear,
    /// `[n_head_kv * head_dim, n_embd]`
    pub(crate) attn_k: Linear,
    /// `[n_head_kv * head_dim, n_embd]`
    pub(crate) attn_v: Linear,
    pub(crate) head_norms: Option<HeadNorms>,
    /// `[n_embd, n_head * head_dim]`
    pub(crate) attn_output: Weight,
    /// `[n_embd]`
    pub(crate) ffn_norm: Vector,
    /// `[n_ff, n_embd]`
    pub(crate) ffn_gate: Weight,
    /// `[n_ff, n_embd]`
    pub(crate) ffn_up: Weight,
    /// `[n_embd, n_ff]`
    pub(crate) ffn_down: Weight,
}

/// Weights of the norms of each head's query and key.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    /// `[head_dim]`
    pub(crate) q: Vector,
    /// `[head_dim]`
    pub(crate) k: Vector,
}

/// A matrix and what is added to its products.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    /// `[n_rows]`
    pub(crate) bias: Option<Vector>,
}

/// Rows of a checked matrix in a model file.
#[derive(Debug, Clone)]
pub(crate) struct Weight {
    name: String,
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    rows: Range<usize>,
}

impl Weight {
    /// Bytes and shape, for the kernels.
    pub(crate) fn matrix<'m>(&self, gguf: &'m Gguf) -> Matrix<'m> {
        let tensor = gguf.tensor(&self.name).expect("checked when the model was made");
        let matrix = Matrix::new(self.ty, self.n_rows, self.n_cols, tensor.bytes)
            .expect("type and shape were checked when the model was made");
        if self.rows.len() == self.n_rows { matrix } else { matrix.rows(self.rows.clone()) }
    }

    /// A range of these rows, for tensors that hold several matrices.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows.len(), "rows {rows:?} of {}", self.rows.len());
        let rows = self.rows.start + rows.start..self.rows.start + rows.end;
        Self { rows, ..self.clone() }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn n_cols(&self) -> usize {
        self.n_cols
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn weight_type(&self) -> WeightType {
        self.ty
    }
}

/// A checked vector of f32 in a model file.
#[derive(Debug)]
pub(crate) struct Vector {
    name: String,
    values: OnceLock<Vec<f32>>,
}

impl Vector {
    /// The elements; copied out of the file, whose bytes may lie at any alignment, at the first call.
    pub(crate) fn values(&self, gguf: &Gguf) -> &[f32] {
        self.values.get_or_init(|| {
            let tensor = gguf.tensor(&self.name).expect("checked when the model was made");
            let (words, _) = tensor.bytes.as_chunks();
            words.iter().map(|&word| f32::from_le_bytes(word)).collect()
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Finds and checks tensors by name, and remembers which were asked for.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    gguf: &'a Gguf,
    /// Put before every name: empty, or the layer's.
    prefix: String,
    asked_for: HashSet<String>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(gguf: &'a Gguf) -> Self {
        Self { gguf, prefix: String::new(), asked_for: HashSet::new() }
    }

    /// From now on, names are those of a layer's tensors, without `blk.N.`.
    pub(crate) fn enter_layer(&mut self, layer: u32) {
        self.prefix = format!("blk.{layer}.");
    }

    /// The matrix `name`, `[n_rows, n_cols]`, of any type that can be computed with.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Weight, Error> {
        let found = self.optional_matrix(name, n_rows, n_cols)?;
        found.ok_or_else(|| self.missing(name, matrix_text(n_rows, n_cols)))
    }

    /// Like [`matrix`](Self::matrix), but it need not be there.
    pub(crate) fn optional_matrix(
        &mut self,
        name: &str,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Option<Weight>, Error> {
        let Some(info) = self.find(name) else { return Ok(None) };
        let shape = [n_rows as u64, n_cols as u64];
        match weight_type(info.ty).filter(|_| info.shape == shape) {
            Some(ty) => {
                Ok(Some(Weight { name: info.name.clone(), ty, n_rows, n_cols, rows: 0..n_rows }))
            }
            None => Err(unexpected(info, matrix_text(n_rows, n_cols))),
        }
    }

    /// The vector `name`, `[n]`.
    pub(crate) fn vector(&mut self, name: &str, n: usize) -> Result<Vector, Error> {
        let found = self.optional_vector(name, n)?;
        found.ok_or_else(|| self.missing(name, format!("f32 [{n}]")))
    }

    /// Like [`vector`](Self::vector), but it need not be there.
    pub(crate) fn optional_vector(
        &mut self,
        name: &str,
        n: usize,
    ) -> Result<Option<Vector>, Error> {
        let Some(info) = self.find(name) else { return Ok(None) };
        if info.ty != TensorType::F32 || info.shape != [n as u64] {
            return Err(unexpected(info, format!("f32 [{n}]")));
        }
        Ok(Some(Vector { name: info.name.clone(), values: OnceLock::new() }))
    }

    /// Refuses tensors that nobody asked for.
    pub(crate) fn finish(self, architecture: &str) -> Result<(), Error> {
        let is_unknown = |info: &&TensorInfo| !self.asked_for.contains(&info.name);
        match self.gguf.tensors().iter().find(is_unknown) {
            Some(info) => Err(unexpected(info, format!("no such tensor in {architecture}"))),
            None => Ok(()),
        }
    }

    fn find(&mut self, name: &str) -> Option<&'a TensorInfo> {
        let name = format!("{}{name}", self.prefix);
        let info = self.gguf.tensor(&name).map(|tensor| tensor.info);
        self.asked_for.insert(name);
        info
    }

    fn missing(&self, name: &str, expected: String) -> Error {
        let name = format!("{}{name}", self.prefix);
        Error::Tensor { name, expected, found: "nothing".to_owned() }
    }
}

/// Whether the engine computes with matrices of this type.
pub fn supports_type(ty: TensorType) -> bool {
    weight_type(ty).is_some()
}

fn weight_type(ty: TensorType) -> Option<WeightType> {
    Some(match ty {
        TensorType::F32 => WeightType::F32,
        TensorType::F16 => WeightType::F16,
        TensorType::Q8_0 => WeightType::Q8_0,
        TensorType::Q4_0 => WeightType::Q4_0,
        TensorType::Q5_0 => WeightType::Q5_0,
        TensorType::Q4K => WeightType::Q4K,
        TensorType::Q5K => WeightType::Q5K,
        TensorType::Q6K => WeightType::Q6K,
        _ => return None,
    })
}

fn matrix_text(n_rows: usize, n_cols: usize) -> String {
    let types: Vec<&str> =
        TensorType::all().filter(|&ty| supports_type(ty)).map(TensorType::name).collect();
    format!("{} [{n_rows}, {n_cols}]", types.join("|"))
}

fn unexpected(info: &TensorInfo, expected: String) -> Error {
    let found = format!("{} {:?}", info.ty, info.shape);
    Error::Tensor { name: info.name.clone(), expected, found }
}
