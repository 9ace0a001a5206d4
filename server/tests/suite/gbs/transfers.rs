//! Large bodies both ways, in bounded memory.

use crate::support::{Server, encode, index, noise, put_body};

/// This process's resident memory in MiB: now, or the most it ever was.
fn resident_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[tokio::test]
async fn a_large_slot_and_a_large_piece_make_the_round_trip() {
    let server = Server::start().await;
    let mut bytes = noise(40 << 20);
    let (slot, bucket) = (index(1), index(2));
    let request = server.read_test_write(&slot, &encode(&put_body(0, 0, &bytes, None)));
    assert_eq!(server.ask(&request).await.status, 200);
    let path = format!("/storage/v1/mutable/{slot}/0");
    assert!(server.ask(&server.read(&path, 0, u64::MAX)).await.body == bytes);
    // A write in the middle touches nothing else.
    assert_eq!(server.ask(&server.put(&slot, 0, 3 << 20, &[7; 1000])).await.status, 200);
    bytes[3 << 20..][..1000].fill(7);
    assert!(server.ask(&server.read(&path, 0, u64::MAX)).await.body == bytes);
    server.upload(&bucket, 7, &bytes[..20 << 20]).await;
    let path = format!("/storage/v1/immutable/{bucket}/7");
    assert!(server.ask(&server.get(&path)).await.body == bytes[..20 << 20]);
    assert!(server.temporary_files().is_empty(), "{:?}", server.temporary_files());
}

#[tokio::test]
async fn what_is_not_read_is_not_held_in_memory() {
    let server = Server::start().await;
    let (slot, bytes) = (index(1), noise(32 << 20));
    // 200 readers that do not read: together their answers would be 6.4 GiB.
    assert_eq!(server.ask(&server.put(&slot, 0, 0, &bytes)).await.status, 200);
    let before = resident_mib("VmRSS:");
    let path = format!("/storage/v1/mutable/{slot}/0");
    // Half of them have their next request on the way already.
    let (request, next) = (server.get(&path).bytes(), server.read(&path, 0, 9).bytes());
    let mut connections = Vec::new();
    for number in 0..200 {
        let mut connection = server.connect().await;
        connection.send(&request).await.expect("sent");
        if number % 2 == 1 {
            connection.send(&next).await.expect("sent");
        }
        connections.push(connection);
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let grown = resident_mib("VmRSS:").saturating_sub(before);
    // Other tests run in this process at the same time: the bound is wide, but far below what the answers take.
    assert!(grown < 1000, "memory grew by {grown} MiB");
    let last = connections.last_mut().expect("many");
    assert!(last.receive(false).await.expect("an answer").body == bytes, "who reads late reads all");
    assert_eq!(last.receive(false).await.expect("the next answer").body, bytes[..10]);
}
