//! Who does not get in.

use iroh::endpoint::VarInt;
use shoal_proto::control::{self, Response};

use super::*;
use crate::{CloseReason, connection::code, handshake};

/// An encoding of no point of the curve: there is none with y = 2.
const NO_POINT: [u8; 32] = {
    let mut y = [0; 32];
    y[0] = 2;
    y
};

/// Checks that nobody but `friend` ever reached the endpoint: strangers would have been queued before it.
async fn check_only_guest(endpoint: &Endpoint, friend: &Endpoint) {
    let (_dialled, accepted) = pair(friend, endpoint, Plane::Control).await;
    assert_eq!(accepted.peer(), friend.id());
}

/// Joins a cluster by hand, to break its protocols later.
async fn infiltrate(
    stranger: &iroh::Endpoint,
    member: &Endpoint,
    plane: Plane,
) -> iroh::endpoint::Connection {
    let quic = intrude(stranger, member, plane.alpn()).await.unwrap();
    let membership = membership(1, id_of(stranger));
    let shake = handshake::initiate(quic.clone(), &membership, plane, Timing::default());
    std::mem::forget(soon(shake).await.unwrap());
    quic
}

fn application_code(error: &iroh::endpoint::ConnectionError) -> Option<VarInt> {
    match error {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}

#[tokio::test]
async fn another_secret_is_refused_on_both_planes_in_both_directions() {
    let (a, b) = (member().await, member_with(2, Timing::default()).await);
    for plane in Plane::OF_MEMBERS {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let error = connect(from, to, plane).await.unwrap_err();
            assert!(
                matches!(error, Error::WrongSecret { peer } if peer == to.id()),
                "{plane:?}: {error:?}"
            );
            assert!(error.to_string().contains("shoal invite"), "{error}");
        }
    }
    check_only_guest(&a, &member().await).await;
    check_only_guest(&b, &member_with(2, Timing::default()).await).await;
}

#[tokio::test]
async fn the_side_that_is_dialled_says_wrong_secret_too() {
    let (a, b) = (stranger(&[]).await, stranger(&["shoal/control/2"]).await);
    let dial = async {
        let id = PublicKey::from_bytes(b.id().as_bytes()).unwrap();
        let addr = EndpointAddr::from_parts(id, addr_of(&b).into_iter().map(TransportAddr::Ip));
        let quic = a.connect(addr, b"shoal/control/2").await.unwrap();
        let membership = membership(1, id_of(&a));
        handshake::initiate(quic, &membership, Plane::Control, Timing::default()).await
    };
    let accept = async {
        let quic = b.accept().await.unwrap().await.unwrap();
        let membership = membership(2, id_of(&b));
        handshake::respond(quic, &membership, Plane::Control, Timing::default()).await
    };
    let (dialled, accepted) = soon(async { tokio::join!(dial, accept) }).await;
    assert!(matches!(dialled, Err(Error::WrongSecret { peer }) if peer == id_of(&b)));
    assert!(matches!(accepted, Err(Error::WrongSecret { peer }) if peer == id_of(&a)));
}

#[tokio::test]
async fn a_dialled_stranger_that_reflects_the_proof_is_refused() {
    let (member, mirror) = (member().await, stranger(&["shoal/control/2"]).await);
    let (id, addrs) = (id_of(&mirror), addr_of(&mirror));
    let reflect = async {
        let quic = mirror.accept().await.unwrap().await.unwrap();
        let (mut send, mut receive) = quic.accept_bi().await.unwrap();
        // The same nonce and the same proof go back: without roles they would be right.
        let mut hello = [0; 73];
        receive.read_exact(&mut hello).await.unwrap();
        send.write_all(&[&hello[..33], &[0]].concat()).await.unwrap();
        let mut proof = [0; 32];
        receive.read_exact(&mut proof).await.unwrap();
        send.write_all(&proof).await.unwrap();
        application_code(&quic.closed().await)
    };
    let dial = member.connect(id, &addrs, Plane::Control);
    let (dialled, code) = soon(async { tokio::join!(dial, reflect) }).await;
    assert!(matches!(dialled, Err(Error::WrongSecret { .. })), "{dialled:?}");
    assert_eq!(code, Some(VarInt::from_u32(code::WRONG_SECRET)));
}

#[tokio::test]
async fn a_stranger_that_sends_garbage_is_shown_out() {
    let (member, garbage) = (member().await, stranger(&[]).await);
    for (message, expected) in [
        (&[0xff; 400][..], code::PROTOCOL),
        (&[2; 73][..], code::WRONG_SECRET),
        (&[2; 72][..], code::PROTOCOL),
        (&[2; 5][..], code::PROTOCOL),
        (&[1; 73][..], code::PROTOCOL),
        (&[][..], code::PROTOCOL),
    ] {
        let quic = intrude(&garbage, &member, "shoal/control/2").await.unwrap();
        let (mut send, _receive) = quic.open_bi().await.unwrap();
        send.write_all(message).await.unwrap();
        send.finish().unwrap();
        let code = application_code(&soon(quic.closed()).await);
        assert_eq!(code, Some(VarInt::from_u32(expected)), "{} bytes", message.len());
    }
    check_only_guest(&member, &super::member().await).await;
}

#[tokio::test]
async fn requests_and_frames_before_the_proof_are_never_read() {
    let (member, eager) = (member().await, stranger(&[]).await);
    let quic = intrude(&eager, &member, "shoal/control/2").await.unwrap();
    let (mut send, mut receive) = quic.open_bi().await.unwrap();
    let request = control::encode(&heartbeat(1));
    send.write_all(&request).await.unwrap();
    send.finish().unwrap();
    // No second stream is to be had, and the first one brings no response.
    let second = time::timeout(Duration::from_millis(100), quic.open_uni()).await;
    assert!(!matches!(second, Ok(Ok(_))), "{second:?}");
    assert!(soon(receive.read_to_end(1000)).await.is_err());
    let code = application_code(&soon(quic.closed()).await);
    assert_eq!(code, Some(VarInt::from_u32(code::PROTOCOL)));
}

#[tokio::test]
async fn a_silent_stranger_runs_out_of_time() {
    let timing = Timing { handshake: Duration::from_millis(200), ..Timing::default() };
    let (member, silent) = (member_with(1, timing).await, stranger(&[]).await);
    let quic = intrude(&silent, &member, "shoal/control/2").await.unwrap();
    let code = application_code(&soon(quic.closed()).await);
    assert_eq!(code, Some(VarInt::from_u32(code::TOO_LATE)));
}

#[tokio::test]
async fn a_silent_peer_that_is_dialled_runs_out_of_time() {
    let timing = Timing { handshake: Duration::from_millis(200), ..Timing::default() };
    let member = member_with(1, timing).await;
    let silent = stranger(&["shoal/activation/2"]).await;
    let (id, addrs) = (id_of(&silent), addr_of(&silent));
    let hold = async {
        let quic = silent.accept().await.unwrap().await.unwrap();
        application_code(&quic.closed().await)
    };
    let dial = member.connect(id, &addrs, Plane::Data);
    let (dialled, code) = soon(async { tokio::join!(dial, hold) }).await;
    assert!(
        matches!(dialled, Err(Error::TimedOut { awaited: "membership handshake", .. })),
        "{dialled:?}"
    );
    assert_eq!(code, Some(VarInt::from_u32(code::TOO_LATE)));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_by_name() {
    let member = member().await;
    let newer = stranger(&["shoal/control/3"]).await;
    let hold = async { newer.accept().await.unwrap().await.is_err() };
    let (id, addrs) = (id_of(&newer), addr_of(&newer));
    let dial = member.connect(id, &addrs, Plane::Control);
    let (dialled, refused) = soon(async { tokio::join!(dial, hold) }).await;
    assert!(refused);
    assert!(matches!(dialled, Err(Error::OtherProtocol { .. })), "{dialled:?}");
    assert!(intrude(&newer, &member, "shoal/control/3").await.is_err());
}

#[tokio::test]
async fn a_peer_at_the_right_address_with_another_key_is_not_the_peer() {
    let timing = Timing { connect: Duration::from_secs(1), ..Timing::default() };
    let (a, b) = (member_with(1, timing).await, member().await);
    let absent = Identity::generate().unwrap().id();
    let error = soon(a.connect(absent, &b.addrs(), Plane::Control)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. }), "{error:?}");
    check_only_guest(&b, &a).await;
}

#[tokio::test]
async fn dials_that_make_no_sense_are_refused_at_once() {
    let a = member().await;
    let other = Identity::generate().unwrap().id();
    let own = a.connect(a.id(), &a.addrs(), Plane::Control).await;
    assert!(matches!(own, Err(Error::OwnId { .. })), "{own:?}");
    let nowhere = a.connect(other, &[], Plane::Control).await;
    assert!(matches!(nowhere, Err(Error::NoPeerAddress { .. })), "{nowhere:?}");
    let no_key = a.connect(NodeId(NO_POINT), &a.addrs(), Plane::Control).await;
    assert!(matches!(no_key, Err(Error::InvalidNodeId { .. })), "{no_key:?}");
}

#[tokio::test]
async fn a_member_gets_through_a_crowd_of_silent_strangers() {
    // Time-outs that never come: whoever gets a place gets it by the acceptor's rules.
    let timing = Timing { connect: PATIENCE, handshake: PATIENCE, ..Timing::default() };
    let (member, friend) = (member_with(1, timing).await, member_with(1, timing).await);
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let intruder = stranger(&[]).await;
        for _ in 0..20 {
            let (intruder, member) = (intruder.clone(), member.clone());
            crowd.spawn(async move { intrude(&intruder, &member, "shoal/control/2").await });
        }
    }
    let mut connections = Vec::new();
    while let Some(connection) = crowd.join_next().await {
        connections.extend(connection.unwrap());
    }
    assert!(connections.len() > 100, "only {} strangers came", connections.len());
    check_only_guest(&member, &friend).await;
    let n_alive = connections.iter().filter(|quic| quic.close_reason().is_none()).count();
    assert!(n_alive <= 128, "{n_alive} strangers hold a place");
}

#[tokio::test]
async fn a_hostile_header_ends_its_own_connection_only() {
    let (member, friend) = (member().await, super::member().await);
    let traitor = stranger(&[]).await;
    let (mut good, good_end) = {
        let (dialled, accepted) = pair(&friend, &member, Plane::Data).await;
        (dialled.frame_sender().await.unwrap(), accepted)
    };
    let mut good_receiver = good_end.frame_receiver().unwrap();
    let quic = infiltrate(&traitor, &member, Plane::Data).await;
    let mut bad_receiver = soon(member.accept()).await.unwrap().frame_receiver().unwrap();
    let mut header = step(0, 1, 1).encode();
    header[68..76].fill(0xff);
    let mut send = quic.open_uni().await.unwrap();
    send.write_all(&header).await.unwrap();
    let error = soon(bad_receiver.recv()).await.unwrap_err();
    assert!(matches!(error, Error::Frame { .. }), "{error:?}");
    let code = application_code(&soon(quic.closed()).await);
    assert_eq!(code, Some(VarInt::from_u32(code::PROTOCOL)));
    let error = soon(bad_receiver.recv()).await.unwrap_err();
    assert!(matches!(error, Error::Frame { .. } | Error::Closed { .. }), "{error:?}");
    good.send(&step(1, 2, 3)).await.unwrap();
    assert_eq!(soon(good_receiver.recv()).await.unwrap(), Some(step(1, 2, 3)));
}

#[tokio::test]
async fn a_frame_that_is_cut_or_never_ends_is_refused() {
    let timing = Timing { transfer: Duration::from_millis(300), ..Timing::default() };
    let (member, traitor) = (member_with(1, timing).await, stranger(&[]).await);
    let frame = step(0, 8, 64).encode();
    for n_bytes in [1, 95, 96, 97, frame.len() - 1] {
        for ends in [true, false] {
            let quic = infiltrate(&traitor, &member, Plane::Data).await;
            let mut receiver = soon(member.accept()).await.unwrap().frame_receiver().unwrap();
            let mut send = quic.open_uni().await.unwrap();
            send.write_all(&frame[..n_bytes]).await.unwrap();
            if ends {
                send.finish().unwrap();
            }
            let error = soon(receiver.recv()).await.unwrap_err();
            let total = if n_bytes < 96 { 96 } else { frame.len() };
            match error {
                Error::CutFrame { missing, .. } if ends => assert_eq!(missing, total - n_bytes),
                Error::TimedOut { awaited: "end of a frame", .. } if !ends => {}
                error => panic!("{n_bytes} bytes, ends {ends}: {error:?}"),
            }
            assert_eq!(
                receiver.connection().close_reason(),
                Some(CloseReason::Local),
                "{n_bytes} bytes, ends {ends}"
            );
        }
    }
}

#[tokio::test]
async fn a_dropped_receive_keeps_what_has_arrived() {
    let (member, traitor) = (member().await, stranger(&[]).await);
    let quic = infiltrate(&traitor, &member, Plane::Data).await;
    let mut receiver = soon(member.accept()).await.unwrap().frame_receiver().unwrap();
    let mut send = quic.open_uni().await.unwrap();
    let frame = step(0, 8, 64);
    let bytes = frame.encode();
    for n_bytes in [1, 50, 95, 96, 97, bytes.len() - 1] {
        send.write_all(&bytes[..n_bytes]).await.unwrap();
        let wait = time::timeout(Duration::from_millis(50), receiver.recv()).await;
        assert!(wait.is_err(), "{n_bytes} bytes are no frame: {wait:?}");
        send.write_all(&bytes[n_bytes..]).await.unwrap();
        assert_eq!(soon(receiver.recv()).await.unwrap(), Some(frame.clone()), "{n_bytes} bytes");
    }
}

#[tokio::test]
async fn a_second_frame_stream_waits_for_the_end_of_the_first() {
    let (member, traitor) = (member().await, stranger(&[]).await);
    let quic = infiltrate(&traitor, &member, Plane::Data).await;
    let _accepted = soon(member.accept()).await.unwrap();
    let mut first = soon(quic.open_uni()).await.unwrap();
    first.write_all(b"S").await.unwrap();
    let second = time::timeout(Duration::from_millis(100), quic.open_uni()).await;
    assert!(second.is_err(), "a second stream was opened");
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_refused_and_the_next_one_is_not() {
    let (member, traitor) = (member().await, stranger(&[]).await);
    let quic = infiltrate(&traitor, &member, Plane::Control).await;
    let connection = soon(member.accept()).await.unwrap();
    let ask = async |message: &[u8]| -> Response {
        let (mut send, mut receive) = quic.open_bi().await.unwrap();
        send.write_all(message).await.unwrap();
        send.finish().unwrap();
        control::decode(&receive.read_to_end(1000).await.unwrap()).unwrap()
    };
    let request = heartbeat(1);
    let asks = async {
        for message in [&[][..], &[9, 1, 1], &[control::VERSION, 0xff, 0xff]] {
            let response = ask(message).await;
            assert!(matches!(response, Response::Refused { .. }), "{message:?}: {response:?}");
        }
        ask(&control::encode(&request)).await
    };
    let serve = async {
        let (got, responder) = connection.next_request().await.unwrap();
        assert_eq!(got, request);
        responder.respond(&Response::Ok).await.unwrap();
    };
    let (response, ()) = soon(async { tokio::join!(asks, serve) }).await;
    assert_eq!(response, Response::Ok);
}

#[tokio::test]
async fn a_request_beyond_the_bound_is_refused() {
    let (member, traitor) = (member().await, stranger(&[]).await);
    let quic = infiltrate(&traitor, &member, Plane::Control).await;
    let connection = soon(member.accept()).await.unwrap();
    let ask = async {
        let (mut send, mut receive) = quic.open_bi().await.unwrap();
        // The reader may stop the stream before it is all out.
        let _ = send.write_all(&vec![1; control::MAX_MESSAGE_BYTES + 1]).await;
        let _ = send.finish();
        receive.read_to_end(1000).await.unwrap()
    };
    let response = soon(async {
        tokio::select! {
            response = ask => response,
            request = connection.next_request() => panic!("{request:?}"),
        }
    })
    .await;
    let response = control::decode::<Response>(&response);
    assert!(matches!(response, Ok(Response::Refused { .. })), "{response:?}");
}
