//! Who may touch which guest clusters: a first-come first-served lock over ranges of cluster numbers.
//!
//! A request waits for every *earlier* one that overlaps it if either of the two is exclusive. No task waits for a later one, so no circle of
//! waits can form.
//!
//! | who | how | on |
//! |---|---|---|
//! | reads, writes into clusters that stay where they are | shared | the clusters they touch |
//! | whatever changes a mapping: allocating writes, discard, zeroes | exclusive | these clusters |
//! | snapshots, changes of length, growth of the L1 table, close | exclusive | everything |
//!
//! So a host cluster is let go only when no I/O of its guest cluster is under way, two writers that allocate one cluster take turns (QEMU's
//! `handle_dependencies`), and a snapshot sees no half-done write.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Poll, Waker};

/// All guest clusters, those of the vmstate area included, and the list of snapshots.
const EVERYTHING: Range<u64> = 0..u64::MAX;
/// The clusters of a state that is being saved, after those of every disk, and the list of snapshots.
pub(crate) const STATE: Range<u64> = 1 << 62..u64::MAX;
/// The list of snapshots: shared by those who look at it. No cluster has this number.
pub(crate) const SNAPSHOTS: Range<u64> = u64::MAX - 1..u64::MAX;

/// The requests that hold or wait for clusters, in the order they came.
#[derive(Default)]
pub(crate) struct ClusterLocks {
    /// The next id; only grows.
    next: Cell<u64>,
    entries: RefCell<Vec<Entry>>,
}

struct Entry {
    id: u64,
    clusters: Range<u64>,
    exclusive: bool,
    /// Later requests (by id) that wait for this one to end.
    waiters: Vec<(u64, Waker)>,
}

/// These clusters keep their mapping while this is held; other requests may read them and write them in place.
#[must_use = "dropping the guard releases the clusters"]
pub(crate) struct Shared<'a> {
    _hold: Hold<'a>,
}

/// No other request uses these clusters while this is held.
///
/// A function that changes a mapping takes a reference to this guard, so that a caller without the clusters does not compile.
#[must_use = "dropping the guard releases the clusters"]
pub(crate) struct Exclusive<'a> {
    _hold: Hold<'a>,
}

/// No other request uses any cluster, or the list of snapshots, while this is held.
#[must_use = "dropping the guard releases the clusters"]
pub(crate) struct AllClusters<'a>(Exclusive<'a>);

impl<'a> AllClusters<'a> {
    /// The guard as one for some of the clusters.
    pub(crate) fn exclusive(&self) -> &Exclusive<'a> {
        &self.0
    }
}

impl ClusterLocks {
    /// Waits for earlier exclusive requests.
    ///
    /// # Cancel safety
    ///
    /// The request is queued at the first poll. Dropping the future removes it.
    pub(crate) async fn shared(&self, clusters: Range<u64>) -> Shared<'_> {
        let _hold = self.lock(clusters, false).await;
        Shared { _hold }
    }

    /// Waits for all earlier requests for these clusters. Cancel safety as for [`ClusterLocks::shared`].
    pub(crate) async fn exclusive(&self, clusters: Range<u64>) -> Exclusive<'_> {
        let _hold = self.lock(clusters, true).await;
        Exclusive { _hold }
    }

    /// Waits for all earlier requests. Cancel safety as for [`ClusterLocks::shared`].
    pub(crate) async fn all(&self) -> AllClusters<'_> {
        AllClusters(self.exclusive(EVERYTHING).await)
    }

    /// The request is queued at the first poll; dropping the future removes it.
    async fn lock(&self, clusters: Range<u64>, exclusive: bool) -> Hold<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        self.entries.borrow_mut().push(Entry {
            id,
            clusters,
            exclusive,
            waiters: Vec::new(),
        });
        let hold = Hold { locks: self, id };
        poll_fn(|cx| match self.wait_for_earlier(id, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
        hold
    }

    /// Enters `waker` with the latest earlier request that `id` has to wait for; false if there is none any more.
    fn wait_for_earlier(&self, id: u64, waker: &Waker) -> bool {
        let waker = waker.clone(); // foreign code: before anything is borrowed
        let mut entries = self.entries.borrow_mut();
        let Some(at) = position(&entries, id) else {
            return false;
        };
        let (earlier, rest) = entries.split_at_mut(at);
        let mine = &rest[0];
        // The latest: when it ends, the ones before it have mostly ended too, and it wakes only those that wait for it.
        let blocker = earlier.iter_mut().rev().find(|other| {
            (other.exclusive || mine.exclusive)
                && other.clusters.start < mine.clusters.end
                && mine.clusters.start < other.clusters.end
        });
        let Some(blocker) = blocker else { return false };
        let old = match blocker.waiters.iter_mut().find(|(waiter, _)| *waiter == id) {
            Some((_, old)) => Some(std::mem::replace(old, waker)),
            None => {
                blocker.waiters.push((id, waker));
                None
            }
        };
        drop(entries);
        drop(old); // outside the borrow
        true
    }
}

/// A request's entry in the queue; dropping it wakes the requests that wait for it.
struct Hold<'a> {
    locks: &'a ClusterLocks,
    id: u64,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let entry = {
            let mut entries = self.locks.entries.borrow_mut();
            position(&entries, self.id).map(|at| entries.remove(at))
        };
        for (_, waker) in entry.into_iter().flat_map(|entry| entry.waiters) {
            waker.wake();
        }
    }
}

fn position(entries: &[Entry], id: u64) -> Option<usize> {
    entries.binary_search_by_key(&id, |entry| entry.id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::pin::pin;

    #[test]
    fn shared_holders_of_a_cluster_go_together_and_an_exclusive_one_waits_for_them() {
        let locks = ClusterLocks::default();
        let first = locks.shared(0..4).now_or_never().unwrap();
        let second = locks.shared(2..6).now_or_never().unwrap();
        let mut alone = pin!(locks.exclusive(3..4));
        assert!(alone.as_mut().now_or_never().is_none());
        drop(first);
        assert!(alone.as_mut().now_or_never().is_none());
        drop(second);
        assert!(alone.as_mut().now_or_never().is_some());
    }

    #[test]
    fn no_task_passes_an_exclusive_request_that_came_before_even_while_it_waits() {
        let locks = ClusterLocks::default();
        let first = locks.shared(0..4).now_or_never().unwrap();
        let mut alone = pin!(locks.exclusive(EVERYTHING));
        assert!(alone.as_mut().now_or_never().is_none());
        let mut late = pin!(locks.shared(0..1));
        assert!(late.as_mut().now_or_never().is_none());
        drop(first);
        let held = alone.as_mut().now_or_never().unwrap();
        assert!(late.as_mut().now_or_never().is_none());
        drop(held);
        assert!(late.as_mut().now_or_never().is_some());
    }

    #[test]
    fn a_request_that_stops_waiting_holds_up_no_task() {
        let locks = ClusterLocks::default();
        let first = locks.exclusive(0..4).now_or_never().unwrap();
        let mut given_up = Box::pin(locks.exclusive(0..4));
        assert!(given_up.as_mut().now_or_never().is_none());
        let mut third = pin!(locks.shared(0..4));
        assert!(third.as_mut().now_or_never().is_none());
        drop(given_up);
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_some());
        assert!(locks.entries.borrow().is_empty());
    }
}
