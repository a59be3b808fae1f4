//! A request from its coming to its end, as those see it who watch.

use super::*;
use crate::{
    Error,
    trace::{Recorder, Traces},
};

const NODE: NodeId = NodeId([1; 32]);
const INSTANCE: InstanceId = InstanceId(1);

fn come(traces: &Traces) -> (u64, Instant) {
    let received = Instant::now();
    let id = traces.requests.come(Coming {
        caller: Caller { answer: Some("a".into()), by: None },
        model: "m".into(),
        instance: INSTANCE,
        stages: vec![NODE],
        n_prompt: 100,
        received,
    });
    (id, received)
}

fn begin(traces: &Traces, received: Instant) -> Recorder {
    traces.begin(Trace::new("m".into(), INSTANCE, NODE, vec![NODE], 100), received)
}

fn witness(traces: &Traces, journal: &Arc<Journal>, id: u64) -> Witness {
    Witness { requests: Arc::clone(&traces.requests), journal: Arc::clone(journal), id }
}

fn newest(traces: &Traces) -> RequestStatus {
    traces.requests.list().swap_remove(0)
}

#[test]
fn a_request_is_followed_to_its_end() {
    let (traces, journal) = (Traces::default(), Arc::new(Journal::default()));
    let (id, received) = come(&traces);
    let witness = witness(&traces, &journal, id);
    witness.see(&Event::Queued { position: 2 });
    let now = newest(&traces);
    assert_eq!((now.id, now.state, now.position), (1, RequestState::Queued, Some(2)));
    let mut recorder = begin(&traces, received);
    assert_eq!(traces.get(id).map(|trace| trace.n_prompt), Some(100), "one number for both");
    let now = newest(&traces);
    assert_eq!((now.state, now.position, now.n_prompt), (RequestState::Prefill, None, 100));
    for (end, n_tokens, has_token) in [(64, 64, false), (100, 36, true), (101, 1, true)] {
        recorder.sent(end, n_tokens);
        recorder.done(end, has_token, Vec::new());
    }
    let now = newest(&traces);
    assert_eq!((now.state, now.n_tokens), (RequestState::Decoding, 2));
    assert!(now.first_token.is_some() && now.tokens_per_s.is_some());
    witness.see(&Event::Healing { why: "layers are lost".into() });
    let now = newest(&traces);
    assert_eq!((now.state, now.why.as_deref()), (RequestState::Healing, Some("layers are lost")));
    witness.see(&Event::Resumed { pause: Duration::from_millis(1800), n_recomputed: 101 });
    let now = newest(&traces);
    assert_eq!((now.state, now.n_healed, now.why), (RequestState::Decoding, 1, None));
    assert_eq!(now.healed, Duration::from_millis(1800));
    recorder.end("stop", 3, 2);
    drop(witness);
    let now = newest(&traces);
    assert_eq!(
        (now.state, now.n_cached, now.caller.answer),
        (RequestState::Done, Some(3), Some("a".into()))
    );
    let log = journal.after(0, 10);
    assert_eq!(log.entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), ["answer_healed"]);
}

#[test]
fn failures_say_why_and_who_leaves_the_line_is_told_of() {
    let (traces, journal) = (Traces::default(), Arc::new(Journal::default()));
    let (id, received) = come(&traces);
    let recorder = begin(&traces, received);
    recorder.end("failed", 0, 0);
    witness(&traces, &journal, id)
        .see(&Event::Failed(Error::StageFailed { message: "it broke".into() }));
    let now = newest(&traces);
    assert_eq!(
        (now.state, now.why.as_deref()),
        (RequestState::Failed, Some("a stage failed: it broke"))
    );
    assert_eq!(
        journal.after(0, 10).entries[0].text,
        "An answer of m failed: a stage failed: it broke."
    );
    let (id, _) = come(&traces);
    drop(witness(&traces, &journal, id));
    assert_eq!(newest(&traces).state, RequestState::Cancelled);
    let (_, received) = come(&traces);
    begin(&traces, received).end("cancelled", 0, 0);
    assert_eq!(newest(&traces).state, RequestState::Cancelled);
}

#[test]
fn those_that_have_ended_give_way_first() {
    let traces = Traces::default();
    let (running, received) = come(&traces);
    let _recorder = begin(&traces, received);
    for _ in 0..2 * REQUESTS_MAX {
        let (_, received) = come(&traces);
        begin(&traces, received).end("stop", 0, 0);
    }
    let list = traces.requests.list();
    assert_eq!((list.len(), list[list.len() - 1].id), (REQUESTS_MAX, running));
    assert!(list.is_sorted_by_key(|request| std::cmp::Reverse(request.id)));
}

#[test]
fn what_is_produced_is_counted_and_its_speed_is_of_the_last_second() {
    let traces = Traces::default();
    let mut recorder = begin(&traces, Instant::now());
    for (end, n_tokens, has_token) in
        [(64, 64, false), (100, 36, true), (101, 1, true), (40, 40, false)]
    {
        recorder.sent(end, n_tokens);
        recorder.done(end, has_token, Vec::new());
    }
    let production = traces.requests.production();
    assert_eq!((production[0].n_tokens, production[0].n_prompt), (2, 140));
    assert_eq!((production[0].model.as_str(), traces.requests.totals()), ("m", (2, 140)));
    let mut meter = Meter::new(&Trace::new("m".into(), INSTANCE, NODE, vec![], 0));
    for ms in (5000..6000).step_by(100) {
        meter.count(Duration::from_millis(ms), 2, 0);
    }
    assert_eq!(meter.per_s(Duration::from_millis(5999)).round(), 20.0);
    assert_eq!(meter.per_s(Duration::from_millis(6499)).round(), 10.0);
    assert_eq!(meter.per_s(Duration::from_millis(7200)).round(), 0.0);
    assert_eq!(meter.per_s(Duration::from_millis(100)).round(), 0.0, "a clock that goes back");
}

#[test]
fn instances_that_come_and_go_take_no_memory() {
    let traces = Traces::default();
    for instance in 0..1000 {
        let trace = Trace::new("m".into(), InstanceId(instance), NODE, vec![], 0);
        let mut recorder = traces.begin(trace, Instant::now());
        recorder.sent(1, 1);
        recorder.done(1, true, Vec::new());
    }
    assert_eq!(traces.requests.production().len(), METERS_MAX);
    assert_eq!(traces.requests.totals().0, 1000);
}
