//! stub
#![allow(
    missing_docs,
    dead_code,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason
)]
use crate::{Error, Interfaces};
use shoal_proto::NodeId;
use std::net::SocketAddr;
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    pub id: NodeId,
    pub run: u64,
    pub interfaces: Interfaces,
    pub port: u16,
    pub software: String,
}
#[derive(Debug, Clone)]
pub struct Discovery;
#[derive(Debug, Clone)]
pub enum Looking {
    No,
    Yes { hints: Vec<SocketAddr> },
}
#[derive(Debug, Clone)]
pub struct Found {
    pub node: NodeId,
    pub run: u64,
    pub addrs: Vec<SocketAddr>,
    pub software: String,
}
impl Discovery {
    pub fn start(_: DiscoveryConfig) -> Result<Self, Error> {
        Ok(Self)
    }
    pub fn set_keys(&self, _: Vec<[u8; 32]>) {}
    pub fn set_addrs(&self, _: Vec<SocketAddr>) {}
    pub fn set_looking(&self, _: Looking) {}
    pub async fn next(&self) -> Option<Found> {
        std::future::pending().await
    }
    pub async fn stop(&self) {}
}
