//! What the scripted node tells the page.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shoal_node::{
    Caller, Check, Error, Finding, HistoryPage, Invitation, InvitationState, InviteOptions,
    Invited, LogEntry, LogLevel, LogPage, NodeHistory, Production, RequestState, RequestStatus,
    Setting, SettingStatus, SettingValue, Traffic, VitalsSample, WorkSample,
};
use shoal_proto::{InstanceId, NodeId};
use tokio::sync::watch;

use super::{OWN_ID, PEER_ID, Script};
use crate::board::Board;

/// When the scripted node began to note.
pub(in crate::tests) const BEGAN: SystemTime = UNIX_EPOCH;
/// The invitation that the node has made.
pub(in crate::tests) const INVITE: &str = "0505050505050505";

/// What tests change of the script.
#[derive(Debug, Clone, Default)]
pub(in crate::tests) struct Told {
    inner: Arc<Mutex<Inner>>,
    requests_changed: watch::Sender<u64>,
    log_changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    requests: Vec<RequestStatus>,
    n_tokens: u64,
    n_sent: u64,
    log: Vec<LogEntry>,
    changes: Vec<(Setting, Option<SettingValue>)>,
    callers: Vec<Caller>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics with the lock")
    }

    /// The node drives a request of this answer.
    pub(in crate::tests) fn request(&self, answer: &str, state: RequestState) {
        self.requests(answer, state, 0);
    }

    /// It has driven others, too.
    pub(in crate::tests) fn requests(&self, answer: &str, state: RequestState, n_over: u64) {
        let request = RequestStatus {
            id: 100,
            caller: Caller { answer: Some(answer.into()), by: Some("192.168.1.9".into()) },
            model: "demo".into(),
            instance: InstanceId(0x1f),
            state,
            position: None,
            why: None,
            n_prompt: 12,
            n_cached: None,
            n_tokens: 3,
            tokens_per_s: Some(8.123),
            first_token: Some(Duration::from_millis(900)),
            n_healed: 1,
            healed: Duration::from_millis(1830),
            started: UNIX_EPOCH + Duration::from_secs(5),
            took: Duration::from_millis(5120),
            stages: vec![OWN_ID, PEER_ID],
        };
        let over = RequestStatus { state: RequestState::Done, ..request.clone() };
        self.lock().requests = vec![request];
        self.lock()
            .requests
            .extend((1..=n_over).map(|n| RequestStatus { id: 100 - n, ..over.clone() }));
        self.requests_changed.send_modify(|n| *n += 1);
    }

    /// So many more tokens were generated.
    pub(in crate::tests) fn produce(&self, n_tokens: u64) {
        self.lock().n_tokens += n_tokens;
        self.requests_changed.send_modify(|n| *n += 1);
    }

    /// So many more bytes were sent to the peer.
    pub(in crate::tests) fn send(&self, n_bytes: u64) {
        self.lock().n_sent += n_bytes;
    }

    /// Something happened.
    pub(in crate::tests) fn note(&self, text: &str) {
        let mut inner = self.lock();
        let seq = inner.log.len() as u64 + 1;
        inner.log.push(LogEntry {
            seq,
            at: UNIX_EPOCH + Duration::from_millis(seq),
            level: LogLevel::Notice,
            kind: "node_joined",
            text: text.to_owned(),
            node: Some(PEER_ID),
            instance: None,
            model: None,
        });
        drop(inner);
        self.log_changed.send_replace(seq);
    }

    /// The settings that were changed.
    pub(in crate::tests) fn changes(&self) -> Vec<(Setting, Option<SettingValue>)> {
        self.lock().changes.clone()
    }

    /// Who asked for answers.
    pub(in crate::tests) fn callers(&self) -> Vec<Caller> {
        self.lock().callers.clone()
    }

    pub(super) fn called(&self, caller: Caller) {
        self.lock().callers.push(caller);
    }
}

impl Board for Script {
    fn addrs(&self) -> Vec<SocketAddr> {
        vec!["192.168.1.5:4242".parse().expect("an address")]
    }

    fn data_dir(&self) -> Option<PathBuf> {
        Some("/data/shoal".into())
    }

    fn requests(&self) -> Vec<RequestStatus> {
        self.told.lock().requests.clone()
    }

    fn production(&self) -> Vec<Production> {
        let n_tokens = self.told.lock().n_tokens;
        vec![Production {
            instance: InstanceId(0x1f),
            model: "demo".into(),
            stages: vec![OWN_ID, PEER_ID],
            n_tokens,
            n_prompt: 100,
            tokens_per_s: 8.0,
        }]
    }

    fn request_changes(&self) -> watch::Receiver<u64> {
        self.told.requests_changed.subscribe()
    }

    fn log(&self, after: u64, n_max: usize) -> LogPage {
        let log = &self.told.lock().log;
        let entries: Vec<LogEntry> = log.iter().filter(|it| it.seq > after).cloned().collect();
        let n_left_out = entries.len().saturating_sub(n_max);
        let newest = log.len() as u64;
        let entries = entries[n_left_out..].to_vec();
        LogPage { began: BEGAN, newest, oldest: newest.min(1), entries }
    }

    fn log_changes(&self) -> watch::Receiver<u64> {
        self.told.log_changed.subscribe()
    }

    fn history(&self, period: Duration) -> HistoryPage {
        let n_samples = usize::try_from(period.as_secs() / 60).expect("an hour at most").min(2);
        let sample = VitalsSample {
            temperature_dc: Some(385),
            battery: Some((81, true)),
            load_percent: None,
            free_mib: Some(512),
        };
        let work = WorkSample { decode_per_s: 8.14, prefill_per_s: 0.0, n_requests: 1 };
        HistoryPage {
            interval: Duration::from_secs(5),
            end: UNIX_EPOCH + Duration::from_secs(9),
            n_samples,
            nodes: vec![NodeHistory {
                node: OWN_ID,
                name: "kitchen".into(),
                samples: [VitalsSample::default(), sample][2 - n_samples..].to_vec(),
            }],
            own: [None, Some(work)][2 - n_samples..].to_vec(),
        }
    }

    fn traffic(&self) -> Vec<(NodeId, Traffic)> {
        let n_sent = self.told.lock().n_sent;
        vec![(PEER_ID, Traffic { n_sent, n_received: 7 })]
    }

    fn settings(&self) -> Vec<SettingStatus> {
        let of = |setting: Setting| {
            let value = match setting {
                Setting::Name => SettingValue::Text("<b>kitchen".into()),
                Setting::Auto => SettingValue::Switch(false),
                Setting::DownloadRate => SettingValue::Unlimited,
                _ => SettingValue::Number(50),
            };
            let is_fixed = setting == Setting::Parallel;
            SettingStatus { setting, default: value.clone(), value, is_fixed }
        };
        Setting::ALL.map(of).to_vec()
    }

    fn keeps_settings(&self) -> bool {
        true
    }

    async fn change_settings(
        &self,
        changes: Vec<(Setting, Option<SettingValue>)>,
    ) -> Result<(), Error> {
        for (setting, value) in &changes {
            let name = setting.as_str();
            match value {
                Some(SettingValue::Number(4000)) => {
                    let message = "expected 0 to 90, got 4000".to_owned();
                    return Err(Error::InvalidParameter { name: name.to_owned(), message });
                }
                _ if *setting == Setting::Parallel => return Err(Error::SettingFixed { name }),
                _ => {}
            }
        }
        self.told.lock().changes.extend(changes);
        Ok(())
    }

    fn invite(&self, options: InviteOptions) -> Result<Invited, Error> {
        let seconds = options.valid_for.map_or(0, |valid_for| valid_for.as_secs());
        let ticket =
            format!("shoal1{}{seconds}", if options.single_use { "once" } else { "ticket" });
        let expires_at = options.valid_for.map(|valid_for| UNIX_EPOCH + valid_for);
        Ok(Invited { id: INVITE.to_owned(), ticket, expires_at })
    }

    fn invitations(&self) -> Vec<Invitation> {
        let id = shoal_node::InvitationId([5; 16]);
        vec![Invitation {
            id,
            created_at: UNIX_EPOCH + Duration::from_secs(1),
            expires_at: None,
            single_use: true,
            state: InvitationState::Used,
            joined: vec![PEER_ID, NodeId([7; 32])],
        }]
    }

    fn revoke_invitation(&self, id: &str) -> Result<Option<bool>, Error> {
        Ok((id == INVITE).then_some(true))
    }

    async fn doctor(&self) -> (Vec<Finding>, Vec<Check>) {
        let finding = Finding {
            severity: "ok",
            code: "fine",
            sentence: "all is well".to_owned(),
            what_to_do: String::new(),
        };
        let check = Check {
            id: "network",
            title: "This device is on a network",
            state: "ok",
            found: "It is, by wlan0.".to_owned(),
            what_to_do: String::new(),
        };
        (vec![finding], vec![check])
    }
}
