//! Internal snapshots and the machine's state in qcow2 images, on a disk in memory: against byte arrays, one for each snapshot.

mod afterwards; // what failed is undone later
mod claims; // what an error says of the disk
mod cost; // requests and bytes beside the state
mod crash; // the machine stops
mod damaged; // tables that point anywhere
mod faults; // a request of the file fails
mod full_disk; // no space for anything new
mod gaps; // of a state, over a backing file
mod length; // longer and shorter, with snapshots
mod life; // made, listed, gone to, deleted
mod model; // everything at once
mod moments; // when the machine may stop
mod refused; // by name, with nothing changed
mod space; // holes and the file's end
mod state; // the vmstate area
mod support;
mod world; // what an image must say
