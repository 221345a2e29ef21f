//! Who uses a node and what for: permissions, QEMU's `bdrv_attach_child` and `BdrvChild`.

use super::{BlockNode, Inner};
use crate::{Cause, DiskOffset, IoVector, Op, Permissions, Perms, Result};
use crate::{NewSnapshot, SnapshotInfo, Truncate, VmstateOffset, WriteFlags, ZeroFlags};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::fmt;

/// The users of one node.
#[derive(Default)]
pub(super) struct Users(RefCell<Slab<User>>);

struct User {
    who: String,
    permissions: Permissions,
}

impl BlockNode {
    /// Takes permissions on the node for a parent or user called `who`; they are given back when the [`BlockChild`] is dropped.
    ///
    /// Errors: [`Cause::Conflict`] where another user holds what this one does not share, or does not share what this one takes;
    /// [`Cause::ReadOnly`] where writing is taken on a read-only node; [`Cause::Closed`].
    pub fn attach(&self, who: impl Into<String>, permissions: Permissions) -> Result<BlockChild> {
        let who = who.into(); // the caller's code: before anything is borrowed
        let error = |cause| self.error(Op::Lock, 0, 0, cause);
        self.inner.check_range(0, 0).map_err(error)?;
        let writes = Perms::WRITE | Perms::WRITE_UNCHANGED | Perms::RESIZE;
        if self.inner.read_only && !(permissions.perm & writes).is_empty() {
            return Err(error(Cause::ReadOnly));
        }
        let mut users = self.inner.users.0.borrow_mut();
        let conflict = users
            .iter()
            .find_map(|(_, user)| user.permissions.conflict(&permissions));
        if let Some(permission) = conflict {
            return Err(error(Cause::Conflict { permission }));
        }
        let key = users.insert(User { who, permissions });
        drop(users);
        Ok(BlockChild {
            node: self.clone(),
            permissions,
            key: Cell::new(Some(key)),
        })
    }

    /// The users that are attached, by name, with what they have taken.
    pub fn users(&self) -> Vec<(String, Permissions)> {
        let users = self.inner.users.0.borrow();
        users
            .iter()
            .map(|(_, user)| (user.who.clone(), user.permissions))
            .collect()
    }
}

/// A user's hold on a node, QEMU's `BdrvChild`. Requests that change something are refused with [`Cause::NoPermission`] unless the permission for them was taken. Dropping it gives the permissions back.
pub struct BlockChild {
    node: BlockNode,
    permissions: Permissions,
    /// Our entry among the users. `None` once released: the number may be another user's then.
    key: Cell<Option<usize>>,
}

impl BlockChild {
    /// The node itself. A call of it is not checked against the permissions of this user, and its close is one for all users.
    pub fn node(&self) -> &BlockNode {
        &self.node
    }

    /// What was taken.
    pub fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// [`BlockNode::pwritev`] with the permission "write", and "resize" if the node grows by it.
    pub async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        let len = src.len();
        self.may(Perms::WRITE, Op::Write, at.0, len)?;
        self.node
            .write_as(self.permissions.perm, at, src, flags)
            .await
    }

    /// [`BlockNode::pwrite`] with the permission "write", and "resize" if the node grows by it.
    pub async fn pwrite(&self, at: DiskOffset, src: &[u8], flags: WriteFlags) -> Result<()> {
        self.may(Perms::WRITE, Op::Write, at.0, src.len() as u64)?;
        self.node
            .write_copy_as(self.permissions.perm, at, src, flags)
            .await
    }

    /// [`BlockNode::pwrite_zeroes`] with the permission "write", and "resize" if the node grows by it.
    pub async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        self.may(Perms::WRITE, Op::WriteZeroes, at.0, len)?;
        self.node
            .zero_as(self.permissions.perm, at, len, flags)
            .await
    }

    /// [`BlockNode::pdiscard`] with the permission "write".
    pub async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        self.may(Perms::WRITE, Op::Discard, at.0, len)?;
        self.node.pdiscard(at, len).await
    }

    /// [`BlockNode::truncate`] with the permission "resize".
    pub async fn truncate(&self, to: Truncate) -> Result<()> {
        self.may(Perms::RESIZE, Op::Truncate, to.len, 0)?;
        self.node.truncate_as(self.permissions.perm, to).await
    }

    /// [`BlockNode::save_vmstate_unbuffered`] with the permission "write".
    pub async fn save_vmstate_unbuffered(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        self.may(Perms::WRITE, Op::SaveVmstate, at.0, src.len())?;
        self.node.save_vmstate_unbuffered(at, src).await
    }

    /// [`BlockNode::finish_vmstate`] with the permission "write".
    pub async fn finish_vmstate(&self, len: u64) -> Result<()> {
        self.may(Perms::WRITE, Op::FinalizeVmstate, 0, len)?;
        self.node.finish_vmstate(len).await
    }

    /// [`BlockNode::discard_vmstate`] with the permission "write".
    pub async fn discard_vmstate(&self) -> Result<()> {
        self.may(Perms::WRITE, Op::DiscardVmstate, 0, 0)?;
        self.node.discard_vmstate().await
    }

    /// [`BlockNode::snapshot_create`] with the permission "write".
    pub async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        self.may(Perms::WRITE, Op::SnapshotCreate, 0, 0)?;
        self.node.snapshot_create(new).await
    }

    /// [`BlockNode::snapshot_goto`] with the permissions "write" and "resize".
    pub async fn snapshot_goto(&self, id_or_name: impl Into<String>) -> Result<()> {
        let id_or_name = id_or_name.into();
        self.may(Perms::WRITE | Perms::RESIZE, Op::SnapshotGoto, 0, 0)?;
        self.node.snapshot_goto(id_or_name).await
    }

    /// [`BlockNode::snapshot_delete`] with the permission "write".
    pub async fn snapshot_delete(&self, id_or_name: impl Into<String>) -> Result<()> {
        let id_or_name = id_or_name.into();
        self.may(Perms::WRITE, Op::SnapshotDelete, 0, 0)?;
        self.node.snapshot_delete(id_or_name).await
    }

    /// Gives the permissions back, and closes the node if nothing else is attached to it: what a driver does with its children in its own
    /// close (QEMU's `bdrv_unref_child`). An error is the node's close's.
    ///
    /// A caller that only holds a [`BlockNode`] is not attached, and finds it closed. Afterwards this user's changes are refused with
    /// [`Cause::Closed`]. A second call does nothing. Dropped: the close goes on.
    pub async fn release(&self) -> Result<()> {
        let Some(key) = self.key.take() else {
            return Ok(());
        };
        self.node.inner.detach(key);
        if self.node.inner.users.0.borrow().is_empty() {
            return self.node.close().await;
        }
        Ok(())
    }

    fn may(&self, wanted: Perms, op: Op, at: u64, len: u64) -> Result<()> {
        let allowed = match self.key.get() {
            Some(_) => allowed(self.permissions.perm, wanted),
            None => Err(Cause::Closed),
        };
        allowed.map_err(|cause| self.node.error(op, at, len, cause))
    }
}

/// Refuses what `user` has not taken, by name.
fn allowed(user: Perms, wanted: Perms) -> Result<(), Cause> {
    let missing = wanted & !user;
    match Perms::EACH
        .iter()
        .find(|(_, one, _)| missing.contains(*one))
    {
        Some((.., permission)) => Err(Cause::NoPermission { permission }),
        None => Ok(()),
    }
}

impl Drop for BlockChild {
    fn drop(&mut self) {
        if let Some(key) = self.key.get() {
            self.node.inner.detach(key);
        }
    }
}

impl Inner {
    fn detach(&self, key: usize) {
        self.users.0.borrow_mut().try_remove(key);
    }
}

impl fmt::Debug for BlockChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockChild")
            .field("node", &self.node)
            .field("permissions", &self.permissions)
            .finish()
    }
}
