//! Work that lets others go first.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

/// How long is worked without a rest.
const SLICE: Duration = Duration::from_millis(10);
/// How long each rest is: a quarter of the time is worked.
const REST: Duration = Duration::from_millis(30);

/// Does work in slices with rests between them, so that clients of the same machine hardly notice it. What a slice has begun
/// elsewhere (a listing, a query) comes to its end during the rest.
pub async fn slowly<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            output = &mut work => return output,
            () = sleep(SLICE) => {}
        }
        sleep(REST).await;
    }
}
