//! The order of calls: each waits for the one before it in its queue.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::call::Turn;

/// More queues than this are looked through for those that have ended.
const QUEUES_MAX: usize = 128;

/// The last call of each queue.
#[derive(Default)]
pub(super) struct Turns {
    last: HashMap<(u64, Turn), oneshot::Receiver<()>>,
}

/// A call's place in its queue.
pub(super) struct Place {
    earlier: Option<oneshot::Receiver<()>>,
    /// Dropped when the call has ended, however it did.
    _ended: Option<oneshot::Sender<()>>,
}

impl Turns {
    /// Takes the last place in a queue of that object.
    pub fn enter(&mut self, clid: u64, turn: Turn) -> Place {
        if turn == Turn::Free {
            return Place { earlier: None, _ended: None };
        }
        if self.last.len() >= QUEUES_MAX {
            self.last.retain(|_, last| matches!(last.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        }
        let (ended, receiver) = oneshot::channel();
        Place { earlier: self.last.insert((clid, turn), receiver), _ended: Some(ended) }
    }
}

impl Place {
    /// Waits until the call before has ended.
    pub async fn wait(&mut self) {
        if let Some(earlier) = self.earlier.take() {
            // It is never sent: its sender is dropped.
            let _ = earlier.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_waits_for_its_own_queue_only() {
        let mut turns = Turns::default();
        let first = turns.enter(1, Turn::Object);
        let mut second = turns.enter(1, Turn::Object);
        for mut other in
            [turns.enter(2, Turn::Object), turns.enter(1, Turn::Free), turns.enter(1, Turn::Key("k".into()))]
        {
            other.wait().await;
        }
        let waiting = tokio::spawn(async move {
            second.wait().await;
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[test]
    fn queues_that_have_ended_are_forgotten() {
        let mut turns = Turns::default();
        let kept = turns.enter(0, Turn::Object);
        for clid in 1..10_000 {
            drop(turns.enter(clid, Turn::Object));
        }
        assert!(turns.last.len() <= QUEUES_MAX);
        assert!(turns.last.contains_key(&(0, Turn::Object)));
        drop(kept);
    }
}
