//! The four waits: for a slot of one's own, for the hint that one is free, for one end, for all ends.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use super::accounts::{Accounts, Wait};
use super::error::WaitOneError;
use super::state::State;
use crate::nesting;
use crate::wait_list::{Key, Wakes};

/// Ready once a slot is reserved for the caller, who must use it or give it back.
pub(super) async fn reserve<E: 'static>(state: &State<E>) {
    let mut place = Place::new(state, Wait::Reserve);
    poll_fn(|cx| {
        place.poll(cx, |accounts, key, spare, _| {
            accounts.poll_reserve(key, spare)
        })
    })
    .await
}

/// Ready when, in its turn, a slot is free.
pub(super) async fn hint<E: 'static>(state: &State<E>) {
    let mut place = Place::new(state, Wait::Hint);
    poll_fn(|cx| place.poll(cx, Accounts::poll_hint)).await
}

/// Ready after the next end.
pub(super) async fn one<E: 'static>(state: &State<E>) -> Result<(), WaitOneError> {
    let mut place = Place::new(state, Wait::One);
    poll_fn(|cx| place.poll(cx, |accounts, key, spare, _| accounts.poll_one(key, spare))).await
}

/// A task of the pool asked to wait for all tasks of the pool.
pub(super) struct ForItself;

/// Ready once nothing is busy and nothing reserved.
pub(super) async fn all<E: 'static>(state: &State<E>) -> Result<(), ForItself> {
    let mut place = Place::new(state, Wait::All);
    poll_fn(|cx| {
        if nesting::is_polling(state.address()) {
            return Poll::Ready(Err(ForItself));
        }
        place
            .poll(cx, |accounts, key, spare, _| accounts.poll_all(key, spare))
            .map(Ok)
    })
    .await
}

/// A future's place in one of the pool's lists, from its first pending poll until it is ready or dropped.
struct Place<'a, E: 'static> {
    state: &'a State<E>,
    wait: Wait,
    key: Option<Key>,
}

impl<'a, E: 'static> Place<'a, E> {
    fn new(state: &'a State<E>, wait: Wait) -> Self {
        Place {
            state,
            wait,
            key: None,
        }
    }

    /// Runs `ask` on the accounts with a clone of the waker where one is needed. Clone, drop and wake are foreign code:
    /// they happen before and after the borrow.
    fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        ask: impl FnOnce(&mut Accounts, &mut Option<Key>, &mut Option<Waker>, &mut Wakes) -> Poll<R>,
    ) -> Poll<R> {
        let accounts = &self.state.accounts;
        let fresh = self
            .key
            .is_none_or(|key| accounts.borrow().needs_waker(self.wait, key, cx.waker()));
        let mut spare = fresh.then(|| cx.waker().clone());
        let mut wakes = Wakes::default();
        let polled = ask(
            &mut accounts.borrow_mut(),
            &mut self.key,
            &mut spare,
            &mut wakes,
        );
        wakes.wake();
        polled
    }
}

impl<E: 'static> Drop for Place<'_, E> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut wakes = Wakes::default();
            let accounts = &self.state.accounts;
            let waker = accounts.borrow_mut().leave(self.wait, key, &mut wakes);
            wakes.wake();
            drop(waker);
        }
    }
}
