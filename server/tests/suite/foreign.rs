//! A backend belongs to one lease database: others are turned away, as stores and at the command line.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use leasehold_core::beat::MARK_FOLDER;
use leasehold_core::clock::Entropy;
use leasehold_core::lease::LeaseTerms;
use leasehold_core::store::{Claim, Store, StoreOptions};
use leasehold_e2e_services::Postgres;

use crate::ground::{Ground, on_every_ground};
use crate::pg::PgDatabase;
use crate::places;
use crate::s3_bucket::S3Bucket;
use crate::store::site::Site;
use crate::support::{PATIENCE, Program};

mod claims {
    use super::*;

    on_every_ground! {
        a_backend_is_the_first_deployments_for_ever,
        of_two_deployments_that_begin_at_once_one_at_least_is_turned_away,
    }

    async fn a_backend_is_the_first_deployments_for_ever<G: Ground>() {
        let (ours, other) = (Site::<G>::make().await, Site::<G>::make().await);
        let store = ours.store(ours.db.clone(), ours.objects.clone());
        assert_eq!(store.backend_owner().await.expect("an answer"), None);
        for _ in 0..2 {
            assert_eq!(store.claim_backend().await.expect("an answer"), Claim::Ours);
        }
        let marks = ours.listed(MARK_FOLDER).await;
        assert_eq!(marks.len(), 1);
        let stranger = ours.store(other.db.clone(), ours.objects.clone());
        let Claim::Foreign { theirs, ours: wanted, .. } = stranger.claim_backend().await.expect("an answer") else {
            panic!("it belongs to another")
        };
        assert!(theirs == marks[0].name && wanted != theirs);
        assert_eq!(ours.listed("").await, marks, "nothing was put");
        assert_eq!(ours.far_pod().await.store.claim_backend().await.expect("an answer"), Claim::Ours);
    }

    async fn of_two_deployments_that_begin_at_once_one_at_least_is_turned_away<G: Ground>() {
        let other = Site::<G>::make().await;
        for _ in 0..3 {
            let ours = Site::<G>::make().await;
            let stores = [ours.db.clone(), other.db.clone()].map(|db| Arc::new(ours.store(db, ours.objects.clone())));
            let claims = stores.map(|store| tokio::spawn(async move { store.claim_backend().await }));
            let mut count = 0;
            for claim in claims {
                count += usize::from(claim.await.expect("it ends").expect("an answer") == Claim::Ours);
            }
            assert!(count <= 1, "{count} of two");
        }
    }
}

fn leasehold(command: &str, config: &Path, data: &Path) -> Output {
    let listen: &[&str] =
        if command == "serve" { &["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"] } else { &[] };
    Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .arg(command)
        .args(listen)
        .arg("--config")
        .arg(config)
        .arg("--data-dir")
        .arg(data)
        .output()
        .expect("the program starts")
}

/// `serve` and `check` say whose it is, and end with exit code 2.
fn assert_refused(config: &Path, data: &Path) {
    let served = leasehold("serve", config, data);
    let said = String::from_utf8(served.stderr).expect("text");
    assert_eq!(served.status.code(), Some(2), "{said}");
    let last = said.trim_end().lines().last().expect("a line");
    assert!(last.contains("belongs to another deployment"), "{said}");
    let checked = leasehold("check", config, data);
    let said = String::from_utf8(checked.stdout).expect("text");
    assert_eq!(checked.status.code(), Some(2), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error")).collect();
    assert!(matches!(errors[..], [one] if one.contains("belongs to another deployment")), "{said}");
}

async fn wait_for_beat(program: &Program, data: &Path) {
    let has_beaten = || std::fs::read_dir(data.join("meta/beat")).is_ok_and(|mut beats| beats.next().is_some());
    let deadline = std::time::Instant::now() + PATIENCE;
    while !has_beaten() {
        assert!(std::time::Instant::now() < deadline, "no beat: {}", program.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_when_another_lease_database_is_in_the_place_of_its_own() {
    let folder = places::folder();
    let data = folder.path().join("data");
    let mut program = Program::start_in(&folder.path().join("first"), "", &data);
    wait_for_beat(&program, &data).await;
    let db = rusqlite::Connection::open(data.join("leases.sqlite")).expect("a connection of our own");
    db.busy_timeout(PATIENCE).expect("set");
    let other =
        "UPDATE deployment SET deployment_id = x'09090909090909090909090909090909'; UPDATE beats SET beat_at = 0";
    db.execute_batch(other).expect("another database");
    assert_eq!(program.ended().await.code(), Some(1), "{}", program.log());
    assert!(program.log().contains("the lease database is another one than before"), "{}", program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_lease_database_is_refused_at_the_command_line() {
    let folder = places::folder();
    let (config, data) = (folder.path().join("config.toml"), folder.path().join("data"));
    std::fs::write(&config, "").expect("written");
    let program = Program::start_in(&folder.path().join("first"), "", &data);
    // Only a deployment that has been silent for a while can be taken over.
    wait_for_beat(&program, &data).await;
    drop(program);
    // A new lease database over the old shares: it would take them all for nobody's.
    for end in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(data.join(format!("leases.sqlite{end}"))));
    }
    assert_refused(&config, &data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_bucket_of_another_database_is_refused_at_the_command_line() {
    let folder = places::folder();
    let bucket = tokio::task::block_in_place(S3Bucket::make);
    let file = folder.path().join("config.toml");
    let (first, second) = (PgDatabase::make().await, PgDatabase::make().await);
    let db = first.open(LeaseTerms::default(), None).await;
    let store = Store::new(Arc::new(db), Arc::new(bucket.open()), Entropy::from_seed(1), StoreOptions::default());
    assert_eq!(store.claim_backend().await.expect("an answer"), Claim::Ours);
    store.tick().await.expect("a beat");
    std::fs::write(&file, pod_config(&second, &bucket)).expect("written");
    assert_refused(&file, &folder.path().join("data"));
    std::fs::write(&file, pod_config(&first, &bucket)).expect("written");
    let checked = leasehold("check", &file, &folder.path().join("other"));
    let said = String::from_utf8(checked.stdout).expect("text");
    assert!(said.contains("the backend belongs to the lease database"), "{said}");
    assert_eq!(checked.status.code(), Some(0), "{said}");
}

fn pod_config(database: &PgDatabase, bucket: &S3Bucket) -> String {
    let postgres = Postgres::shared().expect("a PostgreSQL server");
    let s3 = &bucket.config;
    let file = |path: &Option<std::path::PathBuf>| path.as_ref().expect("set").display().to_string();
    format!(
        "[database]\nhost = \"127.0.0.1\"\nport = {}\nname = \"{}\"\nuser = \"postgres\"\ntls = \"disable\"\n\
         [storage.s3]\nbucket = \"{}\"\nprefix = \"{}\"\nendpoint = \"{}\"\nallow_insecure = true\n\
         access_key_id_file = \"{}\"\nsecret_access_key_file = \"{}\"\n",
        postgres.port(),
        database.name,
        s3.bucket,
        s3.prefix,
        s3.endpoint.as_ref().expect("set"),
        file(&s3.access_key_id_file),
        file(&s3.secret_access_key_file),
    )
}
