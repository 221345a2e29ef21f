use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use aio_task::{AioTaskPool, PoolError};

use super::support::{Gate, Log, OnDrop, Probe, now};
use super::{Pool, context, counts, pool, start, start_waiting};

#[test]
fn a_task_is_busy_from_its_first_poll_to_its_end() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let (log, gate) = (Log::default(), Gate::new());
    let (inner, noted, opened) = (pool.clone(), log.clone(), gate.clone());
    start(&pool, async move {
        noted.note(format!("first poll {:?}", counts(&inner)));
        let result = opened.await;
        noted.note(format!("last poll {:?}", counts(&inner)));
        result
    });
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["first poll (1, 0)", "last poll (1, 0)"]);
    assert_eq!(counts(&pool), (0, 0));
}

#[test]
fn busy_and_reserved_never_exceed_the_maximum() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 3);
    let _busy = start_waiting(&pool);
    let slots: Vec<_> = std::iter::from_fn(|| pool.try_reserve()).collect();
    assert_eq!((slots.len(), counts(&pool)), (2, (1, 2)));
    assert!(Probe::new(pool.reserve(), || {}).is_pending());
    for slot in slots {
        slot.start(Gate::new()).expect("a context");
    }
    assert_eq!(counts(&pool), (3, 0));
    assert!(pool.try_reserve().is_none());
}

/// Busy drops, the status is set, the future is freed, and then the waiters are woken.
#[test]
fn an_end_happens_in_qemus_order() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let log = Log::default();
    let gate = Gate::new();
    let (noted, inner) = (log.clone(), pool.clone());
    let task = FreedAtTheEnd::new(gate.clone(), move || {
        let (busy, failed) = (inner.busy(), inner.status().is_some());
        noted.note(format!("freed with busy {busy}, status set {failed}"));
    });
    start(&pool, task);
    let mut waiting = Probe::named("woken", &log, pool.wait_one());
    assert!(waiting.is_pending());
    gate.open(Err("bad"));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["freed with busy 0, status set true", "woken"]);
}

#[test]
fn one_end_wakes_every_wait_one_then_the_line_then_every_wait_all() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    // Registered in an order that no rule follows.
    let mut all_1 = Probe::named("all 1", &log, pool.wait_all());
    let mut hint = Probe::named("hint", &log, pool.wait_slot());
    let mut one_1 = Probe::named("one 1", &log, pool.wait_one());
    let mut all_2 = Probe::named("all 2", &log, pool.wait_all());
    let mut one_2 = Probe::named("one 2", &log, pool.wait_one());
    assert!(all_1.is_pending() && hint.is_pending() && one_1.is_pending());
    assert!(all_2.is_pending() && one_2.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["one 1", "one 2", "hint", "all 1", "all 2"]);
    assert_eq!(one_2.poll(), Poll::Ready(Ok(())));
    assert_eq!(one_1.poll(), Poll::Ready(Ok(())));
}

#[test]
fn a_slot_that_goes_to_a_waiter_keeps_wait_all_asleep() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let mut all = Probe::named("all", &log, pool.wait_all());
    let mut reserve = Probe::named("reserve", &log, pool.reserve());
    assert!(all.is_pending() && reserve.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["reserve"]);
    assert!(all.is_pending(), "a task is about to start");
    drop(reserve.poll());
    assert_eq!(
        log.take(),
        ["all"],
        "the slot came back unused, and nothing is left"
    );
    assert_eq!(all.poll(), Poll::Ready(Ok(())));
}

#[test]
fn one_end_hands_one_slot_to_one_waiter() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let gates = [(); 2].map(|()| start_waiting(&pool));
    let log = Log::default();
    let mut first = Probe::named("first", &log, pool.reserve());
    let mut second = Probe::named("second", &log, pool.reserve());
    assert!(first.is_pending() && second.is_pending());
    gates[0].open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["first".to_owned()], (1, 1))
    );
    assert!(second.is_pending());
}

#[test]
fn a_wait_one_that_comes_after_the_end_is_not_woken_by_it() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let _other = start_waiting(&pool);
    let gate = Gate::new();
    let log = Log::default();
    let late = Rc::new(RefCell::new(None));
    // The wait is registered while the ended task's future is freed: busy has dropped already.
    let (inner, noted, keep) = (pool.clone(), log.clone(), Rc::clone(&late));
    let task = FreedAtTheEnd::new(gate.clone(), move || {
        let inner = inner.clone();
        let mut wait = Probe::named("late", &noted, async move { inner.wait_one().await });
        assert!(wait.is_pending());
        keep.replace(Some(wait));
    });
    start(&pool, task);
    let mut early = Probe::named("early", &log, pool.wait_one());
    assert!(early.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["early"]);
    let mut late = late.take().expect("the task's future was freed");
    assert!(late.is_pending());
}

/// What the end's rules promise to hold for foreign code: it may call everything from everywhere.
#[test]
fn polls_drops_and_wakers_may_call_the_pool() {
    fn everything(pool: &Pool) {
        let _ = (
            pool.status(),
            pool.errors(),
            pool.max(),
            pool.is_empty(),
            format!("{pool:?}"),
        );
        assert!(pool.busy() + pool.reserved() <= pool.max());
        drop(pool.try_reserve());
        let _ = Probe::new(pool.wait_one(), || {}).poll();
        let _ = Probe::new(pool.wait_all(), || {}).poll();
        let _ = Probe::new(pool.wait_slot(), || {}).poll();
        let _ = Probe::new(pool.start_task(async { Ok(()) }), || {}).poll();
        drop(pool.clone());
    }
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let log = Log::default();
    let gates = [(); 2].map(|()| Gate::new());
    for gate in &gates {
        let (in_poll, in_drop, gate, noted) =
            (pool.clone(), pool.clone(), gate.clone(), log.clone());
        let task = async move {
            everything(&in_poll);
            let result = gate.await;
            everything(&in_poll);
            result
        };
        start(
            &pool,
            FreedAtTheEnd::new(task, move || {
                everything(&in_drop);
                noted.note("freed");
            }),
        );
    }
    let hook = |name: &'static str| {
        let (pool, log) = (pool.clone(), log.clone());
        move || {
            everything(&pool);
            log.note(name);
        }
    };
    let mut one = Probe::new(pool.wait_one(), hook("one"));
    let mut all = Probe::new(pool.wait_all(), hook("all"));
    let mut hint = Probe::new(pool.wait_slot(), hook("hint"));
    assert!(one.is_pending() && all.is_pending() && hint.is_pending());
    for gate in &gates {
        gate.open(Ok(()));
        hand.run_until_stalled();
    }
    assert_eq!(log.take(), ["freed", "one", "hint", "freed", "all"]);
    assert_eq!(hint.poll(), Poll::Ready(Ok(())));
    assert_eq!(all.poll(), Poll::Ready(Ok(())));
    assert_eq!(counts(&pool), (0, 0));
}

/// An error's `Clone` and `Drop` are foreign code too.
#[test]
fn an_errors_clone_and_drop_may_call_the_pool() {
    thread_local! {
        static POOL: RefCell<Option<AioTaskPool<Curious>>> = const { RefCell::new(None) };
    }
    fn look() {
        let pool = POOL.with_borrow(|pool| pool.clone());
        if let Some(pool) = pool {
            let _ = (pool.busy(), pool.errors(), pool.is_empty());
        }
    }
    #[derive(Debug)]
    struct Curious;
    impl Clone for Curious {
        fn clone(&self) -> Self {
            look();
            Curious
        }
    }
    impl Drop for Curious {
        fn drop(&mut self) {
            look();
        }
    }
    let context = context();
    let pool = AioTaskPool::new(&context.handle(), std::num::NonZeroUsize::MIN);
    POOL.set(Some(pool.clone()));
    for _ in 0..2 {
        now(pool.start_task(async { Err(Curious) })).expect("a context");
    }
    assert!(matches!(
        pool.status(),
        Some(PoolError::Task { index: 0, .. })
    ));
    assert_eq!(pool.errors(), 2);
    POOL.set(None);
}

/// A task whose `freed` runs when the pool drops the future, not already when its body is through.
pub(super) struct FreedAtTheEnd<F, D: FnMut()> {
    task: std::pin::Pin<Box<F>>,
    _freed: OnDrop<D>,
}

impl<F, D: FnMut()> FreedAtTheEnd<F, D> {
    pub(super) fn new(task: F, freed: D) -> Self {
        FreedAtTheEnd {
            task: Box::pin(task),
            _freed: OnDrop(freed),
        }
    }
}

impl<F: Future, D: FnMut() + Unpin> Future for FreedAtTheEnd<F, D> {
    type Output = F::Output;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<F::Output> {
        self.task.as_mut().poll(cx)
    }
}
