//! Transfers of bytes between members.

use bytes::Bytes;
use shoal_proto::{
    control::TransferRequest,
    model::{Digest, FileId},
};

use super::*;
use crate::{TransferReader, TransferWriter, connection::MAX_TRANSFERS};

fn chunks(first: u32) -> TransferRequest {
    TransferRequest {
        file: FileId { digest: Digest::Sha256([7; 32]), n_bytes: 1 << 30 },
        first,
        count: 16,
    }
}

/// Several windows of bytes without a short period.
fn content() -> Bytes {
    (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn give(connection: &Connection, bytes: Bytes) {
    let (request, writer) = connection.next_transfer().await.unwrap();
    assert_eq!(request, chunks(3));
    let mut writer = writer.accept().await.unwrap();
    writer.write(bytes).await.unwrap();
    writer.finish().await.unwrap();
}

async fn take(connection: &Connection) -> Vec<u8> {
    let mut reader = connection.transfer(&chunks(3), PATIENCE).await.unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

/// A transfer that has been accepted.
async fn open(from: &Connection, to: &Connection) -> (TransferReader, TransferWriter) {
    let accept = async { to.next_transfer().await.unwrap().1.accept().await.unwrap() };
    let request = chunks(0);
    let (reader, writer) =
        soon(async { tokio::join!(from.transfer(&request, PATIENCE), accept) }).await;
    (reader.unwrap(), writer)
}

#[tokio::test]
async fn both_sides_take_several_windows_at_once() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    let bytes = content();
    let (x, y, (), ()) = soon(async {
        tokio::join!(
            take(&dialled),
            take(&accepted),
            give(&dialled, bytes.clone()),
            give(&accepted, bytes.clone())
        )
    })
    .await;
    assert!(x == bytes && y == bytes, "other bytes arrived: {} and {}", x.len(), y.len());
}

#[tokio::test]
async fn more_transfers_than_fit_wait_for_their_turn() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    let mut open_ones = Vec::new();
    // The stream of the handshake holds one of the places.
    for _ in 1..MAX_TRANSFERS {
        open_ones.push(open(&dialled, &accepted).await);
    }
    // The other direction has room of its own, and what is sent there arrives after a request that was sent before.
    let (mut later, mut sender) = open(&accepted, &dialled).await;
    let request = chunks(9);
    let one_more = dialled.transfer(&request, PATIENCE);
    tokio::pin!(one_more);
    // Nothing reaches the other side as long as all streams are taken.
    tokio::select! {
        biased;
        result = &mut one_more => panic!("one too many: {result:?}"),
        transfer = accepted.next_transfer() => panic!("one too many: {transfer:?}"),
        () = async {
            for _ in 0..3 {
                sender.write(Bytes::from_static(b"later")).await.unwrap();
                later.read().await.unwrap();
            }
        } => {}
    }
    // The transport tells of new places when an eighth of them is free.
    for (mut reader, writer) in open_ones {
        soon(writer.finish()).await.unwrap();
        assert_eq!(soon(reader.read()).await.unwrap(), None);
    }
    let accept = async {
        let (request, writer) = accepted.next_transfer().await.unwrap();
        assert_eq!(request, chunks(9));
        writer.accept().await.unwrap().finish().await.unwrap();
    };
    let (result, ()) = soon(async { tokio::join!(one_more, accept) }).await;
    assert_eq!(soon(result.unwrap().read()).await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_says_why_and_cuts_a_long_text() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    for text in ["no such file".to_owned(), "ä".repeat(1000)] {
        let refuse = async {
            let (_, writer) = accepted.next_transfer().await.unwrap();
            writer.refuse(&text).await.unwrap();
        };
        let request = chunks(0);
        let (result, ()) =
            soon(async { tokio::join!(dialled.transfer(&request, PATIENCE), refuse) }).await;
        let Err(Error::Refused { peer, message }) = result else { panic!("{result:?}") };
        assert_eq!(peer, b.id());
        assert_eq!(message, text[..text.len().min(1024)]);
    }
}

#[tokio::test]
async fn a_writer_dropped_unfinished_is_no_end() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    let (mut reader, mut writer) = open(&dialled, &accepted).await;
    writer.write(Bytes::from_static(b"a part")).await.unwrap();
    drop(writer);
    let error = soon(async {
        loop {
            match reader.read().await {
                Ok(piece) => assert!(piece.is_some(), "a part was taken for the whole"),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(error, Error::GaveUp { .. }), "{error:?}");
}

#[tokio::test]
async fn a_reader_that_leaves_stops_the_writer() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    let (reader, mut writer) = open(&dialled, &accepted).await;
    drop(reader);
    let error = soon(writer.write(content())).await.unwrap_err();
    assert!(matches!(error, Error::GaveUp { .. }), "{error:?}");
}

#[tokio::test]
async fn a_stalled_transfer_ends_on_both_sides() {
    let timing = Timing { transfer: Duration::from_millis(300), ..Timing::default() };
    let (a, b) = (member_with(1, timing).await, member_with(1, timing).await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    let (mut reader, mut writer) = open(&dialled, &accepted).await;
    let error = soon(reader.read()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    let error = soon(writer.write(content())).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { awaited: "room for a transfer", .. }), "{error:?}");
}

#[tokio::test]
async fn an_unreadable_request_is_refused_and_the_next_one_served() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Transfer).await;
    let refused = async |bytes: &'static [u8]| {
        let (mut send, mut receive) = dialled.open_stream().await.unwrap();
        send.write_chunk(Bytes::from_static(bytes)).await.unwrap();
        drop(send);
        receive.read_to_end(2000).await.unwrap()
    };
    let ask = async {
        for bytes in [&[0; 300][..], &[0xFF; 20], &[]] {
            let answer = refused(bytes).await;
            assert_eq!(answer[0], shoal_proto::control::TRANSFER_REFUSED, "{answer:?}");
            assert!(answer.len() > 10, "no reason");
        }
        take(&dialled).await
    };
    let (taken, ()) =
        soon(async { tokio::join!(ask, give(&accepted, Bytes::from_static(b"bytes"))) }).await;
    assert_eq!(taken, b"bytes");
}

#[tokio::test]
async fn transfers_belong_to_their_plane() {
    let (a, b) = (member().await, member().await);
    let (control, _accepted) = pair(&a, &b, Plane::Control).await;
    let error = control.transfer(&chunks(0), PATIENCE).await;
    assert!(matches!(error, Err(Error::OtherPlane { .. })), "{error:?}");
    assert!(matches!(control.next_transfer().await, Err(Error::OtherPlane { .. })));
    let (transfer, _accepted) = pair(&a, &b, Plane::Transfer).await;
    assert!(matches!(transfer.next_request().await, Err(Error::OtherPlane { .. })));
    assert!(matches!(transfer.frame_sender().await, Err(Error::OtherPlane { .. })));
}
