//! The pool under test, with actors that perform their scripts and note what they see.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use aio_task::{AioHandle, AioTaskPool, PoolError, Slot, WaitAllError};
use futures::FutureExt;
use futures::future::{Either, LocalBoxFuture, select};

use super::script::{Action, Call, End, Id, Script};
use super::support::{Gate, Log, Probe};

type Outcome = Result<(), Id>;

/// What all actors of one run share.
pub struct World {
    /// The driver's own handle.
    pool: RefCell<Option<Handle>>,
    scripts: Rc<Vec<Script>>,
    gates: Vec<Gate<()>>,
    pub log: Log,
}

impl World {
    pub fn new(context: &AioHandle, max: NonZeroUsize, scripts: Rc<Vec<Script>>) -> Rc<Self> {
        let log = Log::default();
        let pool = AioTaskPool::new(context, max);
        Rc::new(World {
            pool: RefCell::new(Some(Handle {
                pool: Some(pool),
                log: log.clone(),
            })),
            gates: scripts.iter().map(|_| Gate::new()).collect(),
            scripts,
            log,
        })
    }

    /// An actor that the driver polls itself.
    pub fn outsider(self: &Rc<Self>, id: Id) -> Probe<'static, Outcome> {
        Probe::named(&format!("woken {id}"), &self.log, Actor::new(self, id))
    }

    pub fn open_gate(&self, id: Id) {
        self.gates[id].open(());
    }

    pub fn drop_pool(&self) {
        let pool = self.pool.take();
        drop(pool);
    }

    /// What the rules are compared with, while the driver has its handle.
    pub fn state(&self) -> Option<Counts> {
        let handle = self.handle()?;
        let pool = handle.get();
        let counts = Counts {
            busy: pool.busy(),
            reserved: pool.reserved(),
            errors: pool.errors(),
            status: status(pool.status()),
        };
        assert_eq!(pool.is_empty(), counts.busy + counts.reserved == 0);
        Some(counts)
    }

    fn handle(&self) -> Option<Handle> {
        self.pool.borrow().as_ref().map(Handle::another)
    }
}

/// What can be asked of a pool without waiting.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    pub busy: usize,
    pub reserved: usize,
    pub errors: u64,
    pub status: String,
}

fn status(status: Option<PoolError<Id>>) -> String {
    match status {
        None => "clean".to_owned(),
        Some(PoolError::Task { index, error }) => format!("{index} failed as {error}"),
        Some(PoolError::Panicked { index }) => format!("{index} panicked"),
    }
}

/// A handle of the pool whose drop notes what it throws.
struct Handle {
    pool: Option<AioTaskPool<Id>>,
    log: Log,
}

impl Handle {
    fn get(&self) -> &AioTaskPool<Id> {
        self.pool.as_ref().expect("taken by drop only")
    }

    fn another(&self) -> Handle {
        Handle {
            pool: self.pool.clone(),
            log: self.log.clone(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let pool = self.pool.take();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(pool))) {
            self.log.note(format!("drop threw {}", thrower(payload)));
        }
    }
}

/// Whose panic it was.
fn thrower(payload: Box<dyn Any + Send>) -> Id {
    match payload.downcast::<Id>() {
        Ok(id) => *id,
        Err(payload) => resume_unwind(payload), // not one of ours: the test itself failed
    }
}

/// Performs a script. Notes each poll, each result, and when it is freed.
struct Actor {
    id: Id,
    world: Rc<World>,
    body: Option<LocalBoxFuture<'static, Outcome>>,
}

impl Actor {
    fn new(world: &Rc<World>, id: Id) -> Self {
        let world = Rc::clone(world);
        let body = Some(Box::pin(perform(Rc::clone(&world), id)) as LocalBoxFuture<'static, _>);
        Actor { id, world, body }
    }
}

impl Future for Actor {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.world.log.note(format!("poll {}", self.id));
        self.body
            .as_mut()
            .expect("taken by drop only")
            .as_mut()
            .poll(cx)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.body.take());
        self.world
            .log
            .note(format!("freed {}: {:?}", self.id, self.world.state()));
    }
}

async fn perform(world: Rc<World>, id: Id) -> Outcome {
    let script = &world.scripts[id];
    let note = |what: String| world.log.note(format!("{id}: {what}"));
    let mut slot: Option<Slot<Id>> = None;
    for action in &script.actions {
        match *action {
            Action::Gate => world.gates[id].clone().await,
            Action::Yield => yield_once().await,
            Action::DropSlot => slot = None,
            Action::StartInSlot(child) => {
                if let Some(slot) = slot.take() {
                    note(format!(
                        "in slot {:?}",
                        slot.start(Actor::new(&world, child)).ok()
                    ));
                }
            }
            Action::TryReserve => {
                let Some(handle) = world.handle() else {
                    return Ok(());
                };
                let tried = handle.get().try_reserve();
                note(format!("tried {}", tried.is_some()));
                if tried.is_some() {
                    slot = tried;
                }
            }
            Action::Await(call) => {
                let Some(handle) = world.handle() else {
                    return Ok(());
                };
                let (result, reserved) = make(&world, &handle, call).await;
                note(result);
                if reserved.is_some() {
                    slot = reserved;
                }
            }
            Action::AwaitOrGate(call) => {
                let Some(handle) = world.handle() else {
                    return Ok(());
                };
                let call = Box::pin(make(&world, &handle, call));
                match select(world.gates[id].clone(), call).await {
                    Either::Left(((), call)) => {
                        drop(call);
                        note("gave up".to_owned());
                    }
                    Either::Right(((result, reserved), _gate)) => {
                        note(result);
                        if reserved.is_some() {
                            slot = reserved;
                        }
                    }
                }
            }
        }
    }
    match script.end {
        End::Ok => Ok(()),
        End::Err => Err(id),
        End::Panic => resume_unwind(Box::new(id)), // without the hook's noise
    }
}

/// Makes the call; says what it returned.
async fn make(world: &Rc<World>, handle: &Handle, call: Call) -> (String, Option<Slot<Id>>) {
    let pool = handle.get();
    let mut slot = None;
    let result = match call {
        Call::StartTask(child) => match pool.start_task(Actor::new(world, child)).await {
            Ok(index) => format!("started {index}"),
            Err(error) => format!("{error:?}"),
        },
        Call::Reserve => match pool.reserve().await {
            Ok(reserved) => {
                slot = Some(reserved);
                "reserved".to_owned()
            }
            Err(error) => format!("{error:?}"),
        },
        Call::WaitSlot => format!("slot {:?}", pool.wait_slot().await),
        Call::WaitOne => format!("one {:?}", pool.wait_one().await),
        Call::WaitAll => match AssertUnwindSafe(pool.wait_all()).catch_unwind().await {
            Ok(Ok(())) => "all clean".to_owned(),
            Ok(Err(WaitAllError::Status(error))) => format!("all {}", status(Some(error))),
            Ok(Err(error)) => format!("all {error:?}"),
            Err(payload) => format!("all threw {}", thrower(payload)),
        },
    };
    (result, slot)
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
