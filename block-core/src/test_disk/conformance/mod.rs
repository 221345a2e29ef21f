//! A conformance suite for authors of drivers: does a driver keep the contract of [`BlockDriver`]?
//!
//! 1. Write a factory that makes a fresh driver, best over a [`TestDisk`](super::TestDisk) whose [`TestDiskControl`] it hands over with
//!    [`Subject::over`]. The disk must have 64 KiB to 4 MiB.
//! 2. If the driver stores its bytes, add [`Conformance::reopen`], which opens a driver on bytes that another one left. The suite then
//!    checks what a crash after a flush, and a close, leave.
//! 3. [`Conformance::run`] checks one [`Property`] after another, each on fresh drivers, and returns a [`Report`]: one sentence for each
//!    property that does not hold, and the reason for each that could not be checked. [`Report::assert_clean`] makes a test of it.
//!
//! ```
//! use aio_task::AioHandle;
//! use block_core::test_disk::conformance::{Conformance, Property, Subject};
//! use block_core::test_disk::{TestDisk, TestDiskOptions};
//!
//! fn disk(bytes: Option<&[u8]>) -> Subject {
//!     let options = TestDiskOptions { len: 1 << 18, grows: true, ..Default::default() };
//!     let (driver, control) = TestDisk::new(options);
//!     if let Some(bytes) = bytes {
//!         control.set_contents(bytes);
//!     }
//!     Subject::new(driver).over(control)
//! }
//!
//! let report = Conformance::new(async |_: AioHandle| disk(None))
//!     .reopen(async |_: AioHandle, disks: Vec<Vec<u8>>| disk(Some(&disks[0])))
//!     .run();
//! report.assert_clean();
//! assert!(report.has_checked(Property::Gaps));
//! ```
//!
//! The suite calls the driver itself, without a node, with requests that obey its limits. The driver's children are nodes as usual.
//! Every choice follows from the seed: a run with the same seed makes the same calls in the same order. Nothing depends on time. A driver
//! without a test disk below it (a file of the host) is checked too, but without faults, crashes and dropped futures; if one of its
//! requests never ends, the run does not end either.

mod bench;
mod content;
mod edges;
mod faults;
mod growth;
mod order;
mod random;
mod ranges;
mod stable;
mod whole;

use super::TestDiskControl;
#[allow(unused_imports, reason = "named by the documentation")]
use crate::BlockDriver;
use crate::DynBlockDriver;
use aio_task::AioHandle;
use bench::{Bench, Stop};
use futures::future::LocalBoxFuture;
use std::fmt;
use std::rc::Rc;

/// A driver to be checked, and the test disks below it.
pub struct Subject {
    driver: Box<dyn DynBlockDriver>,
    disks: Vec<TestDiskControl>,
}

impl Subject {
    /// A driver with no test disk below it that the suite could use.
    pub fn new(driver: impl BlockDriver) -> Self {
        Self::boxed(Box::new(driver))
    }

    /// [`Subject::new`] of a driver behind a pointer.
    pub fn boxed(driver: Box<dyn DynBlockDriver>) -> Self {
        Self {
            driver,
            disks: Vec::new(),
        }
    }

    /// Adds a test disk on which this driver stores bytes: its knobs are used to hold, fail and lose calls. The driver's close must close
    /// the disk, so no other user may be attached to its node.
    pub fn over(mut self, disk: TestDiskControl) -> Self {
        self.disks.push(disk);
        self
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("driver", &self.driver.format_name())
            .field("disks", &self.disks.len())
            .finish()
    }
}

macro_rules! properties {
    ($($(#[doc = $doc:literal])+ $name:ident => $check:path,)*) => {
        /// What is checked. The documentation of each is the rule; the numbers are the clauses of [`BlockDriver`]'s contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Property { $($(#[doc = $doc])+ $name,)* }

        impl Property {
            /// All properties, in the order in which they are checked.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The rule in words.
            pub fn rule(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)* }
            }

            fn check(self, suite: &Conformance) -> Result<(), Stop> {
                match self { $(Self::$name => $check(suite),)* }
            }
        }
    };
}

properties! {
    /// The limits are possible, and limits and length do not change by themselves.
    Limits => whole::limits,
    /// 1: a read returns what the last write before it wrote.
    Content => order::content,
    /// 2: of two overlapping writes in flight, each common byte ends up as one of the two.
    Overlaps => order::overlaps,
    /// 2: writes to neighbouring ranges in flight at once are all stored.
    Neighbours => order::neighbours,
    /// 3 and 4: a truncate sets the length, and what it adds reads as zeroes.
    Growth => growth::growth,
    /// 3 and 4: what a truncate cut off does not come back.
    Shrinking => growth::shrinking,
    /// 5: a write past the end leaves zeroes in the gap and sets the length.
    Gaps => growth::gaps,
    /// 6: several writes past the end in flight at once are all stored, with zeroes between them.
    GrowthInFlight => growth::in_flight,
    /// 7: the last block reads as zeroes past the end, whatever padding a write carried.
    End => edges::end,
    /// 8: a read returns the memory it was lent, and a write keeps none of its memory, also after errors.
    Memory => edges::memory,
    /// 9 and 10: each error of a child is returned once, by its own operation, and the next try succeeds.
    Errors => faults::errors,
    /// 9 and 10: the same when the child's call moved some bytes before it failed.
    Short => faults::short,
    /// 11: a future may be dropped at every await, and the driver stays usable.
    Dropped => faults::dropped,
    /// 12: what was written before a flush survives a crash after it.
    Flush => stable::flush,
    /// 12: a write with FUA survives a crash after it.
    Fua => stable::fua,
    /// 13: a write of zeroes makes its range, and only that, read as zeroes, or is not supported and changes nothing.
    Zeroes => ranges::zeroes,
    /// 13: a discard changes nothing outside its range.
    Discard => ranges::discard,
    /// 14: a status covers 1 byte or more of what was asked, and what it calls zero reads as zeroes.
    Status => ranges::status,
    /// 15: a close writes back what the driver caches, and releases the children.
    Close => stable::close,
    /// 16: a driver that was opened read-only refuses every change.
    ReadOnly => stable::read_only,
    /// In a node, unaligned requests of any length give the same bytes as an array in memory, and reads past the end are refused.
    InANode => whole::in_a_node,
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.rule().trim_end_matches('.'))
    }
}

type Fresh = Rc<dyn Fn(AioHandle) -> LocalBoxFuture<'static, Subject>>;
type OnBytes = Rc<dyn Fn(AioHandle, Vec<Vec<u8>>) -> LocalBoxFuture<'static, Subject>>;

/// The suite, set up for one driver.
#[derive(Clone)]
pub struct Conformance {
    fresh: Fresh,
    reopen: Option<OnBytes>,
    read_only: Option<OnBytes>,
    seed: u64,
    length_unit: u64,
    properties: Vec<Property>,
}

impl Conformance {
    /// A suite for the drivers that `fresh` makes: each time a new one on a new disk, writable, in the context of the handle.
    pub fn new(fresh: impl AsyncFn(AioHandle) -> Subject + 'static) -> Self {
        let fresh = Rc::new(fresh);
        Self {
            fresh: Rc::new(move |handle| {
                let fresh = fresh.clone();
                Box::pin(async move { fresh(handle).await })
            }),
            reopen: None,
            read_only: None,
            seed: 1,
            length_unit: 1,
            properties: Property::ALL.to_vec(),
        }
    }

    /// Opens a driver on the bytes that an earlier one left on its test disks, in the order of [`Subject::over`]. For a driver without a
    /// test disk the list is empty: `open` opens the storage of the driver that was made last.
    pub fn reopen(self, open: impl AsyncFn(AioHandle, Vec<Vec<u8>>) -> Subject + 'static) -> Self {
        Self {
            reopen: Some(on_bytes(open)),
            ..self
        }
    }

    /// As [`Conformance::reopen`], but `open` opens the driver read-only (its children may be writable).
    pub fn read_only(
        self,
        open: impl AsyncFn(AioHandle, Vec<Vec<u8>>) -> Subject + 'static,
    ) -> Self {
        Self {
            read_only: Some(on_bytes(open)),
            ..self
        }
    }

    /// Another seed for all choices. Default: 1.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Every length that is a multiple of this many bytes can be stored; the driver may refuse others. Default: 1. qcow2 stores multiples
    /// of 512.
    pub fn length_unit(self, bytes: u64) -> Self {
        Self {
            length_unit: bytes.max(1),
            ..self
        }
    }

    /// Checks only these.
    pub fn only(self, properties: &[Property]) -> Self {
        Self {
            properties: properties.to_vec(),
            ..self
        }
    }

    /// Checks the properties one after another.
    ///
    /// # Panics
    /// If a factory panics, or if no context can be made. A panic of the driver is a finding.
    pub fn run(&self) -> Report {
        let mut report = Report {
            seed: self.seed,
            ..Report::default()
        };
        for &property in &self.properties {
            match property.check(self) {
                Ok(()) => report.checked.push(property),
                Err(Stop::Found(sentence)) => report.findings.push(Finding { property, sentence }),
                Err(Stop::Skipped(reason)) => report.skipped.push((property, reason)),
            }
        }
        report
    }

    /// A fresh driver. The choices are the same each time.
    fn bench(&self) -> Result<Bench, Stop> {
        self.bench_of(0)
    }

    /// A fresh driver, with other choices in each round.
    fn bench_of(&self, round: u64) -> Result<Bench, Stop> {
        let seed = self.seed.wrapping_add(round << 32);
        Bench::new(seed, |handle| (self.fresh)(handle))
    }

    /// A driver on the bytes that another one left.
    fn reopened(&self, disks: Vec<Vec<u8>>) -> Result<Bench, Stop> {
        let Some(open) = &self.reopen else {
            return Err(Stop::Skipped("there is no factory that reopens".into()));
        };
        Bench::new(self.seed, |handle| open(handle, disks))
    }
}

impl fmt::Debug for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conformance")
            .field("seed", &self.seed)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

fn on_bytes(open: impl AsyncFn(AioHandle, Vec<Vec<u8>>) -> Subject + 'static) -> OnBytes {
    let open = Rc::new(open);
    Rc::new(move |handle, disks| {
        let open = open.clone();
        Box::pin(async move { open(handle, disks).await })
    })
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The property.
    pub property: Property,
    /// What was seen, as a sentence.
    pub sentence: String,
}

/// What the suite found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first finding of each property that does not hold.
    pub findings: Vec<Finding>,
    /// The properties that could not be checked, with the reason.
    pub skipped: Vec<(Property, String)>,
    /// The properties that hold.
    pub checked: Vec<Property>,
    /// The seed that leads to the same calls again.
    pub seed: u64,
}

impl Report {
    /// True if the property was checked and holds.
    pub fn has_checked(&self, property: Property) -> bool {
        self.checked.contains(&property)
    }

    /// Returns if there are no findings.
    ///
    /// # Panics
    /// With all findings as sentences, if there are any.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(
            self.findings.is_empty(),
            "the driver breaks its contract:\n{self}"
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { property, sentence } in &self.findings {
            writeln!(f, "broken: {property}: {sentence}")?;
        }
        for (property, reason) in &self.skipped {
            writeln!(f, "not checked: {property}: {reason}")?;
        }
        for property in &self.checked {
            writeln!(f, "holds: {property}")?;
        }
        write!(f, "seed: {}", self.seed)
    }
}
