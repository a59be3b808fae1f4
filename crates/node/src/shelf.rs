//! Models, for people: what there is, what runs here, what is on this device and what is on its way.

use std::{fmt, path::Path};

use shoal_hub::{
    Card, CardFormat, DownloadStatus, Imported, Library, ModelState, Quant, RemoveReport, Resolved,
    SearchHit, Space, StoredModel, VerifyReport,
};
use shoal_proto::model::ModelFiles;
use tokio::sync::watch;

use crate::{
    Error, Node, models,
    node::{N_CTX_DEFAULT, Named},
};

/// What some nodes can do with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// One of them runs it.
    Runs,
    /// It takes several of them together.
    RunsOn {
        /// The fewest.
        n_nodes: usize,
    },
    /// They have too little memory, even together.
    TooLarge {
        /// How much they lack.
        missing_bytes: u64,
    },
    /// This program cannot run it at all.
    Unsupported {
        /// What it cannot run.
        what: String,
    },
}

impl Fit {
    /// Whether these nodes can run it.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Runs | Self::RunsOn { .. })
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs => write!(f, "runs"),
            Self::RunsOn { n_nodes } => write!(f, "runs on {n_nodes} devices"),
            Self::TooLarge { missing_bytes } => {
                write!(f, "{:.1} GB too large", *missing_bytes as f64 / 1e9)
            }
            Self::Unsupported { what } => write!(f, "cannot run: {what}"),
        }
    }
}

/// A model of the catalogue, as it is offered here.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// What is known of it.
    pub card: Card,
    /// The quantisation that would be taken.
    pub quant: Option<Quant>,
    /// Its size on disk.
    pub n_bytes: u64,
    /// Memory that it takes: weights, and KV cache for `n_ctx` positions.
    pub memory_bytes: u64,
    /// Positions of a sequence that this was worked out for.
    pub n_ctx: u32,
    /// What this device can do with it.
    pub here: Fit,
    /// What the cluster can do with it.
    pub cluster: Fit,
    /// The name under which it is on this device, if it is.
    pub stored: Option<String>,
}

impl Node {
    /// The catalogue, with what this device and this cluster can do with each model.
    ///
    /// # Errors
    /// If this process keeps no models.
    pub async fn offers(&self) -> Result<Vec<Offer>, Error> {
        self.offers_of(|library, card| vec![library.quant_of(card)]).await
    }

    /// The same, with each quantisation of a model for itself.
    ///
    /// # Errors
    /// If this process keeps no models.
    pub async fn all_offers(&self) -> Result<Vec<Offer>, Error> {
        let quants = |library: &Library, card: &Card| {
            let listed: Vec<_> = card.quants.iter().map(|it| Some(it.quant.clone())).collect();
            if listed.is_empty() { vec![library.quant_of(card)] } else { listed }
        };
        self.offers_of(quants).await
    }

    async fn offers_of(
        &self,
        quants: impl Fn(&Library, &Card) -> Vec<Option<Quant>>,
    ) -> Result<Vec<Offer>, Error> {
        let library = self.library("catalogue")?;
        let stored = library.list().await;
        let (own, all) = self.memory();
        let offer = |card: &Card, quant: Option<Quant>| {
            let n_bytes = quant.as_ref().and_then(|it| card.weight_bytes(it)).unwrap_or_default();
            let n_ctx = N_CTX_DEFAULT.min(card.n_ctx_train);
            let kv_bytes = card.kv_bytes(n_ctx);
            let fit = |nodes: &[u64]| match unsupported(card, quant.as_ref()) {
                Some(what) => Fit::Unsupported { what },
                None => fit(card.n_layer, n_bytes + kv_bytes, nodes),
            };
            Offer {
                n_bytes,
                memory_bytes: n_bytes + kv_bytes,
                n_ctx,
                here: fit(&own),
                cluster: fit(&all),
                stored: stored_of(&stored, card, quant.as_ref()),
                quant,
                card: card.clone(),
            }
        };
        let mut offers = Vec::new();
        for card in library.catalogue().cards() {
            offers.extend(quants(library, card).into_iter().map(|quant| offer(card, quant)));
        }
        Ok(offers)
    }

    /// The models on this device.
    ///
    /// # Errors
    /// If this process keeps no models.
    pub async fn stored(&self) -> Result<Vec<StoredModel>, Error> {
        Ok(self.library("models")?.list().await)
    }

    /// Free space for models on this device.
    ///
    /// # Errors
    /// If this process keeps no models, or the system does not tell.
    pub async fn space(&self) -> Result<Space, Error> {
        Ok(self.library("models")?.space().await?)
    }

    /// The directory of this device's models.
    ///
    /// # Errors
    /// If this process keeps no models.
    pub fn models_dir(&self) -> Result<&Path, Error> {
        Ok(self.library("models")?.store().dir())
    }

    /// Asks the hub for models.
    ///
    /// # Errors
    /// If this process keeps no models, or the hub does not answer.
    pub async fn search(&self, words: &str, limit: usize) -> Result<Vec<SearchHit>, Error> {
        let client = self.library("search")?.client();
        client
            .search(words, limit)
            .await
            .map_err(|error| Error::from(shoal_hub::LibraryError::from(error)))
    }

    /// Like [`pull`](Self::pull), but asks the hub what is newest, and replaces what is here if that is another version.
    ///
    /// # Errors
    /// As with `pull`, and if the old version is in use.
    pub async fn pull_newest(&self, model: &str) -> Result<String, Error> {
        match self.make_way(model).await? {
            Some(files) => {
                let name = files.name.clone();
                self.library(model)?.start(files, models::whole());
                Ok(name)
            }
            None => self.pull(model).await,
        }
    }

    /// Finds what a text names and starts to bring it here, all of it. Returns the model's name; how it goes is in
    /// [`downloads`](Self::downloads). The name of a model that is on this device already starts nothing.
    ///
    /// # Errors
    /// If the text names nothing, or the hub and the peers do not know it.
    pub async fn pull(&self, model: &str) -> Result<String, Error> {
        match self.resolve(model).await? {
            Named::Here(name) => Ok(name),
            Named::Files(files) => {
                let name = files.name.clone();
                self.library(model)?.start(files, models::whole());
                Ok(name)
            }
        }
    }

    /// Like [`pull`](Self::pull), and waits until it is all here.
    ///
    /// # Errors
    /// As with `pull`, and if the download fails or is stopped.
    pub async fn pull_now(&self, model: &str) -> Result<String, Error> {
        match self.resolve(model).await? {
            Named::Here(name) => Ok(name),
            Named::Files(files) => {
                self.library(model)?.obtain(&files, models::whole()).await?;
                Ok(files.name)
            }
        }
    }

    /// Like [`pull_now`](Self::pull_now), but asks the hub what is newest, and replaces what is here if that is another version.
    ///
    /// # Errors
    /// As with `pull_now`, and if the old version is in use.
    pub async fn update(&self, model: &str) -> Result<String, Error> {
        match self.make_way(model).await? {
            Some(files) => {
                self.library(model)?.obtain(&files, models::whole()).await?;
                Ok(files.name)
            }
            None => self.pull_now(model).await,
        }
    }

    /// Finds the newest version of a model, and removes another one that is here. `None` for what has no versions.
    async fn make_way(&self, model: &str) -> Result<Option<ModelFiles>, Error> {
        let library = self.library(model)?;
        let Resolved::Files(files) = library.resolve_newest(model).await? else {
            return Ok(None);
        };
        let stored = library.list().await.into_iter().find(|stored| stored.name == files.name);
        let ids = |files: &ModelFiles| files.files.iter().map(|file| file.id).collect::<Vec<_>>();
        let is_same = |stored: &StoredModel| stored.manifest.as_ref().map(ids) == Some(ids(&files));
        if stored.as_ref().is_some_and(|stored| !is_same(stored)) {
            self.remove(&files.name).await?;
        }
        Ok(Some(files))
    }

    /// The downloads of this process.
    pub fn downloads(&self) -> Vec<DownloadStatus> {
        self.inner().library().map(Library::downloads).unwrap_or_default()
    }

    /// Ticks whenever a download changes; never without a library.
    pub fn download_changes(&self) -> watch::Receiver<u64> {
        self.inner().library().map_or_else(|| watch::channel(0).1, Library::changes)
    }

    /// Stops a download, to be resumed.
    ///
    /// # Errors
    /// If none of that name is running.
    pub async fn pause(&self, model: &str) -> Result<(), Error> {
        Ok(self.library(model)?.pause(model).await?)
    }

    /// Goes on with a download that was paused or has failed.
    ///
    /// # Errors
    /// If none of that name was.
    pub fn resume(&self, model: &str) -> Result<(), Error> {
        Ok(self.library(model)?.resume(model)?)
    }

    /// Removes a model from this device, with its download.
    ///
    /// # Errors
    /// If it is not here, or is being used.
    pub async fn remove(&self, model: &str) -> Result<RemoveReport, Error> {
        let library = self.library(model)?;
        let is_placed = |it: &crate::InstanceStatus| {
            it.record.model.name == model
                && it.record.placement.stages.iter().any(|stage| stage.node == self.id())
        };
        if let Some(instance) = self.instances().into_iter().find(is_placed) {
            return Err(Error::InUse { name: model.to_owned(), instance: instance.record.id });
        }
        let report = library.remove(model).await?;
        self.inner().models().close(&report.name).await;
        Ok(report)
    }

    /// Takes a file of this device into the models' directory, without a copy where that is possible.
    ///
    /// # Errors
    /// If it is no model, or the disk refuses.
    pub async fn import(
        &self,
        file: &Path,
        name: Option<&str>,
        progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<Imported, Error> {
        Ok(self.library("import")?.import(file, name, progress).await?)
    }

    /// Reads every byte of a model on this device and compares; with `repair` what is damaged is fetched again by the next
    /// [`pull`](Self::pull).
    ///
    /// # Errors
    /// If it is not here, or cannot be read.
    pub async fn verify(
        &self,
        model: &str,
        repair: bool,
        progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<VerifyReport, Error> {
        Ok(self.library(model)?.verify(model, repair, progress).await?)
    }

    /// Finds what a user's text names.
    pub(crate) async fn resolve(&self, model: &str) -> Result<Named, Error> {
        let Some(library) = self.inner().library() else {
            return Ok(Named::Here(model.to_owned()));
        };
        Ok(match library.resolve(model).await? {
            Resolved::Demo => Named::Here(shoal_hub::DEMO.to_owned()),
            Resolved::Path(path) => Named::Here(path.to_string_lossy().into_owned()),
            Resolved::Files(files) => Named::Files(files),
        })
    }

    /// The memory of this device, and of all that are alive.
    fn memory(&self) -> (Vec<u64>, Vec<u64>) {
        let own = self.inner().peers().record().memory_bytes;
        let others = self.inner().peers().alive().into_iter().map(|record| record.memory_bytes);
        (vec![own], std::iter::once(own).chain(others).collect())
    }
}

/// The name of a whole model on this device that is this quantisation of the card, or any if none is given.
fn stored_of(stored: &[StoredModel], card: &Card, quant: Option<&Quant>) -> Option<String> {
    let is_it = |model: &&StoredModel| {
        let name = model.name.as_str();
        let (repo, label) = name.rsplit_once(':').unwrap_or((name, ""));
        let is_quant = quant.is_none_or(|quant| quant.as_str().eq_ignore_ascii_case(label));
        model.state == ModelState::Whole && repo.eq_ignore_ascii_case(&card.id) && is_quant
    };
    stored.iter().find(is_it).map(|model| model.name.clone())
}

/// What of a card this program cannot run.
fn unsupported(card: &Card, quant: Option<&Quant>) -> Option<String> {
    if card.format == CardFormat::Mlx {
        return Some("MLX weights".to_owned());
    }
    if !shoal_engine::architectures().any(|name| name == card.architecture) {
        return Some(format!("architecture {}", card.architecture));
    }
    match quant {
        None => Some("none of its quantisations".to_owned()),
        Some(quant) => (!quant.is_supported()).then(|| format!("quantisation {quant}")),
    }
}

/// What nodes with so much memory each can do with a model whose memory is spread evenly over its layers.
fn fit(n_layer: u32, memory_bytes: u64, nodes: &[u64]) -> Fit {
    let n_layer = u64::from(n_layer.max(1));
    let layer_bytes = memory_bytes.div_ceil(n_layer).max(1);
    let mut given: Vec<u64> = nodes.to_vec();
    given.sort_unstable_by_key(|&bytes| std::cmp::Reverse(bytes));
    let mut n_fitting = 0;
    for (i, bytes) in given.iter().enumerate() {
        n_fitting += bytes / layer_bytes;
        if n_fitting >= n_layer {
            return if i == 0 { Fit::Runs } else { Fit::RunsOn { n_nodes: i + 1 } };
        }
    }
    let given_bytes = given.iter().sum();
    Fit::TooLarge { missing_bytes: (layer_bytes * n_layer).saturating_sub(given_bytes).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_nodes_it_takes_or_what_is_missing() {
        assert_eq!(fit(10, 1000, &[1000]), Fit::Runs);
        assert_eq!(fit(10, 1000, &[400, 700]), Fit::RunsOn { n_nodes: 2 });
        assert_eq!(fit(10, 1000, &[400, 400, 700]), Fit::RunsOn { n_nodes: 2 });
        assert_eq!(fit(10, 1000, &[400, 300, 450]), Fit::RunsOn { n_nodes: 3 });
        assert_eq!(fit(10, 1000, &[400]), Fit::TooLarge { missing_bytes: 600 });
        assert_eq!(fit(10, 1000, &[400, 500]), Fit::TooLarge { missing_bytes: 100 });
    }

    #[test]
    fn speaks_plainly() {
        assert_eq!(Fit::RunsOn { n_nodes: 3 }.to_string(), "runs on 3 devices");
        assert_eq!(Fit::TooLarge { missing_bytes: 1_500_000_000 }.to_string(), "1.5 GB too large");
        let what = "architecture gemma3".to_owned();
        let fit = Fit::Unsupported { what };
        assert_eq!(fit.to_string(), "cannot run: architecture gemma3");
        assert!(!fit.runs());
    }
}
