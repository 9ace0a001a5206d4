//! The status page: what programs read of it, and what a real browser makes of it while work goes on.

use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::classic::Damage;
use leasehold_core::crawl::{Settle, SettleOutcome};
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{AccountChange, Advisory, LeaseDb, SlotToken};
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunKind, RunState, Totals};
use leasehold_core::share::ShareKind;
use leasehold_e2e_services::browser;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{PATIENCE, Server, index, noise};

const NASTY: &str = "<script>alert(1)</script> & \"co\"";

async fn document(server: &Server) -> Json {
    let mut stream = tokio::net::TcpStream::connect(server.running.admin).await.expect("connects");
    let request = "GET /status HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/json"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

async fn page(server: &Server) -> String {
    let url = format!("http://{}/status", server.running.admin);
    tokio::task::spawn_blocking(move || browser::document(&url).expect("a document")).await.expect("no panic")
}

async fn begin(server: &Server, kind: RunKind, policy: &str) -> Run {
    let begin = BeginRun { kind, dry_run: false, policy: policy.to_owned() };
    match server.db.begin_run(begin).await.expect("begin_run") {
        BeginRunOutcome::Begun(run) => run,
        BeginRunOutcome::Running(run) => panic!("{run:?} is in the way"),
    }
}

fn totals(done: u64) -> Totals {
    let mut totals = Totals::default();
    totals.set_part(done, 400);
    totals.set("leases_examined", done * 10);
    totals.set("bytes_freed", 3 << 30);
    totals
}

/// As a reconcile run would that misses a share's bytes and finds a container that it cannot read.
async fn lose_and_damage(server: &Server, storage_index: StorageIndex) {
    let seen = server.db.survey(storage_index).await.expect("survey");
    let damaged = ObjectName::new(ShareId::new(storage_index, ShareNumber::new(7)), StoreObject::Classic);
    let settle = Settle {
        storage_index,
        seen,
        listed: Vec::new(),
        manifests: Vec::new(),
        containers: vec![(damaged, Err(Damage::Truncated))],
        token: SlotToken([7; 16]),
        dry_run: false,
    };
    assert!(matches!(server.db.settle(settle).await.expect("settle"), SettleOutcome::Settled(_)));
}

/// A server in which no job runs by itself.
async fn quiet_server() -> Server {
    Server::start_with(|config| {
        config.jobs.collect_interval_seconds = 0;
        config.jobs.expire_interval_seconds = 0;
        config.jobs.reconcile_interval_seconds = 0;
        config.jobs.audit_interval_seconds = 0;
        config.backup.interval_seconds = 0;
        config.server.nickname = NASTY.to_owned();
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_read_accounts_and_runs() {
    let server = quiet_server().await;
    server.create_account("carol", &"c".repeat(32), AccountChange::default()).await;
    server.upload(&index(1), 0, &noise(1000)).await;
    let run = begin(&server, RunKind::Expire, "age").await;
    assert!(server.db.note_run(run.id, totals(100)).await.expect("note_run"));
    let advisory = Advisory {
        share: ShareId::new(index(1).parse().expect("a storage index"), ShareNumber::new(0)),
        kind: ShareKind::Immutable,
        account: server.db.find_account("carol".to_owned()).await.expect("find_account").expect("there").id,
        reason: NASTY.to_owned(),
    };
    server.db.advise(advisory).await.expect("advise");
    let status = document(&server).await;
    assert_eq!(status["nickname"], NASTY);
    assert_eq!(status["troubles"]["reported"][0]["reason"], NASTY);
    assert_eq!(
        (&status["troubles"]["lost"], &status["troubles"]["more"]),
        (&Json::Array(Vec::new()), &Json::Bool(false))
    );
    assert_eq!(status["deployment"]["mode"], "normal");
    let names: Vec<&str> =
        status["accounts"]["first"].as_array().expect("a list").iter().filter_map(|a| a["name"].as_str()).collect();
    assert!(["default", "carol"].iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(status["accounts"]["usage"]["used_bytes"], 1012);
    assert_eq!(status["jobs"]["expire"]["running"]["totals"]["leases_examined"], 1000);
    assert_eq!(status["jobs"]["backup"]["last"], Json::Null);
    assert_eq!(status["last_backup"], Json::Null);
    // What scripts for the older server read.
    assert_eq!(status["lease-checker-progress"]["cycle-in-progress"], true);
    assert_eq!(status["lease-checker-progress"]["cycle-complete-percentage"], 25.0);
    assert_eq!(status["lease-checker"]["current-cycle"], run.id.0);
    assert_eq!(status["bucket-counter"], Json::Null);
    let reason = "over a quarter of alice's leases would end".to_owned();
    let end = FinishRun { id: run.id, state: RunState::Braked, totals: totals(120), reason: reason.clone() };
    assert!(server.db.finish_run(end).await.expect("finish_run"));
    let status = document(&server).await;
    assert_eq!(status["braked"][0]["reason"], reason);
    assert_eq!(status["lease-checker"]["last-cycle-finished"], run.id.0);
    assert_eq!(status["lease-checker"]["history"][run.id.0.to_string()]["space-recovered"]["bytes_freed"], 3u64 << 30);
    assert!(server.authorization.len() > 20 && !status.to_string().contains(&server.authorization[12..]));
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_work_as_it_goes_on() {
    let server = quiet_server().await;
    server.upload(&index(1), 0, &noise(1000)).await;
    let before = page(&server).await;
    assert!(before.contains("never") && !before.contains("<progress"), "{before}");
    assert!(before.contains("None is known of."), "no share is in trouble: {before}");
    // Text of people's is text, whatever is in it.
    assert!(before.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp;"), "{before}");
    lose_and_damage(&server, index(1).parse().expect("a storage index")).await;
    let troubled = page(&server).await;
    for text in ["lost", "Its bytes are not in the backend", "damaged", "bytes are missing at its end"] {
        assert!(troubled.contains(text), "{text}: {troubled}");
    }
    let troubles = &document(&server).await["troubles"];
    assert_eq!(troubles["lost"][0]["share"], format!("{}/0", index(1)));
    assert_eq!(troubles["damaged"][0]["share"], format!("{}/7", index(1)));
    let run = begin(&server, RunKind::Reconcile, "everything").await;
    for done in [100, 300] {
        assert!(server.db.note_run(run.id, totals(done)).await.expect("note_run"));
        let live = page(&server).await;
        assert!(live.contains(&format!("<progress value=\"{done}\" max=\"400\">")), "{live}");
        assert!(live.contains(&format!("{} %", done / 4)) && live.contains("3.00 GiB"), "{live}");
        assert!(live.contains("<meta http-equiv=\"refresh\" content=\"2\">"), "it asks again soon");
    }
    let reason = "listing empty while rows exist".to_owned();
    let end = FinishRun { id: run.id, state: RunState::Braked, totals: totals(400), reason: reason.clone() };
    assert!(server.db.finish_run(end).await.expect("finish_run"));
    let after = page(&server).await;
    assert!(!after.contains("<progress") && after.contains(&reason), "{after}");
    assert!(after.contains(&format!("leasehold allow {}", run.id)), "what to do next: {after}");
    server.running.stop().await;
}
