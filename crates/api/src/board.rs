//! What the page asks of a node beside answers and models: who is there and how it goes, what happened, and what is set.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use shoal_node::{
    Check, Error, Finding, HistoryPage, Invitation, InviteOptions, Invited, LogPage, Node,
    Production, RequestStatus, Setting, SettingStatus, SettingValue, Traffic,
};
use shoal_proto::NodeId;
use tokio::sync::watch;

/// A node, as the page sees it. The methods are those of [`Node`], where they are documented.
pub(crate) trait Board: Clone + Send + Sync + 'static {
    fn addrs(&self) -> Vec<SocketAddr>;
    fn data_dir(&self) -> Option<PathBuf>;
    fn requests(&self) -> Vec<RequestStatus>;
    fn production(&self) -> Vec<Production>;
    fn request_changes(&self) -> watch::Receiver<u64>;
    fn log(&self, after: u64, n_max: usize) -> LogPage;
    fn log_changes(&self) -> watch::Receiver<u64>;
    fn history(&self, period: Duration) -> HistoryPage;
    fn traffic(&self) -> Vec<(NodeId, Traffic)>;
    fn settings(&self) -> Vec<SettingStatus>;
    fn keeps_settings(&self) -> bool;
    fn change_settings(
        &self,
        changes: Vec<(Setting, Option<SettingValue>)>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    fn invite(&self, options: InviteOptions) -> Result<Invited, Error>;
    fn invitations(&self) -> Vec<Invitation>;
    /// Whether the invitation was good until now; `None` if there is none of that name.
    fn revoke_invitation(&self, id: &str) -> Result<Option<bool>, Error>;
    fn doctor(&self) -> impl Future<Output = (Vec<Finding>, Vec<Check>)> + Send;
}

impl Board for Node {
    fn addrs(&self) -> Vec<SocketAddr> {
        Node::addrs(self)
    }

    fn data_dir(&self) -> Option<PathBuf> {
        Node::data_dir(self).map(Path::to_owned)
    }

    fn requests(&self) -> Vec<RequestStatus> {
        Node::requests(self)
    }

    fn production(&self) -> Vec<Production> {
        Node::production(self)
    }

    fn request_changes(&self) -> watch::Receiver<u64> {
        Node::request_changes(self)
    }

    fn log(&self, after: u64, n_max: usize) -> LogPage {
        Node::log(self, after, n_max)
    }

    fn log_changes(&self) -> watch::Receiver<u64> {
        Node::log_changes(self)
    }

    fn history(&self, period: Duration) -> HistoryPage {
        Node::history(self, period)
    }

    fn traffic(&self) -> Vec<(NodeId, Traffic)> {
        Node::traffic(self)
    }

    fn settings(&self) -> Vec<SettingStatus> {
        Node::settings(self)
    }

    fn keeps_settings(&self) -> bool {
        Node::keeps_settings(self)
    }

    async fn change_settings(
        &self,
        changes: Vec<(Setting, Option<SettingValue>)>,
    ) -> Result<(), Error> {
        Node::change_settings(self, changes).await
    }

    fn invite(&self, options: InviteOptions) -> Result<Invited, Error> {
        Node::make_invitation(self, options)
    }

    fn invitations(&self) -> Vec<Invitation> {
        Node::invitations(self)
    }

    fn revoke_invitation(&self, id: &str) -> Result<Option<bool>, Error> {
        Node::revoke_invitation(self, id)
    }

    async fn doctor(&self) -> (Vec<Finding>, Vec<Check>) {
        Node::doctor(self).await
    }
}
