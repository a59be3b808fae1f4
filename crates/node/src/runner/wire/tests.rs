//! What a runner and its node say to each other, whole and damaged.

use proptest::prelude::*;
use shoal_proto::{
    Epoch, InstanceId, LayerRange, SequenceId,
    frame::{Body, FrameKey},
};

use super::*;

fn frame(body: Body) -> Frame {
    let (instance, epoch, sequence) = (InstanceId(1), Epoch(2), SequenceId(3));
    Frame { key: FrameKey { instance, epoch, sequence, driver: NodeId([4; 32]) }, body }
}

fn start() -> Start {
    let route = Route { stage_idx: 1, next: Some(NodeId([5; 32])) };
    Start {
        model: "owner/model".to_owned(),
        fingerprint: [6; 32],
        paths: vec![b"/a/\xff.gguf".to_vec()],
        stage: StageSpec {
            layers: LayerRange::new(2, 4).expect("not empty"),
            n_ctx: 512,
            route,
            n_threads: None,
            isa: Some("avx2".to_owned()),
        },
    }
}

/// The message as the other side reads it, in words.
fn to_runner(message: &ToRunner) -> String {
    let bytes = message.encode();
    let (head, payload) = bytes.split_first_chunk().expect("a head");
    let head = Head::decode(head).expect("our own");
    assert_eq!(head.n_bytes(), payload.len());
    format!("{:?}", ToRunner::decode(head, payload).expect("our own"))
}

fn decode(bytes: &[u8]) -> Result<Vec<String>, WireError> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next()? {
        messages.push(format!("{message:?}"));
    }
    Ok(messages)
}

fn all_of_a_runner() -> Vec<FromRunner> {
    let out = |body| FromRunner::Outgoing(Outgoing { to: NodeId([9; 32]), frame: frame(body) });
    vec![
        FromRunner::Ready,
        FromRunner::LoadFailed("no such file".to_owned()),
        out(Body::Done { position: 7, token: Some(8), timings: Vec::new() }),
        out(Body::Failed { message: "no".to_owned() }),
        FromRunner::Observed(Observed {
            n_bytes: 1,
            n_macs: 2,
            n_rows: 3,
            took: Duration::from_micros(4),
        }),
        FromRunner::Beat(Beat { n_taken: 5, progress: 6, is_busy: true }),
    ]
}

#[test]
fn what_a_runner_is_told_reads_back() {
    let inputs = [
        Input::Frame(frame(Body::Close)),
        Input::Frame(frame(Body::Probe { stage: 1, n_tokens: 2 })),
        Input::DropDriver(NodeId([7; 32])),
        Input::Move(Route { stage_idx: 3, next: None }),
        Input::Expire(Duration::from_secs(600)),
    ];
    for message in inputs.map(ToRunner::Input) {
        assert_eq!(to_runner(&message), format!("{message:?}"));
    }
    let message = ToRunner::Start(Box::new(start()));
    assert_eq!(to_runner(&message), format!("{message:?}"));
}

#[test]
fn messages_come_whole_however_they_are_cut() {
    let expected: Vec<String> =
        all_of_a_runner().iter().map(|message| format!("{message:?}")).collect();
    let bytes: Vec<u8> = all_of_a_runner().iter().flat_map(FromRunner::encode).collect();
    assert_eq!(decode(&bytes).expect("our own"), expected);
    for n in [1, 2, 7, 100] {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for piece in bytes.chunks(n) {
            decoder.push(piece);
            while let Some(message) = decoder.next().expect("our own") {
                messages.push(format!("{message:?}"));
            }
        }
        assert_eq!(messages, expected, "in pieces of {n}");
    }
}

#[test]
fn the_bytes_of_a_beat_are_frozen() {
    let beat = FromRunner::Beat(Beat { n_taken: 1, progress: 2, is_busy: true });
    let expected = [20, 1, 0, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(beat.encode(), expected);
}

#[test]
fn a_length_beyond_its_bound_is_refused_before_anything_is_allocated() {
    for tag in 0..=255 {
        let [a, b, c, d] = u32::MAX.to_le_bytes();
        Head::decode(&[tag, VERSION, 0, 0, a, b, c, d]).expect_err("four gigabytes");
    }
    let head = |tag, version, n: u8| Head::decode(&[tag, version, 0, 0, n, 0, 0, 0]);
    assert_eq!(head(tag::BEAT, VERSION, 17).map(Head::n_bytes), Ok(17));
    assert!(matches!(head(tag::BEAT, VERSION, 16), Err(WireError::Length { .. })));
    assert!(matches!(head(tag::BEAT, VERSION + 1, 17), Err(WireError::Head { .. })));
}

#[test]
fn what_is_meant_for_the_other_side_is_refused() {
    let bytes = ToRunner::Input(Input::DropDriver(NodeId([1; 32]))).encode();
    let error = decode(&bytes).expect_err("not of a runner").to_string();
    assert_eq!(error, "message 3: not of a runner");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn changed_messages_never_panic(at in 0..600usize, byte in any::<u8>()) {
        let mut bytes: Vec<u8> = all_of_a_runner().iter().flat_map(FromRunner::encode).collect();
        bytes.extend(ToRunner::Start(Box::new(start())).encode());
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode(&bytes);
        // The same as its runner would read it.
        let message = ToRunner::Start(Box::new(start())).encode();
        let mut payload = message[HEAD_BYTES..].to_vec();
        let at = at % payload.len();
        payload[at] = byte;
        let head = Head { tag: tag::START, n_bytes: payload.len() };
        let _ = ToRunner::decode(head, &payload);
    }
}
