//! Which requests are under way, and who waits for whom: QEMU's `BdrvTrackedRequest`.
//!
//! A request waits for every *earlier* one that overlaps it if either of the two is serialising. Since no task waits for a later one,
//! no circle of waits can form, and requests on the same bytes are served in the order they came.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Poll, Waker};

/// The requests of one node that have passed the gate and touch bytes.
#[derive(Default)]
pub(super) struct Tracked {
    /// The next id; only grows.
    next: Cell<u64>,
    /// How many entries are serialising. While it is 0 no task has to look at anybody.
    serialising: Cell<usize>,
    /// In the order of ids.
    entries: RefCell<Vec<Entry>>,
}

struct Entry {
    id: u64,
    range: Range<u64>,
    serialising: bool,
    /// Later requests (by id) that wait for this one to end.
    waiters: Vec<(u64, Waker)>,
}

impl Entry {
    /// Whether this request waits for the end of `earlier`, which came before it.
    fn waits_for(&self, earlier: &Self) -> bool {
        (earlier.serialising || self.serialising)
            && earlier.range.start < self.range.end
            && self.range.start < earlier.range.end
    }
}

impl Tracked {
    /// Enters a request on `range`, after all that are there. It leaves when the [`Place`] is dropped.
    pub(super) fn track(&self, range: Range<u64>, serialising: bool) -> Place<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        if serialising {
            self.serialising.set(self.serialising.get() + 1);
        }
        self.entries.borrow_mut().push(Entry {
            id,
            range,
            serialising,
            waiters: Vec::new(),
        });
        Place { tracked: self, id }
    }

    /// Whether a request is there that may change the length: its range has no end.
    pub(super) fn to_the_end(&self) -> bool {
        let endless = |entry: &Entry| entry.range.end == u64::MAX;
        self.serialising.get() > 0 && self.entries.borrow().iter().any(endless)
    }

    /// Whether a request is there that touches bytes before `at` only.
    pub(super) fn is_any_before(&self, at: u64) -> bool {
        let entries = self.entries.borrow();
        entries.iter().any(|entry| entry.range.end <= at)
    }

    /// Enters `waker` with the latest earlier request that `id` has to wait for; `None` if there is none any more.
    fn wait_for_earlier(&self, id: u64, waker: Waker) -> Option<()> {
        let mut entries = self.entries.borrow_mut();
        let at = position(&entries, id)?;
        let (earlier, rest) = entries.split_at_mut(at);
        let mine = &rest[0];
        // The latest: when it ends, the ones before it have mostly ended too, and it wakes only those that wait for it.
        let blocker = earlier.iter_mut().rev();
        let blocker = blocker.into_iter().find(|other| mine.waits_for(other))?;
        let old = match blocker.waiters.iter_mut().find(|(waiter, _)| *waiter == id) {
            Some((_, old)) => Some(std::mem::replace(old, waker)),
            None => {
                blocker.waiters.push((id, waker));
                None
            }
        };
        drop(entries);
        drop(old); // outside the borrow
        Some(())
    }
}

/// One line for each request, in order: its number, its bytes, whether it is serialising, and the latest earlier one that it waits for.
impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(entries) = self.entries.try_borrow() else {
            return f.write_str("<in use>");
        };
        let lines = (0..).zip(entries.iter()).map(|(at, entry)| {
            let earlier = entries.get(..at).unwrap_or_default().iter().rev();
            let blocker = earlier.into_iter().find(|earlier| entry.waits_for(earlier));
            Line(entry, blocker.map(|blocker| blocker.id))
        });
        f.debug_list().entries(lines).finish()
    }
}

/// A request, and the number of the one that it waits for.
struct Line<'a>(&'a Entry, Option<u64>);

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(entry, blocker) = self;
        write!(f, "#{} bytes {}..", entry.id, entry.range.start)?;
        if entry.range.end != u64::MAX {
            write!(f, "{}", entry.range.end)?;
        }
        if entry.serialising {
            f.write_str(", serialising")?;
        }
        match blocker {
            Some(blocker) => write!(f, ", waits for #{blocker}"),
            None => Ok(()),
        }
    }
}

/// A request's place in the order; dropping it ends the request for those who wait.
#[must_use = "the request is no longer tracked when this is dropped"]
pub(super) struct Place<'a> {
    tracked: &'a Tracked,
    id: u64,
}

impl Place<'_> {
    /// Returns when every earlier request that this one must not pass has ended.
    pub(super) async fn turn(&self) {
        if self.tracked.serialising.get() == 0 {
            return;
        }
        poll_fn(
            |cx| match self.tracked.wait_for_earlier(self.id, cx.waker().clone()) {
                Some(()) => Poll::Pending,
                None => Poll::Ready(()),
            },
        )
        .await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let entry = {
            let mut entries = self.tracked.entries.borrow_mut();
            position(&entries, self.id).map(|at| entries.remove(at))
        };
        let Some(entry) = entry else { return };
        if entry.serialising {
            self.tracked
                .serialising
                .set(self.tracked.serialising.get() - 1);
        }
        for (_, waker) in entry.waiters {
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

    /// Whether it is the request's turn.
    fn may_go(place: &Place<'_>) -> bool {
        place.turn().now_or_never().is_some()
    }

    #[test]
    fn only_an_earlier_overlapping_request_holds_up_and_only_if_one_of_the_two_is_serialising() {
        let tracked = Tracked::default();
        let plain = tracked.track(0..512, false);
        let same = tracked.track(0..512, false);
        assert!(may_go(&plain) && may_go(&same), "plain ones do not wait");
        let serialising = tracked.track(0..1024, true);
        let after = tracked.track(1000..1001, false);
        let beside = tracked.track(1024..2048, true);
        assert!(
            may_go(&plain) && may_go(&same),
            "earlier ones do not wait for it"
        );
        assert!(!may_go(&serialising) && !may_go(&after));
        assert!(may_go(&beside), "1024 is past the other's range");
        drop(same);
        assert!(!may_go(&serialising), "one of the two is still there");
        drop(plain);
        assert!(may_go(&serialising) && !may_go(&after));
        drop(serialising);
        assert!(may_go(&after));
        drop((after, beside));
        assert!(tracked.entries.borrow().is_empty());
        assert_eq!(tracked.serialising.get(), 0);
    }

    #[test]
    fn the_list_of_requests_shows_which_one_waits_for_which() {
        let tracked = Tracked::default();
        let _places = [
            tracked.track(0..512, false),
            tracked.track(100..4096, true),
            tracked.track(0..64, false),
            tracked.track(4000..u64::MAX, true),
        ];
        let wanted = "[#0 bytes 0..512, #1 bytes 100..4096, serialising, waits for #0, #2 bytes 0..64, \
                      #3 bytes 4000.., serialising, waits for #1]";
        assert_eq!(format!("{tracked:?}"), wanted);
    }

    #[test]
    fn a_request_that_goes_away_while_it_waits_holds_up_no_task() {
        let tracked = Tracked::default();
        let first = tracked.track(0..512, true);
        let second = tracked.track(0..512, true);
        let third = tracked.track(0..512, true);
        assert!(!may_go(&second) && !may_go(&third));
        drop(second);
        assert!(!may_go(&third));
        drop(first);
        assert!(may_go(&third));
    }
}
