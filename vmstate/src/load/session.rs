//! The state of one load: aiming the window, reading chunks ahead, copying out of them.

use crate::LoadOptions;
use crate::area_state::Area;
use crate::call_lock::{Turn, TurnLock};
use crate::geometry::Geometry;
use crate::load::window::{Content, Window};
use crate::save::ActiveSave;
use aio_task::{AioHandle, AioTaskPool, CoQueue};
use block_core::{BlockError, BlockNode, Cause, IoBuf, Op, ReadVector, Result, VmstateOffset};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// One load. Owned by its [`VmstateLoad`](crate::VmstateLoad), or by the node for `load_vmstate`. Its tasks do not keep it: without a
/// reader no caller wants the chunks.
pub(crate) struct LoadSession {
    geometry: Geometry,
    /// Chunks ahead of the reader's.
    workers: u64,
    /// The length that the caller gave.
    given: Option<u64>,
    handle: AioHandle,
    area: Rc<Area>,
    pool: AioTaskPool<BlockError>,
    /// Reads that overlap in time take turns: two that aim at different places would throw away each other's chunks for ever.
    turn: TurnLock,
    /// Woken, all of them, when a chunk was read or could not be.
    changed: CoQueue,
    window: RefCell<Window>,
    pub(crate) length: Cell<u64>,
    /// [`Area::epoch`] that the chunks and the length belong to.
    epoch: Cell<u64>,
}

impl LoadSession {
    /// A load of `node`'s area. `None` if the length is not known.
    pub(crate) async fn open(
        node: &BlockNode,
        saves: &ActiveSave,
        options: LoadOptions,
    ) -> Result<Option<Rc<Self>>> {
        let op = Op::LoadVmstate;
        let Some(limits) = node.vmstate_limits() else {
            return Err(BlockError::new(op, 0, 0, Cause::NotSupported));
        };
        let geometry = Geometry::new(op, limits, options.buffer_size)?;
        let epoch = saves.area.epoch.get();
        let length = match (options.length, saves.active()) {
            (Some(given), _) => Some(given),
            (None, Some(save)) => Some(save.length.get()),
            (None, None) => stored_length(node, &saves.area).await?,
        };
        let Some(length) = length else {
            return Ok(None);
        };
        check_length(&geometry, length)?;
        Ok(Some(Rc::new(Self {
            geometry,
            workers: options.workers.get() as u64,
            given: options.length,
            handle: node.handle().clone(),
            area: saves.area.clone(),
            pool: AioTaskPool::new(node.handle(), options.workers),
            turn: TurnLock::new(),
            changed: CoQueue::new(),
            window: RefCell::default(),
            length: Cell::new(length),
            epoch: Cell::new(epoch),
        })))
    }

    /// See [`VmstateLoad::read`](crate::VmstateLoad::read).
    pub(crate) async fn read(
        self: &Rc<Self>,
        node: &BlockNode,
        saves: &ActiveSave,
        at: u64,
        dst: &mut [u8],
    ) -> Result<usize> {
        self.geometry.check(Op::LoadVmstate, at, dst.len())?;
        let _turn = self.turn().await?;
        if let Some(save) = saves.active() {
            let end = self.given.unwrap_or(u64::MAX);
            let len = end.saturating_sub(at).min(dst.len() as u64) as usize;
            return save.read(node, at, &mut dst[..len]).await;
        }
        self.refresh(node).await?;
        let mut done = 0;
        loop {
            match self.copy_out(node, at + done as u64, &mut dst[done..])? {
                Some(0) => return Ok(done),
                Some(copied) => done += copied,
                None => self.until_changed().await?,
            }
            if done == dst.len() {
                return Ok(done);
            }
        }
    }

    /// See [`VmstateLoad::try_read`](crate::VmstateLoad::try_read).
    pub(crate) fn try_read(
        self: &Rc<Self>,
        node: &BlockNode,
        saves: &ActiveSave,
        at: u64,
        dst: &mut [u8],
    ) -> Result<Option<usize>> {
        self.geometry.check(Op::LoadVmstate, at, dst.len())?;
        let stale = self.epoch.get() != self.area.epoch.get();
        if stale || saves.active().is_some() {
            return Ok(None);
        }
        match self.turn.try_take() {
            Some(_turn) => self.copy_out(node, at, dst),
            None => Ok(None),
        }
    }

    /// Waits, not in line, until [`LoadSession::try_read`] at `at` has something to say. During a save it never has: the caller asks before.
    pub(crate) async fn ready(
        self: &Rc<Self>,
        node: &BlockNode,
        saves: &ActiveSave,
        at: u64,
    ) -> Result<()> {
        self.geometry.check(Op::LoadVmstate, at, 1)?;
        loop {
            if saves.active().is_some() {
                return Ok(());
            }
            let Some(turn) = self.turn.try_take() else {
                self.driven(self.turn.until_idle()).await?;
                continue;
            };
            self.refresh(node).await?;
            let known = self.aim(node, at);
            drop(turn);
            if known {
                return Ok(());
            }
            self.until_changed().await?;
        }
    }

    /// Copies what is there now. The caller has the turn. `None`: nothing yet. `Some(0)`: the end, or nothing was asked for.
    fn copy_out(
        self: &Rc<Self>,
        node: &BlockNode,
        at: u64,
        dst: &mut [u8],
    ) -> Result<Option<usize>> {
        let length = self.length.get();
        let wanted = length.saturating_sub(at).min(dst.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let here = at + done as u64;
            if !self.aim(node, here) {
                break;
            }
            let index = self.geometry.index(here);
            let mut window = self.window.borrow_mut();
            let Some(chunk) = window.get(index) else {
                break;
            };
            match &chunk.content {
                Content::Loading => break,
                Content::Ready(buffer) => {
                    let from = (here - self.geometry.start(index)) as usize;
                    let len = (buffer.len() - from).min(wanted - done);
                    dst[done..done + len].copy_from_slice(&buffer[from..from + len]);
                    done += len;
                }
                // The bytes before the failed chunk are good, and come first.
                Content::Failed(_) if done > 0 => break,
                Content::Failed(_) => match window.take_error(index) {
                    Some(error) => return Err(error),
                    None => break,
                },
            }
        }
        Ok((done > 0 || wanted == 0).then_some(done))
    }

    /// Puts the window's first chunk where `at` is, and begins to read those of its chunks that it does not have, as far as slots and
    /// buffers allow. True if the chunk of `at` is ready or has failed, or lies past the end.
    fn aim(self: &Rc<Self>, node: &BlockNode, at: u64) -> bool {
        let Some(last_byte) = self.length.get().checked_sub(1) else {
            return true;
        };
        if at > last_byte {
            return true;
        }
        let first = self.geometry.index(at);
        let last = self
            .geometry
            .index(last_byte)
            .min(first.saturating_add(self.workers));
        self.window.borrow_mut().keep_only(first, last);
        for index in first..=last {
            if self.window.borrow().get(index).is_none() && !self.start(node, index) {
                break;
            }
        }
        let window = self.window.borrow();
        let chunk = window.get(first);
        chunk.is_some_and(|chunk| !matches!(chunk.content, Content::Loading))
    }

    /// Begins to read a chunk, if a slot and a buffer are free and the context is driven.
    fn start(self: &Rc<Self>, node: &BlockNode, index: u64) -> bool {
        // A driver call that has to wait while the context is not driven fails: leave it to a read that is awaited.
        if !self.handle.is_driven() {
            return false;
        }
        let Some(slot) = self.pool.try_reserve() else {
            return false;
        };
        let Some(buffer) = self.take_buffer() else {
            return false;
        };
        let id = self.window.borrow_mut().begin(index);
        let start = self.geometry.start(index);
        // Nothing is read after the block of the last byte.
        let end = self
            .geometry
            .block_up(self.length.get())
            .min(start + self.geometry.cell);
        let core = Rc::downgrade(self);
        let node = node.clone();
        let reading = async move {
            load(core, node, id, start, end - start, buffer).await;
            Ok(())
        };
        slot.start(reading).is_ok()
    }

    /// A buffer, `Err` of its allocation included: the chunk then fails with it.
    fn take_buffer(&self) -> Option<Result<IoBuf>> {
        let mut window = self.window.borrow_mut();
        if let Some(buffer) = window.take_spare() {
            return Some(Ok(buffer));
        }
        if window.buffers as u64 > self.workers {
            return None;
        }
        window.buffers += 1;
        drop(window);
        let bytes = self.geometry.cell;
        Some(
            IoBuf::zeroed(bytes as usize, self.geometry.memory).map_err(|_| {
                BlockError::new(Op::LoadVmstate, 0, bytes, Cause::OutOfMemory { bytes })
            }),
        )
    }

    /// Forgets what was read before a save, and asks for the length again.
    async fn refresh(&self, node: &BlockNode) -> Result<()> {
        let epoch = self.area.epoch.get();
        if self.epoch.get() == epoch {
            return Ok(());
        }
        self.window.borrow_mut().clear();
        if self.given.is_none()
            && let Some(length) = stored_length(node, &self.area).await?
        {
            check_length(&self.geometry, length)?;
            self.length.set(length);
        }
        self.epoch.set(epoch);
        Ok(())
    }

    async fn turn(&self) -> Result<Turn<'_>> {
        match self.turn.try_take() {
            Some(turn) => Ok(turn),
            None => self.driven(self.turn.take()).await,
        }
    }

    async fn until_changed(&self) -> Result<()> {
        self.driven(self.changed.wait()).await
    }

    async fn driven<F: Future>(&self, f: F) -> Result<F::Output> {
        let here = |_| BlockError::new(Op::LoadVmstate, 0, 0, Cause::NotDriven);
        self.handle.while_driven(f).await.map_err(here)
    }
}

/// The task of one chunk.
async fn load(
    core: Weak<LoadSession>,
    node: BlockNode,
    id: u64,
    start: u64,
    len: u64,
    buffer: Result<IoBuf>,
) {
    let (buffer, result) = match buffer {
        Err(error) => (None, Err(error)),
        Ok(mut buffer) => {
            buffer.restore();
            buffer.truncate(len as usize);
            let (read, result) = node
                .load_vmstate_unbuffered(VmstateOffset(start), ReadVector::from(buffer))
                .await;
            match read.into_parts().pop() {
                Some(buffer) => (Some(buffer), result),
                None => {
                    let short = Cause::Short { moved: 0 };
                    let lost = BlockError::new(Op::LoadVmstate, start, len, short);
                    (None, result.and(Err(lost)))
                }
            }
        }
    };
    if let Some(core) = core.upgrade() {
        core.window.borrow_mut().end(id, buffer, result);
        core.changed.wake_all();
    }
}

/// The length of what is stored, from the driver or else from the save that stored it.
async fn stored_length(node: &BlockNode, area: &Area) -> Result<Option<u64>> {
    Ok(node.vmstate_length().await?.or(area.finalized.get()))
}

fn check_length(geometry: &Geometry, length: u64) -> Result<()> {
    let len = usize::try_from(length).unwrap_or(usize::MAX);
    geometry.check(Op::LoadVmstate, 0, len).map(drop)
}
