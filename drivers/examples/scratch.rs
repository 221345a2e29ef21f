use aio_task::{AioContext, WorkerPool};
use block_core::*;
use block_drivers::qcow2::*;
use block_drivers::*;
use std::num::NonZeroUsize;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let backing = std::env::args().nth(2);
    let cx = AioContext::new().unwrap();
    let h = cx.handle();
    let workers = WorkerPool::new(NonZeroUsize::new(4).unwrap());
    cx.block_on(async {
        let file = FileDriver::open(&path, FileOptions::writer(workers.clone()))
            .await
            .unwrap();
        let file = NodeBuilder::new("file").open(&h, file).await.unwrap();
        let child = file.attach("qcow2", Permissions::writer()).unwrap();
        let mut o = Qcow2Options::default();
        if let Some(b) = backing {
            let f = FileDriver::open(&b, FileOptions::reader(workers.clone()))
                .await
                .unwrap();
            let f = NodeBuilder::new("b")
                .read_only(true)
                .open(&h, f)
                .await
                .unwrap();
            o.backing = BackingFile::Open(f.attach("backing", Permissions::reader()).unwrap());
        }
        let d = Qcow2Driver::open(child, o).await.unwrap();
        let node = NodeBuilder::new("q").open(&h, d).await.unwrap();
        let len = node.length().await.unwrap();
        let mut model = vec![0u8; len as usize];
        node.pread(DiskOffset(0), &mut model).await.unwrap();
        let mut x = 88172645463325252u64;
        let mut r = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        for i in 0..400 {
            let at = r() % len;
            let n = (r() % 200_000).min(len - at);
            let v = (r() & 255) as u8;
            let buf = vec![v; n as usize];
            node.pwrite(DiskOffset(at), &buf, WriteFlags::default())
                .await
                .unwrap();
            model[at as usize..(at + n) as usize].fill(v);
            if i % 37 == 0 {
                node.flush().await.unwrap();
            }
        }
        let mut back = vec![0u8; len as usize];
        node.pread(DiskOffset(0), &mut back).await.unwrap();
        assert!(back == model);
        node.close().await.unwrap();
        file.close().await.unwrap();
        std::fs::write(format!("{path}.raw"), &model).unwrap();
    });
}
