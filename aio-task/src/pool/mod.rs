//! [`AioTaskPool`]: at most so many tasks at once, the first error kept, and waits for one end or for all.

mod accounts; // the rules as plain data: who is busy, who sleeps, who is woken by what
mod error; // what a call can answer besides success
mod slot; // one free place, held
mod state; // what handles, slots and tasks share; the order of a task's end
mod task; // one task: the user's future and the shell that the context runs
mod verdict; // first error, count, panic payload
mod wait; // the four waits as futures

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::rc::Rc;

pub use error::{PoolError, WaitAllError, WaitOneError};
pub use slot::Slot;

use crate::{AioHandle, NotDriven};
use state::State;

/// Keeps at most `max_busy_tasks` tasks running in one context, and remembers the first that failed. Ports QEMU's
/// `AioTaskPool` (`block/aio_task.c`).
///
/// 1. [`start_task`](Self::start_task) waits for a free slot, in line.
/// 2. The task is polled at once, on the caller's stack: its I/O is submitted when `start_task` returns. Then the
///    context runs it, whatever the caller does meanwhile.
/// 3. When the task ends, `busy` drops, its error becomes the pool's status if that was clean, its future is freed, and
///    then those who wait are woken: every `wait_one` that came before, the first in line for a slot, and every
///    `wait_all` if nothing is left.
/// 4. [`wait_all`](Self::wait_all) returns the status once nothing is busy.
///
/// ```
/// use std::num::NonZeroUsize;
/// use aio_task::{AioContext, AioTaskPool};
///
/// let context = AioContext::new()?;
/// let pool = AioTaskPool::<String>::new(&context.handle(), NonZeroUsize::new(8).unwrap());
/// let status = context.block_on(async {
///     for offset in (0..1024).step_by(64) {
///         let write = async move { if offset == 512 { Err(format!("no space at {offset}")) } else { Ok(()) } };
///         pool.start_task(write).await.expect("block_on drives the context");
///         if pool.status().is_some() {
///             break; // no use in submitting more
///         }
///     }
///     pool.wait_all().await
/// });
/// assert_eq!(format!("{:#}", status.unwrap_err()), "task 8 failed: no space at 512");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # From QEMU
///
/// | QEMU | here | difference |
/// |---|---|---|
/// | `aio_task_pool_new(max)` | [`new`](Self::new) | zero is not a `NonZeroUsize` |
/// | `aio_task_pool_start_task` | [`start_task`](Self::start_task) | a future instead of a function pointer; FIFO, a newcomer never takes the slot of one who waits |
/// | `aio_task_pool_wait_slot` | [`wait_slot`](Self::wait_slot), a hint; [`reserve`](Self::reserve) holds the slot | upstream only the pool's creator may wait, and nothing else takes slots |
/// | `aio_task_pool_wait_one` | [`wait_one`](Self::wait_one) | an idle pool is an error value, not an assertion |
/// | `aio_task_pool_wait_all` | [`wait_all`](Self::wait_all) | returns the status; from inside a task of the pool [`WaitAllError::WaitsForItself`] instead of for ever |
/// | `aio_task_pool_status` | [`status`](Self::status), [`errors`](Self::errors) | later errors are counted |
/// | `aio_task_pool_empty` | [`is_empty`](Self::is_empty) | a reserved slot counts too |
/// | `aio_task_pool_free` | dropping the last handle | a busy pool's tasks are cancelled |
/// | one `waiting` coroutine, the creator | any task of the context, any number | |
///
/// # It is not
///
/// - `FuturesUnordered`, `buffer_unordered`: their members stand still unless a task polls the collection. A pool's
///   task runs while the caller is busy elsewhere, and its first part runs inside `start_task`. A collection hands out
///   results one by one and has no limit (`buffer_unordered`: a limit on how much is taken from a stream); a pool keeps
///   only the first error, and any number of tasks may start, wait and look at it.
/// - `JoinSet` with a `Semaphore`: the same bound, put together by hand. There a spawned task's first poll comes some
///   time later, a permit is given back when the future is dropped (so the order of "slot free", "error seen" and
///   "waiter woken" is whatever the pieces make it), and results have to be taken out or they pile up. Here that order
///   is fixed, the slot passes from hand to hand, and nothing piles up.
///
/// # Waits and their drop
///
/// Any number of tasks may wait at once, each for any of the four things. A wait's place in line begins at its first
/// poll that has to wait. Dropping a wait at any await leaves the line; if a slot had been handed to it already, the slot
/// goes to the next in line at once. Dropping a `start_task` that still waits drops its future unpolled.
///
/// A call that would have to wait while the context is not driven (no caller is in `block_on`, no `Drive` and no `ByHand`
/// lives, or the context is gone) returns `NotDriven`, also when the driver goes away later. A call that need not wait
/// works without a driver.
///
/// # From inside a task of the pool
///
/// | it calls | result |
/// |---|---|
/// | `start_task`, slot free | the new task runs inline, nested; where 64 polls of tasks (of pools, of `spawn_now`, of any context) are on the stack already, it is queued, and its slot counts as reserved until its first poll |
/// | `start_task`, no slot | waits in line. With a maximum of 1 it waits for itself, for ever; dropping that wait works |
/// | `wait_one` with no other task busy | waits for itself, for ever; dropping that wait works |
/// | `wait_all` | [`WaitAllError::WaitsForItself`]. A task that it started with `spawn` or `spawn_now` is another task and may wait |
/// | drops the last handle | the other tasks are cancelled at once, it ends itself when its current poll returns |
///
/// # Panics of tasks
///
/// A task that panics, in a poll or in the drop of its future, ends like one that failed: [`PoolError::Panicked`]
/// becomes the status if that was clean. `start_task` never unwinds. The first payload is thrown again by the next
/// [`wait_all`](Self::wait_all), else by the drop of the last handle (printed instead if that thread is panicking).
///
/// # Drop
///
/// A pool is a handle; clones are the same pool. Dropping the **last** one cancels all its tasks at once: their futures
/// are dropped in the order they were started. Tasks may hold clones: then the pool lives until they end. Memory that
/// the kernel may still touch is not the pool's business: who submits I/O owns its buffers until the I/O is over.
/// When the context goes away first, its tasks end without a status, and [`wait_all`](Self::wait_all) returns `NotDriven` from then on
/// unless a task had failed.
pub struct AioTaskPool<E: Clone + 'static> {
    owner: Rc<Owner<E>>,
}

impl<E: Clone + 'static> AioTaskPool<E> {
    /// An idle pool of at most `max_busy_tasks` tasks, which run in `handle`'s context.
    ///
    /// Ports `aio_task_pool_new`. The pool does not keep the context alive. A limit of zero cannot be written:
    ///
    /// ```compile_fail,E0308
    /// # fn pool(handle: &aio_task::AioHandle) {
    /// aio_task::AioTaskPool::<()>::new(handle, 0);
    /// # }
    /// ```
    pub fn new(handle: &AioHandle, max_busy_tasks: NonZeroUsize) -> Self {
        let state = Rc::new(State::new(handle.clone(), max_busy_tasks));
        AioTaskPool {
            owner: Rc::new(Owner { state }),
        }
    }

    /// Waits for a slot, then starts `task` in it and polls it once before returning. Returns the task's index, counted
    /// from 0 over the pool's life.
    ///
    /// Ports `aio_task_pool_start_task`. A task that never suspends has ended when this returns. It never panics for
    /// the task. Does nothing before its first poll; dropped while waiting, it drops `task` unpolled.
    ///
    /// # Errors
    ///
    /// [`NotDriven`]: it would have had to wait while the context is not driven, or the context is gone. `task` was
    /// dropped unpolled.
    pub async fn start_task<F>(&self, task: F) -> Result<u64, NotDriven>
    where
        F: Future<Output = Result<(), E>> + 'static,
    {
        self.reserve().await?.start(task)
    }

    /// Waits, in line, for a slot of one's own.
    ///
    /// The port's addition: [`Slot::start`] cannot wait, so the holder of a slot can give away what its task needs
    /// without the risk of being dropped halfway. Dropped while waiting, it leaves the line; if the slot had been handed
    /// to it, the next in line gets it.
    ///
    /// # Errors
    ///
    /// [`NotDriven`]: no slot is free, and the context is not driven.
    pub async fn reserve(&self) -> Result<Slot<E>, NotDriven> {
        let state = self.state();
        let slot = async {
            wait::reserve(state).await;
            Slot::reserved(Rc::clone(state))
        };
        state.handle.while_driven(slot).await
    }

    /// A slot, if one is free and no task waits for it.
    pub fn try_reserve(&self) -> Option<Slot<E>> {
        let state = self.state();
        let reserved = state.accounts.borrow_mut().try_reserve();
        reserved.then(|| Slot::reserved(Rc::clone(state)))
    }

    /// Waits until, in its turn, a slot is free. A hint: it takes nothing, and wakes the next in line when it leaves.
    ///
    /// Ports `aio_task_pool_wait_slot`. Who has to be sure of the slot takes [`reserve`](Self::reserve). A `wait_slot`
    /// that was woken holds its turn until it is polled or dropped.
    ///
    /// # Errors
    ///
    /// [`NotDriven`]: no slot is free, and the context is not driven.
    pub async fn wait_slot(&self) -> Result<(), NotDriven> {
        let state = self.state();
        state.handle.while_driven(wait::hint(state)).await
    }

    /// Waits until at least one task has ended since its first poll.
    ///
    /// Ports `aio_task_pool_wait_one`. Every `wait_one` that waits when a task ends is woken by that end.
    ///
    /// # Errors
    ///
    /// [`WaitOneError::NothingBusy`] at once if no task is busy (reserved slots are not busy).
    /// [`WaitOneError::NotDriven`]: a task is busy, and the context is not driven.
    pub async fn wait_one(&self) -> Result<(), WaitOneError> {
        let state = self.state();
        state.handle.while_driven(wait::one(state)).await?
    }

    /// Waits until no task is busy and no slot reserved, tasks started meanwhile included. Returns the status.
    ///
    /// Ports `aio_task_pool_wait_all`. It may wait for ever if tasks keep being started, or if the caller itself holds
    /// a [`Slot`].
    ///
    /// # Errors
    ///
    /// [`WaitAllError::Status`]: the first failure of the pool's life, also one that an earlier call returned.
    /// [`WaitAllError::WaitsForItself`]: called from inside a task of this pool.
    /// [`WaitAllError::NotDriven`]: the pool is not empty, and the context is not driven; or the context went away with tasks that had
    /// not ended.
    ///
    /// # Panics
    ///
    /// If a task panicked since the last `wait_all`: with the payload of the first that did.
    pub async fn wait_all(&self) -> Result<(), WaitAllError<E>> {
        let state = self.state();
        let waited = state.handle.while_driven(wait::all(state)).await?;
        waited.map_err(|wait::ForItself| WaitAllError::WaitsForItself)?;
        if let Some(payload) = state.take_payload() {
            resume_unwind(payload);
        }
        match self.status() {
            Some(status) => Err(WaitAllError::Status(status)),
            None if state.lost.get() => Err(WaitAllError::NotDriven),
            None => Ok(()),
        }
    }

    /// The first failure of the pool's life, for ever. Never blocks.
    ///
    /// Ports `aio_task_pool_status`.
    pub fn status(&self) -> Option<PoolError<E>> {
        self.state().status()
    }

    /// How many tasks failed so far, the first and those that panicked included.
    pub fn errors(&self) -> u64 {
        self.state().errors()
    }

    /// Tasks whose first poll has begun and that have not ended. `busy() + reserved() <= max()`, always.
    pub fn busy(&self) -> usize {
        self.state().accounts.borrow().busy()
    }

    /// Slots that are taken by no busy task: held as a [`Slot`], handed to a waiter that has not run yet, or by a
    /// started task that is queued for its first poll.
    pub fn reserved(&self) -> usize {
        self.state().accounts.borrow().reserved()
    }

    /// The limit given to [`new`](Self::new).
    pub fn max(&self) -> usize {
        self.state().accounts.borrow().max()
    }

    /// No task is busy and no slot is reserved: [`wait_all`](Self::wait_all) would return at once.
    ///
    /// Ports `aio_task_pool_empty`.
    pub fn is_empty(&self) -> bool {
        self.state().accounts.borrow().is_idle()
    }

    fn state(&self) -> &Rc<State<E>> {
        &self.owner.state
    }
}

impl<E: Clone + 'static> Clone for AioTaskPool<E> {
    fn clone(&self) -> Self {
        AioTaskPool {
            owner: Rc::clone(&self.owner),
        }
    }
}

impl<E: Clone + 'static> fmt::Debug for AioTaskPool<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioTaskPool")
            .field("busy", &self.busy())
            .field("reserved", &self.reserved())
            .field("max", &self.max())
            .field("errors", &self.errors())
            .finish_non_exhaustive()
    }
}

/// What the handles share. Tasks and slots hold the state only, so that this goes with the last handle.
struct Owner<E: 'static> {
    state: Rc<State<E>>,
}

impl<E: 'static> Drop for Owner<E> {
    fn drop(&mut self) {
        self.state.close();
    }
}
