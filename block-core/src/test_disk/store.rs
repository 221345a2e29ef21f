//! The bytes of a disk, sparse: pages that were never written are not there and read as zeroes.

use std::collections::BTreeMap;

const PAGE: usize = 4096;

/// A length, and the pages below it that were written.
#[derive(Clone, Default)]
pub(super) struct Store {
    len: u64,
    /// By offset / PAGE. Bytes of the last page after `len` are zero.
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Store {
    pub(super) fn new(len: u64) -> Self {
        Self {
            len,
            pages: BTreeMap::new(),
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut store = Self::new(bytes.len() as u64);
        store.write(0, bytes);
        store
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes after a shorter length are gone: they read as zeroes if it grows again.
    pub(super) fn set_len(&mut self, len: u64) {
        let whole_pages = len.div_ceil(PAGE as u64);
        self.pages.split_off(&whole_pages);
        let tail = (len % PAGE as u64) as usize;
        if tail > 0
            && let Some(page) = self.pages.get_mut(&(whole_pages - 1))
        {
            page[tail..].fill(0);
        }
        self.len = len;
    }

    pub(super) fn grow_to(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Fills `dst`; zeroes past the end.
    pub(super) fn read(&self, at: u64, dst: &mut [u8]) {
        for (page, inside, run) in runs(at, dst.len() as u64) {
            let dst = &mut dst[run.0..run.0 + run.1];
            match self.pages.get(&page) {
                Some(bytes) => dst.copy_from_slice(&bytes[inside..inside + run.1]),
                None => dst.fill(0),
            }
        }
    }

    /// Bytes past the end are left out.
    pub(super) fn write(&mut self, at: u64, src: &[u8]) {
        let fits = self.len.saturating_sub(at).min(src.len() as u64);
        for (page, inside, run) in runs(at, fits) {
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE]));
            page[inside..inside + run.1].copy_from_slice(&src[run.0..run.0 + run.1]);
        }
    }

    /// Pages wholly inside are given up, so that a range of any length costs little.
    pub(super) fn zero(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let page_of = |at: u64| at / PAGE as u64;
        let touched: Vec<u64> = self
            .pages
            .range(page_of(at)..end.div_ceil(PAGE as u64))
            .map(|(n, _)| *n)
            .collect();
        for n in touched {
            let first = n * PAGE as u64;
            let from = at.saturating_sub(first).min(PAGE as u64) as usize;
            let to = (end - first).min(PAGE as u64) as usize;
            if (from, to) == (0, PAGE) {
                self.pages.remove(&n);
            } else if let Some(page) = self.pages.get_mut(&n) {
                page[from..to].fill(0);
            }
        }
    }

    /// Whether the byte at `at` was ever written (as far as pages tell), and for how many bytes, at most `len`, that stays so.
    pub(super) fn status(&self, at: u64, len: u64) -> (bool, u64) {
        let first = at / PAGE as u64;
        let data = self.pages.contains_key(&first);
        let change = if data {
            let run = self.pages.range(first..).zip(first..);
            let run = run.take_while(|((have, _), want)| **have == *want).count();
            Some(first + run as u64)
        } else {
            self.pages.range(first..).next().map(|(n, _)| *n)
        };
        let run = change.map_or(len, |n| n.saturating_mul(PAGE as u64).saturating_sub(at));
        (data, run.min(len))
    }

    /// Everything, in one piece.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        assert!(
            self.len <= 1 << 32,
            "a disk of {} bytes is too long to be copied out whole",
            self.len
        );
        let mut all = vec![0; self.len as usize];
        self.read(0, &mut all);
        all
    }
}

/// The page number, the offset in the page, and (offset, length) in memory of each part of `len` bytes at `at`.
fn runs(at: u64, len: u64) -> impl Iterator<Item = (u64, usize, (usize, usize))> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at.checked_add(done)?;
        let inside = (here % PAGE as u64) as usize;
        let run = (len - done).min((PAGE - inside) as u64);
        let part = (here / PAGE as u64, inside, (done as usize, run as usize));
        done += run;
        (run > 0).then_some(part)
    })
}
