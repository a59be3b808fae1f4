//! What members of one cluster can do.

use shoal_proto::control::Response;

use super::*;
use crate::CloseReason;

#[tokio::test]
async fn a_request_gets_its_response() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    assert_eq!((dialled.peer(), accepted.peer()), (b.id(), a.id()));
    assert_eq!((dialled.plane(), accepted.plane()), (Plane::Control, Plane::Control));
    assert!(dialled.rtt().is_some_and(|rtt| rtt < Duration::from_secs(1)));
    assert!(b.addrs().contains(&dialled.remote_addr().unwrap()));
    let serve = async {
        let (request, responder) = accepted.next_request().await.unwrap();
        assert_eq!(request, heartbeat(7));
        responder.respond(&Response::SendRecord).await.unwrap();
    };
    let request = heartbeat(7);
    let (response, ()) =
        soon(async { tokio::join!(dialled.request(&request, PATIENCE), serve) }).await;
    assert_eq!(response.unwrap(), Response::SendRecord);
}

#[tokio::test]
async fn either_side_asks_and_requests_overtake_each_other() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    let serve = async {
        let (first, first_responder) = dialled.next_request().await.unwrap();
        let (second, second_responder) = dialled.next_request().await.unwrap();
        for (request, responder) in [(second, second_responder), (first, first_responder)] {
            let message = format!("{request:?}");
            responder.respond(&Response::Refused { message }).await.unwrap();
        }
    };
    let (one, two) = (heartbeat(1), heartbeat(2));
    let ask = async |request| accepted.request(request, PATIENCE).await.unwrap();
    let (one_is, two_is, ()) = soon(async { tokio::join!(ask(&one), ask(&two), serve) }).await;
    assert_eq!(one_is, Response::Refused { message: format!("{one:?}") });
    assert_eq!(two_is, Response::Refused { message: format!("{two:?}") });
}

#[tokio::test]
async fn a_dropped_wait_for_requests_loses_none() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    let serve = async {
        let mut served = 0;
        while served < 50 {
            // Time-outs of next to nothing drop the future at every stage of a request's arrival.
            let wait = time::timeout(Duration::from_micros(50), accepted.next_request());
            if let Ok(next) = wait.await {
                next.unwrap().1.respond(&Response::Ok).await.unwrap();
                served += 1;
            }
        }
    };
    let ask = async {
        for version in 0..50 {
            let response = dialled.request(&heartbeat(version), PATIENCE).await;
            assert_eq!(response.unwrap(), Response::Ok);
        }
    };
    soon(async { tokio::join!(serve, ask) }).await;
}

#[tokio::test]
async fn a_request_without_an_answer_ends_with_its_reason() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    let short = Duration::from_millis(50);
    let error = dialled.request(&heartbeat(1), short).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { awaited: "response", .. }), "{error:?}");
    let drop_it = async { drop(accepted.next_request().await.unwrap()) };
    drop_it.await;
    let request = heartbeat(2);
    let drop_it = async { drop(accepted.next_request().await.unwrap()) };
    let (error, ()) =
        soon(async { tokio::join!(dialled.request(&request, PATIENCE), drop_it) }).await;
    assert!(matches!(error, Err(Error::GaveUp { .. })), "{error:?}");
}

#[tokio::test]
async fn the_planes_do_not_mix() {
    let (a, b) = (member().await, member().await);
    let (control, _accepted) = pair(&a, &b, Plane::Control).await;
    let (data, _accepted) = pair(&a, &b, Plane::Data).await;
    assert!(matches!(control.frame_sender().await, Err(Error::OtherPlane { .. })));
    assert!(matches!(control.frame_receiver(), Err(Error::OtherPlane { .. })));
    let error = data.request(&heartbeat(1), PATIENCE).await;
    assert!(matches!(error, Err(Error::OtherPlane { .. })), "{error:?}");
    assert!(matches!(data.next_request().await, Err(Error::OtherPlane { .. })));
}

#[tokio::test]
async fn frames_of_a_mebibyte_and_of_nothing_arrive_in_order_both_ways() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Data).await;
    let frame = |n: u32| match n % 4 {
        0 => step(n, 64, 4096),
        1 => step(n, 1, 0),
        2 => step(n, 3, 896),
        _ => Frame { body: Body::Close, ..step(n, 1, 0) },
    };
    let send = async |connection: &Connection| {
        let mut sender = connection.frame_sender().await.unwrap();
        for n in 0..40 {
            sender.send(&frame(n)).await.unwrap();
        }
    };
    let receive = async |connection: &Connection| {
        let mut receiver = connection.frame_receiver().unwrap();
        for n in 0..40 {
            assert_eq!(receiver.recv().await.unwrap(), Some(frame(n)), "frame {n}");
        }
        assert_eq!(receiver.recv().await.unwrap(), None, "the sender is gone");
    };
    soon(async {
        tokio::join!(send(&dialled), send(&accepted), receive(&dialled), receive(&accepted))
    })
    .await;
}

#[tokio::test]
async fn dropped_sends_and_receives_damage_nothing() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Data).await;
    let mut sender = dialled.frame_sender().await.unwrap();
    let mut receiver = accepted.frame_receiver().unwrap();
    let send = async {
        let (mut sent, mut n_dropped) = (Vec::new(), 0);
        for n in 0..12 {
            let frame = step(n, 128, 4096);
            // Every third call is given no time, so that it ends inside its frame when the window is full.
            let patience = if n % 3 == 2 { Duration::from_micros(1) } else { PATIENCE };
            match time::timeout(patience, sender.send(&frame)).await {
                Ok(send) => {
                    send.unwrap();
                    sent.push(n);
                }
                Err(_) => n_dropped += 1,
            }
        }
        // The last one may still lack its end: a frame without content pushes it out.
        sender.send(&step(12, 1, 0)).await.unwrap();
        sent.push(12);
        assert!(n_dropped > 0, "no send was ever dropped midway");
        sent
    };
    let receive = async {
        let mut received = Vec::new();
        while received.last() != Some(&12) {
            let wait = time::timeout(Duration::from_micros(200), receiver.recv());
            if let Ok(frame) = wait.await {
                let frame = frame.unwrap().unwrap();
                let Body::Step(Step { position, .. }) = frame.body else { panic!("{frame:?}") };
                let expected =
                    if position == 12 { step(12, 1, 0) } else { step(position, 128, 4096) };
                assert_eq!(frame, expected);
                received.push(position);
            }
        }
        received
    };
    let (sent, received) = soon(async { tokio::join!(send, receive) }).await;
    assert!(received.is_sorted_by(|a, b| a < b), "{received:?}");
    assert!(sent.iter().all(|position| received.contains(position)), "{sent:?} {received:?}");
}

#[tokio::test]
async fn a_goodbye_carries_its_reason() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    dialled.close("draining");
    assert_eq!(soon(accepted.closed()).await, CloseReason::Goodbye("draining".to_owned()));
    assert_eq!(dialled.closed().await, CloseReason::Local);
    let error = accepted.next_request().await.unwrap_err();
    assert!(matches!(error, Error::Closed { reason: CloseReason::Goodbye(_), .. }), "{error:?}");
}

#[tokio::test]
async fn a_closed_endpoint_says_goodbye_and_accepts_no_more() {
    let (a, b) = (member().await, member().await);
    let (_dialled, accepted) = pair(&a, &b, Plane::Control).await;
    soon(a.close()).await;
    assert_eq!(soon(accepted.closed()).await, CloseReason::Goodbye(String::new()));
    assert!(soon(a.accept()).await.is_none());
    let error = connect(&a, &b, Plane::Control).await.unwrap_err();
    assert!(matches!(error, Error::EndpointClosed), "{error:?}");
}

#[tokio::test]
async fn a_dropped_endpoint_ends_its_connections() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    drop((dialled, a));
    let reason = soon(accepted.closed()).await;
    assert!(matches!(reason, CloseReason::Goodbye(_) | CloseReason::Silence), "{reason:?}");
}

#[test]
fn a_peer_that_vanishes_is_noticed_by_its_silence() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let (here, there) = (runtime(), runtime());
    let timing = Timing {
        idle: Duration::from_millis(900),
        keep_alive: Duration::from_millis(200),
        ..Timing::default()
    };
    let a = there.block_on(member_with(1, timing));
    let (b, accepted, dialled) = here.block_on(async {
        let b = member_with(1, timing).await;
        let (to, addrs) = (b.id(), b.addrs());
        let dial = {
            let a = a.clone();
            there.spawn(async move { a.connect(to, &addrs, Plane::Control).await.unwrap() })
        };
        let accepted = soon(b.accept()).await.unwrap();
        (b, accepted, soon(dial).await.unwrap())
    });
    // Its tasks stop where they are, as in a process that is killed.
    there.shutdown_background();
    let reason = here.block_on(soon(accepted.closed()));
    assert_eq!(reason, CloseReason::Silence);
    std::mem::forget((dialled, a));
    drop(b);
}

#[tokio::test]
async fn an_idle_connection_outlives_the_idle_time_out() {
    let timing = Timing {
        idle: Duration::from_millis(600),
        keep_alive: Duration::from_millis(100),
        ..Timing::default()
    };
    let (a, b) = (member_with(1, timing).await, member_with(1, timing).await);
    let (_dialled, accepted) = pair(&a, &b, Plane::Control).await;
    let closed = time::timeout(Duration::from_millis(1500), accepted.closed()).await;
    assert!(closed.is_err(), "{closed:?}");
}
