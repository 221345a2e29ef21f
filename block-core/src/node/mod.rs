//! A node of the graph: a driver with the caller's side in front of it. QEMU's `BlockDriverState` and `block/io.c`.

mod align; // unaligned changes: their turn, and read-modify-write
mod attach; // users and their permissions
mod child;
mod close; // the end, with an error for what is lost
mod contract; // what is checked of the driver
mod discard;
mod drain; // quiet: in-flight count, drained sections
mod extension; // what higher layers keep here
mod flush;
mod length; // asked, and kept while nothing changes it
mod read;
mod request; // the request task, the gate, the in-flight count
mod shape; // the driver's limits in the form that requests need
mod snapshot; // passed down to the driver that has them
mod split; // whole blocks to the driver: direct, in pieces, or bounced
mod status;
mod tracked; // who waits for whom
mod truncate;
mod vmstate; // passed down to the driver that has the area
mod waiters;
mod write;
mod zero;

pub use attach::BlockChild;
pub use drain::Drained;
pub use extension::NodeExtension;

use crate::{
    BlockDriver, BlockError, BlockLimits, CacheMode, Cause, Children, DynBlockDriver, Op, Result,
};
use aio_task::AioHandle;
use std::fmt;
use std::rc::{Rc, Weak};

/// Makes a node around a driver.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    name: String,
    read_only: bool,
    cache: CacheMode,
}

impl NodeBuilder {
    /// A node called `name` in lists.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            read_only: false,
            cache: CacheMode::default(),
        }
    }

    /// Writes are refused with [`crate::Cause::ReadOnly`]. Default: false.
    pub fn read_only(self, yes: bool) -> Self {
        Self {
            read_only: yes,
            ..self
        }
    }

    /// Default: writeback. Decides about flushes; whether a file is opened O_DIRECT is the driver's option.
    pub fn cache(self, mode: CacheMode) -> Self {
        Self {
            cache: mode,
            ..self
        }
    }

    /// Asks the driver for limits and length, and makes the node. It belongs to `handle`'s context.
    ///
    /// Limits that no request could fit are an error (see [`BlockLimits`]). Dropped: the driver is dropped, unclosed.
    pub async fn open(self, handle: &AioHandle, driver: impl BlockDriver) -> Result<BlockNode> {
        self.open_boxed(handle, Box::new(driver)).await
    }

    /// [`NodeBuilder::open`] of a driver behind a pointer.
    pub async fn open_boxed(
        self,
        handle: &AioHandle,
        driver: Box<dyn DynBlockDriver>,
    ) -> Result<BlockNode> {
        let limits = driver.limits();
        let error = |cause| BlockError::new(Op::Open, 0, 0, cause);
        let node = BlockNode {
            inner: Rc::new(Inner {
                name: self.name,
                handle: handle.clone(),
                shape: shape::Shape::new(&limits).map_err(error)?,
                driver,
                limits,
                cache: self.cache,
                read_only: self.read_only,
                gate: Default::default(),
                tracked: Default::default(),
                length: Default::default(),
                users: Default::default(),
                extensions: Default::default(),
                closing: Default::default(),
            }),
        };
        match node.length().await {
            Ok(_) => Ok(node),
            Err(e) => Err(error(e.cause)),
        }
    }
}

/// A node. Cloning makes another reference to the same node.
///
/// A request is checked (the node is open and, for changes, writable; offset + length <= `i64::MAX`), then becomes a task of the node's
/// context:
///
/// 1. It passes the gate, or waits there while the node is drained ([`BlockNode::drain_begin`]).
/// 2. It is in flight, and waits for earlier requests on the same bytes if it or they are serialising (unaligned changes, truncates).
/// 3. Its end is checked against the node's length. A request of no bytes ends here, successfully.
/// 4. It is padded to whole blocks, split and bounced as the driver's limits demand, and goes to the driver. The usual request needs
///    none of this: one driver call, no copy.
///
/// Dropping the returned future at any await lets the request run on; [`BlockNode::settle`] waits for what may still land. Errors carry
/// the numbers of the request that was made, whatever part of it failed, and the cause that the driver gave. A request that has to wait
/// while the context is not driven fails with [`crate::Cause::NotDriven`]; it runs on when the context is driven.
///
/// A node that is dropped, with all its references, without [`BlockNode::close`] drops its driver when its last request is over.
#[derive(Clone)]
pub struct BlockNode {
    inner: Rc<Inner>,
}

/// What a node is made of. No borrow of any part is held across an await, or while a waker or a driver runs.
struct Inner {
    name: String,
    handle: AioHandle,
    driver: Box<dyn DynBlockDriver>,
    limits: BlockLimits,
    /// `limits`, checked.
    shape: shape::Shape,
    cache: CacheMode,
    read_only: bool,
    gate: request::Gate,
    tracked: tracked::Tracked,
    length: length::Length,
    users: attach::Users,
    extensions: extension::Extensions,
    closing: close::Closing,
}

impl Inner {
    /// An error of a call of this node.
    fn error(&self, op: Op, at: u64, len: u64, cause: Cause) -> BlockError {
        BlockError::new(op, at, len, cause).of_node(&self.name)
    }
}

impl BlockNode {
    /// An error of a call of this node.
    fn error(&self, op: Op, at: u64, len: u64, cause: Cause) -> BlockError {
        self.inner.error(op, at, len, cause)
    }

    /// The name given to the builder.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The driver's name.
    pub fn format_name(&self) -> &'static str {
        self.inner.driver.format_name()
    }

    /// The context this node belongs to.
    pub fn handle(&self) -> &AioHandle {
        &self.inner.handle
    }

    /// The driver's limits, as they were when the node was opened.
    pub fn limits(&self) -> &BlockLimits {
        &self.inner.limits
    }

    /// The cache mode.
    pub fn cache(&self) -> CacheMode {
        self.inner.cache
    }

    /// True if writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// True if a write past the end makes the node longer ([`BlockDriver::grows`]): a regular file, but no block device.
    pub fn grows(&self) -> bool {
        self.inner.driver.grows()
    }

    /// The children of the driver.
    pub fn children(&self) -> Children<'_> {
        self.inner.driver.children()
    }

    /// True if `other` is a reference to the same node.
    pub fn is_same(&self, other: &BlockNode) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }

    /// A reference that does not keep the node alive, for what the node itself owns.
    pub fn downgrade(&self) -> WeakBlockNode {
        WeakBlockNode {
            inner: Rc::downgrade(&self.inner),
        }
    }
}

impl fmt::Debug for BlockNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockNode")
            .field("name", &self.name())
            .field("format", &self.format_name())
            .field("in_flight", &self.in_flight())
            .field("drained_sections", &self.inner.gate.sections.get())
            .field("waiting_at_the_gate", &self.inner.gate.waiting())
            .field("requests", &self.inner.tracked)
            .finish_non_exhaustive()
    }
}

/// A reference to a node that does not keep it alive.
#[derive(Clone)]
pub struct WeakBlockNode {
    inner: Weak<Inner>,
}

impl WeakBlockNode {
    /// The node, if it is still there.
    pub fn upgrade(&self) -> Option<BlockNode> {
        let inner = self.inner.upgrade()?;
        Some(BlockNode { inner })
    }
}

impl fmt::Debug for WeakBlockNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakBlockNode").finish_non_exhaustive()
    }
}
