//! An image and what it must say: byte arrays of the disk and of each snapshot.

use crate::support::{Bench, Image, Random, all, pattern, snapshot_bytes, state};
use block_core::{Cause, NewSnapshot, Preallocation, Result, Truncate};

/// Images that differ in all that matters here. The first has its clusters in disorder, and refcounts of neighbours in many places.
pub(crate) const IMAGES: [&str; 4] = [
    "size=96k,cluster_size=512,refcount_bits=64",
    "size=1M,cluster_size=4096",
    "size=1M,cluster_size=16384,extended_l2=on",
    "size=256k,cluster_size=1024,compat=0.10",
];

/// A snapshot as it must read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) disk: Vec<u8>,
    pub(crate) state: Vec<u8>,
}

/// All that an image must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) disk: Vec<u8>,
    pub(crate) snapshots: Vec<Kept>,
}

/// A change of the snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Of the disk alone.
    Create,
    /// With a state, which the set-up has saved.
    CreateWithState,
    /// The first snapshot is replaced by the present disk and a state.
    Replace,
    /// The first one, the last one.
    DeleteFirst,
    DeleteLast,
    GotoFirst,
    GotoLast,
    /// The disk becomes twice as long, or half. Not among [`ACTIONS`]: an error does not say that nothing has changed.
    Grow,
    Shrink,
}

pub(crate) const ACTIONS: [Action; 7] = [
    Action::Create,
    Action::CreateWithState,
    Action::Replace,
    Action::DeleteFirst,
    Action::DeleteLast,
    Action::GotoFirst,
    Action::GotoLast,
];

impl World {
    /// The bytes of an image with three snapshots, two of them with a state, whose disk shares data with all of them.
    pub(crate) async fn build(bench: &Bench, pairs: &str) -> (Vec<u8>, Self) {
        let image = bench.image(pairs).await;
        let len = image.node.length().await.expect("a length") as usize;
        let mut world = Self {
            disk: vec![0; len],
            snapshots: Vec::new(),
        };
        let cluster = cluster_of(pairs);
        if cluster == 512 {
            world.scatter(&image, cluster).await;
        }
        for round in 0..3 {
            let mut random = Random::new(round + 1);
            for _ in 0..6 {
                world.write(&image, &mut random, cluster).await;
            }
            let state = match round {
                0 => Vec::new(),
                _ => pattern(round, cluster * 5 + 777 * round as usize),
            };
            if !state.is_empty() {
                image.save_state(&state).await.expect("saved");
            }
            world.record(&image, &format!("s{round}"), state).await;
        }
        let mut random = Random::new(99);
        world.write(&image, &mut random, cluster).await;
        (image.close().await, world)
    }

    /// Every other cluster is written, and hardly one lies next to its neighbour.
    async fn scatter(&mut self, image: &Image, cluster: usize) {
        let clusters = self.disk.len() / cluster;
        for number in 0..clusters / 2 {
            let at = number * 37 % clusters * cluster;
            let bytes = pattern(number as u64, cluster);
            image.write(at as u64, &bytes).await.expect("written");
            self.disk[at..at + cluster].copy_from_slice(&bytes);
        }
    }

    async fn record(&mut self, image: &Image, name: &str, state: Vec<u8>) {
        image.snapshot(name).await.expect("made");
        self.snapshots.push(Kept {
            name: name.into(),
            disk: self.disk.clone(),
            state,
        });
    }

    /// A write of some clusters somewhere.
    pub(crate) async fn write(&mut self, image: &Image, random: &mut Random, cluster: usize) {
        let len = 1 + random.below(3 * cluster as u64) as usize;
        let at = random.below((self.disk.len() - len) as u64) as usize;
        let bytes = pattern(random.next(), len);
        image.write(at as u64, &bytes).await.expect("written");
        self.disk[at..at + len].copy_from_slice(&bytes);
    }

    /// What the image must say after the action; `state` has been saved before.
    pub(crate) fn after(&self, action: Action, state: &[u8]) -> Self {
        let mut after = self.clone();
        let new = |name: &str, state: &[u8]| Kept {
            name: name.into(),
            disk: self.disk.clone(),
            state: state.to_vec(),
        };
        match action {
            Action::Create => after.snapshots.push(new("new", &[])),
            Action::CreateWithState => after.snapshots.push(new("new", state)),
            Action::Replace => {
                let old = after.snapshots.remove(0);
                after.snapshots.push(new(&old.name, state));
            }
            Action::DeleteFirst => drop(after.snapshots.remove(0)),
            Action::DeleteLast => drop(after.snapshots.pop()),
            Action::GotoFirst => after.disk = self.first().disk.clone(),
            Action::GotoLast => after.disk = self.last().disk.clone(),
            Action::Grow => after.disk.resize(self.disk.len() * 2, 0),
            Action::Shrink => after.disk.truncate(self.disk.len() / 2),
        }
        after
    }

    pub(crate) fn first(&self) -> &Kept {
        self.snapshots.first().expect("there are some")
    }

    pub(crate) fn last(&self) -> &Kept {
        self.snapshots.last().expect("there are some")
    }

    /// Where the image says something else: in words.
    pub(crate) async fn difference(&self, image: &Image) -> Option<String> {
        match self.try_difference(image).await {
            Ok(difference) => difference,
            Err(error) => Some(error.to_string()),
        }
    }

    async fn try_difference(&self, image: &Image) -> Result<Option<String>> {
        let names: Vec<&str> = self.snapshots.iter().map(|s| s.name.as_str()).collect();
        let there = image.names().await;
        if there != names {
            return Ok(Some(format!("snapshots {there:?}, not {names:?}")));
        }
        if let Some(at) = first_difference(&all(&image.node).await?, &self.disk) {
            return Ok(Some(format!("the disk at {at}")));
        }
        for kept in &self.snapshots {
            let (disk, state) = snapshot_bytes(&image.node, &kept.name).await?;
            if let Some(at) = first_difference(&disk, &kept.disk) {
                return Ok(Some(format!("the disk of {} at {at}", kept.name)));
            }
            if let Some(at) = first_difference(&state, &kept.state) {
                return Ok(Some(format!("the state of {} at {at}", kept.name)));
            }
        }
        Ok(None)
    }

    /// The image says this, and nothing else.
    pub(crate) async fn assert(&self, image: &Image, when: &str) {
        if let Some(difference) = self.difference(image).await {
            panic!("{when}: {difference}");
        }
    }
}

impl Action {
    /// Whether a state has to be saved before.
    pub(crate) fn needs_state(self) -> bool {
        matches!(self, Self::CreateWithState | Self::Replace)
    }

    pub(crate) async fn run(self, image: &Image, world: &World) -> Result<()> {
        let node = &image.node;
        let (first, last) = (&world.first().name, &world.last().name);
        match self {
            Self::Create | Self::CreateWithState => image.snapshot("new").await.map(drop),
            Self::Replace => {
                let new = NewSnapshot {
                    replace: true,
                    ..NewSnapshot::new(first)
                };
                node.snapshot_create(new).await.map(drop)
            }
            Self::DeleteFirst => node.snapshot_delete(first).await,
            Self::DeleteLast => node.snapshot_delete(last).await,
            Self::GotoFirst => node.snapshot_goto(first).await,
            Self::GotoLast => node.snapshot_goto(last).await,
            Self::Grow | Self::Shrink => {
                let to = Truncate {
                    len: world.after(self, &[]).disk.len() as u64,
                    exact: true,
                    preallocation: Preallocation::Off,
                };
                node.truncate(to).await
            }
        }
    }

    /// After a success the state in the area is the snapshot's that was gone to.
    pub(crate) async fn assert_area(self, image: &Image, world: &World) {
        let kept = match self {
            Self::GotoFirst => world.first(),
            Self::GotoLast => world.last(),
            _ => return,
        };
        let len = kept.state.len();
        let known = image.node.vmstate_length().await.expect("asked");
        assert_eq!(known, (len > 0).then_some(len as u64));
        let area = state(&image.node, 0, len).await.expect("read");
        assert!(area == kept.state, "{self:?}: the vmstate area");
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a.len() != b.len() {
        return Some(a.len().min(b.len()));
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// The cluster size among `qemu-img create`'s options.
pub(crate) fn cluster_of(pairs: &str) -> usize {
    let size = pairs
        .split(',')
        .find_map(|p| p.strip_prefix("cluster_size="));
    size.map_or(65536, |size| size.parse().expect("bytes"))
}

/// The error was made by the test, or says that space was lost because of it.
pub(crate) fn was_ours(cause: &Cause) -> bool {
    match cause {
        Cause::Os(errno) => *errno == block_core::Errno::IO,
        Cause::Leaked { cause, freeing } => was_ours(cause) && was_ours(freeing),
        Cause::Unsure { cause } => was_ours(cause),
        _ => false,
    }
}
