//! New refcounts from scratch, where those on disk are not fit to be changed. QEMU's `rebuild_refcount_structure`.
//!
//! ```text
//!   ... old tables, clusters in use, old refcount blocks and table ... | new blocks, one after the other | new table |
//!                                                                      ^ the file's end, so that nothing is overwritten
//! ```
//!
//! Nothing leads to the new structures until the header does, by one write inside its first sector. Before it the image is as broken as it
//! was; after it every refcount is what was counted, and the clusters of the old structures are free.

use super::counts::Counts;
use super::uncounted::Kept;
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::{Geometry, TABLE_ENTRY_SIZE};
use crate::qcow2::format::header::{Header, TABLE_FIELDS_AT};
use crate::qcow2::format::offset::HostOffset;
use crate::qcow2::metadata::Source;
use std::collections::BTreeSet;

/// Where the new structures go.
struct Plan {
    /// The blocks that are needed, by index.
    blocks: BTreeSet<u64>,
    /// The cluster of the first of them; the others and the table follow.
    first: u64,
    /// Clusters of the table.
    table_clusters: u64,
}

impl Plan {
    /// Past the file's end, and nowhere where entries lead to: those of a file that was cut must not lead to the new structures.
    fn new(
        geometry: &Geometry,
        counts: &Counts,
        end: u64,
        kept: &Kept,
    ) -> Result<Self, Qcow2Error> {
        let mut first = end;
        loop {
            let plan = Self::at(geometry, counts, first)?;
            match kept.end_in(plan.first..plan.end()) {
                None => return Ok(plan),
                Some(end) => first = end,
            }
        }
    }

    /// The structures count themselves, so that their number is found step by step. It only grows, and few clusters count many.
    fn at(geometry: &Geometry, counts: &Counts, first: u64) -> Result<Self, Qcow2Error> {
        let mut plan = Self {
            blocks: counts.blocks().into_iter().collect(),
            first,
            table_clusters: 1,
        };
        loop {
            let before = (plan.blocks.len(), plan.table_clusters);
            let end = plan.end();
            if end > geometry.max_host_clusters() {
                return Err(Qcow2Error::TableTooLarge {
                    what: Table::RefcountTable,
                    entries: end / geometry.refcounts_per_block(),
                    max: geometry.reftable_entries(geometry.max_reftable_clusters()),
                });
            }
            let first = geometry.reftable_index(plan.first);
            plan.blocks.extend(first..=geometry.reftable_index(end - 1));
            let entries = plan.blocks.last().map_or(0, |last| last + 1);
            plan.table_clusters = geometry.clusters_for(entries * TABLE_ENTRY_SIZE);
            if before == (plan.blocks.len(), plan.table_clusters) {
                return Ok(plan);
            }
        }
    }

    fn table(&self) -> u64 {
        self.first + self.blocks.len() as u64
    }

    fn end(&self) -> u64 {
        self.table() + self.table_clusters
    }
}

/// Writes refcount blocks and a table for `counts`, in which they count themselves afterwards, and makes `header` lead to them. They go to
/// the cluster `end`, where nothing is, and those past it, but to none of the `kept` ones.
///
/// Errors: [`Qcow2Error::TableTooLarge`], [`Qcow2Error::OutOfMemory`], [`Qcow2Error::Io`]. The image is as it was then; the file may
/// have grown, and the last write may or may not have been done.
pub(crate) async fn rebuild(
    source: &Source<'_>,
    header: &mut Header,
    counts: &mut Counts,
    end: u64,
    kept: &Kept,
) -> Result<(), Qcow2Error> {
    let geometry = header.geometry;
    let plan = Plan::new(&geometry, counts, end, kept)?;
    for cluster in plan.first..plan.end() {
        counts.add(cluster, 1)?;
    }
    let cluster_size = geometry.cluster_size();
    let mut table =
        crate::qcow2::metadata::buffer(Table::RefcountTable, plan.table_clusters * cluster_size)?;
    for (cluster, index) in (plan.first..).zip(&plan.blocks) {
        let at = cluster * cluster_size;
        let block = counts.block(*index)?;
        source.write(Table::RefcountBlock, at, &block).await?;
        crate::qcow2::format::big_endian::put(
            &mut table,
            (index * TABLE_ENTRY_SIZE) as usize, // at most 8 MiB
            &at.to_be_bytes(),
        );
    }
    let at = plan.table() * cluster_size;
    source.write(Table::RefcountTable, at, &table).await?;
    source.flush(Table::RefcountTable).await?;

    let mut new = header.clone();
    new.reftable_offset = HostOffset(at);
    new.reftable_clusters = u32::try_from(plan.table_clusters).unwrap_or(u32::MAX); // at most 16384
    write_tables(source, &new).await?;
    *header = new;
    Ok(())
}

/// Writes the fields of the header that lead to the tables, between two flushes.
pub(crate) async fn write_tables(source: &Source<'_>, header: &Header) -> Result<(), Qcow2Error> {
    source.flush(Table::Header).await?;
    let fields = header.table_fields();
    source
        .write(Table::Header, TABLE_FIELDS_AT, &fields)
        .await?;
    source.flush(Table::Header).await
}
