//! Writing what is left, and the end of a save.

use crate::save::cell_write::{Submitted, Why};
use crate::save::session::SaveSession;
use aio_task::WaitAllError;
use block_core::{BlockNode, Cause, Result};
use std::rc::Rc;

impl SaveSession {
    /// Everything accepted is handed to the driver, and the driver has it.
    pub(crate) async fn flush(self: &Rc<Self>, node: &BlockNode) -> Result<()> {
        let _turn = self.turn().await?;
        self.submit_all(node).await?;
        while self.area.has_flights() {
            self.until_changed().await?;
            self.check()?;
        }
        self.check()
    }

    /// See [`VmstateSave::finalize`](crate::VmstateSave::finalize). May be dropped at any await and called again.
    pub(crate) async fn finalize(self: &Rc<Self>, node: &BlockNode) -> Result<u64> {
        let _turn = self.turn().await?;
        let ended = self.state.borrow().ended.clone();
        if let Some(result) = ended {
            return result;
        }
        // Its error, if it is one of the save, is the sticky one that is looked at below.
        let submitted = self.submit_all(node).await;
        if let Err(error) = submitted
            && self.failure().is_none()
        {
            return Err(error);
        }
        self.land().await?;
        let result = loop {
            if let Some(error) = self.failure() {
                break Err(error);
            }
            if self.state.borrow().told == Some(self.progress.accepted()) {
                break Ok(self.length.get());
            }
            self.tell_length(node)?;
            self.land().await?;
        };
        if result.is_ok() {
            self.area.finalized.set(Some(self.length.get()));
            self.finalized_at.set(self.area.replaced.get());
        }
        let gone = {
            let mut state = self.state.borrow_mut();
            state.ended = Some(result.clone());
            state.release()
        };
        drop(gone);
        self.leave();
        result
    }

    /// Submits every cell and every kept block that is not stored.
    async fn submit_all(self: &Rc<Self>, node: &BlockNode) -> Result<()> {
        self.check()?;
        if self.state.borrow().cells.len() > 0 {
            // A partly written block is padded only where nothing was stored.
            self.stored_end(node).await?;
        }
        loop {
            self.check()?;
            if self.submit_all_now(node)? {
                return Ok(());
            }
            self.until_changed().await?;
        }
    }

    /// As far as that is possible now; true if nothing is left.
    fn submit_all_now(self: &Rc<Self>, node: &BlockNode) -> Result<bool> {
        let mut all = true;
        let cells: Vec<u64> = self.state.borrow().cells.oldest_first().collect();
        for index in cells {
            all &= self.submit_cell(node, index, Why::Flush)? == Submitted::Yes;
        }
        let kept = self.state.borrow().kept.dirty_cells(&self.geometry);
        for index in kept {
            all &= self.submit_kept(node, index)? == Submitted::Yes;
        }
        Ok(all)
    }

    /// Waits for everything in flight, this save's and what a cancelled one before it has left: it may still land past our end.
    async fn land(&self) -> Result<()> {
        match self.pool.wait_all().await {
            // A task's error is the save's failure already.
            Ok(()) | Err(WaitAllError::Status(_)) => {}
            Err(WaitAllError::NotDriven) => return Err(self.error_here(Cause::NotDriven)),
            Err(WaitAllError::WaitsForItself) => {
                let text = "a task of the save waits for the save to end";
                return Err(self.error_here(Cause::Driver(text.into())));
            }
        }
        while self.area.has_flights() {
            self.driven(self.area.changed.wait()).await?;
        }
        Ok(())
    }

    /// Tells the driver the length. A task of the save like any write, in flight everywhere: were it left by a finalize that was
    /// dropped, it could otherwise cut off what the next save writes.
    fn tell_length(self: &Rc<Self>, node: &BlockNode) -> Result<()> {
        let slot = self.slot();
        let slot = slot.ok_or_else(|| self.error_here(Cause::NotDriven))?;
        let flight = self.area.take_off(0..u64::MAX);
        let (core, node) = (self.clone(), node.clone());
        let accepted = self.progress.accepted();
        let telling = async move {
            let _flight = flight;
            match node.finish_vmstate(core.length.get()).await {
                Ok(()) => {
                    core.state.borrow_mut().told = Some(accepted);
                    Ok(())
                }
                Err(error) => Err(core.fail(error)),
            }
        };
        let started = slot.start(telling);
        started.map_err(|_| self.fail(self.error_here(Cause::NotDriven)))?;
        Ok(())
    }
}
