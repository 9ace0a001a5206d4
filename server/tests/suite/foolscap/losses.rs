//! The connection is lost at every message of an upload: either the share is there, whole and leased, or its number is
//! free and nothing is reserved.

use std::net::Shutdown;

use leasehold_foolscap::CallError;

use super::{key, upload};
use crate::support::foolscap::{Certificate, OldClient, Storage, read, write};
use crate::support::{Server, noise};

const PARTS: usize = 4;

/// Sends the first `messages` of an upload, and waits for the answer of the last or not, before the connection is lost.
async fn begin(
    storage: &Storage,
    bucket: &[u8; 16],
    bytes: &[u8],
    messages: usize,
    answered: bool,
) -> Result<(), CallError> {
    let allocating = storage.allocate(bucket, &[0], bytes.len() as u64);
    if messages == 1 && !answered {
        tokio::pin!(allocating);
        // Polled once: the call is on its way.
        let _ = futures_util::poll!(&mut allocating);
        return Ok(());
    }
    let (_, writers) = allocating.await?;
    let writer = &writers.first().expect("the number was free").1;
    let part = bytes.len() / PARTS;
    for number in 0..messages - 1 {
        let last = number + 2 == messages;
        let call = async {
            match bytes.chunks(part).nth(number) {
                Some(bytes) => write(writer, (number * part) as u64, bytes).await,
                None => writer.call("close", vec![]).await,
            }
        };
        if last && !answered {
            tokio::pin!(call);
            let _ = futures_util::poll!(&mut call);
        } else {
            call.await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_message_leaves_a_share_or_nothing() {
    let server = Server::start().await;
    let bytes = noise(PARTS * 700_000);
    let furl = server.furl();
    let (_watching, watching) = OldClient::new(Certificate::make()).enter(&server).await;
    let watching = Storage(watching);
    let mut shares = 0;
    // Allocation, writes, close.
    for messages in 1..=PARTS + 2 {
        for (answered, in_peace) in [(false, false), (true, false), (true, true)] {
            let bucket = key((messages * 4 + usize::from(answered) * 2 + usize::from(in_peace)) as u64);
            let client = OldClient::new(Certificate::make());
            let (connection, socket) = client.connect_to_cut(&furl).await.expect("connected");
            let storage = Storage(connection.find(&furl.name).await.expect("found"));
            begin(&storage, &bucket, &bytes, messages, answered).await.expect("the connection lives");
            if in_peace {
                connection.close();
            } else {
                socket.shutdown(Shutdown::Both).expect("it was open");
            }
            let settled = async || {
                let there = !watching.buckets(&bucket).await.expect("listed").is_empty();
                there || server.usage("default").await.reserved_bytes == 0
            };
            server.eventually("the upload has ended, one way or the other", settled).await;
            let readers = watching.buckets(&bucket).await.expect("listed");
            let closed = messages == PARTS + 2;
            assert!(readers.is_empty() || closed, "a share that was not closed: {messages} {answered}");
            assert!(!(readers.is_empty() && closed && answered), "a share that was answered is there");
            match readers.first() {
                Some((_, reader)) => assert!(read(reader, 0, u64::MAX).await.expect("read") == bytes, "whole"),
                None => {
                    let (_, writers) = watching.allocate(&bucket, &[0], bytes.len() as u64).await.expect("allocated");
                    upload(&writers.first().expect("free").1, &bytes, 1 << 20).await.expect("uploaded");
                }
            }
            shares += 1;
            let usage = async || server.usage("default").await.shares == shares;
            server.eventually("every share is leased, once", usage).await;
        }
    }
    server.running.stop().await;
}
