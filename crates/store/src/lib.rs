//! Durable, revisioned storage whose in-memory index is also the watch cache.
//!
//! An object is bytes with an extracted index; the store never decodes it to serve a read. One revision order
//! spans all tables, as in etcd. See ARCHITECTURE.md, section 4, and FORMAT.md for what is on disk.

mod api;
mod codec;
mod embedded;
mod etcd;
mod memory;
mod seal;
mod splice;

#[doc(hidden)]
pub use embedded::{read_objects, read_records};

pub use api::{
    Batch, Draft, Event, EventKind, Index, Key, Object, Page, Pending, Precondition, Range, Snapshot, Store,
    StoreError, Watch, Write,
};
pub use embedded::{BackupInfo, Embedded, Options, restore, verify};
pub use etcd::{Etcd, EtcdOptions, Tls};
pub use memory::History;
pub use seal::SealError;
