//! Live mounts without a kernel, over a scripted store in memory.

mod kept;
mod late;
mod leases;
mod open_files;
mod parked;
mod pod;
mod programs;
mod shown;
mod sources;
mod sweep;
mod xattrs;
