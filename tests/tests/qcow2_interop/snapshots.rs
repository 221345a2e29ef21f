//! Snapshots of one image by both, with machine states in ours.

use std::fs;

use block_core::{BlockError, BlockNode, CacheMode, DiskOffset, NewSnapshot, WriteFlags};
use futures::io::Cursor;
use tests::images::{contents, same_bytes, state_and_disk};
use tests::qemu_img::{check_is_clean, dumped_bytes, qemu_img, qemu_io, snapshots, try_qemu_img};
use vmstate::{SaveOptions, save_snapshot};

use crate::case::{Case, text, with_paths};
use crate::disk::payload;

/// What a snapshot must show for ever.
struct Kept {
    name: &'static str,
    disk: Vec<u8>,
    state: Vec<u8>,
}

impl Case<'_> {
    /// We make snapshots, QEMU makes one; each reads, applies and deletes the other's. Where we refuse, QEMU refuses too.
    pub(super) fn snapshots_are_the_same_for_both(&mut self) {
        let mut kept = Vec::new();
        for (name, has_state) in [("first", true), ("second", false), ("third", true)] {
            match self.we_make(name, has_state) {
                Ok(snapshot) => kept.push(snapshot),
                Err(error) => self.qemu_refuses_too(&error),
            }
            self.we_work();
        }
        if self.qemu_makes("theirs") {
            let disk = self.disk.bytes.clone();
            let (name, state) = ("theirs", Vec::new());
            kept.push(Kept { name, disk, state });
        }
        self.qemu_judges("with snapshots");
        self.both_list(&kept);
        if kept.is_empty() {
            return;
        }
        self.qemu_reads(&kept);
        self.we_read(&kept);
        for (i, snapshot) in kept.iter().enumerate() {
            match i % 2 {
                0 => self.qemu_applies(snapshot),
                _ => self.we_apply(snapshot),
            }
            check_is_clean(
                &self.image,
                &format!("{} with {}", self.name, snapshot.name),
            );
            self.we_work();
        }
        self.both_delete(kept);
        self.qemu_judges("without snapshots again");
    }

    fn we_make(&mut self, name: &'static str, has_state: bool) -> Result<Kept, BlockError> {
        let len = match has_state {
            true => 1 + self.random.below((3 * self.spec.cluster).min(700 << 10)),
            false => 0,
        };
        let state = payload(len, self.random.word());
        let new = NewSnapshot::new(name);
        let made = self.images.run(async {
            let node = self.images.open(&self.image, CacheMode::Writeback).await;
            let made = match has_state {
                true => {
                    let from = &mut Cursor::new(&state);
                    save_snapshot(&node, new, SaveOptions::default(), from).await
                }
                false => node.snapshot_create(new).await,
            };
            node.close().await.expect("closed");
            made
        });
        assert_eq!(made?.vmstate_size, len, "{}: {name}", self.name);
        Ok(Kept {
            name,
            disk: self.disk.bytes.clone(),
            state,
        })
    }

    /// On a copy, for it leaks clusters then.
    fn qemu_refuses_too(&self, ours: &BlockError) {
        let what = format!("{}: {ours}", self.name);
        check_is_clean(&self.image, &what);
        let copy = self.path("copy");
        fs::copy(&self.image, &copy).expect("a copy");
        let theirs = try_qemu_img(&["snapshot", "-c", "refused", text(&copy)]);
        assert!(!theirs.status.success(), "{what}: qemu-img does not refuse");
        fs::remove_file(copy).expect("removed");
    }

    /// False where it refuses.
    fn qemu_makes(&self, name: &str) -> bool {
        self.qemu_may_refuse(&["snapshot", "-c", name, text(&self.image)])
    }

    /// False where it refuses; the leaks of that are mended. Only narrow refcounts and data files are a reason to refuse.
    fn qemu_may_refuse(&self, args: &[&str]) -> bool {
        let done = try_qemu_img(args);
        if !done.status.success() {
            assert!(self.may_refuse(), "{}: {args:?}: {done:?}", self.name);
            let repair = ["check", "-q", "-f", "qcow2", "-r", "all", text(&self.image)];
            qemu_img(&repair);
        }
        done.status.success()
    }

    fn may_refuse(&self) -> bool {
        let full = (self.spec.refcount_bits < 16 && self.spec.may_compress())
            || self.spec.refcount_bits < 4;
        full || self.spec.data_file.is_some()
    }

    fn both_list(&self, kept: &[Kept]) {
        let wanted: Vec<(String, u64)> = kept
            .iter()
            .map(|snapshot| (snapshot.name.to_owned(), snapshot.state.len() as u64))
            .collect();
        assert_eq!(snapshots(&self.image), wanted, "{}", self.name);
        let ours = self.with_node(async |node| node.snapshot_list().await.expect("a list"));
        let ours: Vec<(String, u64)> = ours
            .into_iter()
            .map(|info| (info.name, info.vmstate_size))
            .collect();
        assert_eq!(ours, wanted, "{}", self.name);
    }

    fn qemu_reads(&self, kept: &[Kept]) {
        let raw = self.path("snapshot.raw");
        for snapshot in kept {
            let args = ["convert", "-l", snapshot.name, "-f", "qcow2", "-O", "raw"];
            qemu_img(&with_paths(&args, &[&self.image, &raw]));
            let read = fs::read(&raw).expect("converted");
            let what = format!("{}: {} by qemu-img", self.name, snapshot.name);
            same_bytes(&read, &snapshot.disk, &what);
        }
    }

    fn we_read(&self, kept: &[Kept]) {
        for snapshot in kept {
            let what = format!("{}: {}", self.name, snapshot.name);
            if snapshot.state.is_empty() {
                let disk = self.with_node(async |node| {
                    let view = node.snapshot_load_tmp(snapshot.name).await.expect("a view");
                    let disk = contents(&view).await;
                    view.close().await.expect("closed");
                    disk
                });
                same_bytes(&disk, &snapshot.disk, &what);
                continue;
            }
            let (state, disk) =
                self.with_node(async |node| state_and_disk(node, snapshot.name).await);
            same_bytes(&state, &snapshot.state, &what);
            same_bytes(&disk, &snapshot.disk, &what);
        }
    }

    /// Its `qemu-io` reads the state of the active disk only, whole sectors of it.
    fn qemu_applies(&mut self, snapshot: &Kept) {
        let what = format!("{}: {} applied by qemu-img", self.name, snapshot.name);
        if !self.qemu_may_refuse(&["snapshot", "-a", snapshot.name, text(&self.image)]) {
            return;
        }
        self.disk.bytes.clone_from(&snapshot.disk);
        let read = self.with_node(async |node| contents(node).await);
        same_bytes(&read, &snapshot.disk, &what);
        let len = snapshot.state.len() / 512 * 512;
        if len > 0 {
            let dumped = qemu_io(&self.image, &[format!("read -b -v 0 {len}")]);
            same_bytes(&dumped_bytes(&dumped), &snapshot.state[..len], &what);
        }
    }

    /// The first write to it is not seen by the snapshot.
    fn we_apply(&mut self, snapshot: &Kept) {
        let at = snapshot.disk.len() / 2;
        let byte = snapshot.disk[at] ^ 0xff;
        let what = format!("{}: {} applied by us", self.name, snapshot.name);
        let applied = self.with_node(async |node| {
            node.snapshot_goto(snapshot.name).await?;
            same_bytes(&contents(node).await, &snapshot.disk, &what);
            let at = DiskOffset(at as u64);
            node.pwrite(at, &[byte], WriteFlags::default()).await
        });
        match applied {
            Ok(()) => {
                self.disk.bytes.clone_from(&snapshot.disk);
                self.disk.bytes[at] = byte;
            }
            Err(error) => assert!(self.may_refuse(), "{what}: {error}"),
        }
    }

    /// By turns, and the rest is still there.
    fn both_delete(&mut self, mut kept: Vec<Kept>) {
        let mut ours = true;
        while !kept.is_empty() {
            let which = self.random.below(kept.len() as u64) as usize;
            let snapshot = kept.remove(which);
            match ours {
                true => self.with_node(async |node| {
                    let deleted = node.snapshot_delete(snapshot.name).await;
                    deleted.unwrap_or_else(|error| panic!("{}: {error}", self.name));
                }),
                false => drop(qemu_img(&[
                    "snapshot",
                    "-d",
                    snapshot.name,
                    text(&self.image),
                ])),
            }
            check_is_clean(&self.image, &format!("{} after a delete", self.name));
            self.we_read(&kept);
            ours = !ours;
        }
    }

    fn with_node<T>(&self, work: impl AsyncFnOnce(&BlockNode) -> T) -> T {
        self.images.run(async {
            let node = self.images.open(&self.image, CacheMode::Writeback).await;
            let done = work(&node).await;
            node.close().await.expect("closed");
            done
        })
    }
}
