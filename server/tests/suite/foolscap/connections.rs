//! Connections: which may be made, which survives, and how they end when the server does.

use leasehold_foolscap::TubId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{key, upload};
use crate::support::foolscap::{Certificate, OldClient, SHORT_KEY, Storage, write};
use crate::support::{Program, Server, noise};

/// A certificate is public: only its key makes a client its Tub.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_prove_a_certificate_is_refused() {
    let server = Server::start().await;
    let (furl, honest, thief) = (server.furl(), Certificate::make(), Certificate::make());
    let stolen = Certificate { der: honest.der.clone(), key: thief.key.clone() };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = OldClient::new(stolen.clone()).speaking(version);
        assert!(client.connect(&furl).await.is_err(), "{version:?}");
        OldClient::new(honest.clone()).speaking(version).connect(&furl).await.expect("its owner connects");
    }
    // Not the master, so that it is told.
    let nobody = OldClient::without_certificate(Certificate::with_role(&furl.tub_id, false).tub_id());
    nobody.tls(&furl).await.expect("TLS itself asks for no certificate");
    assert!(nobody.connect(&furl).await.is_err());
    server.running.stop().await;
}

/// A key that can be broken proves nothing: such a client is turned away before it signs, and the log says what it needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_short_rsa_key_is_refused_and_the_log_says_why() {
    let program = Program::start("");
    let der = CertificateDer::from_pem_slice(SHORT_KEY.as_bytes()).expect("a certificate");
    let short = Certificate { der, key: Certificate::make().key };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert!(OldClient::new(short.clone()).speaking(version).connect(&program.furl).await.is_err(), "{version:?}");
    }
    let reason = "its RSA key has 1024 bits, and at least 2048 are needed; it needs a new certificate";
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    while program.log().matches(reason).count() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "{}", program.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let furl = &program.furl;
    OldClient::new(Certificate::make()).connect(furl).await.expect("others are let in").close();
}

/// A restarted client is let in at once: its earlier connection ends, and with it what that one was uploading.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_back_finds_its_numbers_free() {
    let server = Server::start().await;
    let (furl, bucket) = (server.furl(), key(1));
    for is_master in [true, false] {
        let client = OldClient::new(Certificate::with_role(&furl.tub_id, is_master));
        let (first, storage) = client.enter(&server).await;
        let (_, writers) = Storage(storage).allocate(&bucket, &[0], 100).await.expect("allocated");
        write(&writers[0].1, 0, b"half").await.expect("written");
        let again = client.again();
        let (second, storage) = again.enter(&server).await;
        // By `enter` the server has ended what the first connection left.
        let (_, writers) = Storage(storage).allocate(&bucket, &[0], 100).await.expect("allocated");
        assert_eq!(writers.len(), 1, "free at once");
        tokio::time::timeout(crate::support::PATIENCE, first.lost().cancelled()).await.expect("the first one ended");
        writers[0].1.call("abort", vec![]).await.expect("aborted");
        second.close();
        let free = async || server.usage("default").await.reserved_bytes == 0;
        server.eventually("nothing is reserved", free).await;
    }
    server.running.stop().await;
}

/// Connections that rest are closed when the server leaves; one that uploads is closed when that is done.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_finished_before_the_server_leaves() {
    let mut server = Server::start_with(|config| {
        config.server.drain_notice_seconds = 0;
        config.server.drain_seconds = 60;
    })
    .await;
    let furl = server.furl();
    let client = || OldClient::new(Certificate::make());
    let (resting, _) = client().enter(&server).await;
    let (uploading, storage) = client().enter(&server).await;
    let storage = Storage(storage);
    let (_, writers) = storage.allocate(&key(1), &[0], 1000).await.expect("allocated");
    write(&writers[0].1, 0, &noise(500)).await.expect("written");
    server.running.drain();
    tokio::time::timeout(crate::support::PATIENCE, resting.lost().cancelled()).await.expect("closed");
    assert!(client().connect(&furl).await.is_err(), "nobody new is let in");
    assert!(!uploading.lost().is_cancelled());
    upload(&writers[0].1, &noise(1000), 1000).await.expect("finished");
    tokio::time::timeout(crate::support::PATIENCE, uploading.lost().cancelled()).await.expect("closed");
    server.running.ended().await;
    assert_eq!(server.usage("default").await.shares, 1);
}

/// A server that is told to stop at once ends the uploads of its connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_at_once_leaves_no_upload() {
    let mut server = Server::start().await;
    let (_connection, storage) = OldClient::new(Certificate::make()).enter(&server).await;
    let (_, writers) = Storage(storage).allocate(&key(1), &[0, 1], 5_000_000).await.expect("allocated");
    for (_, writer) in &writers {
        write(writer, 0, &noise(4_000_000)).await.expect("written");
    }
    server.running.hurry();
    server.running.ended().await;
    let usage = server.usage("default").await;
    assert_eq!((usage.reserved_bytes, usage.shares), (0, 0));
}

#[test]
fn tub_ids_are_those_of_the_certificate() {
    let certificate = Certificate::from_pem(crate::support::foolscap::VERSION_1);
    let known: TubId = "43ean5k2lzjlkejv3gdbht2lkwn35har".parse().expect("a tub id");
    assert_eq!(certificate.tub_id(), known, "as the reference implementation computes it");
}
