//! A driver of a few lines is a working disk once a node stands in front of it.

use aio_task::AioContext;
use block_core::*;
use std::cell::RefCell;
use std::rc::Rc;

/// Bytes in memory that grow, in blocks of 512 only.
#[derive(Clone, Default)]
struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    /// What came: operation, offset, length.
    calls: Rc<RefCell<Vec<(Op, u64, u64)>>>,
}

impl Memory {
    fn note(&self, op: Op, at: DiskOffset, len: u64) {
        assert!(
            at.0.is_multiple_of(512) && len.is_multiple_of(512),
            "{op} of {len} at {at} is not whole blocks"
        );
        self.calls.borrow_mut().push((op, at.0, len));
    }
}

impl BlockDriver for Memory {
    fn format_name(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> BlockLimits {
        BlockLimits {
            request_alignment: 512,
            memory_alignment: 512,
            transfer_alignment: 512,
            ..BlockLimits::default()
        }
    }

    fn grows(&self) -> bool {
        true
    }

    async fn length(&self) -> Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    async fn preadv(&self, at: DiskOffset, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        self.note(Op::Read, at, dst.len());
        let bytes = self.bytes.borrow();
        let mut after = bytes.get(at.0 as usize..).unwrap_or(&[]);
        for part in dst.parts_mut() {
            let (now, later) = after.split_at(after.len().min(part.len()));
            part.fill(0);
            part[..now.len()].copy_from_slice(now);
            after = later;
        }
        (dst, Ok(()))
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _flags: WriteFlags) -> Result<()> {
        self.note(Op::Write, at, src.len());
        let (from, to) = (at.0 as usize, (at.0 + src.len()) as usize);
        let mut bytes = self.bytes.borrow_mut();
        let len = bytes.len().max(to);
        bytes.resize(len, 0);
        src.copy_to(0, &mut bytes[from..to]);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn truncate(&self, to: Truncate) -> Result<()> {
        self.bytes.borrow_mut().resize(to.len as usize, 0);
        Ok(())
    }
}

/// Bytes at odd places, near and past an end that is no multiple of the block, against a plain byte array.
#[test]
fn odd_writes_on_a_driver_of_whole_blocks_equal_a_byte_array() {
    let context = AioContext::new().expect("a context");
    let (handle, memory) = (context.handle(), Memory::default());
    context.block_on(async {
        let opening = NodeBuilder::new("disk").open(&handle, memory.clone());
        let node = opening.await.expect("opens");
        let mut model = Vec::new();
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 33) % below
        };
        for round in 0..2000 {
            let (at, len) = (random(5000), random(1600));
            let (from, to) = (at as usize, (at + len) as usize);
            match random(4) {
                0 | 1 => {
                    let byte = (round % 255) as u8 + 1;
                    let src = vec![byte; len as usize];
                    let done = node.pwrite(DiskOffset(at), &src, WriteFlags::default());
                    done.await.expect("the write");
                    if len > 0 {
                        model.resize(model.len().max(to), 0);
                        model[from..to].fill(byte);
                    }
                }
                2 => {
                    let done = node.pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default());
                    done.await.expect("the zeroes");
                    if len > 0 {
                        model.resize(model.len().max(to), 0);
                        model[from..to].fill(0);
                    }
                }
                _ => {
                    let to = Truncate {
                        len: at,
                        exact: true,
                        preallocation: Preallocation::Off,
                    };
                    node.truncate(to).await.expect("the truncate");
                    model.resize(at as usize, 0);
                }
            }
            assert_eq!(*memory.bytes.borrow(), model, "round {round}");
            assert_eq!(node.length().await, Ok(model.len() as u64));
            let mut read = vec![0xaa; model.len()];
            let from = random(model.len() as u64 + 1) as usize;
            let done = node.pread(DiskOffset(from as u64), &mut read[from..]);
            done.await.expect("the read");
            assert_eq!(read[from..], model[from..], "round {round}");
        }
        assert!(
            memory.calls.borrow().len() > 2000,
            "the driver must have been used"
        );
        node.close().await.expect("closes");
    });
}

/// The last bytes of the node are all new: nothing of the old blocks is kept, so nothing is read.
#[test]
fn a_block_that_keeps_nothing_is_not_read() {
    let context = AioContext::new().expect("a context");
    let (handle, memory) = (context.handle(), Memory::default());
    context.block_on(async {
        let opening = NodeBuilder::new("disk").open(&handle, memory.clone());
        let node = opening.await.expect("opens");
        let write = |at, len| {
            let node = node.clone();
            async move {
                let src = vec![7; len];
                node.pwrite(DiskOffset(at), &src, WriteFlags::default())
                    .await
            }
        };
        write(0, 1000).await.expect("a new end");
        write(512, 488).await.expect("the same end again");
        write(1000, 24)
            .await
            .expect("this one keeps bytes of the last block");
        assert_eq!(
            *memory.calls.borrow(),
            [
                (Op::Write, 0, 1024),
                (Op::Write, 512, 512),
                (Op::Read, 512, 512),
                (Op::Write, 512, 512),
            ]
        );
        assert_eq!(*memory.bytes.borrow(), [7; 1024]);
    });
}
