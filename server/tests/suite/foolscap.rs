//! The old storage protocol on real sockets: `foolscap.md` 2, 12 to 18.

mod connections;
mod losses;
mod port;

use leasehold_core::account::AccountState;
use leasehold_core::leasedb::{AccountChange, LeaseDb};
use leasehold_foolscap::{CallError, RemoteReference, Value};

use crate::support::foolscap::{Certificate, OldClient, Storage, VERSION_1, class, read, write};
use crate::support::{Server, index, noise};

fn key(number: u64) -> [u8; 16] {
    *index(number).parse::<leasehold_core::id::StorageIndex>().expect("a storage index").as_bytes()
}

/// Uploads a share in parts of this length.
async fn upload(writer: &RemoteReference, bytes: &[u8], part: usize) -> Result<(), CallError> {
    for (number, bytes) in bytes.chunks(part).enumerate() {
        write(writer, (number * part) as u64, bytes).await?;
    }
    writer.call("close", vec![]).await.map(drop)
}

fn entry<'a>(value: &'a Value, name: &str) -> &'a Value {
    let entries = value.entries().expect("a dictionary");
    let found = entries.iter().find(|(key, _)| key.as_bytes().expect("bytes") == name.as_bytes());
    &found.expect("there").1
}

/// A client's whole day, as master and not, of version 1 and 3, in TLS 1.2 and 1.3.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_kind_store_and_read() {
    let server = Server::start().await;
    let tub_id = server.furl().tub_id;
    let version_1 = || OldClient::new(Certificate::from_pem(VERSION_1));
    let clients = [
        OldClient::new(Certificate::with_role(&tub_id, true)),
        OldClient::new(Certificate::with_role(&tub_id, false)),
        version_1().speaking(&rustls::version::TLS12),
        version_1().speaking(&rustls::version::TLS13),
    ];
    for (number, client) in clients.iter().enumerate() {
        let (connection, storage) = client.enter(&server).await;
        assert_eq!(storage.interface(), Some("RIStorageServer.tahoe.allmydata.com"));
        let storage = Storage(storage);
        let version = storage.version().await.expect("a version");
        let protocol = entry(&version, "http://allmydata.org/tahoe/protocols/storage/v1");
        assert!(entry(protocol, "maximum-immutable-share-size").as_u64().expect("a number") > 1 << 30);
        assert_eq!(entry(protocol, "fills-holes-with-zero-bytes"), &Value::from(true));
        let (bucket, slot) = (key(number as u64 * 2), key(number as u64 * 2 + 1));
        buckets(&server, &storage, &bucket).await;
        slots(&storage, &slot).await;
        connection.close();
    }
    server.running.stop().await;
}

async fn buckets(server: &Server, storage: &Storage, bucket: &[u8; 16]) {
    let bytes = noise(3_000_000);
    let (have, writers) = storage.allocate(bucket, &[0, 5], bytes.len() as u64).await.expect("allocated");
    assert_eq!((have, writers.len()), (vec![], 2));
    assert_eq!(storage.allocate(bucket, &[0, 5], 10).await.expect("allocated").1.len(), 0, "in neither set");
    let writer = &writers[0].1;
    assert_eq!(writer.interface(), Some("RIBucketWriter"));
    assert_eq!(storage.buckets(bucket).await.expect("listed").len(), 0);
    upload(writer, &bytes, 1_000_000).await.expect("uploaded");
    assert_eq!(class(write(writer, 0, b"x").await), "builtins.AssertionError");
    assert_eq!(class(writer.call("close", vec![]).await), "builtins.AssertionError");
    writer.call("abort", vec![]).await.expect("no effect");
    let other = &writers[1].1;
    write(other, 0, b"abc").await.expect("written");
    assert_eq!(class(write(other, 1, b"xx").await), "allmydata.interfaces.ConflictingWriteError");
    assert_eq!(class(write(other, 2_999_999, b"xx").await), "allmydata.interfaces.DataTooLargeError");
    other.call_quietly("abort", vec![]).await.expect("sent");
    let usage = async || server.usage("default").await.reserved_bytes == 0;
    server.eventually("the aborted number is free", usage).await;

    let readers = storage.buckets(bucket).await.expect("listed");
    assert_eq!(readers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0]);
    let reader = &readers[0].1;
    assert_eq!(reader.interface(), Some("RIBucketReader"));
    assert!(read(reader, 0, u64::MAX).await.expect("read") == bytes);
    assert_eq!(read(reader, 2_999_998, 100).await.expect("read"), bytes[2_999_998..]);
    assert_eq!(read(reader, 3_000_000, 1).await.expect("read"), b"");
    let path = format!("/storage/v1/immutable/{}/0", leasehold_core::id::StorageIndex::new(*bucket));
    assert!(server.ask(&server.get(&path)).await.body == bytes, "the other protocol reads the same");
    storage.add_lease(bucket).await.expect("renewed");
    storage.add_lease(&[9; 16]).await.expect("of nothing");
    assert_eq!(storage.allocate(bucket, &[], 1).await.expect("asked").0, [0]);
    reader.call("advise_corrupt_share", vec![Value::from(b"looks odd")]).await.expect("kept");
    let advice = |kind: &[u8], share: u8| {
        vec![Value::from(kind), Value::from(bucket), Value::from(share), Value::from(b"looks odd")]
    };
    storage.0.call("advise_corrupt_share", advice(b"immutable", 7)).await.expect("ignored");
    assert_eq!(class(storage.0.call("advise_corrupt_share", advice(b"other", 0)).await), VIOLATION);
    assert!(matches!(storage.read_slot(bucket, &[]).await, Err(CallError::Failed(_))), "a bucket is no slot");
}

const VIOLATION: &str = "foolscap.tokens.Violation";

async fn slots(storage: &Storage, slot: &[u8; 16]) {
    assert_eq!(storage.read_slot(slot, &[]).await.expect("nothing"), []);
    let made = storage.write_slot(slot, 7, 3, b"", b"version one").await.expect("written");
    assert_eq!(made, (true, vec![]));
    let refused = storage.write_slot(slot, 7, 3, b"", b"version two").await.expect("tested");
    assert_eq!(refused, (false, vec![(3, b"version one".to_vec())]));
    let written = storage.write_slot(slot, 7, 3, b"version one", b"2").await.expect("tested");
    assert_eq!(written, (true, vec![(3, b"version one".to_vec())]));
    assert_eq!(storage.read_slot(slot, &[3, 4]).await.expect("read"), [(3, b"2ersion one".to_vec())]);
    assert_eq!(storage.read_slot(slot, &[4]).await.expect("read"), []);
    let other = class(storage.write_slot(slot, 8, 3, b"2", b"mine").await);
    assert_eq!(other, "allmydata.interfaces.BadWriteEnablerError");
    assert_eq!(storage.buckets(slot).await.expect("none").len(), 0, "a slot has no buckets");
}

/// What does not fit the interfaces is refused, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_fit_are_violations() {
    let server = Server::start().await;
    let (_connection, storage) = OldClient::new(Certificate::make()).enter(&server).await;
    let index = || Value::from(&key(1));
    let secret = || Value::from(&[1; 32]);
    let share = |number: i64| Value::set([Value::from(number)]);
    let canary = leasehold_foolscap::client::Canary::value;
    let reads = || Value::list([Value::tuple([Value::from(0), Value::from(1)])]);
    for (method, arguments) in [
        ("renew_lease", vec![index(), secret()]),
        ("get_buckets", vec![Value::from(&[1; 15])]),
        ("get_buckets", vec![Value::from(&[1; 17])]),
        ("add_lease", vec![index(), secret(), Value::from(&[1; 31])]),
        ("allocate_buckets", vec![index(), secret(), secret(), share(256), Value::from(1), canary()]),
        ("allocate_buckets", vec![index(), secret(), secret(), share(-1), Value::from(1), canary()]),
        ("allocate_buckets", vec![index(), secret(), secret(), share(0), Value::from(-1), canary()]),
        ("allocate_buckets", vec![index(), secret(), secret(), share(0), Value::from(u64::MAX), canary()]),
        ("slot_readv", vec![index(), Value::list([Value::from(256)]), reads()]),
        ("slot_readv", vec![index(), Value::list([]), Value::list([Value::tuple([Value::from(0)])])]),
    ] {
        assert_eq!(class(storage.call(method, arguments).await), VIOLATION, "{method}");
    }
    assert!(Storage(storage).version().await.is_ok(), "the connection goes on");
    assert_eq!(server.usage("default").await.reserved_bytes, 0);
    server.running.stop().await;
}

/// Quota, state and credential of an account decide as over HTTPS, at once and on open connections.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_may_do_what_it_may_do_over_https() {
    let server = Server::start().await;
    let quota = AccountChange { quota_bytes: Some(Some(3000)), ..AccountChange::default() };
    server.create_account("alice", "alices-swissnum", quota).await;
    let client = OldClient::new(Certificate::make());
    let connection = client.connect(&server.furl()).await.expect("connected");
    let storage = Storage(connection.find("alices-swissnum").await.expect("found"));
    let (bucket, bytes) = (key(1), noise(988));
    let (_, writers) = storage.allocate(&bucket, &[0, 1, 2, 3], 988).await.expect("allocated");
    assert_eq!(writers.len(), 3, "each share costs 1000 bytes");
    upload(&writers[0].1, &bytes, 500).await.expect("uploaded");
    assert_eq!(class(storage.write_slot(&key(2), 1, 0, b"", &bytes).await), "allmydata.interfaces.NoSpace");

    let state = |state| AccountChange { state: Some(state), ..AccountChange::default() };
    let space = async || {
        let version = storage.version().await.expect("a version");
        let protocol = entry(&version, "http://allmydata.org/tahoe/protocols/storage/v1").clone();
        entry(&protocol, "maximum-immutable-share-size").as_u64().expect("a number")
    };
    assert!(space().await < 3000);
    let more = AccountChange { quota_bytes: Some(Some(1 << 20)), ..AccountChange::default() };
    server.change_account("alice", more).await;
    assert!(space().await > 3000, "clients ask once for each connection, perhaps at once after a quota was raised");
    server.change_account("alice", state(AccountState::ReadOnly)).await;
    assert_eq!(space().await, 0);
    let refused = async || write(&writers[1].1, 0, b"x").await.is_err();
    server.eventually("nothing can be stored", refused).await;
    assert_eq!(storage.allocate(&bucket, &[7], 1).await.expect("answered").0, [0], "leases are renewed");
    assert_eq!(class(write(&writers[1].1, 0, b"x").await), "builtins.RuntimeError");
    assert_eq!(class(storage.write_slot(&key(2), 1, 0, b"", b"x").await), "builtins.RuntimeError");
    assert!(read(&storage.buckets(&bucket).await.expect("listed")[0].1, 0, 988).await.expect("read") == bytes);
    storage.add_lease(&bucket).await.expect("renewed");

    server.change_account("alice", state(AccountState::Suspended)).await;
    let refused = async || storage.add_lease(&bucket).await.is_err();
    server.eventually("leases are not renewed", refused).await;
    assert_eq!(class(storage.allocate(&bucket, &[7], 1).await), "builtins.RuntimeError");
    assert_eq!(storage.buckets(&bucket).await.expect("listed").len(), 1);

    let alice = server.db.find_account("alice".to_owned()).await.expect("answers").expect("there");
    assert!(server.db.close_account(alice.id, None).await.expect("closed"));
    server.eventually("nothing is answered", async || storage.buckets(&bucket).await.is_err()).await;
    assert_eq!(class(connection.find("alices-swissnum").await), "builtins.KeyError");
    let furl = server.furl();
    assert!(connection.find(&furl.name).await.is_ok(), "the connection is nobody's");
    server.running.stop().await;
}

/// What an unknown name is told does not tell a swissnum from another.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_told_apart_from_nothing() {
    let server = Server::start().await;
    let connection = OldClient::new(Certificate::make()).connect(&server.furl()).await.expect("connected");
    for name in ["", "zz", "anonymous", &"x".repeat(200)] {
        assert_eq!(class(connection.find(name).await), "builtins.KeyError", "{name}");
    }
    assert_eq!(class(connection.find(&"x".repeat(201)).await), VIOLATION);
    server.running.stop().await;
}
