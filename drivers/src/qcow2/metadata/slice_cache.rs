//! A bounded cache of slices of tables: L2 tables in one, refcount blocks in another. QEMU's `Qcow2Cache`.
//!
//! ```text
//!            change             capture                written and flushed
//!   clean  --------->  dirty  ---------->  writing  ------------------------>  clean
//!                        ^                    |  change, or the write failed
//!                        +--------------------+
//! ```
//!
//! Of a slice only the blocks with changes are written. What was a hole of the file stays one, so that a change that is undone on a full disk
//! needs no space.
//!
//! Only clean slices that nothing holds are let go. What orders the writes is the commit (`commit.rs`); this file only keeps count.

use super::image_file::ImageFile;
use crate::qcow2::format::error::Result;
use aio_task::CoQueue;
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Slices are written in multiples of this, the usual block of a file system, or whole where they are smaller.
const BLOCK: usize = 4096;

/// Slices of tables of one kind, by their place in the file.
pub(crate) struct SliceCache {
    /// Bytes of a slice: a power of two, at most the cluster size.
    slice_size: u64,
    /// Slices that are kept; more only while more are dirty or held.
    capacity: usize,
    /// By place, which is the order in which a commit writes them.
    slices: RefCell<BTreeMap<u64, Rc<Slice>>>,
    /// Loads under way: place -> token. An entry that is gone when the load ends means that the slice has changed meanwhile.
    loading: RefCell<BTreeMap<u64, u64>>,
    /// Woken, all, when a load ends.
    loaded: CoQueue,
    /// Slices with [`State::Dirty`].
    dirty: Rc<Cell<usize>>,
    /// Only grows; stamps uses and tokens.
    clock: Cell<u64>,
}

/// A piece of a table, as on disk (big-endian).
pub(crate) struct Slice {
    /// Its first byte in the file.
    at: u64,
    bytes: RefCell<Vec<u8>>,
    /// The bytes that were changed since they were captured last; from the first one to the last one.
    changed: RefCell<Range<usize>>,
    state: Cell<State>,
    /// When it was asked for last.
    used: Cell<u64>,
    dirty_count: Rc<Cell<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Clean,
    /// Changed since it was last captured.
    Dirty,
    /// Captured and unchanged since, not yet known to be stable on disk.
    Writing,
}

/// The changed blocks of one dirty slice at the moment of a capture.
pub(crate) struct Captured {
    /// Where they are in the file.
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    slice: Rc<Slice>,
    /// Where they are in the slice.
    part: Range<usize>,
}

impl SliceCache {
    /// Keeps about `memory` bytes, but never fewer than 8 slices.
    pub(crate) fn new(slice_size: u64, memory: u64) -> Self {
        let capacity = usize::try_from(memory / slice_size.max(1)).unwrap_or(usize::MAX);
        Self {
            slice_size,
            capacity: capacity.max(8),
            slices: RefCell::default(),
            loading: RefCell::default(),
            loaded: CoQueue::new(),
            dirty: Rc::default(),
            clock: Cell::new(0),
        }
    }

    pub(crate) fn slice_size(&self) -> u64 {
        self.slice_size
    }

    /// The slice that begins at `at`, read from the file if need be. It stays here while the caller holds it.
    ///
    /// What lies past the file's end reads as zeroes.
    pub(crate) async fn get(&self, file: &ImageFile, at: u64) -> Result<Rc<Slice>> {
        debug_assert!(at.is_multiple_of(self.slice_size));
        loop {
            if let Some(slice) = self.kept(at) {
                return Ok(slice);
            }
            if self.loading.borrow().contains_key(&at) {
                self.loaded.wait().await;
                continue;
            }
            let load = Load::begin(self, at);
            let mut bytes = vec![0; self.slice_size as usize];
            file.read_table(at, &mut bytes).await?;
            if load.is_valid() {
                drop(load);
                return Ok(self.insert(at, bytes, State::Clean));
            }
        }
    }

    /// The slice at `at` if it is here.
    fn kept(&self, at: u64) -> Option<Rc<Slice>> {
        let slice = self.slices.borrow().get(&at).cloned()?;
        slice.used.set(self.tick());
        Some(slice)
    }

    /// A new table whose `bytes` are on disk at `at` already: what was cached of that place is void.
    pub(crate) fn adopt(&self, at: u64, bytes: &[u8]) {
        self.forget(at, bytes.len() as u64);
        if bytes.len() as u64 / self.slice_size <= self.capacity as u64 / 4 {
            let pieces = bytes.chunks_exact(self.slice_size as usize);
            for (place, piece) in (at..).step_by(self.slice_size as usize).zip(pieces) {
                self.insert(place, piece.to_vec(), State::Clean);
            }
        }
    }

    /// What lies at `at..at + len` is no table of this kind any more, or another one.
    pub(crate) fn forget(&self, at: u64, len: u64) {
        let inside = |place: &u64| *place >= at && *place - at < len;
        self.loading.borrow_mut().retain(|place, _| !inside(place));
        let mut slices = self.slices.borrow_mut();
        slices.retain(|place, slice| {
            let goes = inside(place);
            if goes {
                slice.set(State::Clean);
            }
            !goes
        });
    }

    fn insert(&self, at: u64, bytes: Vec<u8>, state: State) -> Rc<Slice> {
        self.evict();
        let slice = Rc::new(Slice {
            at,
            bytes: RefCell::new(bytes),
            changed: RefCell::default(),
            state: Cell::new(State::Clean),
            used: Cell::new(self.tick()),
            dirty_count: self.dirty.clone(),
        });
        slice.set(state);
        self.slices.borrow_mut().insert(at, slice.clone());
        slice
    }

    /// Lets go of the clean slices that were not used for longest, until there is room for one more.
    fn evict(&self) {
        let mut slices = self.slices.borrow_mut();
        while slices.len() >= self.capacity {
            let free = |slice: &Rc<Slice>| {
                slice.state.get() == State::Clean && Rc::strong_count(slice) == 1
            };
            let oldest = slices
                .values()
                .filter(|slice| free(slice))
                .min_by_key(|slice| slice.used.get());
            let Some(at) = oldest.map(|slice| slice.at) else {
                return;
            };
            slices.remove(&at);
        }
    }

    /// True where so much is dirty that a commit should come before the next change.
    pub(crate) fn is_crowded(&self) -> bool {
        self.dirty.get() >= self.capacity / 2
    }

    /// True where a change has not been captured yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.get() > 0
    }

    /// Copies of what is changed in all dirty slices, in the order of their places; they count as being written from now on.
    pub(crate) fn capture(&self) -> Vec<Captured> {
        let slices = self.slices.borrow();
        let dirty = slices.values().filter(|s| s.state.get() == State::Dirty);
        dirty
            .map(|slice| {
                slice.set(State::Writing);
                let bytes = slice.bytes.borrow();
                let changed = slice.changed.take();
                let end = changed.end.next_multiple_of(BLOCK).min(bytes.len());
                let part = changed.start - changed.start % BLOCK..end;
                Captured {
                    at: slice.at + part.start as u64,
                    bytes: bytes[part.clone()].to_vec(), // inside: see `change`
                    slice: slice.clone(),
                    part,
                }
            })
            .collect()
    }

    /// What was captured is stable on disk (`ok`), or must be written again.
    pub(crate) fn settle(&self, captured: Vec<Captured>, ok: bool) {
        for Captured { slice, part, .. } in captured {
            // A change since the capture has made it dirty again; one that was forgotten stays forgotten.
            match (slice.state.get(), ok) {
                (State::Clean, _) | (State::Dirty, true) => {}
                (State::Writing, true) => slice.set(State::Clean),
                (State::Writing | State::Dirty, false) => {
                    slice.set(State::Dirty);
                    slice.extend(part);
                }
            }
        }
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

impl Slice {
    /// The bytes; not to be kept across an await.
    pub(crate) fn bytes(&self) -> Ref<'_, Vec<u8>> {
        self.bytes.borrow()
    }

    /// Changes the bytes of `part`, which is all that `change` gets. The slice is dirty from now on. `None`, and nothing has changed, where
    /// the slice ends before it or `change` returns `None`.
    pub(crate) fn change(
        &self,
        part: Range<usize>,
        change: impl FnOnce(&mut [u8]) -> Option<()>,
    ) -> Option<()> {
        change(self.bytes.borrow_mut().get_mut(part.clone())?)?;
        self.set(State::Dirty);
        self.extend(part);
        Some(())
    }

    /// These bytes are changed too.
    fn extend(&self, part: Range<usize>) {
        let mut changed = self.changed.borrow_mut();
        *changed = match changed.is_empty() {
            true => part,
            false => changed.start.min(part.start)..changed.end.max(part.end),
        };
    }

    fn set(&self, state: State) {
        let was = self.state.replace(state);
        let count = self.dirty_count.get();
        match (was == State::Dirty, state == State::Dirty) {
            (false, true) => self.dirty_count.set(count + 1),
            (true, false) => self.dirty_count.set(count - 1),
            _ => {}
        }
    }
}

/// A load under way. Its end, whatever it is, wakes those who wait for it.
struct Load<'a> {
    cache: &'a SliceCache,
    at: u64,
    token: u64,
}

impl<'a> Load<'a> {
    fn begin(cache: &'a SliceCache, at: u64) -> Self {
        let token = cache.tick();
        cache.loading.borrow_mut().insert(at, token);
        Self { cache, at, token }
    }

    /// False where the place was forgotten meanwhile: what was read may be old.
    fn is_valid(&self) -> bool {
        self.cache.loading.borrow().get(&self.at) == Some(&self.token)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if self.is_valid() {
            self.cache.loading.borrow_mut().remove(&self.at);
        }
        self.cache.loaded.wake_all();
    }
}
