//! Drivers that break their contract: the node answers with an error, and neither panics, nor hangs, nor passes stale memory on.

mod common;

use block_core::{
    BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, IoBuf, IoVector,
    NodeBuilder, Op, ReadVector, Result, Truncate, VmstateLimits, VmstateOffset, WriteFlags,
};
use common::*;

/// A driver whose reads succeed and hand back what `answer` makes of the memory they were lent.
struct OtherMemory {
    answer: Answer,
    alignment: u32,
}

impl BlockDriver for OtherMemory {
    fn format_name(&self) -> &'static str {
        "other-memory"
    }
    fn limits(&self) -> BlockLimits {
        BlockLimits {
            request_alignment: self.alignment,
            memory_alignment: self.alignment,
            transfer_alignment: self.alignment,
            max_transfer: nonzero(4096),
            ..Default::default()
        }
    }
    async fn length(&self) -> Result<u64> {
        Ok(1 << 20)
    }
    async fn preadv(&self, _: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        ((self.answer)(dst), Ok(()))
    }
    async fn pwritev(&self, _: DiskOffset, _: IoVector, _: WriteFlags) -> Result<()> {
        Ok(())
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn vmstate(&self) -> Option<VmstateLimits> {
        vmstate_area()
    }
    async fn load_vmstate(&self, _: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        ((self.answer)(dst), Ok(()))
    }
}

type Answer = fn(ReadVector) -> ReadVector;

/// What a driver may do to the memory, each wrong in its way.
const ANSWERS: [(&str, Answer); 4] = [
    ("nothing", |_| ReadVector::new()),
    ("an empty piece", |_| ReadVector::from(IoBuf::empty())),
    ("less", |mut dst| {
        let len = dst.len();
        dst.split_to(len / 2)
    }),
    ("more", |mut dst| {
        dst.push(IoBuf::zeroed(512, 512).expect("memory"));
        dst
    }),
];

fn handed_back_other_memory(cause: &Cause) -> bool {
    matches!(cause, Cause::Driver(text) if text.to_string().contains("other memory"))
}

#[test]
fn a_read_whose_driver_hands_back_other_memory_is_an_error_and_no_panic_or_endless_loop() {
    for (what, answer) in ANSWERS {
        for alignment in [1, 512] {
            let rig = Rig::new(plain(0)); // for its context
            let driver = OtherMemory { answer, alignment };
            let open = NodeBuilder::new("odd").open(rig.node.handle(), driver);
            let node = rig.run(open).expect("a node");
            // One call, several calls, padded, bounced.
            for (at, len) in [(0, 512), (0, 10_000), (100, 1000), (512, 8192)] {
                let mut dst = vec![0; len];
                let read = node.pread(DiskOffset(at), &mut dst);
                let cause = cause(rig.run(read));
                assert!(
                    handed_back_other_memory(&cause),
                    "{what}, {at}+{len}: {cause}"
                );
                let lent = ReadVector::from(shifted(len, 1, 0));
                let (_, result) = rig.run(node.preadv(DiskOffset(at), lent));
                assert!(
                    result.is_err_and(|e| handed_back_other_memory(&e.cause)),
                    "{what}, {at}+{len}, misaligned"
                );
            }
            let lent = ReadVector::from(filled(1024, 0));
            let (_, result) = rig.run(node.load_vmstate_unbuffered(VmstateOffset(0), lent));
            assert!(
                result.is_err_and(|e| handed_back_other_memory(&e.cause)),
                "{what}, vmstate"
            );
        }
    }
}

#[test]
fn a_partial_block_that_the_driver_does_not_give_back_fails_the_write() {
    for (what, answer) in ANSWERS {
        let rig = Rig::new(plain(0));
        let driver = OtherMemory {
            answer,
            alignment: 512,
        };
        let open = NodeBuilder::new("odd").open(rig.node.handle(), driver);
        let node = rig.run(open).expect("a node");
        for (at, len) in [(100, 10), (100, 1000), (0, 700)] {
            let bytes = vec![1; len];
            let write = node.pwrite(DiskOffset(at), &bytes, WriteFlags::default());
            let cause = cause(rig.run(write));
            assert!(
                handed_back_other_memory(&cause),
                "{what}, {at}+{len}: {cause}"
            );
        }
    }
}

/// What a driver says about its bytes may be anything too.
struct OtherAnswers {
    length: u64,
    status: u64,
}

impl BlockDriver for OtherAnswers {
    fn format_name(&self) -> &'static str {
        "other-answers"
    }
    fn limits(&self) -> BlockLimits {
        direct(0).limits
    }
    async fn length(&self) -> Result<u64> {
        Ok(self.length)
    }
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let moved = Cause::Short { moved: u64::MAX };
        let len = dst.len();
        (dst, Err(BlockError::new(Op::Read, at.0, len, moved)))
    }
    async fn pwritev(&self, at: DiskOffset, src: IoVector, _: WriteFlags) -> Result<()> {
        let moved = Cause::Short { moved: u64::MAX };
        Err(BlockError::new(Op::Write, at.0, src.len(), moved))
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
    async fn block_status(&self, _: DiskOffset, _: u64) -> Result<BlockStatus> {
        Ok(BlockStatus {
            len: self.status,
            data: true,
            zero: false,
            allocated: true,
            map: Some(DiskOffset(u64::MAX)),
        })
    }
}

#[test]
fn impossible_numbers_of_a_driver_are_errors_or_cut_and_no_panic() {
    let rig = Rig::new(plain(0));
    let node = |length, status| {
        let builder = NodeBuilder::new("odd");
        rig.run(builder.open(rig.node.handle(), OtherAnswers { length, status }))
    };
    assert_eq!(cause(node(u64::MAX, 0)), Cause::Overflow);
    assert_eq!(cause(node(1 << 63, 0)), Cause::Overflow);
    let last = (1 << 63) - 1;
    for status in [0, 1, 511, 512, u64::MAX] {
        let node = node(last, status).expect("as long as a file can be");
        for (at, len) in [(0, 512), (100, 1000), (700, 1), (last - 1023, 512)] {
            let told = rig.run(node.block_status(DiskOffset(at), len));
            match told {
                Ok(told) => assert!((1..=len).contains(&told.len), "{at}+{len}: {told:?}"),
                Err(error) if !cfg!(debug_assertions) => panic!("{at}+{len}: {error:?}"),
                Err(error) => {
                    assert!(status == 0 || status > len, "{at}+{len}: {error:?}");
                    assert!(names_clause(&error.cause, "14 (status)"), "{error:?}");
                }
            }
            let mut dst = vec![0; len as usize];
            for moved in [
                cause(rig.run(node.pread(DiskOffset(at), &mut dst))),
                cause(rig.run(node.pwrite(DiskOffset(at), &dst, WriteFlags::default()))),
            ] {
                if cfg!(debug_assertions) {
                    assert!(names_clause(&moved, "9 (errors)"), "{at}+{len}: {moved}");
                } else {
                    assert!(matches!(moved, Cause::Short { .. }), "{at}+{len}: {moved}");
                }
            }
        }
    }
}

/// A driver whose truncate succeeds and changes nothing.
struct DeafTruncate;

impl BlockDriver for DeafTruncate {
    fn format_name(&self) -> &'static str {
        "deaf-truncate"
    }
    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }
    async fn length(&self) -> Result<u64> {
        Ok(4096)
    }
    async fn preadv(&self, _: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        (dst, Ok(()))
    }
    async fn pwritev(&self, _: DiskOffset, _: IoVector, _: WriteFlags) -> Result<()> {
        Ok(())
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
    async fn truncate(&self, _: Truncate) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_truncate_that_leaves_another_length_is_an_error_of_debug_builds_that_names_the_clause() {
    let rig = Rig::new(plain(0));
    let builder = NodeBuilder::new("deaf");
    let node = rig.run(builder.open(rig.node.handle(), DeafTruncate));
    let node = node.expect("a node");
    let shorter = |exact| Truncate { exact, ..to(1000) };
    for (to, allowed) in [
        (to(4096), true),
        (shorter(false), true),
        (shorter(true), false),
        (to(8192), false),
    ] {
        let result = rig.run(node.truncate(to));
        if allowed || !cfg!(debug_assertions) {
            assert_eq!(result, Ok(()), "{to:?}");
        } else {
            assert!(names_clause(&cause(result), "3 (length)"), "{to:?}");
        }
    }
}

fn names_clause(cause: &Cause, clause: &str) -> bool {
    matches!(cause, Cause::Driver(text) if text.to_string().contains(&format!("clause {clause}")))
}
