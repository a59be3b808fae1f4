//! Where models come from, and where they are kept: the catalogue, the model hub, the store on this device, and downloads from
//! the hub and from other nodes.
//!
//! ```text
//! name ── reference ── catalogue ──► client (the hub's listing) ──► ModelFiles
//!                                                                      │
//!              peers (other nodes, by way of a trait) ──┐              ▼
//!              client (ranges of remote files) ─────────┴──► download ──► partial ──► store
//! ```
//!
//! - `reference`: what a user may type as a model's name
//! - `quant`: quantisations by their labels, and which one is taken
//! - `catalogue`: the models that are known without asking anybody
//! - `client`: the model hub and other servers, over HTTPS
//! - `store`: the models on this device's disk
//! - `partial`: a file that is not all there, and the journal of its chunks
//! - `download`: fetches chunks from the hub and from peers until what is wanted is there
//! - `library`: ties these together: what is here, on its way, and given to others
//! - `peers`: what a download asks of the cluster
//! - `demo`: the demonstration model, which is part of the binary
//!
//! Invariants: a file under its own name is whole, and was checked if its hash is known; whatever else is on disk says so by
//! its name. No chunk is used, or given to another node, before its hash was right. What is on disk is never fetched twice.

mod catalogue;
mod client;
mod demo;
mod download;
mod library;
mod partial;
pub mod peers;
mod quant;
mod reference;
mod store;

pub use catalogue::{Card, CardFormat, CardQuant, Catalogue, CatalogueError};
pub use client::{
    HubClient, HubConfig, HubError, HubTiming, RangeBody, RemoteFile, RepoFile, RepoFormat,
    RepoListing, SearchHit, Token, Unreachable, UrlFile,
};
pub use demo::{DEMO, Error, Source, open, open_paths};
pub use download::{BadPeer, DownloadError, DownloadTiming, Received};
pub use library::{
    DownloadState, DownloadStatus, Library, LibraryConfig, LibraryError, NameError, Resolved,
    Select, Selection, Serving,
};
pub use partial::PartialError;
pub use quant::{
    PREFERENCE, ParseQuantError, PickError, Picked, PickedFile, Quant, SUPPORTED, pick, pick_file,
};
pub use reference::{Reference, ReferenceError, RepoReference, RepoWhat};
pub use store::{
    ChunkHashes, FileReport, FileState, ImportWay, Imported, LocalFile, ModelState, Place,
    RemoveReport, Space, Store, StoreConfig, StoreError, StoredModel, Verdict, VerifyReport,
};
