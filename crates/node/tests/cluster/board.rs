//! What a node tells those who watch it: what happened, requests, links, the past, and what is set.

use std::time::Duration;

use shoal_node::{
    Caller, Error, Event, GenerateRequest, InvitationState, InviteOptions, Node, Prompt,
    RequestState, Setting, SettingValue, proto::SamplingParams,
};

use crate::setup::{Member, cluster, over};

/// The kinds of what happened so far.
fn kinds(node: &Node) -> Vec<&'static str> {
    node.log(0, usize::MAX).entries.iter().map(|entry| entry.kind).collect()
}

fn text_of(node: &Node, kind: &str) -> String {
    let log = node.log(0, usize::MAX);
    let entry = log.entries.iter().rev().find(|entry| entry.kind == kind);
    entry.map(|entry| entry.text.clone()).unwrap_or_default()
}

fn fish(max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: "demo".into(),
        prompt: Prompt::Raw("The fish".into()),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        breakers: Vec::new(),
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_a_cluster_is_told_in_words() {
    let mut members = cluster(3).await;
    let first = &members[0];
    let has = |kind: &'static str| move |node: &Node| kinds(node).contains(&kind);
    first
        .wait_for("two have joined", |node| {
            kinds(node).iter().filter(|kind| **kind == "node_joined").count() == 2
        })
        .await;
    assert_eq!(kinds(&first.node)[0], "node_started");
    let placed = first.node.place(over(2)).await.expect("three nodes are there");
    first.wait_for("ready", has("instance_ready")).await;
    let text = text_of(&first.node, "instance_placed");
    assert!(text.starts_with("demo is placed on node-"), "{text}");
    let stages = &placed.record.placement.stages;
    let is_stage = |it: &Member| stages.iter().any(|stage| stage.node == it.node.id());
    let at = 1 + members[1..].iter().position(is_stage).expect("two stages, one may be here");
    let lost = members.remove(at);
    let (name, id) = (lost.node.name(), lost.node.id());
    lost.node.shutdown().await;
    let first = &members[0];
    first
        .wait_for("gone and healed", |node| {
            let kinds = kinds(node);
            kinds.contains(&"node_dead")
                && (kinds.contains(&"instance_healed") || kinds.contains(&"instance_moved"))
        })
        .await;
    let text = text_of(&first.node, "node_dead");
    assert!(text.starts_with(&format!("{name} is gone")), "{text}");
    first.node.forget(id).await.expect("it is known");
    first.wait_for("left", has("node_left")).await;
    first.node.unplace(placed.record.id).await.expect("it is known");
    first.wait_for("dropped", has("instance_dropped")).await;
    let log = first.node.log(0, usize::MAX);
    assert!(log.entries.iter().map(|entry| entry.seq).eq(1..=log.newest));
    assert_eq!(*first.node.log_changes().borrow(), log.newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_what_they_produce_are_told() {
    let members = cluster(2).await;
    let node = &members[0].node;
    let placed = node.place(over(2)).await.expect("two nodes are there");
    let changes = node.request_changes();
    let caller = Caller { answer: Some("answer-1".into()), by: Some("a test".into()) };
    let mut generation = node.generate_for(fish(12), caller.clone()).await.expect("it is placed");
    assert_eq!(node.requests().len(), 1);
    while let Some(event) = generation.next().await {
        assert!(!matches!(event, Event::Failed(_)), "{event:?}");
    }
    drop(generation);
    assert!(changes.has_changed().expect("the node lives"));
    let request = node.requests().swap_remove(0);
    assert_eq!(
        (request.state, &request.caller, request.n_tokens),
        (RequestState::Done, &caller, 12)
    );
    assert_eq!(request.instance, placed.record.id);
    let trace = node.trace(request.id).expect("one number for both");
    assert_eq!((trace.n_generated, trace.n_prompt), (12, request.n_prompt));
    let production = node.production().swap_remove(0);
    assert_eq!((production.n_tokens, production.n_prompt), (12, u64::from(request.n_prompt)));
    assert_eq!(production.stages.len(), 2);
    // One that hangs in the line, and then goes away.
    node.change_settings(vec![(Setting::Parallel, Some(SettingValue::Number(1)))])
        .await
        .expect("in range");
    let running = node.generate(fish(400)).await.expect("it is placed");
    let queued = node.generate(fish(4)).await.expect("it is placed");
    members[0]
        .wait_for("one runs and one waits", |node| {
            let states: Vec<_> = node.requests().iter().take(2).map(|it| it.state).collect();
            states[0] == RequestState::Queued && states[1] == RequestState::Decoding
        })
        .await;
    drop(queued);
    drop(running);
    members[0]
        .wait_for("both are over", |node| {
            let mut requests = node.requests().into_iter().take(2);
            requests.all(|request| request.state == RequestState::Cancelled)
        })
        .await;
    let own = node.id();
    let traffic = node.traffic();
    let (peer, bytes) = traffic.first().expect("one peer");
    assert!(*peer != own && bytes.n_sent > 1000 && bytes.n_received > 1000, "{bytes:?}");
    members[0]
        .wait_for("a sample", |node| node.history(Duration::from_secs(60)).n_samples > 0)
        .await;
    let history = node.history(Duration::from_secs(3600));
    assert_eq!(history.own.len(), history.n_samples);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_hold_at_once_everywhere_and_after_a_restart() {
    let mut members = cluster(2).await;
    let (second, first) = (members.remove(1), members.remove(0));
    let memory_of = |node: &Node, id| {
        let nodes = node.nodes();
        nodes.into_iter().find(|it| it.record.id == id).map_or(0, |it| it.record.memory_bytes)
    };
    let id = second.node.id();
    let whole = memory_of(&second.node, id);
    let changes = vec![
        (Setting::Name, Some(SettingValue::Text("kitchen".into()))),
        (Setting::MemoryShare, Some(SettingValue::Number(50))),
    ];
    second.node.change_settings(changes).await.expect("in range");
    assert_eq!(second.node.name(), "kitchen");
    first
        .wait_for("its new name and memory", |node| {
            let is_known = node.nodes().iter().any(|it| it.record.name == "kitchen");
            is_known && memory_of(node, id) == whole / 100 * 50
        })
        .await;
    first
        .wait_for("told", |node| text_of(node, "node_renamed") == "node-1 is called kitchen now.")
        .await;
    let changed = second.node.log(0, usize::MAX).entries;
    let n_changed = changed.iter().filter(|entry| entry.kind == "settings_changed").count();
    assert_eq!(n_changed, 2);
    let again = second.restart().await;
    assert_eq!(again.node.name(), "kitchen");
    let bad = vec![(Setting::BatteryFloor, Some(SettingValue::Number(91)))];
    let error = again.node.change_settings(bad).await.expect_err("out of range");
    assert!(matches!(error, Error::InvalidParameter { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_are_listed_and_revoked() {
    let first = Member::start("first", None).await;
    let options = InviteOptions { valid_for: Some(Duration::from_secs(60)), single_use: true };
    let used = first.node.make_invitation(options).expect("it is online");
    let open = first.node.make_invitation(InviteOptions::default()).expect("it is online");
    let second = Member::start("second", Some(used.ticket.clone())).await;
    first.wait_for_alive(2).await;
    let list = first.node.invitations();
    let states: Vec<_> = list.iter().map(|it| (it.id.to_string(), it.state)).collect();
    let expected =
        [(open.id.clone(), InvitationState::Open), (used.id.clone(), InvitationState::Used)];
    assert_eq!(states, expected, "the newest first");
    assert_eq!(
        (list[1].joined.as_slice(), list[1].expires_at),
        (&[second.node.id()][..], used.expires_at)
    );
    assert_eq!(first.node.revoke_invitation(&open.id).expect("kept"), Some(true));
    assert_eq!(first.node.revoke_invitation(&open.id).expect("kept"), Some(false), "again");
    assert_eq!(first.node.revoke_invitation("unknown").expect("kept"), None);
    let third = Member::start("third", None).await;
    let error = third.node.join(&open.ticket).await.expect_err("it is void");
    assert!(matches!(error, Error::JoinRefused { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_settings_that_is_damaged_keeps_nobody_from_starting() {
    let member = Member::start("first", None).await;
    let path = member.dir().join("settings");
    std::fs::write(&path, "parallel = none").expect("writable");
    let again = member.restart().await;
    assert_eq!(again.node.name(), "first");
    assert!(!path.exists() && path.with_extension("damaged").exists());
}
