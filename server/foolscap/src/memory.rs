//! Memory that the calls of all connections share.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Violation;

const UNIT_BYTES: u64 = 1024;

/// A number of bytes of which calls take their parts.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    total: u32,
}

/// What one call has taken; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        let total = units(bytes);
        Self { permits: Arc::new(Semaphore::new(total as usize)), total }
    }

    pub(crate) fn hold_nothing(&self) -> Held {
        Held { budget: self.clone(), permit: Mutex::new(None) }
    }

    /// Waits for a part; more than all is all.
    pub(crate) async fn take_part(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_many_owned(units(bytes).min(self.total)).await.ok()
    }
}

impl Held {
    /// Takes more. Whoever holds nothing waits for it; whoever holds some does not, as two that wait for each other would
    /// wait for ever.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<(), Violation> {
        let wanted = units(bytes);
        let short = || Violation::new("too much data is under way at once, try again later");
        if wanted > self.budget.total {
            return Err(short());
        }
        let permits = self.budget.permits.clone();
        let permit = if self.lock().is_some() {
            permits.try_acquire_many_owned(wanted).map_err(|_| short())?
        } else {
            permits.acquire_many_owned(wanted).await.map_err(|_| short())?
        };
        let mut held = self.lock();
        match held.as_mut() {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}
