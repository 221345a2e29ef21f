//! The engine of qcow2 on images that are damaged, tiny, or cut off by a crash.

mod crash;
mod damaged;
mod data_file;
mod support;
