//! State that a higher layer keeps with a node, one value per type.

use super::BlockNode;
use crate::Result;
use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::rc::Rc;

/// Something a higher layer keeps with a node (the buffered save).
pub trait NodeExtension: Any {
    /// Called once when the node closes, when new requests are refused already and before what is in flight is waited for: what would
    /// be lost is an error of the close.
    fn on_close(&self) -> Result<()>;

    /// Called when the state in the vmstate area is another than before, or none, without a write to the area: a snapshot took it or
    /// brought it, or it was discarded, or a discard has failed. What was known of the area is void.
    fn on_vmstate_replaced(&self) {}
}

/// The extensions of one node, in the order they were set.
#[derive(Default)]
pub(super) struct Extensions(RefCell<Vec<Kept>>);

type Kept = (TypeId, Rc<dyn NodeExtension>);

impl Extensions {
    /// Takes all of them, so that no task finds them any more.
    pub(super) fn take(&self) -> Vec<Rc<dyn NodeExtension>> {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        all.into_iter().map(|(_, ext)| ext).collect()
    }

    /// Tells all of them.
    pub(super) fn vmstate_replaced(&self) {
        let all: Vec<_> = {
            let kept = self.0.borrow();
            kept.iter().map(|(_, ext)| ext.clone()).collect()
        };
        all.iter().for_each(|ext| ext.on_vmstate_replaced());
    }
}

impl BlockNode {
    /// State of a higher layer that lives with the node, one per type.
    pub fn extension<T: NodeExtension>(&self) -> Option<Rc<T>> {
        let kept = self.inner.extensions.0.borrow();
        let (_, ext) = kept.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        downcast(ext.clone())
    }

    /// Sets it; the one that was there before comes back. It lives until it is taken away or the node closes or goes: one that holds a
    /// [`BlockNode`] of the same node keeps it alive until then, one that holds a [`super::WeakBlockNode`] does not.
    pub fn set_extension<T: NodeExtension>(&self, ext: Rc<T>) -> Option<Rc<T>> {
        let old = self.remove_extension();
        let mut kept = self.inner.extensions.0.borrow_mut();
        kept.push((TypeId::of::<T>(), ext));
        old
    }

    /// Takes it away.
    pub fn remove_extension<T: NodeExtension>(&self) -> Option<Rc<T>> {
        let mut kept = self.inner.extensions.0.borrow_mut();
        let at = kept.iter().position(|(id, _)| *id == TypeId::of::<T>())?;
        let (_, ext) = kept.remove(at);
        downcast(ext)
    }
}

fn downcast<T: NodeExtension>(ext: Rc<dyn NodeExtension>) -> Option<Rc<T>> {
    let any: Rc<dyn Any> = ext;
    any.downcast().ok()
}
