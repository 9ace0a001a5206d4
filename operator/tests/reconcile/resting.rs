//! What the operator looks at when nothing has happened, and how often.

use std::sync::Arc;
use std::time::Duration;

use leasehold_core::leasedb::LeaseDb;
use leasehold_operator::account;
use leasehold_operator::context::Context;
use leasehold_operator::names::Key;
use leasehold_operator::sweep::{self, Pointers};
use serde_json::json;
use tokio::sync::mpsc;

use crate::accounts::{opens, reconcile, text, with_account};
use crate::world::World;

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

fn intervals(context: &Context, accounts: usize) -> Vec<Duration> {
    let key = |number| Key { namespace: "tahoe".to_owned(), name: format!("many-{number}") };
    (0..accounts).map(|number| context.resync_account(&key(number))).collect()
}

/// Thousands of Accounts cost the API server less than two requests a second, unless the looks are what finds a changed Secret.
#[tokio::test]
async fn thousands_of_accounts_are_looked_at_seldom_where_their_secrets_are_watched() {
    const ACCOUNTS: usize = 2_400;
    let world = World::new().await;
    for number in 0..ACCOUNTS {
        world.declare("Account", &format!("many-{number}"), json!({ "serverRef": { "name": "main" } }));
    }
    let many = world.operator().await;
    assert!(intervals(&many, ACCOUNTS).iter().all(|wait| (HALF_AN_HOUR / 2..=HALF_AN_HOUR).contains(wait)));
    let waits = intervals(&watching(many), ACCOUNTS);
    let looks_a_second: f64 = waits.iter().map(|wait| 1.0 / wait.as_secs_f64()).sum();
    assert!((0.5..1.5).contains(&looks_a_second), "{looks_a_second} looks a second");
    // Few Accounts are looked at as often as ever.
    let few = watching(World::new().await.operator().await);
    assert!(intervals(&few, 10).iter().all(|wait| *wait <= HALF_AN_HOUR));
}

/// The same operator, which may watch Secrets.
fn watching(context: Arc<Context>) -> Context {
    let mut context = Arc::into_inner(context).expect("nobody else has it");
    context.settings.watches_secrets = true;
    context
}

/// A restored backup knows nothing of an Account that was made after it: the next count of usage notices, and the customer's
/// old address opens it again.
#[tokio::test]
async fn an_account_that_a_restored_backup_lacks_is_made_again_at_the_next_count() {
    let mut world = with_account(json!({ "serverRef": { "name": "main" } })).await;
    let before = world.connected().await;
    reconcile(&world, &before).await;
    let swissnum = text(&world, "swissnum");
    assert_eq!(pointed(&world).await, Vec::<String>::new(), "nothing is worth a look");
    world.lose_database();
    world.begin().await;
    assert_eq!(pointed(&world).await, ["alice"]);
    let after = world.connected().await;
    reconcile(&world, &after).await;
    let name = account::ledger_name(&world.object("Account", "alice")).expect("a uid");
    let found = world.db.find_account(name).await.expect("an answer").expect("it is there again");
    let credentials = world.db.list_credentials(found.id).await.expect("an answer");
    assert!(credentials.iter().any(|credential| opens(&swissnum, credential)), "the old address opens it");
    assert_eq!(pointed(&world).await, Vec::<String>::new(), "and it rests");
}

/// The Accounts that one count of usage points out.
async fn pointed(world: &World) -> Vec<String> {
    let (accounts, mut of_accounts) = mpsc::channel(10);
    let (servers, mut of_servers) = mpsc::channel(10);
    let counting = tokio::spawn(sweep::run(world.connected().await, Pointers { accounts, servers }));
    // A server is pointed out at the end of its first count.
    of_servers.recv().await.expect("the sweep counts");
    counting.abort();
    std::iter::from_fn(|| of_accounts.try_recv().ok()).map(|found| found.name).collect()
}
