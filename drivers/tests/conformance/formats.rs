//! raw and qcow2 over test disks.

use crate::{assert_conforms, disk};
use aio_task::AioHandle;
use block_core::test_disk::TestDiskControl;
use block_core::test_disk::conformance::{Conformance, Property, Subject};
use block_core::{BlockChild, Permissions};
use block_drivers::qcow2::{
    Backing, BackingFile, CreateOptions, DataFile, Qcow2Driver, Qcow2Options, Version, create,
};
use block_drivers::{RawDriver, RawOptions};

const LEN: u64 = 192 << 10;

fn raw(alignment: u32, options: RawOptions) -> Conformance {
    let open = async move |handle: AioHandle, bytes: Vec<u8>| {
        let (child, control) = disk(&handle, alignment, &bytes).await;
        let driver = RawDriver::open(child, options).await;
        Subject::new(driver.expect("the window is inside")).over(control)
    };
    Conformance::new(async move |handle: AioHandle| open(handle, vec![0; LEN as usize]).await)
        .reopen(async move |handle: AioHandle, mut disks: Vec<Vec<u8>>| {
            open(handle, disks.remove(0)).await
        })
}

/// raw does not grow by writes, and takes any byte.
const RAW_UNCHECKED: [Property; 4] = [
    Property::Gaps,
    Property::GrowthInFlight,
    Property::End,
    Property::ReadOnly,
];

#[test]
fn raw_keeps_the_contract() {
    for alignment in [1, 512] {
        let report = raw(alignment, RawOptions::default()).run();
        assert_conforms(&report, &RAW_UNCHECKED);
    }
}

#[test]
fn a_window_keeps_the_contract() {
    let window = RawOptions {
        offset: 1000,
        size: Some(100_000),
    };
    let fixed = [Property::Growth, Property::Shrinking];
    assert_conforms(
        &raw(512, window).run(),
        &[&fixed[..], &RAW_UNCHECKED].concat(),
    );
}

/// What an image is made with.
#[derive(Clone, Default)]
struct Setup {
    options: CreateOptions,
    alignment: u32,
    /// A backing file of this many bytes, none of them zero.
    backing: Option<usize>,
}

impl Setup {
    fn new(version: Version, cluster_size: u64) -> Self {
        Self {
            options: CreateOptions {
                size: Some(LEN),
                version,
                cluster_size,
                ..CreateOptions::default()
            },
            alignment: 512,
            backing: None,
        }
    }

    /// Makes an image, unless `disks` has one, and opens it.
    async fn open(
        self,
        handle: AioHandle,
        disks: Option<Vec<Vec<u8>>>,
        read_only: bool,
    ) -> Subject {
        let old = |i: usize| disks.as_ref().map(|disks| disks[i].as_slice());
        let (file, image) = disk(&handle, self.alignment, old(0).unwrap_or(&[])).await;
        let mut data = None;
        if self.options.data_file.is_some() {
            data = Some(disk(&handle, self.alignment, old(1).unwrap_or(&[])).await);
        }
        if disks.is_none() {
            let data = data.as_ref().map(|(child, _)| child);
            create(&file, data, &self.options).await.expect("create");
        }
        let (data, data_disk): (Option<BlockChild>, Option<TestDiskControl>) = data.unzip();
        let backing = match self.backing {
            Some(len) => BackingFile::Open(backing(&handle, len).await),
            None => BackingFile::Deny,
        };
        let options = Qcow2Options {
            read_only,
            backing,
            data_file: data,
            ..Qcow2Options::default()
        };
        let driver = Qcow2Driver::open(file, options).await.expect("open");
        let subject = Subject::new(driver).over(image);
        match data_disk {
            Some(disk) => subject.over(disk),
            None => subject,
        }
    }

    fn suite(self) -> Conformance {
        let [fresh, again, read_only] = [self.clone(), self.clone(), self];
        let suite = Conformance::new(async move |handle: AioHandle| {
            fresh.clone().open(handle, None, false).await
        });
        suite
            .length_unit(512)
            .reopen(async move |handle: AioHandle, disks: Vec<Vec<u8>>| {
                again.clone().open(handle, Some(disks), false).await
            })
            .read_only(async move |handle: AioHandle, disks: Vec<Vec<u8>>| {
                read_only.clone().open(handle, Some(disks), true).await
            })
    }
}

async fn backing(handle: &AioHandle, len: usize) -> BlockChild {
    let (child, _) = disk(handle, 512, &vec![0xb5; len]).await;
    let node = child.node().clone();
    drop(child);
    let child = node.attach("the image", Permissions::reader());
    child.expect("the only user")
}

#[track_caller]
fn assert_image_conforms(setup: Setup) {
    let mut unchecked = vec![Property::Gaps, Property::GrowthInFlight, Property::Fua];
    if setup.alignment <= 512 {
        unchecked.insert(2, Property::End); // its lengths are multiples of 512
    }
    if setup.options.version == Version::V2 {
        unchecked.push(Property::Zeroes); // for the node to write
    }
    assert_conforms(&setup.suite().run(), &unchecked);
}

#[test]
fn qcow2_on_blocks_of_4_kib_keeps_the_contract() {
    let mut setup = Setup::new(Version::V3, 16384);
    setup.alignment = 4096;
    assert_image_conforms(setup);
}

#[test]
fn qcow2_version_3_keeps_the_contract() {
    assert_image_conforms(Setup::new(Version::V3, 4096));
}

#[test]
fn qcow2_with_clusters_of_64_kib_keeps_the_contract() {
    assert_image_conforms(Setup::new(Version::V3, 65536));
}

#[test]
fn qcow2_version_2_keeps_the_contract() {
    assert_image_conforms(Setup::new(Version::V2, 4096));
}

#[test]
fn qcow2_with_subclusters_keeps_the_contract() {
    let mut setup = Setup::new(Version::V3, 16384);
    setup.options.extended_l2 = true;
    assert_image_conforms(setup);
}

#[test]
fn qcow2_with_an_external_data_file_keeps_the_contract() {
    let mut setup = Setup::new(Version::V3, 4096);
    setup.options.data_file = Some(DataFile {
        file: "data".into(),
        raw: false,
    });
    assert_image_conforms(setup);
}

#[test]
fn qcow2_over_a_backing_file_that_is_longer_keeps_the_contract() {
    for version in [Version::V2, Version::V3] {
        let mut setup = Setup::new(version, 4096);
        setup.backing = Some(1 << 20);
        setup.options.backing = Some(Backing {
            file: "backing".into(),
            format: "raw".into(),
        });
        assert_image_conforms(setup);
    }
}
