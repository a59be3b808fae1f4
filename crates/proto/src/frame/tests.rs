//! The wire is frozen: these bytes may change only with the magic.

use proptest::prelude::*;

use super::*;

fn key() -> FrameKey {
    FrameKey {
        instance: InstanceId(0x1122_3344_5566_7788),
        epoch: Epoch(3),
        sequence: SequenceId(9),
        driver: NodeId([0xab; 32]),
    }
}

fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (header, payload) = bytes.split_first_chunk().expect("a whole header");
    decode_payload(&decode_header(header)?, payload)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_a_step_are_frozen() {
    let step = Step {
        position: 5,
        prefix_hash: prefix_hash(&[1, 2, 3, 4, 5]),
        last_stage: 2,
        tokens: vec![7, 8],
        activations: vec![1.0, -2.0],
        sampling: Some(Box::new(SamplingParams { seed: 42, ..SamplingParams::default() })),
        timings: vec![StageTiming { queued_us: 0x0102_0304, compute_us: 1000, n_rows: 2 }],
    };
    let bytes = Frame { key: key(), body: Body::Step(step) }.encode();
    let expected = concat!(
        "53484634010102008877665544332211030000000000000009000000000000",
        "00abababababababababababababababababababababababababababababababab",
        "05000000020000000100000045000000649553afffce16190000000000000000",
        "07000000080000000000803f000000c004030201e8030000020000003333333f000000803f000000000000803f00000000",
        "00000000cdcccc3d0000803f000000000000000040000000000000e03f02ffffffff0f0000090001020304050607082a",
    );
    assert_eq!(hex(&bytes), expected);
}

#[test]
fn every_kind_survives_the_wire() {
    let step = Step {
        position: 0,
        prefix_hash: EMPTY_PREFIX_HASH,
        last_stage: u16::MAX,
        tokens: vec![1; MAX_STEP_TOKENS],
        activations: vec![0.5; MAX_STEP_TOKENS * 8],
        sampling: None,
        timings: Vec::new(),
    };
    let most = vec![StageTiming { queued_us: u32::MAX, compute_us: 2, n_rows: 3 }; MAX_TIMINGS];
    for body in [
        Body::Step(step),
        Body::Done { position: 4, token: Some(17), timings: most },
        Body::Done { position: 4, token: None, timings: Vec::new() },
        Body::Probe { stage: 3, n_tokens: 12 },
        Body::Have { stage: 3, n_tokens: 12, prefix_hash: u64::MAX },
        Body::Lost { reason: "the runner died".into() },
        Body::Failed { message: "shard 0..3: out of memory".into() },
        Body::Close,
    ] {
        let frame = Frame { key: key(), body };
        assert_eq!(decode(&frame.encode()), Ok(frame));
    }
}

#[test]
fn a_header_cannot_announce_more_than_the_bounds() {
    let mut bytes = Frame { key: key(), body: Body::Close }.encode();
    bytes[4] = kind::STEP;
    bytes[68..72].copy_from_slice(&512u32.to_le_bytes());
    bytes[72..76].copy_from_slice(&32_768u32.to_le_bytes());
    let error = decode(&bytes).expect_err("64 MiB of activations");
    assert_eq!(error.to_string(), "frame field payload: expected at most 16 MiB, got 67110912");
}

#[test]
fn refuses_timings_that_do_not_belong() {
    let done = Body::Done { position: 4, token: None, timings: Vec::new() };
    for (body, n_timings, refused) in
        [(Body::Close, 1, true), (done.clone(), 64, false), (done.clone(), 65, true)]
    {
        let mut bytes = Frame { key: key(), body }.encode();
        bytes[5] = n_timings;
        let header = bytes.first_chunk().expect("a whole header");
        assert_eq!(decode_header(header).is_err(), refused, "{n_timings} timings");
    }
    let mut bytes = Frame { key: key(), body: done }.encode();
    bytes[5] = 2;
    let error = decode(&bytes).expect_err("no timings follow");
    assert_eq!(error.to_string(), "frame payload: expected 24 bytes, got 0");
}

#[test]
fn refuses_what_a_kind_does_not_use() {
    for (kind, at) in [(kind::CLOSE, 6), (kind::LOST, 64), (kind::DONE, 6), (kind::PROBE, 80)] {
        let mut bytes = Frame { key: key(), body: Body::Close }.encode();
        bytes[4] = kind;
        bytes[at] = 1;
        let error = decode(&bytes).expect_err("a reserved field in use");
        assert_eq!(error.to_string(), "frame field reserved: expected 0, got 1");
    }
}

#[test]
fn refuses_a_frame_of_another_protocol() {
    assert_eq!(
        decode(&[0; HEADER_BYTES]).expect_err("zeros").to_string(),
        "frame magic: expected [53, 48, 46, 34], got [00, 00, 00, 00]"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..400),
        plausible in any::<bool>(),
    ) {
        if plausible {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = bytes[4] % 7 + 1;
            bytes[5] %= 4;
            bytes[7] = 0;
            bytes[69..72].fill(0);
            bytes[73..76].fill(0);
            bytes[77..80].fill(0);
            bytes[88..96].fill(0);
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn a_flipped_byte_is_an_error_or_another_valid_frame(at in 0usize..HEADER_BYTES + 8, with in any::<u8>()) {
        let body = Body::Done { position: 1, token: Some(2), timings: vec![StageTiming::default()] };
        let mut bytes = Frame { key: key(), body }.encode();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= with;
        if let Ok(frame) = decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }
}
