//! An operator that begins: its controllers find what is there already.

use std::time::Duration;

use leasehold_operator::controller;
use serde_json::json;
use tokio::sync::watch;

use crate::world::{World, context};

/// More than are reconciled at once.
const ACCOUNTS: usize = 20;
/// No time passes but while everybody waits: the clock is the test's.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether somebody has looked at it.
fn has_status(world: &World, name: &str) -> bool {
    let object = world.api.get(&World::path("Account", name)).expect("it was declared");
    object["status"]["conditions"].is_array()
}

/// A leader that takes over finds Accounts, and one kind's list comes late: all of their reconciles wait for it, and the
/// controllers wait for their own.
#[tokio::test(start_paused = true)]
async fn everything_is_looked_at_whichever_list_comes_last() {
    for kind in ["storagebackends", "leasedatabases", "storageservers", "accounts"] {
        let world = World::new().await;
        let names: Vec<String> = (0..ACCOUNTS).map(|number| format!("account-{number}")).collect();
        for name in &names {
            world.declare("Account", name, json!({ "serverRef": { "name": "elsewhere" } }));
        }
        let late = world.api.hold_lists(&format!("/apis/leasehold.dev/v1alpha1/{kind}"));
        let client = world.api.client();
        let controllers = controller::controllers(&client, true);
        let (stop, stopped) = watch::channel(false);
        let context = context(client, controllers.stores());
        let operator = tokio::spawn(controllers.run(context, stopped));
        // All that can happen without the list has happened.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!names.iter().any(|name| has_status(&world, name)), "without {kind} nothing can be decided");
        late.send_replace(true);
        let all_are_looked_at = async {
            while !names.iter().all(|name| has_status(&world, name)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, all_are_looked_at).await;
        let waiting: Vec<&String> = names.iter().filter(|name| !has_status(&world, name)).collect();
        assert!(outcome.is_ok(), "{kind} came last: nobody looks at {waiting:?}");
        assert_eq!(world.condition("Account", &names[0], "Accepted").1, "ServerNotFound");
        let server = world.api.get(&World::path("StorageServer", "main")).expect("it was declared");
        assert!(server["status"]["conditions"].is_array(), "{kind} came last: nobody looks at the server");
        stop.send(true).expect("the operator runs");
        operator.await.expect("it ends");
    }
}
