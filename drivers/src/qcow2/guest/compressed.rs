//! Compressed clusters: read and written whole. QEMU's `qcow2_co_preadv_compressed` and `qcow2_co_pwritev_compressed_part`.
//!
//! ```text
//!   host clusters   |  a  |   b   |    c|   d   |      |        a guest cluster each, byte after byte, over the ends of host clusters, too
//!   refcounts           3           2            1              as many as there are guest clusters with bytes in it
//!                                               ^ the next one is appended here
//! ```
//!
//! A compressed cluster is never written in place: any task that writes to its guest cluster gets new clusters, and the old one's bytes are not
//! used again before all of its host cluster is free.

use super::Guest;
use super::L1Table;
use crate::qcow2::format::codec::{self, CodecError};
use crate::qcow2::format::entry::Cluster;
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use crate::qcow2::metadata::Freeing;
use crate::qcow2::metadata::out_of_memory;
use aio_task::{JobError, WorkerPool};
use block_core::{Cause, DriverError, IoBuf, IoVector, ReadVector, SharedBuf};

impl Guest {
    /// The cluster whose compressed data is the first of `bytes` bytes at `at`.
    ///
    /// Errors: [`Cause::Corrupt`] where they are none; where this was built without the codec, a text that names it.
    pub(crate) async fn decompress(&self, at: HostOffset, bytes: u64) -> Result<Vec<u8>> {
        let memory = self.meta.file().child().limits().memory_alignment as usize;
        let buffer = IoBuf::zeroed(bytes as usize, memory); // at most two clusters
        let buffer = buffer.map_err(out_of_memory)?;
        let (filled, result) = self.meta.file().read(at.0, ReadVector::from(buffer)).await;
        result?;
        let mut sectors = vec![0; bytes as usize];
        filled.copy_to(0, &mut sectors);
        let kind = self.header.compression;
        let cluster_size = self.meta.geometry().cluster_size() as usize;
        let unpack = move || {
            let mut cluster = vec![0; cluster_size];
            codec::decompress(kind, &sectors, &mut cluster).map(|()| cluster)
        };
        let unpacked = in_worker(self.workers.as_ref(), unpack).await?;
        unpacked.map_err(|error| match error {
            CodecError::BuiltWithout { .. } => Cause::Driver(DriverError::new(error)),
            error => Cause::Corrupt(format!("compressed cluster at {at}: {error}").into()),
        })
    }

    /// Writes whole clusters compressed, the last of which may end with the disk. What does not get smaller is written as it is.
    ///
    /// Errors, before anything is written: [`Cause::NotSupported`] with an external data file; [`Qcow2Error::Compressed`] for parts of
    /// clusters. Whatever was written before another error is there.
    pub(crate) async fn write_compressed(&self, at: GuestOffset, src: IoVector) -> Result<()> {
        if self.meta.external_data().is_some() {
            return Err(Cause::NotSupported);
        }
        let cluster_size = self.meta.geometry().cluster_size();
        let end = at.0.checked_add(src.len()).ok_or(Cause::Overflow)?;
        let size = self.meta.size();
        if end > size {
            return Err(Cause::OutOfBounds { end, size });
        }
        if !at.0.is_multiple_of(cluster_size) || !(end.is_multiple_of(cluster_size) || end == size)
        {
            let (at, len) = (at.0, src.len());
            return Err(Qcow2Error::Compressed { at, len }.into());
        }
        if !src.is_empty() {
            self.check_writable()?;
            self.before_guest_change().await?;
        }
        let mut done = 0;
        while done < src.len() {
            self.check_writable()?;
            let piece = src.slice(done..src.len().min(done + cluster_size));
            let here = GuestOffset(at.0 + done);
            done += piece.len();
            match self.compress(&piece).await? {
                Some(data) => self.write_packed(here, piece.len(), data).await?,
                None => self.write_guest(&L1Table::Active, here, piece).await?,
            }
        }
        Ok(())
    }

    /// `None` where the cluster does not get smaller.
    async fn compress(&self, src: &IoVector) -> Result<Option<Vec<u8>>> {
        let kind = self.header.compression;
        let mut cluster = src.to_vec();
        cluster.resize(self.meta.geometry().cluster_size() as usize, 0); // past the disk's end
        let packed = in_worker(self.workers.as_ref(), move || {
            codec::compress(kind, &cluster)
        });
        let packed = packed.await?;
        packed.map_err(|error| Cause::Driver(DriverError::new(error)))
    }

    /// Makes `data` the compressed data of the cluster at `at`, of which `len` bytes are on the disk.
    async fn write_packed(&self, at: GuestOffset, len: u64, data: Vec<u8>) -> Result<()> {
        self.meta.make_room().await?;
        let l1 = &L1Table::Active;
        let _held = self.locks.exclusive(self.guest_clusters(at, 1)).await;
        self.check_writable()?;
        let (end, size) = (at.0 + len, self.meta.size());
        if end > size {
            return Err(Cause::OutOfBounds { end, size }); // it became shorter meanwhile
        }
        drop(self.writable_l2_slice(l1, at).await?); // made first: nothing is taken yet if that fails
        let bytes = data.len() as u64;
        let host = self.meta.allocate_compressed(bytes).await?;
        let written = self.write_packed_to(l1, at, host, data).await;
        if written.is_err() {
            self.meta
                .free(self.meta.clusters_of(host, bytes), Freeing::Unnamed);
        }
        written
    }

    async fn write_packed_to(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        host: HostOffset,
        data: Vec<u8>,
    ) -> Result<()> {
        let bytes = data.len() as u64;
        let Some(cluster) = Cluster::compressed(self.meta.geometry(), host, bytes) else {
            let max = Cluster::max_compressed_end(self.meta.geometry());
            return Err(Qcow2Error::Outside {
                what: Table::Data,
                offset: host.0,
                bytes,
                end: max,
            }
            .into());
        };
        self.meta.check_data(host, bytes)?;
        let memory = self.meta.file().child().limits().memory_alignment as usize;
        let data = IoBuf::copy_of(&data, memory).map_err(out_of_memory)?;
        let data: SharedBuf = data.freeze();
        self.meta
            .file()
            .writev(host.0, IoVector::from(data))
            .await?;
        let (slice, index) = self.writable_l2_slice(l1, at).await?;
        let old = self.meta.decode(&slice, index, at)?;
        self.meta.set_entry(&slice, index, cluster);
        self.meta.free_cluster(&old, Freeing::ForReuse);
        Ok(())
    }
}

/// Runs a job that takes a while in a worker thread, if there is one.
async fn in_worker<T: Send + 'static>(
    workers: Option<&WorkerPool>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    match workers {
        None => Ok(job()),
        Some(workers) => workers.run(job).await.map_err(|error| match error {
            JobError::Panicked(_) => Cause::Panicked,
            error => Cause::Driver(format!("no worker thread: {error}").into()),
        }),
    }
}
