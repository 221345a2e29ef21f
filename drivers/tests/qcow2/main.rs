//! qcow2 images under load: many requests at once, on a disk that ends its calls in any order, fails them, and loses what is not flushed.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each file uses what it needs of the others"
)]

mod compressed;
mod crash;
mod faults;
mod load;
mod model;
mod races;
mod resize;
mod rig;
mod walker;
mod zero;
